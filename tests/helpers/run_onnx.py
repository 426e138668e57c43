"""Run ONNX models in ONNX Runtime from memory, for tests of the lowering."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import nir
import numpy as np
import onnx

from stdl_export import graph as graphs
from stdl_export.onnx import lower
from stdl_export.program import program

Inputs = np.ndarray | Mapping[str, np.ndarray]
"""What goes in: an array, or one for each Input by its name."""


def session(model: onnx.ModelProto) -> Any:
    """A model opened in ONNX Runtime."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(model: onnx.ModelProto, **feeds: np.ndarray) -> dict[str, np.ndarray]:
    """All outputs by name; names of inputs with dots go in through `**{...}`."""
    return call(session(model), feeds)


def call(opened: Any, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All outputs of an opened model by name."""
    names = [output.name for output in opened.get_outputs()]
    return dict(zip(names, opened.run(names, dict(feeds)), strict=True))


def run_sequence(graph: nir.NIRGraph, x: np.ndarray, steps: int, form: Any = "auto") -> np.ndarray:
    """The sequence graph's output [T, B, ...]."""
    return run(lower.sequence(graph, form), **sequence_feeds(graph, x, steps))["output"]


def run_sequence_outputs(graph: nir.NIRGraph, x: Inputs, steps: int, form: Any = "auto") -> dict[str, np.ndarray]:
    """The sequence graph's outputs [T, B, ...] by the names of the Outputs."""
    result = run(lower.sequence(graph, form), **sequence_feeds(graph, x, steps))
    return {path: result[name] for path, name in lower.output_names(program(graph)).items()}


def sequence_feeds(graph: nir.NIRGraph, x: Inputs, steps: int) -> dict[str, np.ndarray]:
    """The inputs, and `timesteps` where the graph has it."""
    said = graphs.settings(graph)
    needed = said.T is None and said.input == "repeat"
    return named(graph, x) | ({"timesteps": np.array([steps])} if needed else {})


def named(graph: nir.NIRGraph, x: Inputs) -> dict[str, np.ndarray]:
    """The arrays by the names of the ONNX graphs."""
    names = lower.input_names(program(graph))
    if not isinstance(x, Mapping):
        x = dict.fromkeys(names, x)
    return {names[path]: each for path, each in x.items()}


def run_steps(graph: nir.NIRGraph, x: np.ndarray, steps: int) -> np.ndarray:
    """The step graph called once a step, with its states carried by hand: output [T, B, ...]."""
    (output,) = run_steps_outputs(graph, x, steps).values()
    return output


def run_steps_outputs(graph: nir.NIRGraph, x: Inputs, steps: int) -> dict[str, np.ndarray]:
    """The same, for several inputs and outputs: [T, B, ...] by the names of the Outputs."""
    repeats = graphs.settings(graph).input == "repeat"
    opened, states, given = session(lower.step(graph)), lower.states(graph), named(graph, x)
    batch = next(iter(given.values())).shape[0 if repeats else 1]
    held = {
        state.input: np.array(np.broadcast_to(state.initial, (batch, *state.shape)), np.float32) for state in states
    }
    names = lower.output_names(program(graph))
    outputs: dict[str, list[np.ndarray]] = {path: [] for path in names}
    for t in range(steps):
        result = call(opened, {name: each if repeats else each[t] for name, each in given.items()} | held)
        held = {state.input: result[state.output] for state in states}
        for path, name in names.items():
            outputs[path].append(result[name])
    return {path: np.stack(kept) for path, kept in outputs.items()}
