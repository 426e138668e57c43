"""The reference against what other frameworks recorded themselves: every case, exactly, under its dialect."""

import conformance
import numpy as np
import pytest

from stdl_export import graph as graphs
from stdl_export.program import program
from stdl_export.semantics import Discrete
from stdl_runtimes import reference

RELATIVE = 1e-5  # of the largest value: analog outputs are sums in another order

pytestmark = pytest.mark.skipif(not conformance.NAMES, reason=conformance.ABSENT)


def assert_near(found, expected, what):
    scale = max(1.0, float(np.abs(expected).max(initial=0)))
    assert np.abs(found - expected).max() <= RELATIVE * scale, what


def assert_is_the_frameworks(case, graph):
    result = reference.run(graph, case.arrays["input"], potentials=True)
    made, output = program(graph), case.arrays["output"]
    assert result.output.dtype == np.float32
    (source,) = made.nodes[made.outputs[0]].sources
    if made.nodes[source.path].spikes:
        assert np.array_equal(result.output, output)
    else:
        assert_near(result.output, output, "output")
    for name, array in case.arrays.items():
        what, _, node = name.partition(":")
        if what == "spikes" and node in result.spikes:
            assert np.array_equal(result.spikes[node], array), name
        if what == "v":
            assert_near(result.potentials[node], array, name)
    alive = [spikes.any() for spikes in result.spikes.values()]
    assert any(alive), "a case in which nothing spikes shows nothing"


@pytest.mark.parametrize("name", conformance.NAMES)
def test_the_reference_is_the_framework(name):
    case = conformance.load(name)
    assert graphs.problems(case.graph) == []
    assert_is_the_frameworks(case, case.graph)


@pytest.mark.parametrize("name", [name for name in conformance.NAMES if conformance.NAMED.get(name)])
def test_named_dialects_say_what_the_cases_say(name):
    case = conformance.load(name)
    named = case.under(conformance.NAMED[name])
    assert graphs.problems(named) == []
    ours, theirs = program(named), program(case.graph)
    assert list(ours.nodes) == list(theirs.nodes)
    for path, node in ours.nodes.items():
        other = theirs.nodes[path]
        assert (node.sources, node.steps, node.spike, node.late) == (
            other.sources, other.steps, other.spike, other.late,
        ), path  # fmt: skip
        assert difference(node.numbers, other.numbers) is None, path
        assert hasattr(node.node, "bias") == hasattr(other.node, "bias"), path
    assert_is_the_frameworks(case, named)


def difference(a, b):
    """The first field of two `Discrete` (or `Synapse`) that is not the same."""
    if a is None or b is None:
        return None if a is b else "there is one only"
    for field in a.__dataclass_fields__:
        x, y = getattr(a, field), getattr(b, field)
        same = difference(x, y) is None if field == "synapse" else np.array_equal(x, y) if x is not None else y is None
        if not same and not (field == "v_reset" and a.reset != "v_reset"):
            return field
    return None


def test_a_difference_of_one_coefficient_is_seen():
    case = conformance.load("spikingjelly-cuba-lif-ties")
    numbers = program(case.graph).nodes["_1"].numbers
    assert isinstance(numbers, Discrete)
    assert difference(numbers, numbers) is None
    for other, field in (("norse-import", "v_init"), ("snntorch-zero", "v_init"), ("nengo", "decay")):
        graph = graphs.with_settings(case.graph, graphs.Settings(dt=1e-4, dialect=other))
        assert difference(numbers, program(graph).nodes["_1"].numbers) == field


@pytest.mark.parametrize("name", ["snntorch-mlp-zero-ties", "spikingjelly-cuba-lif-ties"])
def test_the_cases_of_ties_have_ties(name):
    case = conformance.load(name)
    margins = reference.run(case.graph, case.arrays["input"], margins=True).margins
    assert sum(int((distance == 0).sum()) for distance in margins.values()) == case.said["exact_threshold_ties"]


def test_margins_are_those_of_the_cases():
    """The smallest distance of any potential from its threshold; absolute there, and not from its multiples."""
    for name in conformance.NAMES:
        case = conformance.load(name)
        result = reference.run(case.graph, case.arrays["input"], margins=True)
        nodes = program(case.graph).nodes
        least = min(
            float((distance * np.maximum(1, np.abs(compared_with(nodes[path].numbers, result.spikes[path])))).min())
            for path, distance in result.margins.items()
        )
        assert least >= 0.9 * case.said["min_threshold_margin"] - 1e-6, name


def compared_with(k, spikes):
    """What a margin is relative to: the threshold; of counts the multiple nearest to u, at most the next one."""
    return k.v_threshold * (spikes + 1 if k.spike == "floor" else 1)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("snntorch-conv-avgpool", "snntorch-zero"),
        ("snntorch-mlp-subtract", "snntorch-zero"),
        ("snntorch-mlp-zero-ties", "spikingjelly"),
        ("spikingjelly-cuba-lif-ties", "snntorch-import"),
        ("sinabs-lif-li-readout", "sinabs-norm"),
        ("norse-paper-two-lif", "nir"),
        ("rockpool-mlp-lifsyn", "snntorch"),
    ],
)
def test_another_dialect_is_another_network(name, other):
    case = conformance.load(name)
    result = reference.run(case.under(other), case.arrays["input"], potentials=True)
    same_output = np.allclose(result.output, case.arrays["output"], rtol=1e-4, atol=1e-4)
    assert not (same_output and all(near(result, case, node) for node in result.potentials))


def near(result, case, node):
    return f"v:{node}" not in case.arrays or np.allclose(result.potentials[node], case.arrays[f"v:{node}"], atol=1e-4)
