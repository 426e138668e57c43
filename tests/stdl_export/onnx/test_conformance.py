"""ONNX against spikes that other frameworks recorded, where dialect `nir` says what they do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from run_onnx import run_sequence, run_steps

from stdl_export import graph as graphs

pytest.importorskip("onnxruntime")

CASES = Path(__file__).parents[4] / "shared" / "conformance"

# spikingjelly compares with >=, which is the same where no potential is ever exactly at its threshold.
EXACT = [
    "snntorch-mlp-zero-ties",
    "snntorch-nirtorch-lif",
    "spikingjelly-conv-if-avgpool-lif",
    "spikingjelly-paper-cnn",
]


@pytest.mark.skipif(not CASES.is_dir(), reason="the conformance cases are not beside this checkout")
@pytest.mark.parametrize("name", EXACT)
def test_spikes_are_the_frameworks(name: str) -> None:
    case = json.loads((CASES / name / "case.json").read_text())
    arrays = np.load(CASES / name / "case.npz")
    x, expected = arrays["input"], arrays["output"]
    assert expected.any()
    graph = graphs.read(CASES / name / "graph.nir")
    for steps in (None, len(x)):
        graph = graphs.with_settings(graph, graphs.Settings(dt=case["dt"], T=steps))
        np.testing.assert_array_equal(run_sequence(graph, x, len(x)), expected)
    np.testing.assert_array_equal(run_steps(graph, x, len(x)), expected)
