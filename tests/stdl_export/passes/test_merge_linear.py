"""Weights that are added up are one, and so are two matrices in a row where that is less work."""

from __future__ import annotations

from typing import Any

import nir
import numpy as np
import pytest
from judged import judged, kinds
from random_programs import STEPS
from small_graphs import assemble, chain, full, lif

from stdl_export.passes import merge_linear
from stdl_export.program import Program, program

pytest.importorskip("onnxruntime")


def eighths(*shape: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).integers(-4, 7, size=shape) / 8).astype(np.float32)


def conv(seed: int, **said: Any) -> nir.Conv2d:
    how = {"stride": 1, "padding": 1, "dilation": 1, "groups": 1} | said
    weight = eighths(3, 3 // how["groups"], 3, 3, seed=seed)
    return nir.Conv2d((4, 4), weight, bias=eighths(3, seed=seed + 9), **how)


def affine(seed: int = 0) -> nir.Affine:
    return nir.Affine(eighths(3, 3, seed=seed), eighths(3, seed=seed + 9))


def linear(seed: int = 0) -> nir.Linear:
    return nir.Linear(eighths(3, 3, seed=seed))


def parallel(*nodes: nir.NIRNode, shape: tuple[int, ...] = (3,), **more: list[tuple[str, str]]) -> nir.NIRGraph:
    """x -> n0, n1, ... -> lif -> out, and edges `more`; y is another input."""
    named: dict[str, nir.NIRNode] = {f"n{i}": node for i, node in enumerate(nodes)}
    extra = [edge for edges in more.values() for edge in edges]
    ends = {"x": nir.Input(np.array(shape)), "lif": lif(*shape, threshold=0.25), "out": nir.Output(np.array(shape))}
    other = {"y": nir.Input(np.array(shape)), "also": nir.Output(np.array(shape))}
    ends |= {name: node for name, node in other.items() if any(name in edge for edge in extra)}
    edges = [edge for name in named for edge in (("x", name), (name, "lif"))]
    return assemble(ends | named, [*edges, ("lif", "out"), *extra], T=STEPS)


IMAGE = (3, 4, 4)
TOGETHER: dict[str, tuple[list[nir.NIRNode], tuple[int, ...]]] = {
    "linear": ([linear(1), linear(2)], (3,)),
    "affine": ([affine(1), affine(2), affine(3)], (3,)),
    "mixed": ([linear(1), affine(2), linear(3)], (3,)),
    "convolutions": ([conv(1), conv(2)], IMAGE),
    "the same geometry in other words": ([conv(1), conv(2, padding="same")], IMAGE),
    "groups": ([conv(1, groups=3), conv(2, groups=3)], IMAGE),
    "scales": ([nir.Scale(full(0.5)), nir.Scale(eighths(3))], (3,)),
    "scales of an image": ([nir.Scale(full(0.5, 1)), nir.Scale(eighths(3, 1, 1)), nir.Scale(eighths(*IMAGE))], IMAGE),
    "equal ones": ([affine(1), affine(1), affine(1)], (3,)),
}


@pytest.mark.parametrize("name", TOGETHER)
def test_parallel_weights_are_one(name: str) -> None:
    nodes, shape = TOGETHER[name]
    made = judged(parallel(*nodes, shape=shape))
    assert len(kinds(made)) == 2
    assert len(made.nodes["lif"].sources) == 1


APART: dict[str, tuple[list[nir.NIRNode], tuple[int, ...], list[tuple[str, str]]]] = {
    "another dilation": ([conv(1), conv(2, dilation=2, padding=2)], IMAGE, []),
    "other groups": ([conv(1), conv(2, groups=3)], IMAGE, []),
    "a scale and a matrix": ([nir.Scale(full(0.5, 3)), linear()], (3,), []),
    "another reader": ([affine(1), affine(2)], (3,), [("n0", "also")]),
    "another source": ([affine(1), affine(2)], (3,), [("y", "n0")]),
    "a diagonal": ([linear(1), nir.Linear(np.diag(np.float32([1, 2, 3])))], (3,), []),
}


@pytest.mark.parametrize("why", APART)
def test_parallel_nodes_that_stay_apart(why: str) -> None:
    nodes, shape, more = APART[why]
    graph = parallel(*nodes, shape=shape, more=more)
    made = program(graph)
    assert merge_linear.run(made) is made
    assert len(kinds(judged(graph))) == 3


def test_branches_that_differ_in_a_scale_are_one_convolution() -> None:
    """x -> conv -> scale, twice: folded first, then added."""
    graph = parallel(nir.Scale(full(0.5, 3, 1, 1)), nir.Scale(eighths(3, 1, 1)), shape=IMAGE)
    graph.nodes |= {"c0": conv(1), "c1": conv(2)}
    graph.edges = [edge for edge in graph.edges if edge[0] != "x"]
    graph.edges += [("x", "c0"), ("x", "c1"), ("c0", "n0"), ("c1", "n1")]
    assert kinds(judged(graph)) == ["Conv2d", "LIF"]


def test_the_same_source_now_and_a_step_ago_is_two_sources() -> None:
    """Both recurrent weights of lif; one of them reads a Delay of it."""
    graph = parallel(affine(1), affine(2), more=[("lif", "n1")])
    made = judged(graph)
    assert kinds(made) == ["Affine", "Affine", "LIF"]


def test_parallel_recurrent_weights_are_one() -> None:
    nodes = {"r0": affine(3), "r1": affine(4), "x": nir.Input(np.array([3])), "lif": lif(3, threshold=0.25)}
    edges = [("x", "lif"), ("lif", "r0"), ("lif", "r1"), ("r0", "lif"), ("r1", "lif"), ("lif", "out")]
    made = judged(assemble(nodes | {"out": nir.Output(np.array([3]))}, edges, T=STEPS))
    assert kinds(made) == ["Affine", "LIF"]
    assert made.components[1].cyclic
    assert made.fed_back == ["lif"]


def test_what_is_read_a_step_later_is_not_merged() -> None:
    """delay_target_input: the states are the recurrent weights' outputs, 0 at first; by their names."""
    nodes = {"r0": affine(3), "r1": affine(4), "x": nir.Input(np.array([3])), "lif": lif(3, threshold=0.25)}
    edges = [("x", "lif"), ("lif", "r0"), ("lif", "r1"), ("r0", "lif"), ("r1", "lif"), ("lif", "out")]
    said = '{"graph":{"feedback":"delay_target_input"}}'
    graph = assemble(nodes | {"out": nir.Output(np.array([3]))}, edges, T=STEPS, dialect=said)
    assert program(graph).fed_back == ["r0", "r1"]
    assert judged(graph).fed_back == ["r0", "r1"]


def test_a_product_that_is_read_a_step_later_is_not_multiplied() -> None:
    """The state is what the second of two matrices puts out, under its name."""
    nodes = {"a": affine(3), "b": affine(4), "x": nir.Input(np.array([3])), "lif": lif(3, threshold=0.25)}
    edges = [("x", "lif"), ("lif", "a"), ("a", "b"), ("b", "lif"), ("lif", "out")]
    said = '{"graph":{"feedback":"delay_target_input"}}'
    graph = assemble(nodes | {"out": nir.Output(np.array([3]))}, edges, T=STEPS, dialect=said)
    made = program(graph)
    assert made.fed_back == ["b"]
    assert merge_linear.run(made) is made
    judged(graph)


def merged(*nodes: nir.NIRNode, inputs: int, outputs: int) -> Program:
    return judged(chain(*nodes, shape=(inputs,), output=(outputs,), T=STEPS))


@pytest.mark.parametrize("first", [linear(1), affine(1)])
@pytest.mark.parametrize("second", [linear(2), affine(2)])
def test_two_matrices_in_a_row_are_one(first: nir.NIRNode, second: nir.NIRNode) -> None:
    made = merged(first, second, inputs=3, outputs=3)
    assert len(kinds(made)) == 1
    assert kinds(made)[0] == ("Linear" if type(first) is type(second) is nir.Linear else "Affine")


def test_three_in_a_row_end_in_one_of_its_shape() -> None:
    made = merged(linear(1), nir.Affine(eighths(5, 3), eighths(5)), nir.Linear(eighths(2, 5)), inputs=3, outputs=2)
    (node,) = (node for path, node in made.nodes.items() if path.startswith("n"))
    assert node.node.weight.shape == (2, 3)
    assert node.shape == (2,)


def test_a_low_rank_stays_factored() -> None:
    """4 x 1 and 1 x 4 are 8 numbers, their product 16."""
    made = program(chain(nir.Linear(eighths(1, 4)), nir.Linear(eighths(4, 1)), shape=(4,), T=STEPS))
    assert merge_linear.run(made) is made


def test_a_matrix_that_somebody_else_reads_is_not_multiplied() -> None:
    nodes = {"x": nir.Input(np.array([3])), "a": affine(1), "b": affine(2), "out": nir.Output(np.array([3]))}
    edges = [("x", "a"), ("a", "b"), ("b", "out"), ("a", "also")]
    graph = assemble(nodes | {"also": nir.Output(np.array([3]))}, edges, T=STEPS)
    assert kinds(judged(graph)) == ["Affine", "Affine"]


def test_sums_that_float32_cannot_say_stay() -> None:
    huge = nir.Linear(full(3e38, 3, 3))
    made = program(parallel(huge, huge))
    assert merge_linear.run(made) is made


def test_sums_and_products_are_rounded_once() -> None:
    rng = np.random.default_rng(0)
    v, w = (rng.normal(size=(3, 3)).astype(np.float32) for _ in range(2))
    made = merge_linear.run(program(parallel(nir.Linear(v), nir.Linear(w))))
    np.testing.assert_array_equal(made.nodes["n0"].node.weight, (np.float64(v) + np.float64(w)).astype(np.float32))
    made = merge_linear.run(program(chain(nir.Linear(v), nir.Linear(w), shape=(3,))))
    np.testing.assert_array_equal(made.nodes["n0"].node.weight, (np.float64(w) @ np.float64(v)).astype(np.float32))
