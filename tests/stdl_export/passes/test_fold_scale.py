"""A Scale goes into the weights beside it, or stays where that would be another function."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import nir
import numpy as np
import pytest
from judged import judged, kinds
from random_programs import DT, STEPS
from small_graphs import assemble, chain, full, lif

from stdl_export.passes import fold_scale
from stdl_export.program import program

pytest.importorskip("onnxruntime")

Shape = tuple[int, ...]


def eighths(*shape: int) -> np.ndarray:
    return (np.random.default_rng(sum(shape)).integers(-4, 7, size=shape) / 8).astype(np.float32)


def powers(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).choice(np.float32([0.5, 1, 2, -1]), size=shape).astype(np.float32)


def conv2d(outputs: int, inputs: int, groups: int = 1, padding: Any = 1, stride: int = 1) -> nir.Conv2d:
    return nir.Conv2d(None, eighths(outputs, inputs // groups, 3, 2), stride, padding, 1, groups, eighths(outputs))


# name -> (node, shape it takes, shape it puts out, can its weights say a factor for each element?)
LINEAR: dict[str, tuple[nir.NIRNode, Shape, Shape, bool]] = {
    "affine": (nir.Affine(eighths(4, 3), eighths(4)), (3,), (4,), True),
    "linear": (nir.Linear(eighths(4, 3)), (3,), (4,), True),
    "rows": (nir.Affine(eighths(2, 4, 3), eighths(4)), (2, 3), (2, 4), True),
    "rows-each": (nir.Affine(eighths(2, 4, 3), eighths(2, 4)), (2, 3), (2, 4), True),
    "linear-rows": (nir.Linear(eighths(2, 4, 3)), (2, 3), (2, 4), True),
    "conv1d": (nir.Conv1d(None, eighths(4, 1, 3), 1, "same", 1, 2, eighths(4)), (2, 5), (4, 5), False),
    "conv2d": (conv2d(4, 2, padding=(1, 1)), (2, 4, 4), (4, 4, 5), False),
    "conv2d-groups": (conv2d(8, 4, groups=2, padding="valid"), (4, 4, 4), (8, 2, 3), False),
    "conv2d-depthwise": (conv2d(4, 4, groups=4, padding=(0, 1), stride=2), (4, 4, 4), (4, 1, 3), False),
    "scale": (nir.Scale(powers(2, 1, 1)), (2, 3, 3), (2, 3, 3), True),
}


def factors(form: str, shape: Shape) -> np.ndarray:
    return powers(*{"number": (), "one": (1,), "channels": (shape[0], *[1] * (len(shape) - 1)), "all": shape}[form])


@pytest.mark.parametrize("form", ["number", "one", "channels", "all"])
@pytest.mark.parametrize("side", ["behind", "in front"])
@pytest.mark.parametrize("name", LINEAR)
def test_one_scale_beside_weights(name: str, side: str, form: str) -> None:
    node, taken, given, each = LINEAR[name]
    scale = nir.Scale(factors(form, given if side == "behind" else taken))
    nodes = [node, scale] if side == "behind" else [scale, node]
    made = judged(chain(*nodes, shape=taken, output=given, T=STEPS))
    within = form == "all" and not each
    assert ("Scale" in kinds(made)) == (within or name == "scale")
    assert len(kinds(made)) == (2 if within else 1)


def test_batch_norms_all_over_a_network() -> None:
    nodes = [
        conv2d(4, 2, padding="same"),
        nir.Scale(powers(4, 1, 1)),
        nir.Scale(full(0.5)),
        lif(4, 4, 4, threshold=0.25),
    ]
    nodes += [nir.Scale(powers(4, 1, 1)), conv2d(4, 4, padding="same"), nir.Scale(powers(4, 1, 1)), lif(4, 4, 4)]
    made = judged(chain(*nodes, shape=(2, 4, 4), output=(4, 4, 4), T=STEPS))
    assert kinds(made) == ["Conv2d", "Conv2d", "LIF", "LIF"]
    assert list(made.nodes) == ["input", "n0", "n3", "n5", "n7", "output"], "what stays keeps its name"


def test_products_are_rounded_once() -> None:
    rng = np.random.default_rng(0)
    weight, bias, scale = (rng.normal(size=size).astype(np.float32) for size in ((4, 3), (4,), (4,)))
    made = fold_scale.run(program(chain(nir.Affine(weight, bias), nir.Scale(scale), shape=(3,), output=(4,))))
    node = made.nodes["n0"].node
    exact = np.float64(scale)[:, None] * np.float64(weight)
    np.testing.assert_array_equal(node.weight, exact.astype(np.float32))
    np.testing.assert_array_equal(node.bias, (np.float64(scale) * np.float64(bias)).astype(np.float32))


def test_the_graph_that_was_given_is_not_changed() -> None:
    affine = nir.Affine(eighths(3, 3), eighths(3))
    before = affine.weight.copy(), affine.bias.copy()
    made = fold_scale.run(program(chain(affine, nir.Scale(full(2, 3)), shape=(3,))))
    assert made.nodes["n0"].node is not affine
    np.testing.assert_array_equal(affine.weight, before[0])
    np.testing.assert_array_equal(affine.bias, before[1])


def branched(edges: list[tuple[str, str]], **more: nir.NIRNode) -> nir.NIRGraph:
    """x, y -> ...: `w` and `v` Affine, `s` a Scale, of three elements."""
    nodes = {
        "x": nir.Input(np.array([3])),
        "y": nir.Input(np.array([3])),
        "w": nir.Affine(eighths(3, 3), eighths(3)),
        "v": nir.Affine(eighths(3, 3) * 2, eighths(3)),
        "s": nir.Scale(np.float32([0.5, 2, -1])),
        "out": nir.Output(np.array([3])),
        "also": nir.Output(np.array([3])),
    }
    used = {name for edge in edges for name in edge}
    return assemble({k: n for k, n in (nodes | more).items() if k in used}, edges, T=STEPS)


REFUSED = {
    "weights that somebody else reads": [("x", "w"), ("w", "s"), ("s", "out"), ("w", "also")],
    "weights that an Output and the Scale's reader read": [("x", "w"), ("w", "s"), ("s", "out"), ("w", "out")],
    "weights and something else in front": [("x", "w"), ("y", "s"), ("w", "s"), ("s", "out")],
    "something else reads the Scale": [("x", "s"), ("s", "w"), ("w", "out"), ("s", "also")],
    "a reader adds something else": [("x", "s"), ("s", "w"), ("y", "w"), ("w", "out")],
    "one of two readers cannot": [("x", "s"), ("s", "w"), ("w", "out"), ("s", "v"), ("y", "v"), ("v", "also")],
    "nothing linear": [("x", "s"), ("s", "out")],
}  # fmt: skip


@pytest.mark.parametrize("why", REFUSED)
def test_a_scale_stays(why: str) -> None:
    graph = branched(REFUSED[why])
    made = program(graph)
    assert fold_scale.run(made) is made
    assert "Scale" in kinds(judged(graph))


def test_all_readers_take_it_and_its_sum() -> None:
    edges = [("x", "s"), ("y", "s"), ("s", "w"), ("w", "out"), ("s", "v"), ("v", "also")]
    made = judged(branched(edges))
    assert kinds(made) == ["Affine", "Affine"]
    assert {len(made.nodes[name].sources) for name in ("w", "v")} == {2}


@pytest.mark.parametrize(
    ("weight", "scale"), [(1e30, 1e30), (1e-30, 1e-30), (1e-20, 1e-20)], ids=["overflow", "zero", "subnormal"]
)
def test_products_that_float32_cannot_say_stay(weight: float, scale: float) -> None:
    nodes = [nir.Linear(full(weight, 2, 2) * np.float32([[1, 0.5], [0, 1]])), nir.Scale(full(scale, 2))]
    for order in (nodes, nodes[::-1]):
        made = program(chain(*order, shape=(2,)))
        assert fold_scale.run(made) is made


def test_a_diagonal_matrix_stays_as_it_was_written() -> None:
    made = program(chain(nir.Linear(np.diag(np.float32([1, 2, 3]))), nir.Scale(full(2, 3)), shape=(3,)))
    assert fold_scale.run(made) is made


def loop(feedback: str, *back: tuple[str, nir.NIRNode]) -> nir.NIRGraph:
    """input -> fc -> lif -> output, and lif -> back... -> lif."""
    nodes = {
        "input": nir.Input(np.array([3])),
        "fc": nir.Affine(eighths(3, 3), eighths(3)),
        "lif": nir.LIF(*(full(value, 3) for value in (2 * DT, 2, 0, 0.5, 0))),
        "output": nir.Output(np.array([3])),
    }
    names = ["lif", *(name for name, _ in back), "lif"]
    edges = [("input", "fc"), ("fc", "lif"), ("lif", "output"), *pairwise(names)]
    return assemble(nodes | dict(back), edges, T=STEPS, dialect=f'{{"graph":{{"feedback":"{feedback}"}}}}')


@pytest.mark.parametrize("order", [["rec", "s"], ["s", "rec"]])
def test_in_a_loop_the_step_before_is_read_as_before(order: list[str]) -> None:
    """lif's spikes of the step before: rec reads them in the Scale's place."""
    parts = {"rec": nir.Affine(eighths(3, 3), eighths(3)), "s": nir.Scale(np.float32([2, -1, 0.5]))}
    made = judged(loop("delay_source_output", *((name, parts[name]) for name in order)))
    assert kinds(made) == ["Affine", "Affine", "LIF"]
    assert [source.previous for source in made.nodes["rec"].sources] == [True]
    assert made.fed_back == ["lif"]


def test_what_is_read_a_step_later_stays() -> None:
    """The Scale's own value of the step before is the state: 0 at first, although rec has a bias."""
    graph = loop("delay_target_input", ("rec", nir.Affine(eighths(3, 3), full(1, 3))), ("s", nir.Scale(full(2, 3))))
    made = program(graph)
    assert made.fed_back == ["s"]
    assert fold_scale.run(made) is made
    judged(graph)
