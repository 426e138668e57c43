"""A checked NIR graph as an ONNX model: open the graph, walk its program, emit each component, close and check it.

`sequence` runs all T steps in one call, `step` runs one and takes the states from outside; `probe` (a module of its
own) is the sequence cut behind every spiking node. Opset 20 and IR version 10 are what TensorRT-RTX and ONNX Runtime
take.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nir
import numpy as np
import onnx
from numpy.typing import NDArray

from stdl_export.common.errors import BadInput
from stdl_export.common.files import atomic_file
from stdl_export.graph import NodeName
from stdl_export.manifest import FP32, Arithmetic
from stdl_export.onnx.cell import Cell, Moment, tensor_type
from stdl_export.onnx.delay import DelayCell
from stdl_export.onnx.emitter import Emitter
from stdl_export.onnx.precision import Plan, plan
from stdl_export.onnx.stored import stored
from stdl_export.onnx.time import (
    TIMESTEPS,
    Axis,
    TimeForm,
    Value,
    delayed,
    over_time,
    over_time_to_states,
    queue_after,
    resolve,
)
from stdl_export.onnx.walk import LowerCell, cell_of, walk
from stdl_export.passes import optimised
from stdl_export.primitives import Shape
from stdl_export.program import Program, program

OPSET = 20
IR_VERSION = 10
INPUT, OUTPUT = "input", "output"
MAX_MODEL_BYTES = (2 << 30) - (1 << 20)  # a protobuf message ends at 2 GiB


@dataclass(frozen=True, eq=False)
class State:
    """A state of the step graph: whose it is, the names of its tensors, its shape without B, and how it begins."""

    node: NodeName
    var: str
    input: str
    output: str
    shape: Shape
    initial: NDArray[np.float32]
    dtype: np.dtype[Any]


def sequence(
    graph: nir.NIRGraph, form: TimeForm = "auto", arithmetic: Arithmetic = FP32, final_states: bool = False
) -> onnx.ModelProto:
    """All T steps at once: `input` [T, B, ...] (or [B, ...] where it repeats) -> `output` [T, B, ...].

    Several inputs or outputs carry the names of their nodes. T is `stdl.T` of the graph, else dynamic: then it is the
    inputs' first size, or, where they repeat, one more input `timesteps`, int64 [1]. final_states: every state comes
    out too, [B, ...] after the last step, called as in the step graph, which can go on from there.
    """
    made = optimised_program(graph)
    form = resolve(form, made.settings.T)
    held = {(state.node, state.var): state for state in states(graph, arithmetic)} if final_states else {}
    emit, axis, frames = open_sequence(made, plan(made, arithmetic), [state.output for state in held.values()])

    def to_states(cell: Cell, arriving: list[Value]) -> dict[NodeName, Value]:
        values, last = in_sequence_to_states(axis, form, cell, arriving)
        for each, value in zip(cell.held, last, strict=True):
            state = held[each.path, each.var]
            emit.output(value, state.output, ["batch", *state.shape], tensor_type(state.dtype))
        return values

    values = walk(made, emit, frames, to_states if final_states else in_sequence(axis, form), axis)
    close_sequence(made, axis, values)
    return model(emit, made, "sequence", form)


def step(graph: nir.NIRGraph, arithmetic: Arithmetic = FP32) -> onnx.ModelProto:
    """One step: `input` [B, ...] and every `states(graph)` in -> `output` [B, ...] and every state out."""
    made = optimised_program(graph)
    held = {(state.node, state.var): state for state in states_of(made, arithmetic)}
    names = [name for state in held.values() for name in (state.input, state.output)]
    emit = Emitter(plan(made, arithmetic), [*input_names(made).values(), *output_names(made).values(), *names])

    def one_step(cell: Cell, arriving: list[Value]) -> dict[NodeName, Value]:
        cell = stored(cell, emit.plan)
        mine = [held[each.path, each.var] for each in cell.held]
        types = [tensor_type(each.dtype) for each in cell.held]
        before = [
            emit.input(state.input, ["batch", *state.shape], dtype) for state, dtype in zip(mine, types, strict=True)
        ]
        outputs, after = cell.step(Moment(emit, _no_zeros), [value.name for value in arriving], before)
        for state, value, dtype in zip(mine, after, types, strict=True):
            assert value is not None, "no state is known to be 0"
            emit.output(value, state.output, ["batch", *state.shape], dtype)
        return {path: Value(name, timed=False) for path, name in cell.finish(emit, outputs).items()}

    frames = {
        path: Value(emit.input(name, ["batch", *made.nodes[path].shape]), timed=False)
        for path, name in input_names(made).items()
    }
    values = walk(made, emit, frames, one_step)
    for path, name in output_names(made).items():
        emit.output(values[path].name, name, ["batch", *made.nodes[path].shape])
    return model(emit, made, "step")


def states(graph: nir.NIRGraph, arithmetic: Arithmetic = FP32) -> list[State]:
    """The states of the step graph, in the order of execution."""
    return states_of(program(graph), arithmetic)


def states_of(made: Program, arithmetic: Arithmetic = FP32) -> list[State]:
    """The same of a program."""
    return [
        State(held.path, held.var, *state_names(held.path, held.var), held.shape, held.initial, held.dtype)
        for component in made.components
        if (cell := cell_of(made, component)) is not None
        for held in stored(cell, Plan(arithmetic)).held
    ]


def state_names(path: NodeName, var: str) -> tuple[str, str]:
    """How a state is called where it goes in, and where it comes out."""
    return f"state.{path}.{var}", f"state_out.{path}.{var}"


def probe_names(path: NodeName) -> tuple[str, str]:
    """What a spiking node is called in the probe graph, where it is fed and where it is shown."""
    return f"probe_in.{path}", f"probe_out.{path}"


def input_names(made: Program) -> dict[NodeName, str]:
    """The graph's inputs by the Inputs they are: one is called `input`, several carry the names of their nodes."""
    return _end_names(made.inputs, INPUT, made.outputs)


def output_names(made: Program) -> dict[NodeName, str]:
    """The graph's outputs by the Outputs they are: one is called `output`, several carry the names of their nodes."""
    return _end_names(made.outputs, OUTPUT, made.inputs)


def _end_names(paths: Sequence[NodeName], only: str, others: Sequence[NodeName]) -> dict[NodeName, str]:
    """Where several nodes stand on the other side and one of them has the name for the only one, nodes keep theirs."""
    taken = len(others) > 1 and only in others
    return {path: path if taken or len(paths) > 1 else only for path in paths}


def in_sequence(axis: Axis, form: TimeForm) -> LowerCell:
    """How a sequence graph says a cell: as a recurrence over T, a Delay as a shift."""

    def lower(cell: Cell, arriving: list[Value]) -> dict[NodeName, Value]:
        if isinstance(cell, DelayCell):
            return {cell.name: delayed(axis, cell.node, arriving[0])}
        outputs = over_time(axis, cell, arriving, form) if cell.outputs else []
        finished = cell.finish(axis.emit, [value.name for value in outputs])
        return {path: Value(name, timed=True) for path, name in finished.items()}

    return lower


def in_sequence_to_states(
    axis: Axis, form: TimeForm, cell: Cell, arriving: list[Value]
) -> tuple[dict[NodeName, Value], list[str]]:
    """The same, and the cell's states after the last step; a loop that nobody reads runs too."""
    if isinstance(cell, DelayCell):
        queue = [queue_after(axis, cell.node, arriving[0])] if cell.held else []
        return {cell.name: delayed(axis, cell.node, arriving[0])}, queue
    outputs, last = over_time_to_states(axis, cell, arriving, form)
    finished = cell.finish(axis.emit, [value.name for value in outputs])
    return {path: Value(name, timed=True) for path, name in finished.items()}, last


def optimised_program(graph: nir.NIRGraph) -> Program:
    """The program of a checked graph after all passes, which is what is emitted."""
    made = program(graph)
    _check_names(made)
    return optimised(made)


def _check_names(made: Program) -> None:
    """BadInput where two inputs or outputs of an ONNX graph would have the same name."""
    ends = [*input_names(made).values(), *output_names(made).values()]
    held = [name for state in states_of(made) for name in (state.input, state.output)]
    probes = [name for path in made.spiking for name in probe_names(path)]
    twice = [name for name, count in Counter([*ends, *held, *probes, TIMESTEPS]).items() if count > 1]
    if twice:
        raise BadInput(f"the ONNX graphs would have two inputs or outputs called '{twice[0]}': rename that node")


def _no_zeros(name: str, shape: Shape) -> str:
    raise AssertionError(f"{name}: in a step graph every state comes from outside")


def open_sequence(
    made: Program, planned: Plan, reserved: Sequence[str] = ()
) -> tuple[Emitter, Axis, dict[NodeName, Value]]:
    """A sequence graph with its inputs, folded where they are sequences.

    `reserved` are names of further inputs and outputs.
    """
    said, names = made.settings, input_names(made)
    emit = Emitter(planned, [*names.values(), *output_names(made).values(), TIMESTEPS, *reserved])
    repeats = said.input == "repeat"
    front = ["batch"] if repeats else [said.T or "time", "batch"]
    given = {path: emit.input(name, [*front, *made.nodes[path].shape]) for path, name in names.items()}
    axis = Axis(emit, said.T, next(iter(given.values())), repeats)
    frames = {
        path: Value(x if repeats else axis.fold(x, path, made.nodes[path].shape), timed=not repeats)
        for path, x in given.items()
    }
    return emit, axis, frames


def close_sequence(made: Program, axis: Axis, values: Mapping[NodeName, Value]) -> None:
    """Make the Outputs' values the graph's outputs [T, B, ...]."""
    for path, name in output_names(made).items():
        shape = made.nodes[path].shape
        y = axis.timed(values[path], path, shape)
        dims = [made.settings.T or "time", "batch", *shape]
        axis.emit.output(axis.unfold(y.name, f"{path}/unfolded", shape), name, dims)


def model(emit: Emitter, made: Program, kind: str, form: TimeForm | None = None) -> onnx.ModelProto:
    """The finished model, checked with full shape inference; its metadata says what the manifest says."""
    proto = onnx.helper.make_model(
        emit.graph(f"stdl.{kind}"),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="stdl",
        producer_version=version("stdl-toolchain"),
    )
    said = {f"stdl.{key}": value for key, value in asdict(made.settings).items()}
    said |= {f"stdl.{key}": value for key, value in emit.plan.arithmetic.said().items()}
    said |= {"stdl.kind": kind, "stdl.layout": "folded", "stdl.time_form": form}
    onnx.helper.set_model_props(proto, {key: str(value) for key, value in said.items() if value is not None})
    if proto.ByteSize() > MAX_MODEL_BYTES:
        raise BadInput(f"the network has {proto.ByteSize() >> 20} MiB of weights in ONNX: one file holds up to 2 GiB")
    onnx.checker.check_model(proto, full_check=True)
    return proto


def write(made: onnx.ModelProto, path: Path) -> None:
    """Write a model; the same graph gives the same bytes."""
    with atomic_file(path) as part:
        part.write_bytes(made.SerializeToString(deterministic=True))
