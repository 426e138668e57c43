"""One step of a whole program in NumPy, for the reference: node by node, states kept in between."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import nir
import numpy as np

from stdl_export.graph import NodeName
from stdl_export.program import Component, Node, Program
from stdl_export.semantics import Discrete
from stdl_runtimes.base import Array
from stdl_runtimes.reference_neurons import neuron_step
from stdl_runtimes.reference_nodes import STATELESS, at_threshold

StateName = tuple[NodeName, str]
"""A state: whose it is, and v, i, s (its spike of the step before), delay [steps, B, ...] or feedback."""

Watch = Callable[[Node, Array, Array], None]
"""Told of a node without memory what came in and what goes out, [B, ...] each; once of what is computed once."""


class Simulation:
    """A program with the states of a batch: `advance` takes it one step on."""

    def __init__(self, made: Program, batch: int, watch: Watch | None = None) -> None:
        self.program = made
        self._watch = watch
        self.spiking = made.spiking
        self.states: dict[StateName, Array] = {}
        self.spikes: dict[NodeName, Array] = {}  # of the last step, {0, 1} or counts
        self.decided: dict[NodeName, Array] = {}  # the potentials that the last step's spikes were read from
        for path, node in made.nodes.items():
            if node.numbers is not None:
                for name, value in node.numbers.initial.items():
                    self.states[path, name] = np.array(np.broadcast_to(value, (batch, *node.shape)))
            if node.steps is not None:
                self.states[path, "delay"] = np.zeros((int(node.steps.max()), batch, *node.shape), np.float32)
        for path in made.fed_back:
            self.states[path, "feedback"] = np.zeros((batch, *made.nodes[path].shape), np.float32)

    def still(self, frames: Mapping[NodeName, Array]) -> dict[NodeName, Array]:
        """The values that do not change while the frames are repeated."""
        values = dict(frames)
        for path in self.program.timeless:
            if path not in values:
                values[path] = self._stateless(self.program.nodes[path], values)
        return values

    def advance(self, known: Mapping[NodeName, Array]) -> dict[NodeName, Array]:
        """One step: the value [B, ...] of every node from the `known` ones, which are taken as given."""
        values = dict(known)
        for component in self.program.components:
            self._component(component, values)
        for path in self.program.fed_back:
            self.states[path, "feedback"] = values[path]
        return values

    def _component(self, component: Component, values: dict[NodeName, Array]) -> None:
        """Every node in order; a late one puts out first, and takes its input when all of the component is known."""
        for node in component.nodes:
            if node.path in values:
                continue
            if node.late:
                values[node.path] = self._put_out(node)
            elif node.numbers is not None:
                values[node.path] = self._neuron(node.path, node.numbers, self._sum(node, values))
            elif node.steps is not None:
                values[node.path] = self._delay(node, self._sum(node, values))
            else:
                values[node.path] = self._stateless(node, values)
        for node in component.nodes:
            if node.late and node.numbers is not None:
                self._neuron(node.path, node.numbers, self._sum(node, values))
            elif node.late:
                self._delay(node, self._sum(node, values))

    def _put_out(self, node: Node) -> Array:
        """What a late node puts out: no input changes it any more in this step."""
        if node.numbers is None:
            return self._delay(node, None)
        state = {name: value for (path, name), value in self.states.items() if path == node.path}
        anything = np.zeros_like(state["v"])
        return neuron_step(node.numbers, anything, state).output

    def _neuron(self, path: NodeName, k: Discrete, x: Array) -> Array:
        names = list(k.initial)
        step = neuron_step(k, x, {name: self.states[path, name] for name in names})
        for name in names:
            self.states[path, name] = step.state[name]
        if step.spikes is not None:
            assert step.decided is not None
            self.spikes[path], self.decided[path] = step.spikes, step.decided
        return step.output

    def _delay(self, node: Node, x: Array | None) -> Array:
        """What came in `steps` ago, element by element; x is stored as the newest (None: it is not known yet)."""
        assert node.steps is not None
        stored = self.states[node.path, "delay"]  # [steps, B, ...], the oldest first
        newest = np.zeros(stored.shape[1:], np.float32) if x is None else x
        line = np.concatenate([stored, newest[None]])
        if x is not None:
            self.states[node.path, "delay"] = line[1:]
        at = np.broadcast_to(len(stored) - node.steps, (1, *stored.shape[1:]))
        delayed: Array = np.take_along_axis(line, at, axis=0)[0]
        return delayed

    def _stateless(self, node: Node, values: Mapping[NodeName, Array]) -> Array:
        x = self._sum(node, values)
        at = isinstance(node.node, nir.Threshold) and node.spike == ">="
        y = at_threshold(node.node, x) if at else STATELESS[type(node.node)](node.node, x)
        if self._watch is not None:
            self._watch(node, x, y)
        return y

    def _sum(self, node: Node, values: Mapping[NodeName, Array]) -> Array:
        """Fan-in is addition, in the order of the sources."""
        first, *others = (
            self.states[source.path, "feedback"] if source.previous else values[source.path] for source in node.sources
        )
        for other in others:
            first = first + other
        return first
