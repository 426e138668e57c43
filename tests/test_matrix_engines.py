"""Both engines take everything: every conformance case, as sequence and as step, in every precision.

ONNX Runtime computes each of them; TensorRT-RTX builds an engine, which takes no GPU. RTX needs a second or so for one,
so a few cases that together have every operator are built in each run, and all with STDL_ALL_ENGINES=1. Numbers in fp32
are `test_matrix`'s; here low precision stays near.
"""

from __future__ import annotations

import os
from typing import Any

import conformance
import nir
import numpy as np
import onnx
import pytest
from run_onnx import call, named, sequence_feeds, session

from stdl_export import graph as graphs
from stdl_export import tensorrt
from stdl_export.manifest import Arithmetic
from stdl_export.onnx import lower
from stdl_export.onnx.probe import probe
from stdl_export.tensorrt_build import build
from stdl_runtimes import reference

STEPS = 4  # unrolled; forms for more are built with another T
ALL_ENGINES = bool(os.environ.get("STDL_ALL_ENGINES"))
BUILT = [
    "rockpool-import-braille-subgraph",  # a loop through a sub-graph
    "sinabs-conv-iaf-sumpool",  # floor, Max, SumPool2d
    "snntorch-conv-avgpool",  # reset in the next step, AvgPool2d
]
ARITHMETICS = {
    "fp32": Arithmetic(),
    "fp16": Arithmetic(precision="fp16"),
    "int8": Arithmetic(precision="int8"),
    "fp16-membrane": Arithmetic(precision="fp16", membrane="fp16"),
}
FLIPPED = {"fp32": 0.0, "fp16": 0.01, "int8": 0.12, "fp16-membrane": 0.02}  # of small nets with random weights

pytestmark = pytest.mark.skipif(not conformance.NAMES, reason=conformance.ABSENT)
each_arithmetic = pytest.mark.parametrize("precision", list(ARITHMETICS))


def case_of(name: str, steps: int | None = STEPS) -> tuple[nir.NIRGraph, np.ndarray]:
    """The graph with its first steps, and what goes into them."""
    case = conformance.load(name)
    x = case.arrays["input"]
    said = graphs.settings(case.graph)
    x = x if said.input == "repeat" or steps is None else x[:steps]
    fixed = graphs.Settings(**vars(said) | {"T": steps or len(x)})
    return graphs.with_settings(case.graph, fixed), x


def step_outputs(graph: nir.NIRGraph, x: np.ndarray, steps: int, arithmetic: Arithmetic) -> np.ndarray:
    """The step graph with its states, each in its own type, carried by hand."""
    repeats = graphs.settings(graph).input == "repeat"
    opened, given = session(lower.step(graph, arithmetic)), named(graph, x)
    batch = x.shape[0 if repeats else 1]
    states = lower.states(graph, arithmetic)
    held: dict[str, Any] = {
        state.input: np.array(np.broadcast_to(state.initial, (batch, *state.shape)), state.dtype) for state in states
    }
    outputs = []
    for t in range(steps):
        found = call(opened, {name: each if repeats else each[t] for name, each in given.items()} | held)
        held = {state.input: found[state.output] for state in states}
        outputs.append(found["output"])
    return np.stack(outputs)


@each_arithmetic
@pytest.mark.parametrize("name", conformance.NAMES)
def test_onnx_runtime_computes_it(name: str, precision: str) -> None:
    """Full checks are part of `lower`; sequence and steps give the same, and every layer by itself is near."""
    pytest.importorskip("onnxruntime")
    graph, x = case_of(name, None)
    arithmetic, judged = ARITHMETICS[precision], reference.run(graph, x)
    feeds = sequence_feeds(graph, x, len(judged.output))
    found = call(session(lower.sequence(graph, arithmetic=arithmetic)), feeds)["output"]
    assert found.dtype == np.float32
    assert found.shape == judged.output.shape
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(step_outputs(graph, x, len(found), arithmetic), found)
    fed = feeds | {f"probe_in.{node}": np.float32(spikes) for node, spikes in judged.spikes.items()}
    layers = call(session(probe(graph, arithmetic=arithmetic)), fed)
    for node, spikes in judged.spikes.items():
        assert (layers[f"probe_out.{node}"] != spikes).mean() <= FLIPPED[precision], node


@pytest.mark.parametrize("precision", list(ARITHMETICS) if ALL_ENGINES else ["int8", "fp16-membrane"])
@pytest.mark.parametrize("mode", ["sequence", "step", "probe"])
@pytest.mark.parametrize("name", conformance.NAMES if ALL_ENGINES else [n for n in BUILT if n in conformance.NAMES])
def test_tensorrt_rtx_builds_it(name: str, mode: str, precision: str) -> None:
    graph, _ = case_of(name)
    arithmetic = ARITHMETICS[precision]
    if mode == "step":
        built(lower.step(graph, arithmetic), name)
    else:
        built({"sequence": lower.sequence, "probe": probe}[mode](graph, arithmetic=arithmetic), name)


@pytest.mark.parametrize("form", ["scan", "chunks"])
@pytest.mark.parametrize("precision", ["fp16-membrane", "int8"])
def test_tensorrt_rtx_builds_a_loop_over_many_steps(form: Any, precision: str) -> None:
    name = "rockpool-import-braille-subgraph"
    graph, _ = case_of(name, 19)  # two chunks and three steps
    built(lower.sequence(graph, form, ARITHMETICS[precision]), name)


def built(model: onnx.ModelProto, name: str) -> None:
    """An engine for a batch of 1 to 16."""
    pytest.importorskip("tensorrt_rtx")
    assert build(tensorrt.flavour(), model.SerializeToString(), name, tensorrt.Profile(), tensorrt.DEFAULTS)
