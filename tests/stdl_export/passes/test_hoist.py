"""What does not depend on time is computed for B samples, not for T*B, in every form of time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import nir
import numpy as np
import onnx
import pytest
from judged import judged
from random_programs import STEPS
from run_onnx import run
from small_graphs import assemble, chain, conv_net, frames, full, lif

from stdl_export.onnx import lower
from stdl_runtimes import reference

pytest.importorskip("onnxruntime")


def everywhere(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All nodes, those in bodies too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from everywhere(attribute.g)


def sizes(model: onnx.ModelProto, op: str, **feeds: np.ndarray) -> dict[str, int]:
    """The first size of what each node of a type puts out, by name, as it is when the model runs."""
    names = [node.output[0] for node in model.graph.node if node.op_type == op]
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    shown.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    found = run(shown, **feeds)
    return {name: len(found[name]) for name in names}


def repeated(T: int | None = 1000) -> nir.NIRGraph:
    """A repeated image -> conv -> scale per pixel -> LIF -> conv -> LIF, and the first conv once more at the end."""
    pixels = np.random.default_rng(0).choice(np.float32([0.5, 1, 2]), size=(4, 6, 6))
    graph = conv_net(input="repeat", **({"T": T} if T else {}))
    if not T:
        del graph.metadata["stdl.T"]
    graph.nodes["pixels"] = nir.Scale(pixels)
    graph.edges = [edge for edge in graph.edges if edge != ("conv1", "lif1")]
    graph.edges += [("conv1", "pixels"), ("pixels", "lif1"), ("pixels", "pool")]
    return graph


@pytest.mark.parametrize(
    ("T", "form"), [(1000, "chunks"), (1000, "scan"), (1003, "chunks"), (None, "scan"), (9, "unroll")]
)
def test_the_convolution_of_a_repeated_frame_is_one_of_b(T: int | None, form: Any) -> None:
    graph, steps, batch = repeated(T), T or 11, 2
    x = frames(batch, 2, 6, 6)
    feeds = {"input": x} | ({} if T else {"timesteps": np.array([steps])})
    model = lower.sequence(graph, form)
    assert sizes(model, "Conv", **feeds) == {"conv1": batch, "conv2": steps * batch}
    assert sizes(model, "Mul", **feeds)["pixels"] == batch
    assert [node.op_type for node in everywhere(model.graph)].count("Conv") == 2, "none in a body"
    wanted = reference.run(graph, x, T=steps).output
    np.testing.assert_array_equal(run(model, **feeds)["output"], wanted)


def test_what_comes_into_a_loop_from_a_repeated_frame_is_one_of_b() -> None:
    """x -> w -> gain * of lif; the loop's own weights run at every step, in the body."""
    rng = np.random.default_rng(0)
    nodes = {
        "x": nir.Input(np.array([3])),
        "w": nir.Linear((rng.integers(-2, 6, size=(3, 3)) / 8).astype(np.float32)),
        "lif": lif(3, threshold=0.5),
        "rec": nir.Linear((rng.integers(-2, 6, size=(3, 3)) / 8).astype(np.float32)),
        "out": nir.Output(np.array([3])),
    }
    edges = [("x", "w"), ("w", "lif"), ("lif", "rec"), ("rec", "lif"), ("lif", "out")]
    graph = assemble(nodes, edges, T=1000, input="repeat")
    model = lower.sequence(graph, "chunks")
    x = frames(2, 3)
    assert sizes(model, "Gemm", input=x) == {"w": 2}
    np.testing.assert_array_equal(run(model, input=x)["output"], reference.run(graph, x).output)


@pytest.mark.parametrize("form", ["unroll", "chunks", "scan"])
def test_what_no_input_reaches_is_one_of_b_in_a_sequence_too(form: Any) -> None:
    """dark -> pool -> conv -> lif, driven by a bias alone; frames differ from step to step."""
    rng = np.random.default_rng(0)
    dark = nir.Conv2d((4, 4), full(0, 2, 1, 1, 1), 1, 0, 1, 1, np.float32([0.5, 1]))
    conv = nir.Conv2d(
        (2, 2), (rng.integers(-2, 6, size=(2, 2, 3, 3)) / 8).astype(np.float32), 1, 1, 1, 1, full(0.25, 2)
    )
    pool = nir.AvgPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0]))
    graph = chain(dark, pool, conv, lif(2, 2, 2), shape=(1, 4, 4), output=(2, 2, 2), T=20)
    x = frames(20, 3, 1, 4, 4)
    model = lower.sequence(graph, form)
    assert sizes(model, "Conv", input=x) == {"n2": 3}
    assert sizes(model, "AveragePool", input=x) == {"n1": 3}
    wanted = reference.run(graph, x).output
    assert 0 < wanted.mean() < 1
    np.testing.assert_array_equal(run(model, input=x)["output"], wanted)


def test_a_delay_of_a_repeated_frame_is_not_hoisted() -> None:
    """It is 0 before the frame arrives."""
    graph = chain(nir.Delay(full(2.0**-9, 2)), nir.Scale(full(0.5, 2)), shape=(2,), T=STEPS, input="repeat")
    judged(graph)
