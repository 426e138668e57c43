"""What a recurrence over time is made of: cells with a state, each of which can be emitted for one step.

A state or a value that is known to be all zeros is None ("nothing yet"): sums leave it out, and it becomes a tensor
only where somebody needs one. So the first step of an unrolled sequence has no additions of 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from stdl_export.graph import NodeName
from stdl_export.onnx.emitter import Emitter
from stdl_export.primitives import Shape
from stdl_export.program import Node, Source

Maybe = str | None
"""The name of a tensor [B, ...], or None for zeros."""

Zeros = Callable[[str, Shape], str]
"""Emits zeros [B, ...] under a name."""


@dataclass(frozen=True, eq=False)
class Held:
    """A state: whose it is, v | i | s | delay | feedback, its shape without B, and what it is before the first step.

    dtype: as which it is stored between steps, float32 or float16 (`stored`).
    """

    path: NodeName
    var: str
    shape: Shape
    initial: NDArray[np.float32]
    dtype: np.dtype[Any] = field(default=np.dtype(np.float32))


@dataclass(frozen=True)
class Port:
    """A value that goes into a cell or comes out of it: its name in the graph and its shape without B."""

    name: str
    shape: Shape


@dataclass(frozen=True)
class Moment:
    """One step being emitted: into which graph, with which mark on its names, and whether another step follows."""

    emit: Emitter
    zeros: Zeros
    mark: str = ""
    keep: bool = True

    def name(self, path: NodeName, what: str = "") -> str:
        """The name of what a node has in this step: `lif1/t3`, `lif1/t3/charged`."""
        return f"{path}{self.mark}{what}"

    def real(self, x: Maybe, name: str, shape: Shape) -> str:
        """A tensor, where zeros were None."""
        return self.zeros(f"{name}/zeros", shape) if x is None else x

    def times(self, x: Maybe, factor: NDArray[np.float32], constant: str, name: str) -> Maybe:
        """factor * x; `constant` is what the factor is called."""
        return x if x is None else times(self.emit, x, factor, constant, name)

    def plus(self, a: Maybe, b: Maybe, name: str) -> Maybe:
        """a + b."""
        if a is None or b is None:
            return b if a is None else a
        return self.emit.node("Add", [a, b], name)

    def minus(self, a: Maybe, b: Maybe, name: str) -> Maybe:
        """a - b."""
        if b is None:
            return a
        return self.emit.node("Neg", [b], name) if a is None else self.emit.node("Sub", [a, b], name)


class Cell(Protocol):
    """Something with a state: a neuron layer, a delay, a loop. `name` is what its recurrence is called."""

    @property
    def name(self) -> NodeName:
        """Of one of its nodes."""

    @property
    def held(self) -> Sequence[Held]:
        """Its states."""

    @property
    def reads(self) -> Sequence[tuple[Source, ...]]:
        """What it takes: for each of its inputs the values of other nodes that are summed."""

    @property
    def inputs(self) -> Sequence[Port]:
        """Its inputs, by the names that they have after `prepare`."""

    @property
    def outputs(self) -> Sequence[Port]:
        """What comes out of `step`."""

    def prepare(self, emit: Emitter, arriving: Sequence[str]) -> list[str]:
        """What of an input does not depend on the state, [N, ...] -> [N, ...]: emitted once for all steps."""

    def step(self, at: Moment, arriving: Sequence[Maybe], state: Sequence[Maybe]) -> tuple[list[str], Sequence[Maybe]]:
        """One step: outputs, and the states after it, which are left out where no step follows."""

    def finish(self, emit: Emitter, outputs: Sequence[str]) -> dict[NodeName, str]:
        """The values of its nodes from its outputs, [N, ...] -> [N, ...]: emitted once for all steps."""


@dataclass(frozen=True, eq=False)
class NodeCell:
    """What cells of a single node have in common: one input, one output, and nothing to be emitted around the steps."""

    node: Node
    taken: ClassVar[str]
    """What its input is called."""

    @property
    def name(self) -> NodeName:
        """Its path."""
        return self.node.path

    @property
    def reads(self) -> list[tuple[Source, ...]]:
        """One sum."""
        return [self.node.sources]

    @property
    def inputs(self) -> list[Port]:
        """The sum."""
        return [Port(f"{self.name}/{self.taken}", self.node.shape)]

    @property
    def outputs(self) -> list[Port]:
        """The value of the node."""
        return [Port(self.name, self.node.shape)]

    def prepare(self, emit: Emitter, arriving: Sequence[str]) -> list[str]:
        """Nothing."""
        return list(arriving)

    def finish(self, emit: Emitter, outputs: Sequence[str]) -> dict[NodeName, str]:
        """Nothing."""
        return {self.name: outputs[0]}


def times(emit: Emitter, x: str, factor: NDArray[np.float32], constant: str, name: str) -> str:
    """factor * x, or x where the factor is 1."""
    return x if np.all(factor == 1) else emit.node("Mul", [x, emit.constant(factor, constant)], name)


def tensor_type(dtype: np.dtype[Any]) -> int:
    """The ONNX type of a state that is stored like this."""
    return int(onnx.helper.np_dtype_to_tensor_dtype(dtype))


def float32(value: Any) -> NDArray[np.float32]:
    """A parameter as the float32 array that is computed with."""
    return np.asarray(value, dtype=np.float32)
