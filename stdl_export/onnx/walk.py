"""The walk over a program: what arrives at each component is summed, and the component is emitted.

Who walks says how a component with a state is emitted (`LowerCell`): a sequence, a step or a probe.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import nir

from stdl_export.graph import NodeName
from stdl_export.onnx.cell import Cell
from stdl_export.onnx.delay import DelayCell
from stdl_export.onnx.emitter import Emitter
from stdl_export.onnx.loop import LoopCell
from stdl_export.onnx.neuron import NeuronCell
from stdl_export.onnx.rows import ROWS
from stdl_export.onnx.time import Axis, Value
from stdl_export.primitives import Shape
from stdl_export.program import Component, Constant, Node, Program, Source
from stdl_export.semantics import collapse

LowerCell = Callable[[Cell, list[Value]], dict[NodeName, Value]]
"""Emits a cell, given what arrives at it: the values of its nodes."""


def walk(
    made: Program,
    emit: Emitter,
    frames: Mapping[NodeName, Value],
    lower: LowerCell,
    axis: Axis | None = None,
    wanted: Collection[NodeName] = (),
) -> dict[NodeName, Value]:
    """Emit every component, given the Inputs' values; `lower` emits those with a state. The values that can be read.

    wanted: nodes of loops that `lower` is to give although nobody outside reads them.
    """
    values = dict(frames)
    sums = _Sums(emit, axis, values)

    for component in made.components:
        cell = cell_of(made, component, wanted)
        if cell is not None:
            inputs = [
                sums.of(cell.name, sources, port.shape) for sources, port in zip(cell.reads, cell.inputs, strict=True)
            ]
            prepared = cell.prepare(emit, [value.name for value in inputs])
            values |= lower(cell, [Value(n, value.timed) for n, value in zip(prepared, inputs, strict=True)])
            continue
        (node,) = component.nodes
        if isinstance(node.node, Constant):
            values[node.path] = _constant(emit, node, next(iter(frames.values())), axis)
        elif node.path not in values:
            x = sums.of(node.path, node.sources, node.in_shape)
            values[node.path] = Value(stateless(emit, node, x.name), x.timed)
    return values


def stateless(emit: Emitter, node: Node, x: str) -> str:
    """A node without a state, by its row; an Output is what arrives there."""
    return x if isinstance(node.node, nir.Output) else ROWS[type(node.node)](emit, node, x, node.path)


def cell_of(made: Program, component: Component, wanted: Collection[NodeName] = ()) -> Cell | None:
    """The component as something with a state; None where it has none. `wanted`: to be given by a loop in any case."""
    if component.cyclic:
        own = {node.path for node in component.nodes}
        read = {
            source.path
            for node in made.nodes.values()
            if node.path not in own
            for source in node.sources
            if source.path in own
        }
        return LoopCell(component, (read | set(wanted)) & own)
    (node,) = component.nodes
    if node.numbers is not None:
        return NeuronCell(node)
    return DelayCell(node) if node.steps is not None else None


@dataclass(frozen=True)
class _Sums:
    """Fan-in, from left to right. What was added before, in either order, is not added again, so sums that begin alike
    share their beginning; nor is a value repeated again. `values` grows while the program is walked.
    """

    emit: Emitter
    axis: Axis | None
    values: Mapping[NodeName, Value]
    added: dict[tuple[str, str], Value] = field(default_factory=dict)  # (one summand, the other), by their names
    repeated: dict[str, Value] = field(default_factory=dict)

    def of(self, name: str, sources: Sequence[Source], shape: Shape) -> Value:
        """The sum of some values, which all have this shape; what is emitted is called after `name`."""
        total = self.values[sources[0].path]
        for i, source in enumerate(sources[1:], start=1):
            total = self._plus(total, self.values[source.path], f"{name}/sum.{i}", shape)
        return total

    def _plus(self, a: Value, b: Value, name: str, shape: Shape) -> Value:
        first, second = sorted([a.name, b.name])
        if (first, second) not in self.added:
            if a.timed != b.timed:
                a, b = self._timed(a, shape), self._timed(b, shape)
            self.added[first, second] = Value(self.emit.node("Add", [a.name, b.name], name), a.timed)
        return self.added[first, second]

    def _timed(self, x: Value, shape: Shape) -> Value:
        assert self.axis is not None, "in a step graph nothing is timed"
        if x.name not in self.repeated:
            self.repeated[x.name] = self.axis.timed(x, x.name, shape)
        return self.repeated[x.name]


def _constant(emit: Emitter, node: Node, frame: Value, axis: Axis | None) -> Value:
    """A constant for each sample, the same at every step."""
    batch = axis.batch if axis else emit.node("Shape", [frame.name], f"{node.path}/batch", start=0, end=1)
    sizes = emit.node("Concat", [batch, emit.integers(node.shape, f"{node.path}/shape")], f"{node.path}/sizes", axis=0)
    value = emit.constant(collapse(node.node.value), f"{node.path}/value")
    return Value(emit.node("Expand", [value, sizes], node.path), timed=False)
