"""A Delay in ONNX: a shift over time where all steps are there at once, a queue [B, steps, ...] where they are not.

step     queue = 1 2 3 (the oldest first), x = 4:   3 steps late 1, 1 step late 3;   queue = 2 3 4
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from stdl_export.onnx.cell import Held, Maybe, Moment, NodeCell
from stdl_export.onnx.emitter import Emitter
from stdl_export.program import Node


@dataclass(frozen=True, eq=False)
class DelayCell(NodeCell):
    """A lone Delay, for a graph of one step."""

    taken = "x"

    @property
    def held(self) -> list[Held]:
        """The queue."""
        return held(self.node)

    def step(self, at: Moment, arriving: Sequence[Maybe], state: Sequence[Maybe]) -> tuple[list[str], list[Maybe]]:
        """x and the queue to what it hands out and the queue."""
        step = DelayStep(at, self.node, *state)
        (step.x,) = arriving
        return [at.real(step.handed_out, at.name(self.name), self.node.shape)], [step.after] if state else []


def longest(node: Node) -> int:
    """The largest number of steps of a Delay."""
    assert node.steps is not None, "it is a Delay"
    return int(node.steps.max())


def held(node: Node) -> list[Held]:
    """The queue of a Delay; none where it delays nothing."""
    shape = (longest(node), *node.shape)
    return [Held(node.path, "delay", shape, np.zeros((), np.float32))] if longest(node) else []


@dataclass(eq=False)
class DelayStep:
    """One step of a Delay. What it hands out is known before `x` where it is late."""

    at: Moment
    node: Node
    queue: Maybe = None
    x: Maybe = None

    @property
    def handed_out(self) -> Maybe:
        """x of `steps` steps ago, element by element."""
        return chosen(self.at.emit, self.node, self._ago, self.at.name(self.node.path), self._real)

    @property
    def after(self) -> Maybe:
        """The queue after the step."""
        emit, steps = self.at.emit, longest(self.node)
        if self.queue is None and self.x is None:
            return None
        newest = emit.node("Unsqueeze", [self._real(self.x), emit.integers([1], "axis/1")], self._name("/newest"))
        if steps == 1:
            return newest
        ends = [emit.integers([number], f"axis/{number}") for number in (1, steps, 1)]
        rest = emit.node("Slice", [self._stored, *ends], self._name("/rest"))
        return emit.node("Concat", [rest, newest], self._name("/queue"), axis=1)

    def _ago(self, steps: int) -> Maybe:
        if steps == 0:
            return self.x
        if self.queue is None:
            return None
        emit = self.at.emit
        index = emit.constant(np.array(longest(self.node) - steps, np.int64), f"axis/at{longest(self.node) - steps}")
        return emit.node("Gather", [self.queue, index], self._name(f"/ago{steps}"), axis=1)

    @property
    def _stored(self) -> str:
        shape = (longest(self.node), *self.node.shape)
        return self.at.real(self.queue, self._name("/queue"), shape)

    def _real(self, x: Maybe) -> str:
        return self.at.real(x, self._name("/x"), self.node.shape)

    def _name(self, what: str) -> str:
        return self.at.name(self.node.path, what)


def chosen(emit: Emitter, node: Node, ago: Callable[[int], Maybe], name: str, real: Callable[[Maybe], str]) -> Maybe:
    """Each element as many steps ago as the node says, from whole tensors that are as many steps old."""
    assert node.steps is not None, "it is a Delay"
    first, *others = (int(steps) for steps in np.unique(node.steps))
    found = ago(first)
    for steps in others:
        mask = emit.constant(node.steps == steps, f"{node.path}/mask{steps}")
        found = emit.node("Where", [mask, real(ago(steps)), real(found)], f"{name}/upto{steps}")
    return found
