"""A loop in ONNX: its nodes one by one within a step, as the reference takes them.

Its state is that of all its neurons and delays, and the values of the step before that its nodes read (`feedback`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import nir
import numpy as np

from stdl_export.graph import NodeName
from stdl_export.onnx import delay, neuron
from stdl_export.onnx.cell import Held, Maybe, Moment, Port
from stdl_export.onnx.delay import DelayStep
from stdl_export.onnx.emitter import Emitter
from stdl_export.onnx.neuron import NeuronStep
from stdl_export.onnx.rows import ROWS
from stdl_export.program import Component, Node, Source

Step = NeuronStep | DelayStep


@dataclass(frozen=True, eq=False)
class LoopCell:
    """A cyclic component. `wanted`: the nodes whose values are asked for outside of it."""

    component: Component
    wanted: Collection[NodeName]

    @property
    def name(self) -> NodeName:
        """That of its first node."""
        return self.component.nodes[0].path

    @cached_property
    def nodes(self) -> dict[NodeName, Node]:
        """In the order of execution."""
        return {node.path: node for node in self.component.nodes}

    @cached_property
    def held(self) -> list[Held]:
        """v, i, s of its neurons, delay of its Delays, feedback of what is read a step later."""
        found: list[Held] = []
        for node in self.component.nodes:
            if node.numbers is not None:
                found += neuron.held(node)
            if node.steps is not None:
                found += delay.held(node)
        zero = np.zeros((), np.float32)
        return found + [Held(path, "feedback", self.nodes[path].shape, zero) for path in self._fed_back]

    @property
    def _fed_back(self) -> list[NodeName]:
        read = {source.path for node in self.component.nodes for source in node.sources if source.previous}
        return [path for path in self.nodes if path in read]

    @cached_property
    def _arriving(self) -> dict[tuple[Source, ...], Port]:
        """What comes from outside, each of it once: of each node the sources before the first of the loop as a sum."""
        found: dict[tuple[Source, ...], Port] = {}
        for node in self.component.nodes:
            for summands in self._summands(node):
                if summands[0].path not in self.nodes:
                    found.setdefault(summands, Port(f"{node.path}/in.{len(found)}", node.in_shape))
        return found

    def _summands(self, node: Node) -> list[tuple[Source, ...]]:
        """The sources of a node, those from outside that stand first as one: so are they summed, from left to right."""
        count = next((at for at, source in enumerate(node.sources) if source.path in self.nodes), len(node.sources))
        first = [node.sources[:count]] if count else []
        return first + [(source,) for source in node.sources[count:]]

    @property
    def reads(self) -> list[tuple[Source, ...]]:
        """The sums that come from outside."""
        return list(self._arriving)

    @property
    def inputs(self) -> list[Port]:
        """The same, by name."""
        return list(self._arriving.values())

    @property
    def outputs(self) -> list[Port]:
        """The values that are wanted, of spiking nodes before they are scaled."""
        return [
            Port(neuron.raw_name(node) if node.numbers else node.path, node.shape)
            for node in self.nodes.values()
            if node.path in self.wanted
        ]

    def prepare(self, emit: Emitter, arriving: Sequence[str]) -> list[str]:
        """Nothing."""
        return list(arriving)

    def step(self, at: Moment, arriving: Sequence[Maybe], state: Sequence[Maybe]) -> tuple[list[str], Sequence[Maybe]]:
        """A late node puts out first, and takes its input when all of the component is known."""
        stored = {(held.path, held.var): value for held, value in zip(self.held, state, strict=True)}
        outside = dict(zip(self._arriving, arriving, strict=True))
        values: dict[NodeName, Maybe] = {}
        steps: dict[NodeName, Step] = {}

        def read(node: Node) -> Maybe:
            total: Maybe = None
            for number, summands in enumerate(self._summands(node)):
                source = summands[0]
                if summands in outside:
                    summand = outside[summands]
                else:
                    summand = stored[source.path, "feedback"] if source.previous else values[source.path]
                total = at.plus(total, summand, at.name(node.path, f"/sum.{number}")) if number else summand
            return total

        for path, node in self.nodes.items():
            if node.stateful:
                steps[path] = _begun(at, node, stored)
            if node.stateful and not node.late:
                _take(steps[path], read(node))
            values[path] = _put_out(steps[path]) if node.stateful else _stateless(at, node, read(node))
        outputs = [
            at.real(_raw(steps.get(path), values[path]), at.name(path, "/out"), node.shape)
            for path, node in self.nodes.items()
            if path in self.wanted
        ]
        if not at.keep:
            return outputs, []
        for path, step in steps.items():
            if self.nodes[path].late:
                _take(step, read(self.nodes[path]))
        after = {(path, var): value for path, step in steps.items() for var, value in _after(step).items()}
        after |= {(path, "feedback"): values[path] for path in self._fed_back}
        return outputs, [after[held.path, held.var] for held in self.held]

    def finish(self, emit: Emitter, outputs: Sequence[str]) -> dict[NodeName, str]:
        """Spikes are scaled."""
        wanted = [node for node in self.nodes.values() if node.path in self.wanted]
        return {
            node.path: neuron.scaled(emit, node, raw, node.path) if node.numbers else raw
            for node, raw in zip(wanted, outputs, strict=True)
        }


def _begun(at: Moment, node: Node, stored: Mapping[tuple[NodeName, str], Maybe]) -> Step:
    """A step of a node with a state, before its input is known."""
    if node.numbers is None:
        return DelayStep(at, node, stored.get((node.path, "delay")))
    return NeuronStep(at, node, {var: stored[node.path, var] for var in node.numbers.initial})


def _take(step: Step, x: Maybe) -> None:
    if isinstance(step, DelayStep):
        step.x = x
    elif x is not None:
        step.current = neuron.drive(step.at.emit, step.node, x, step.at.name(step.node.path, "/current"))


def _put_out(step: Step) -> Maybe:
    if isinstance(step, DelayStep):
        return step.handed_out
    return neuron.scaled(step.at.emit, step.node, step.raw, step.at.name(step.node.path, "/scaled"))


def _raw(step: Step | None, value: Maybe) -> Maybe:
    return step.raw if isinstance(step, NeuronStep) else value


def _after(step: Step) -> Mapping[str, Maybe]:
    if isinstance(step, NeuronStep):
        return step.after
    return {"delay": step.after} if delay.longest(step.node) else {}


def _stateless(at: Moment, node: Node, x: Maybe) -> str:
    name = at.name(node.path)
    real = at.real(x, f"{name}/x", node.in_shape)
    return real if isinstance(node.node, nir.Output) else ROWS[type(node.node)](at.emit, node, real, name)
