"""The reference against spikes that other frameworks recorded themselves, where dialect `nir` says what they do."""

import json
from pathlib import Path

import numpy as np
import pytest

from stdl_export import graph as graphs
from stdl_runtimes import reference

CASES = Path(__file__).parents[3] / "shared" / "conformance"

# These frameworks step as dialect `nir` does. Spikingjelly compares with >=, which is the same where no potential is
# ever exactly at its threshold.
EXACT = [
    "snntorch-mlp-zero-ties",
    "snntorch-nirtorch-lif",
    "spikingjelly-conv-if-avgpool-lif",
    "spikingjelly-paper-cnn",
]

pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="the conformance cases are not beside this checkout")


def load(name):
    case = json.loads((CASES / name / "case.json").read_text())
    graph = graphs.read(CASES / name / "graph.nir")
    settings = graphs.Settings(dt=case["dt"], input="sequence")
    return case, graphs.with_settings(graph, settings), np.load(CASES / name / "case.npz")


@pytest.mark.parametrize("name", EXACT)
def test_spikes_are_the_frameworks(name):
    case, graph, arrays = load(name)
    result = reference.run(graph, arrays["input"])
    assert arrays["output"].any()
    assert np.array_equal(result.output, arrays["output"])
    assert case["dialect"]["nodes"].keys() == set(graphs.neurons(graph))
    for node in graphs.neurons(graph):
        if f"spikes:{node}" in arrays:
            assert np.array_equal(result.spikes[node], arrays[f"spikes:{node}"] > 0)


def test_the_case_of_ties_has_ties():
    case, graph, arrays = load("snntorch-mlp-zero-ties")
    margins = reference.run(graph, arrays["input"], margins=True).margins
    assert sum(int((distance == 0).sum()) for distance in margins.values()) == case["exact_threshold_ties"]


def test_another_reset_is_another_network():
    _, graph, arrays = load("snntorch-conv-avgpool")  # its node 4 subtracts one step late, which dialect nir cannot say
    result = reference.run(graph, arrays["input"])
    assert np.array_equal(result.spikes["1"], arrays["spikes:1"] > 0)
    assert not np.array_equal(result.spikes["4"], arrays["spikes:4"] > 0)
