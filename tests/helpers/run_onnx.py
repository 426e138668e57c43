"""Run ONNX models in ONNX Runtime from memory, for tests of the lowering."""

from __future__ import annotations

from typing import Any

import nir
import numpy as np
import onnx

from stdl_export import graph as graphs
from stdl_export.onnx import lower


def run(model: onnx.ModelProto, **feeds: np.ndarray) -> dict[str, np.ndarray]:
    """All outputs by name; names of inputs with dots go in through `**{...}`."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def run_sequence(graph: nir.NIRGraph, x: np.ndarray, steps: int, form: Any = "auto") -> np.ndarray:
    """The sequence graph's output [T, B, ...]."""
    return run(lower.sequence(graph, form), **sequence_feeds(graph, x, steps))["output"]


def sequence_feeds(graph: nir.NIRGraph, x: np.ndarray, steps: int) -> dict[str, np.ndarray]:
    """`input`, and `timesteps` where the graph has it."""
    said = graphs.settings(graph)
    needed = said.T is None and said.input == "repeat"
    return {"input": x} | ({"timesteps": np.array([steps])} if needed else {})


def run_steps(graph: nir.NIRGraph, x: np.ndarray, steps: int) -> np.ndarray:
    """The step graph called once a step, with its states carried by hand: output [T, B, ...]."""
    repeats = graphs.settings(graph).input == "repeat"
    model, states = lower.step(graph), lower.states(graph)
    batch = x.shape[0] if repeats else x.shape[1]
    held = {state.input: np.zeros((batch, *state.shape), np.float32) for state in states}
    outputs = []
    for t in range(steps):
        result = run(model, input=x if repeats else x[t], **held)
        held = {state.input: result[state.output] for state in states}
        outputs.append(result["output"])
    return np.stack(outputs)
