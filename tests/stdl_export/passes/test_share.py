"""Equal nodes, equal sums and equal constants: computed once, stored once."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import nir
import numpy as np
import onnx
import pytest
from judged import judged, kinds
from random_programs import STEPS
from small_graphs import assemble, full, lif

from stdl_export.onnx import lower
from stdl_export.passes import share
from stdl_export.program import program

pytest.importorskip("onnxruntime")


def eighths(*shape: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).integers(-4, 7, size=shape) / 8).astype(np.float32)


IMAGE = (2, 4, 4)
CONV = nir.Conv2d((4, 4), eighths(2, 2, 3, 3), 1, 1, 1, 1, eighths(2))


def twins(one: nir.NIRNode, other: nir.NIRNode, shape: tuple[int, ...], out: tuple[int, ...]) -> nir.NIRGraph:
    """x -> one -> l1 -> out1 and x -> other -> l2 -> out2."""
    nodes = {"x": nir.Input(np.array(shape)), "one": one, "other": other}
    nodes |= {"l1": lif(*out, threshold=0.25), "l2": lif(*out)}
    nodes |= {name: nir.Output(np.array(out)) for name in ("out1", "out2")}
    edges = [("x", "one"), ("x", "other"), ("one", "l1"), ("other", "l2"), ("l1", "out1"), ("l2", "out2")]
    return assemble(nodes, edges, T=STEPS)


EQUAL: dict[str, tuple[nir.NIRNode, tuple[int, ...], tuple[int, ...]]] = {
    "affine": (nir.Affine(eighths(3, 3), eighths(3)), (3,), (3,)),
    "linear": (nir.Linear(eighths(3, 3)), (3,), (3,)),
    "scale": (nir.Scale(eighths(3)), (3,), (3,)),
    "threshold": (nir.Threshold(full(0.25, 3)), (3,), (3,)),
    "conv": (CONV, IMAGE, IMAGE),
    "conv1d": (nir.Conv1d(4, eighths(2, 2, 3), 1, 1, 1, 1, eighths(2)), (2, 4), (2, 4)),
    "average": (nir.AvgPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])), IMAGE, (2, 2, 2)),
    "sum": (nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])), IMAGE, (2, 2, 2)),
    "flatten": (nir.Flatten({"input": None}, 0, -1), IMAGE, (32,)),
}


@pytest.mark.parametrize("name", EQUAL)
def test_equal_nodes_are_one(name: str) -> None:
    node, shape, out = EQUAL[name]
    made = judged(twins(node, copy.deepcopy(node), shape, out))
    assert kinds(made) == sorted([type(node).__name__, "LIF", "LIF"])
    assert {source.path for lif in ("l1", "l2") for source in made.nodes[lif].sources} == {"one"}


def changed(node: nir.NIRNode, **fields: Any) -> nir.NIRNode:
    found = copy.deepcopy(node)
    for name, value in fields.items():
        setattr(found, name, value)
    return found


UNEQUAL = {
    "affine": {"bias": full(0.5, 3)},
    "linear": {"weight": eighths(3, 3, seed=1)},
    "scale": {"scale": eighths(3, seed=1)},
    "threshold": {"threshold": np.float32([0.25, 0.25, 0.5])},
    "conv": {"groups": 2, "weight": eighths(2, 1, 3, 3)},
    "conv1d": {"padding": 2, "dilation": 2},
    "average": {"padding": np.array([1, 1]), "stride": np.array([3, 3])},
    "sum": {"kernel_size": np.array([1, 1])},
}


@pytest.mark.parametrize("name", UNEQUAL)
def test_unequal_nodes_are_two(name: str) -> None:
    node, shape, out = EQUAL[name]
    graph = twins(node, changed(node, **UNEQUAL[name]), shape, out)
    made = program(graph)
    assert share.run(made) is made
    judged(graph)


def test_thresholds_that_compare_in_two_ways_are_two() -> None:
    graph = twins(nir.Threshold(full(0.25, 3)), nir.Threshold(full(0.25, 3)), (3,), (3,))
    graph.metadata["stdl.dialect"] = '{"nodes":{"one":{"spike":">="}}}'
    assert kinds(judged(graph)) == ["LIF", "LIF", "Threshold", "Threshold"]


def test_equal_neurons_and_delays_keep_their_states() -> None:
    for node in (lif(3), nir.Delay(full(2.0**-10, 3))):
        graph = twins(node, copy.deepcopy(node), (3,), (3,))
        assert len(judged(graph).nodes) == 7


def test_of_two_summands_the_order_does_not_count() -> None:
    nodes = {name: nir.Input(np.array([3])) for name in ("a", "b", "c")}
    nodes |= {"0": nir.Scale(full(1, 3))}  # it goes: what read 0 and a reads b and a then
    nodes |= {name: nir.Linear(eighths(3, 3)) for name in ("v", "w")}
    nodes |= {name: nir.Output(np.array([3])) for name in ("x", "y")}
    edges = [("b", "0"), ("a", "v"), ("b", "v"), ("0", "w"), ("a", "w"), ("v", "x"), ("w", "y"), ("c", "y")]
    assert kinds(judged(assemble(nodes, edges, T=STEPS))) == ["Linear"]


def test_one_reader_of_two_equal_nodes_reads_one_twice_and_that_is_one() -> None:
    """x -> v, w -> lif, v and w equal: 2 v."""
    graph = twins(EQUAL["affine"][0], copy.deepcopy(EQUAL["affine"][0]), (3,), (3,))
    graph.edges += [("other", "l1")]
    made = judged(graph)
    assert [source.path for source in made.nodes["l1"].sources] == ["one", "one"]


def test_in_a_loop_equal_nodes_are_one() -> None:
    """l -> r -> k -> l and l -> s -> m -> l: what goes back is cut behind k and m."""
    nodes = {"x": nir.Input(np.array([3])), "out": nir.Output(np.array([3]))}
    nodes |= {name: lif(3, threshold=threshold) for name, threshold in (("l", 0.25), ("k", 0.5), ("m", 0.75))}
    nodes |= {name: nir.Affine(eighths(3, 3), eighths(3)) for name in ("r", "s")}
    edges = [("x", "l"), ("l", "r"), ("l", "s"), ("r", "k"), ("s", "m"), ("k", "l"), ("m", "l"), ("k", "out")]
    assert kinds(judged(assemble(nodes, edges, T=STEPS))) == ["Affine", "LIF", "LIF", "LIF"]


def test_what_is_read_a_step_later_is_not_taken_away() -> None:
    """delay_target_input: r and s are states, both of them."""
    nodes = {"x": nir.Input(np.array([3])), "l": lif(3, threshold=0.25), "out": nir.Output(np.array([3]))}
    nodes |= {name: nir.Affine(eighths(3, 3), eighths(3)) for name in ("r", "s")}
    edges = [("x", "l"), ("l", "r"), ("l", "s"), ("r", "l"), ("s", "l"), ("l", "out")]
    graph = assemble(nodes, edges, T=STEPS, dialect='{"graph":{"feedback":"delay_target_input"}}')
    assert judged(graph).fed_back == ["r", "s"]


# --- in the lowering ------------------------------------------------------------------------------------------------


def additions(model: onnx.ModelProto) -> int:
    return sum(node.op_type == "Add" and "/sum." in node.name for node in model.graph.node)


def test_sums_that_begin_alike_share_their_beginning() -> None:
    """a + b, (a + b) + c, ((a + b) + c) + d: three additions, not six."""
    nodes: dict[str, nir.NIRNode] = {name: nir.Input(np.array([2])) for name in "abcd"}
    nodes |= {f"out{count}": nir.Output(np.array([2])) for count in (2, 3, 4)}
    edges = [(name, f"out{count}") for count in (2, 3, 4) for name in "abcd"[:count]]
    graph = assemble(nodes, edges, T=STEPS)
    judged(graph)
    assert additions(lower.sequence(graph)) == 3
    assert additions(lower.step(graph)) == 3


def test_a_value_that_never_changes_is_repeated_once() -> None:
    nodes = {"x": nir.Input(np.array([2])), "l": lif(2), "k": lif(2, threshold=0.5)}
    nodes |= {name: nir.Output(np.array([2])) for name in ("out1", "out2")}
    edges = [("x", "l"), ("x", "k"), ("x", "out1"), ("l", "out1"), ("x", "out2"), ("k", "out2")]
    graph = assemble(nodes, edges, T=STEPS, input="repeat")
    judged(graph)
    assert Counter(node.op_type for node in lower.sequence(graph).graph.node)["Tile"] == 1


@pytest.mark.parametrize("form", ["unroll", "chunks", "scan"])
def test_equal_constants_are_stored_once_under_scan_bodies_too(form: Any) -> None:
    """Three layers with the same numbers, one of them in a loop: one weight, one bias, one of each parameter."""
    nodes: dict[str, nir.NIRNode] = {"x": nir.Input(np.array([3])), "out": nir.Output(np.array([3]))}
    for index in range(3):
        nodes[f"w{index}"] = nir.Affine(eighths(3, 3), eighths(3))
        nodes[f"l{index}"] = lif(3, threshold=0.25, v_leak=0.25)
    edges = [("x", "w0"), ("w0", "l0"), ("l0", "w1"), ("w1", "l1"), ("l1", "w2"), ("w2", "l2"), ("l2", "out")]
    edges += [("l2", "w2")]
    graph = assemble(nodes, edges, T=20)
    model = lower.sequence(graph, form)
    arrays = [onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    contents = Counter((str(array.dtype), array.shape, array.tobytes()) for array in arrays)
    assert set(contents.values()) == {1}
    assert [array.shape for array in arrays if array.dtype == np.float32].count((3, 3)) == 1
    assert sum(array.dtype == np.float32 for array in arrays) == 6, "weight, bias, decay, leak, v_threshold, v_reset"
    bodies = [attribute.g for node in model.graph.node for attribute in node.attribute if attribute.name == "body"]
    assert bool(bodies) == (form != "unroll")
    assert not any(body.initializer for body in bodies)
