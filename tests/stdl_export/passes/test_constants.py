"""What no input reaches is computed once and for all; neurons' parameters stay as small as they are."""

from __future__ import annotations

from collections.abc import Iterator

import nir
import numpy as np
import onnx
import pytest
from judged import judged, kinds
from random_programs import STEPS
from run_onnx import run_sequence
from small_graphs import assemble, chain, conv_net, full, lif

from stdl_export.onnx import lower
from stdl_export.onnx.probe import probe
from stdl_export.passes import constants
from stdl_export.program import program
from stdl_runtimes import reference

pytest.importorskip("onnxruntime")


def eighths(*shape: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).integers(-4, 7, size=shape) / 8).astype(np.float32)


def affine(weight: float = 1, seed: int = 0) -> nir.Affine:
    return nir.Affine(eighths(3, 3, seed=seed) * np.float32(weight), np.float32([0.75, 0.5, -0.25]))


DARK = {
    "affine": (affine(0), (3,), (3,)),
    "rows": (nir.Affine(full(0, 2, 3, 3), eighths(3)), (2, 3), (2, 3)),
    "linear": (nir.Linear(full(0, 3, 3)), (3,), (3,)),
    "scale": (nir.Scale(full(0, 3)), (3,), (3,)),
    "conv1d": (nir.Conv1d(4, full(0, 2, 2, 3), 1, 1, 1, 1, eighths(2)), (2, 4), (2, 4)),
    "conv2d": (nir.Conv2d((4, 4), full(0, 2, 2, 3, 3), 1, 1, 1, 1, full(0.5, 2)), (2, 4, 4), (2, 4, 4)),
}


@pytest.mark.parametrize("repeat", ["repeat", "sequence"])
@pytest.mark.parametrize("name", DARK)
def test_weights_of_zero_are_their_bias(name: str, repeat: str) -> None:
    """In front of a neuron that lives on it; the input still says how many samples and steps there are."""
    node, shape, out = DARK[name]
    neuron = lif(*out, threshold=0.25, v_leak=1)
    made = judged(chain(node, neuron, shape=shape, output=out, T=STEPS, input=repeat))
    assert kinds(made) == ["Constant", "LIF"]
    assert made.nodes["input"].path == "input"


@pytest.mark.parametrize("steps", [1, 20, None])
def test_a_constant_is_there_at_every_step_and_for_every_sample(steps: int | None) -> None:
    graph = chain(affine(0), lif(3, threshold=0.25), shape=(3,), **({"T": steps} if steps else {}))
    x = np.ones((steps or 5, 4, 3), np.float32)
    wanted = reference.run(graph, x).output
    for form in ("unroll", "scan", "chunks") if steps else ("scan",):
        np.testing.assert_array_equal(run_sequence(graph, x, len(x), form), wanted)


def test_constants_are_followed_through_what_is_linear() -> None:
    nodes = [affine(0), nir.Scale(np.float32([2, 1, -1])), nir.Linear(eighths(4, 3, seed=1))]
    nodes += [nir.Flatten({"input": None}, 0, 0), affine_of(4)]
    made = judged(chain(*nodes, lif(3, threshold=0.25), shape=(3,), T=STEPS))
    assert kinds(made) == ["Constant", "LIF"]


def affine_of(inputs: int) -> nir.Affine:
    return nir.Affine(eighths(3, inputs, seed=2), eighths(3, seed=3))


def test_a_threshold_a_neuron_and_a_delay_of_a_constant_stay() -> None:
    nodes = [affine(0), nir.Threshold(full(0.5, 3)), nir.Delay(full(2.0**-10, 3)), lif(3, threshold=0.25)]
    assert kinds(judged(chain(*nodes, shape=(3,), T=STEPS))) == ["Constant", "Delay", "LIF", "Threshold"]


def beside(dark: nir.NIRNode, *more: tuple[str, str], **nodes: nir.NIRNode) -> nir.NIRGraph:
    """x -> bright, dark -> lif -> out."""
    there = {"x": nir.Input(np.array([3])), "dark": dark, "bright": affine(), "lif": lif(3, threshold=0.25)}
    edges = [("x", "dark"), ("x", "bright"), ("dark", "lif"), ("bright", "lif"), ("lif", "out"), *more]
    ends = {"out": nir.Output(np.array([3])), "also": nir.Output(np.array([3]))}
    used = {name for edge in edges for name in edge}
    return assemble({name: node for name, node in (there | ends | nodes).items() if name in used}, edges, T=STEPS)


def test_zeros_are_not_added() -> None:
    made = judged(beside(nir.Linear(full(0, 3, 3)), ("x", "lif")))
    assert "dark" not in made.nodes
    assert [source.path for source in made.nodes["lif"].sources] == ["bright", "x"]


def test_zeros_that_are_all_there_is_stay() -> None:
    graph = chain(nir.Scale(full(0, 3)), nir.Scale(full(0, 3)), lif(3, v_leak=4), shape=(3,), T=STEPS)
    assert kinds(judged(graph)) == ["Constant", "LIF"]


def test_a_constant_goes_into_the_bias_beside_it() -> None:
    made = judged(beside(affine(0)))
    assert kinds(made) == ["Affine", "LIF"]
    assert made.nodes["bright"].node.bias.tolist() == [1.5, 1, -0.5]


def test_a_constant_stays_beside_a_bias_that_somebody_else_reads() -> None:
    made = judged(beside(affine(0), ("bright", "also")))
    assert kinds(made) == ["Affine", "Constant", "LIF"]


@pytest.mark.parametrize(("bias", "stays"), [([0.5, 0.5], False), ([0.5, 0.25], True)])
def test_a_constant_goes_into_a_convolution_if_it_is_one_number_a_channel(bias: list[float], stays: bool) -> None:
    """line -> dark -> scale, one channel of two."""
    nodes = {
        "conv": nir.Conv1d(2, eighths(1, 1, 3), 1, 1, 1, 1, full(0.5, 1)),
        "line": nir.Input(np.array([1, 2])),
        "dark": nir.Conv1d(2, full(0, 1, 1, 3), 1, 1, 1, 1, full(0.25, 1)),
        "scale": nir.Scale(np.float32([bias])),
        "lif": lif(1, 2, threshold=0.25),
        "out": nir.Output(np.array([1, 2])),
    }
    edges = [("line", "conv"), ("line", "dark"), ("dark", "scale"), ("conv", "lif"), ("scale", "lif"), ("lif", "out")]
    made = judged(assemble(nodes, edges, T=STEPS))
    assert ("Constant" in kinds(made)) == stays


def test_in_a_loop_nothing_is_constant() -> None:
    """Weights of zero carry the loop's step of delay, and so its state, all the same."""
    for feedback in ("delay_source_output", "delay_target_input"):
        graph = beside(affine(), ("lif", "dark0"), ("dark0", "lif"), dark0=affine(0))
        graph.metadata["stdl.dialect"] = f'{{"graph":{{"feedback":"{feedback}"}}}}'
        assert len(program(graph).fed_back) == 1
        assert judged(graph).fed_back == program(graph).fed_back


def test_a_bias_that_float32_cannot_say_stays_beside() -> None:
    huge = nir.Affine(full(0, 3, 3), full(3e38, 3))
    graph = beside(huge)
    graph.nodes["bright"].bias = full(3e38, 3)
    assert kinds(constants.run(program(graph))) == ["Affine", "Constant", "LIF"]


# --- in the lowering ------------------------------------------------------------------------------------------------


def of_constants(graph: onnx.GraphProto, known: set[str]) -> Iterator[str]:
    """The nodes all of whose inputs are initialisers, in bodies too."""
    for node in graph.node:
        if node.input and set(node.input) <= known:
            yield node.name
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from of_constants(attribute.g, known)


@pytest.mark.parametrize("form", ["unroll", "chunks", "scan"])
def test_the_graph_computes_nothing_of_constants_alone(form: str) -> None:
    for said in ({"input": "repeat"}, {"input": "sequence"}):
        graph = conv_net(T=20, **said)
        graph.edges.append(("conv1", "pool"))  # a value that never changes beside spikes: it is repeated
        for model in (lower.sequence(graph, form), lower.step(graph), probe(graph, form)):
            known = {tensor.name for tensor in model.graph.initializer}
            assert known
            assert [*of_constants(model.graph, known)] == []
