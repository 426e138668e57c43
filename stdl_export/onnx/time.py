"""Cells over time: T steps written out (unroll), a Scan, or a Scan whose body has several steps (chunks).

All forms emit the very same step of a cell, so they give the same spikes bit for bit. What of it does not depend on the
state is emitted for all steps at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import onnx

from stdl_export.common.errors import BadInput
from stdl_export.onnx.cell import Cell, Held, Maybe, Moment, Port, tensor_type
from stdl_export.onnx.delay import chosen, longest
from stdl_export.onnx.emitter import Emitter
from stdl_export.onnx.stored import stored
from stdl_export.primitives import Shape
from stdl_export.program import Node

TimeForm = Literal["auto", "unroll", "scan", "chunks"]
TIME_FORMS: tuple[TimeForm, ...] = get_args(TimeForm)

SINGLE = np.dtype(np.float32)
CHUNK = 8  # steps in the body of a Scan of chunks: nearly as fast as unrolled, and the graph stays small
LAST = 2**31 - 1  # as the end of a Slice: to the end
TIMESTEPS = "timesteps"  # the input that holds T where nothing else does
MAX_UNROLL = 2048  # of any graph: each step of each neuron is nodes of its own
MAX_AUTO_UNROLL = 16  # above it TensorRT needs minutes to build an engine, and ONNX Runtime seconds to load the graph


def resolve(form: TimeForm, steps: int | None) -> TimeForm:
    """The form that `auto` stands for. `BadInput` where a form needs to know T and T is dynamic, or is too long."""
    if form == "auto":
        return "scan" if steps is None else "unroll" if steps <= MAX_AUTO_UNROLL else "chunks"
    if steps is None and form != "scan":
        raise BadInput(f"time form '{form}' needs a fixed number of time steps: give --timesteps N or --time-form scan")
    if form == "unroll" and steps is not None and steps > MAX_UNROLL:
        raise BadInput(f"time form 'unroll' writes up to {MAX_UNROLL} steps out, T is {steps}: give --time-form chunks")
    return form


@dataclass(frozen=True)
class Value:
    """A tensor of the graph: [T*B, ...] where it is timed, [B, ...] where it is the same at every step."""

    name: str
    timed: bool


@dataclass(frozen=True)
class Axis:
    """The time axis of a sequence graph: T where it is fixed, and its (first) input, [B, ...] where it repeats.

    `count` and `batch` name int64 [1] tensors that hold T and B; they are emitted when first asked for.
    """

    emit: Emitter
    steps: int | None
    x: str
    repeats: bool

    @cached_property
    def count(self) -> str:
        """T: a constant, or the first size of the input, or an input of its own."""
        if self.steps is not None:
            return self.emit.integers([self.steps], "axis/steps")
        if self.repeats:
            return self.emit.input(TIMESTEPS, [1], onnx.TensorProto.INT64)
        return self.emit.node("Shape", [self.x], "axis/steps", start=0, end=1)

    @cached_property
    def batch(self) -> str:
        """B: the first size of the input, or the one behind T."""
        at = 0 if self.repeats else 1
        return self.emit.node("Shape", [self.x], "axis/batch", start=at, end=at + 1)

    def fold(self, x: str, name: str, shape: Shape) -> str:
        """[T, B, ...] -> [T*B, ...]; so with any other leading axes."""
        return self.emit.node("Reshape", [x, self.emit.integers([-1, *shape], f"{name}/folded")], name)

    def unfold(self, x: str, name: str, shape: Shape) -> str:
        """[T*B, ...] -> [T, B, ...]."""
        if self.steps is not None:
            sizes = self.emit.integers([self.steps, -1, *shape], f"{name}/sizes")
        else:
            rest = self.emit.integers([-1, *shape], f"{name}/rest")
            sizes = self.emit.node("Concat", [self.count, rest], f"{name}/sizes", axis=0)
        return self.emit.node("Reshape", [x, sizes], name)

    def timed(self, x: Value, name: str, shape: Shape) -> Value:
        """The value at every step: [B, ...] -> [T*B, ...] where it was not timed yet."""
        if x.timed:
            return x
        if self.steps is not None:
            repeats = self.emit.integers([self.steps, *[1] * len(shape)], f"{name}/repeats")
        else:
            ones = self.emit.integers([1] * len(shape), f"{name}/ones")
            repeats = self.emit.node("Concat", [self.count, ones], f"{name}/repeats", axis=0)
        return Value(self.emit.node("Tile", [x.name, repeats], f"{name}/repeated"), timed=True)

    def zeros(self, name: str, shape: Shape, dtype: np.dtype[Any] = SINGLE) -> str:
        """Zeros [B, ...]: a state before the first step."""
        rest = self.emit.integers(shape, f"{name}/shape")
        sizes = self.emit.node("Concat", [self.batch, rest], f"{name}/sizes", axis=0)
        zero = onnx.numpy_helper.from_array(np.zeros(1, dtype))
        return self.emit.node("ConstantOfShape", [sizes], name, value=zero)

    def initial(self, held: Held) -> str:
        """A state before the first step, [B, ...]."""
        name = f"{held.path}/{held.var}0"
        if not np.any(held.initial):
            return self.zeros(name, held.shape, held.dtype)
        rest = self.emit.integers(held.shape, f"{name}/shape")
        sizes = self.emit.node("Concat", [self.batch, rest], f"{name}/sizes", axis=0)
        value = self.emit.constant(held.initial.astype(held.dtype), f"{name}/value")
        return self.emit.node("Expand", [value, sizes], name)

    def late(self, x: str, steps: int, name: str, shape: Shape) -> str:
        """[T*B, ...] as it was some steps ago, 0 before the first."""
        if steps == 0:
            return x
        pads = self.emit.integers([steps, *[0] * (2 * len(shape) + 3)], f"{name}/pads")
        padded = self.emit.node("Pad", [self.unfold(x, f"{name}/steps", shape), pads], f"{name}/padded")
        ends = [self.emit.integers([0], "axis/0"), self.count, self.emit.integers([0], "axis/0")]
        return self.fold(self.emit.node("Slice", [padded, *ends], f"{name}/kept"), name, shape)

    def clock(self, ticks: int | None, name: str) -> str:
        """int64 [ticks], or [T]: ONNX asks a Scan to have something to scan, even where its input never changes."""
        if ticks is not None:
            return self.emit.integers([0] * ticks, name)
        zero = onnx.numpy_helper.from_array(np.zeros(1, np.int64))
        return self.emit.node("ConstantOfShape", [self.count], name, value=zero)


def delayed(axis: Axis, node: Node, x: Value) -> Value:
    """A Delay that lies on no loop: its input, shifted over time."""
    if not longest(node):
        return x
    whole = axis.timed(x, node.path, node.shape)

    def ago(steps: int) -> Maybe:
        return axis.late(whole.name, steps, f"{node.path}/ago{steps}", node.shape)

    def real(x: Maybe) -> str:
        assert x is not None, "every shift is a tensor"
        return x

    return Value(real(chosen(axis.emit, node, ago, node.path, real)), timed=True)


def queue_after(axis: Axis, node: Node, x: Value) -> str:
    """The queue [B, steps, ...] of such a Delay after the last step: its newest inputs, the oldest first."""
    emit, name, steps = axis.emit, f"{node.path}/last", longest(node)
    whole = axis.unfold(axis.timed(x, name, node.shape).name, f"{name}/steps", node.shape)
    pads = emit.integers([steps, *[0] * (2 * len(node.shape) + 3)], f"{name}/pads")  # before the first it was 0
    padded = emit.node("Pad", [whole, pads], f"{name}/padded")
    ends = [axis.count, emit.integers([LAST], "axis/last"), emit.integers([0], "axis/0")]
    newest = emit.node("Slice", [padded, *ends], f"{name}/newest")
    return emit.node("Transpose", [newest], name, perm=[1, 0, *range(2, len(node.shape) + 2)])


def over_time(axis: Axis, cell: Cell, arriving: Sequence[Value], form: TimeForm) -> list[Value]:
    """The cell's outputs at every step, [T*B, ...], under their names where this cell made them.

    arriving: as `prepare` gives it; form as from `resolve`: a plain Scan is one of chunks of one step; what chunks
    leave over is unrolled behind them.
    """
    return _over_time(axis, stored(cell, axis.emit.plan), arriving, form, keep=False)[0]


def over_time_to_states(
    axis: Axis, cell: Cell, arriving: Sequence[Value], form: TimeForm
) -> tuple[list[Value], list[str]]:
    """The same, and the cell's states [B, ...] after the last step, in the order of `held`."""
    cell = stored(cell, axis.emit.plan)
    outputs, last = _over_time(axis, cell, arriving, form, keep=True)
    states = [axis.initial(held) if state is None else state for held, state in zip(cell.held, last, strict=True)]
    return outputs, states


def _over_time(
    axis: Axis, cell: Cell, arriving: Sequence[Value], form: TimeForm, keep: bool
) -> tuple[list[Value], Sequence[Maybe]]:
    run = _Run(axis, cell)
    first: list[Maybe] = [axis.initial(held) if np.any(held.initial) else None for held in cell.held]
    chunk = 1 if form == "scan" else CHUNK
    if axis.steps is not None and (form == "unroll" or axis.steps < chunk):
        outputs, last = run.unroll(axis.emit, arriving, axis.steps, first, "", keep)
        return [Value(output, timed=True) for output in outputs], last
    chunks, rest = divmod(axis.steps, chunk) if axis.steps is not None else (None, 0)
    if not rest:
        outputs, last = run.scan(arriving, chunks, chunk, "")
        return [Value(output, timed=True) for output in outputs], last
    head, tail = run.cut(arriving, rest)
    scanned, between = run.scan(head, chunks, chunk, "/head")
    unrolled, last = run.unroll(axis.emit, tail, rest, between, "/tail", keep)
    whole = [
        Value(axis.emit.node("Concat", [*parts], port.name, axis=0), timed=True)
        for *parts, port in zip(scanned, unrolled, cell.outputs, strict=True)
    ]
    return whole, last


@dataclass(frozen=True)
class _Run:
    """One cell in a sequence graph. `mark` is appended to the names of what is emitted."""

    axis: Axis
    cell: Cell

    def unroll(
        self, emit: Emitter, arriving: Sequence[Value], steps: int, state: Sequence[Maybe], mark: str, keep: bool
    ) -> tuple[list[str], Sequence[Maybe]]:
        """`steps` steps written out: the outputs [steps*B, ...] and, with `keep`, the last states."""
        marks = [f"{mark}/t{t}" for t in range(steps)] if steps > 1 else [mark]
        inputs = [self._split(emit, value, port.name, marks) for value, port in self._ported(arriving)]
        outputs = []
        for at, step in enumerate(marks):
            moment = Moment(emit, self.axis.zeros, step, keep or step != marks[-1])
            output, state = self.cell.step(moment, [each[at] for each in inputs], state)
            outputs.append(output)
        if steps == 1:
            return outputs[0], state
        whole = [
            emit.node("Concat", list(parts), f"{port.name}{mark}", axis=0)
            for port, *parts in zip(self.cell.outputs, *outputs, strict=True)
        ]
        return whole, state

    def scan(self, arriving: Sequence[Value], chunks: int | None, chunk: int, mark: str) -> tuple[list[str], list[str]]:
        """A Scan over chunks of `chunk` steps from the first: the outputs [chunks*chunk*B, ...] and the last states.

        chunks is None where it is T. The body sees the states [B, ...] and the inputs of one chunk [chunk*B, ...]; one
        that is the same at every step is read from outside.
        """
        axis, cell, emit, name = self.axis, self.cell, self.axis.emit, f"{self.cell.name}{mark}"
        body = emit.body()
        state = [
            body.input(f"{held.path}{mark}/body/{held.var}", [None, *held.shape], tensor_type(held.dtype))
            for held in cell.held
        ]
        inside, scanned = [], []
        for value, port in self._ported(arriving):
            if value.timed:
                inner = body.input(f"{port.name}{mark}/body", [None, *port.shape])
                scanned.append(_stack(axis, value.name, chunks, f"{port.name}{mark}/chunks", port.shape))
                inside.append(Value(inner, timed=True))
            else:
                inside.append(value)
        if not scanned:
            scanned = [axis.clock(chunks, f"{name}/clock")]
            body.input(f"{name}/body/tick", [], onnx.TensorProto.INT64)
        outputs, after = self.unroll(body, inside, chunk, state, f"{mark}/body/z", keep=True)
        for held, value_after in zip(cell.held, after, strict=True):
            assert value_after is not None, "no state of a body is known to be 0"
            name_after = f"{held.path}{mark}/body/{held.var}_next"
            body.output(value_after, name_after, [None, *held.shape], tensor_type(held.dtype))
        for port, output in zip(cell.outputs, outputs, strict=True):
            body.output(output, f"{port.name}{mark}/body/outputs", [None, *port.shape])
        found = emit.split(
            "Scan",
            [*(axis.initial(held) for held in cell.held), *scanned],
            [f"{held.path}{mark}/{held.var}" for held in cell.held]
            + [f"{port.name}{mark}/stacked" for port in cell.outputs],
            body=body.graph(f"{name}/body"),
            num_scan_inputs=len(scanned),
        )
        last, stacked = found[: len(state)], found[len(state) :]
        folded = [
            axis.fold(each, f"{port.name}{mark}", port.shape) for each, port in zip(stacked, cell.outputs, strict=True)
        ]
        return folded, last

    def cut(self, arriving: Sequence[Value], rest: int) -> tuple[list[Value], list[Value]]:
        """The inputs of all steps but the last `rest`, and those; one that never changes serves for both."""
        axis = self.axis
        assert axis.steps is not None, "a dynamic T leaves no rest"
        sizes = axis.emit.integers([axis.steps - rest, rest], f"{self.cell.name}/cut")
        heads, tails = [], []
        for value, port in self._ported(arriving):
            if not value.timed:
                heads.append(value)
                tails.append(value)
                continue
            steps = axis.unfold(value.name, f"{port.name}/steps", port.shape)
            parts = axis.emit.split("Split", [steps, sizes], [f"{port.name}/head", f"{port.name}/tail"], axis=0)
            head, tail = (axis.fold(part, f"{part}/folded", port.shape) for part in parts)
            heads.append(Value(head, timed=True))
            tails.append(Value(tail, timed=True))
        return heads, tails

    def _ported(self, arriving: Sequence[Value]) -> list[tuple[Value, Port]]:
        return list(zip(arriving, self.cell.inputs, strict=True))

    def _split(self, emit: Emitter, value: Value, name: str, marks: Sequence[str]) -> Sequence[str]:
        """The input of each step."""
        if not value.timed or len(marks) == 1:
            return [value.name] * len(marks)
        names = [f"{name}{mark}" for mark in marks]
        return emit.split("Split", [value.name], names, axis=0, num_outputs=len(marks))


def _stack(axis: Axis, x: str, count: int | None, name: str, shape: Shape) -> str:
    """[T*B, ...] -> [count, T/count*B, ...]."""
    if count is None:
        return axis.unfold(x, name, shape)
    return axis.emit.node("Reshape", [x, axis.emit.integers([count, -1, *shape], f"{name}/sizes")], name)
