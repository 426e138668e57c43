"""Neurons over time: one step, T steps written out (unroll), a Scan, or a Scan whose body has several steps (chunks).

All forms compute `u = (decay*v + gain*x) + leak` in float32 and in this order, so they give the same spikes bit for
bit; multiplications by exactly 1 and additions of exactly 0 are left out. `gain*x` does not depend on the state and is
computed for all steps at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
import onnx
from numpy.typing import NDArray

from stdl_export.common.errors import BadInput
from stdl_export.onnx.emitter import Emitter
from stdl_export.primitives import Shape
from stdl_export.semantics import Discrete

TimeForm = Literal["auto", "unroll", "scan", "chunks"]
TIME_FORMS: tuple[TimeForm, ...] = get_args(TimeForm)

COMPARISONS = {">": "Greater"}  # what makes a spike, by `Discrete.spike`

CHUNK = 8  # steps in the body of a Scan of chunks: nearly as fast as unrolled, and the graph stays small
TIMESTEPS = "timesteps"  # the input that holds T where nothing else does
MAX_AUTO_UNROLL = 16  # above it TensorRT needs minutes to build an engine, and ONNX Runtime seconds to load the graph


def resolve(form: TimeForm, steps: int | None) -> TimeForm:
    """The form that `auto` stands for. `BadInput` where a form needs to know T and T is dynamic."""
    if form == "auto":
        return "scan" if steps is None else "unroll" if steps <= MAX_AUTO_UNROLL else "chunks"
    if steps is None and form != "scan":
        raise BadInput(f"time form '{form}' needs a fixed number of time steps: give --timesteps N or --time-form scan")
    return form


@dataclass(frozen=True)
class Value:
    """A tensor of the graph: [T*B, ...] where it is timed, [B, ...] where it is the same at every step."""

    name: str
    timed: bool


@dataclass(frozen=True)
class Axis:
    """The time axis of a sequence graph: T where it is fixed, and the graph's input, [B, ...] where it repeats.

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
        ones = self.emit.integers([1] * len(shape), f"{name}/ones")
        repeats = self.emit.node("Concat", [self.count, ones], f"{name}/repeats", axis=0)
        return Value(self.emit.node("Tile", [x.name, repeats], f"{name}/repeated"), timed=True)

    def zeros(self, name: str, shape: Shape) -> str:
        """Zeros [B, ...]: a state before the first step."""
        rest = self.emit.integers(shape, f"{name}/shape")
        sizes = self.emit.node("Concat", [self.batch, rest], f"{name}/sizes", axis=0)
        zero = onnx.numpy_helper.from_array(np.zeros(1, np.float32))
        return self.emit.node("ConstantOfShape", [sizes], name, value=zero)

    def clock(self, ticks: int | None, name: str) -> str:
        """int64 [ticks], or [T]: ONNX asks a Scan to have something to scan, even where its input never changes."""
        if ticks is not None:
            return self.emit.integers([0] * ticks, name)
        zero = onnx.numpy_helper.from_array(np.zeros(1, np.int64))
        return self.emit.node("ConstantOfShape", [self.count], name, value=zero)


@dataclass(frozen=True)
class Neuron:
    """A neuron layer to lower: its NIR name, its numbers, its shape without B."""

    name: str
    numbers: Discrete
    shape: Shape

    def current(self, emit: Emitter, x: str) -> str:
        """gain * x."""
        return self._times(emit, x, "gain", self.numbers.gain, f"{self.name}/current")

    def step(self, emit: Emitter, current: str, v: str | None, name: str, keep: bool = True) -> tuple[str, str | None]:
        """One step: current and potential [B, ...] to output and next potential.

        v is None at the first step, where it is 0; `keep` is False at the last, where nobody asks for the potential.
        """
        u, k = current, self.numbers
        if v is not None:
            decayed = self._times(emit, v, "decay", k.decay, f"{name}/decayed")
            u = emit.node("Add", [decayed, current], f"{name}/charged")
        if np.any(k.leak):
            u = emit.node("Add", [u, emit.constant(k.leak, f"{self.name}/leak")], f"{name}/u")
        if k.kind == "LI":
            return u, u
        above = emit.node(
            COMPARISONS[k.spike], [u, emit.constant(k.v_threshold, f"{self.name}/v_threshold")], f"{name}/above"
        )
        z = emit.node("Cast", [above], name, to=onnx.TensorProto.FLOAT)
        return z, self._reset(emit, above, z, u, name) if keep else None

    def _reset(self, emit: Emitter, above: str, z: str, u: str, name: str) -> str:
        if self.numbers.reset == "subtract":
            drop = self._times(emit, z, "v_threshold", self.numbers.v_threshold, f"{name}/drop")
            return emit.node("Sub", [u, drop], f"{name}/v")
        v_reset = emit.constant(self.numbers.v_reset, f"{self.name}/v_reset")
        return emit.node("Where", [above, v_reset, u], f"{name}/v")

    def _times(self, emit: Emitter, x: str, field: str, factor: NDArray[np.float32], name: str) -> str:
        if np.all(factor == 1):
            return x
        return emit.node("Mul", [x, emit.constant(factor, f"{self.name}/{field}")], name)


def over_time(axis: Axis, neuron: Neuron, x: Value, form: TimeForm) -> Value:
    """The neuron's output at every step, [T*B, ...]; where it spikes, this value carries the neuron's name.

    form as from `resolve`: a plain Scan is one of chunks of one step; what chunks leave over is unrolled behind them.
    """
    emit, name = axis.emit, neuron.name
    current = Value(neuron.current(emit, x.name), x.timed)
    chunk = 1 if form == "scan" else CHUNK
    if axis.steps is not None and (form == "unroll" or axis.steps < chunk):
        return Value(_unroll(emit, neuron, current, axis.steps, None, name)[0], timed=True)
    chunks, rest = divmod(axis.steps, chunk) if axis.steps is not None else (None, 0)
    if not rest:
        return Value(_scan(axis, neuron, current, chunks, chunk, name)[0], timed=True)
    head, tail = _cut(axis, neuron, current, rest)
    scanned, v = _scan(axis, neuron, head, chunks, chunk, f"{name}/head")
    unrolled, _ = _unroll(emit, neuron, tail, rest, v, f"{name}/tail")
    return Value(emit.node("Concat", [scanned, unrolled], name, axis=0), timed=True)


def _unroll(
    emit: Emitter, neuron: Neuron, current: Value, steps: int, v: str | None, name: str, keep: bool = False
) -> tuple[str, str | None]:
    """`steps` steps written out, from potential v: the outputs [steps*B, ...] and, with `keep`, the last potential."""
    names = [f"{name}/t{t}" for t in range(steps)] if steps > 1 else [name]
    currents = [current.name] * steps
    if current.timed and steps > 1:
        currents = emit.split("Split", [current.name], [f"{step}/current" for step in names], axis=0, num_outputs=steps)
    outputs = []
    for step, arriving in zip(names, currents, strict=True):
        output, v = neuron.step(emit, arriving, v, step, keep or step != names[-1])
        outputs.append(output)
    return outputs[0] if steps == 1 else emit.node("Concat", outputs, name, axis=0), v


def _scan(axis: Axis, neuron: Neuron, current: Value, chunks: int | None, chunk: int, name: str) -> tuple[str, str]:
    """A Scan over chunks of `chunk` steps, from potential 0: the outputs [chunks*chunk*B, ...] and the last potential.

    chunks is None where it is T. The body sees v [B, ...] and the currents of one chunk [chunk*B, ...]; a current that
    is the same at every step is read from outside.
    """
    emit, dims = axis.emit, [None, *neuron.shape]
    body = emit.body()
    v = body.input(f"{name}/body/v", dims)
    if current.timed:
        scanned = _stack(axis, current.name, chunks, f"{name}/chunks", neuron.shape)
        current = Value(body.input(f"{name}/body/current", dims), timed=True)
    else:
        scanned = axis.clock(chunks, f"{name}/clock")
        body.input(f"{name}/body/tick", [], onnx.TensorProto.INT64)
    outputs, v_next = _unroll(body, neuron, current, chunk, v, f"{name}/body/z", keep=True)
    assert v_next is not None, "it was asked for"
    body.output(v_next, f"{name}/body/v_next", dims)
    body.output(outputs, f"{name}/body/outputs", dims)
    last, stacked = emit.split(
        "Scan",
        [axis.zeros(f"{name}/v0", neuron.shape), scanned],
        [f"{name}/v", f"{name}/stacked"],
        body=body.graph(f"{name}/body"),
        num_scan_inputs=1,
    )
    return axis.fold(stacked, name, neuron.shape), last


def _stack(axis: Axis, x: str, count: int | None, name: str, shape: Shape) -> str:
    """[T*B, ...] -> [count, T/count*B, ...]."""
    if count is None:
        return axis.unfold(x, name, shape)
    return axis.emit.node("Reshape", [x, axis.emit.integers([count, -1, *shape], f"{name}/sizes")], name)


def _cut(axis: Axis, neuron: Neuron, current: Value, rest: int) -> tuple[Value, Value]:
    """The currents of all steps but the last `rest`, and those; one that is the same at every step serves for both."""
    if not current.timed:
        return current, current
    assert axis.steps is not None, "a dynamic T leaves no rest"
    name, shape = neuron.name, neuron.shape
    steps = axis.unfold(current.name, f"{name}/steps", shape)
    sizes = axis.emit.integers([axis.steps - rest, rest], f"{name}/cut")
    parts = axis.emit.split("Split", [steps, sizes], [f"{name}/head/steps", f"{name}/tail/steps"], axis=0)
    head, tail = (axis.fold(part, f"{part}/folded", shape) for part in parts)
    return Value(head, timed=True), Value(tail, timed=True)
