"""Three ways to run a unit, which says once what it computes: `compute(x, run)`, written against `Flow`.

    step        one time step, x [B, ...], with explicit state
    sequence    all time steps from rest, x [T, B, ...]; gradients pass through time
    chunk       consecutive time steps, x [c, B, ...], with explicit state; no gradient between them

In eval mode all three put out the same. In training they differ in what normalisation takes its statistics from: one
step, or, in a sequence, all T steps together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from stdl_models import fused
from stdl_models.neurons import Neuron
from stdl_models.units.layers import SpikingLayer, Synapse

State = tuple[Tensor | None, ...]
"""One potential [B, ...] for each neuron layer of a unit; None is rest."""


class Flow(Protocol):
    """One way to run units; x and what comes out are [B, ...] or [steps, B, ...]. Neurons come in the order of `State`.

    Units are written against this: `layer` is `neuron` on `current`, and a flow may do both in one go.
    """

    def stateless(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """What has neither state nor batch statistics: a pool, a flatten, a plain linear map."""
        ...

    def current(self, synapse: Synapse, x: Tensor) -> Tensor:
        """Synapse and normalisation."""
        ...

    def neuron(self, neuron: Neuron, current: Tensor) -> Tensor:
        """A neuron layer's output."""
        ...

    def layer(self, layer: SpikingLayer, x: Tensor) -> Tensor:
        """Synapse, normalisation, neuron."""
        ...


Compute = Callable[[Tensor, Flow], Tensor]
"""A unit's `compute(x, run)`."""


def step(compute: Compute, x: Tensor, state: State) -> tuple[Tensor, State]:
    """One time step: x [B, ...] -> y [B, ...] and the new state."""
    run = _Step(state)
    return compute(x, run), run.after


def sequence(compute: Compute, x: Tensor) -> Tensor:
    """All time steps from rest: x [T, B, ...] -> y [T, B, ...]."""
    return compute(x, _Sequence())


def chunk(compute: Compute, x: Tensor, state: State) -> tuple[Tensor, State]:
    """Consecutive time steps: x [c, B, ...] -> y [c, B, ...] and the new state, detached."""
    run = _Chunk(state)
    return compute(x, run), run.after


class _States:
    """The states before, handed out in the order of the neurons, and those after."""

    def __init__(self, before: State) -> None:
        self._before, self._after = iter(before), list[Tensor | None]()

    @property
    def after(self) -> State:
        """One potential [B, ...] for each neuron layer that has run."""
        return tuple(self._after)

    def advance(self, run: Callable[[Tensor | None], tuple[Tensor, Tensor]]) -> Tensor:
        """`run(v before)` gives output and v after; returns the output."""
        output, v = run(next(self._before))
        self._after.append(v)
        return output


class _Step(_States):
    """One time step: x [B, ...]."""

    def stateless(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return function(x)

    def current(self, synapse: Synapse, x: Tensor) -> Tensor:
        return synapse.current(x)

    def neuron(self, neuron: Neuron, current: Tensor) -> Tensor:
        return self.advance(lambda v: neuron(current, v))

    def layer(self, layer: SpikingLayer, x: Tensor) -> Tensor:
        return self.neuron(layer.neuron, layer.current(x))


class _Sequence:
    """All time steps from rest: x [T, B, ...]. What has no state takes T*B at once, statistics included."""

    def stateless(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return _over_time(function, x)

    def current(self, synapse: Synapse, x: Tensor) -> Tensor:
        return _over_time(synapse.current, x)

    def neuron(self, neuron: Neuron, current: Tensor) -> Tensor:
        return neuron.sequence(current)

    def layer(self, layer: SpikingLayer, x: Tensor) -> Tensor:
        return layer.neuron.sequence(_over_time(layer.current, x))


class _Chunk(_States):
    """Consecutive time steps: x [c, B, ...]. Synapses take c*B at once, normalisation each step by its own statistics.

    No gradient crosses from one step to another.
    """

    def stateless(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return _over_time(function, x)

    def current(self, synapse: Synapse, x: Tensor) -> Tensor:
        current, norm = _over_time(synapse.synapse, x), synapse.norm
        return current if norm is None else torch.stack([norm(step) for step in current])

    def neuron(self, neuron: Neuron, current: Tensor) -> Tensor:
        return self.advance(lambda v: fused.steps(current, None, neuron, v))

    def layer(self, layer: SpikingLayer, x: Tensor) -> Tensor:
        current = _over_time(layer.synapse, x)
        return self.advance(lambda v: fused.steps(current, layer.norm, layer.neuron, v))


def _over_time(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a stateless function [N, ...] -> [N, ...] to x [T, B, ...] with time folded into the batch."""
    y: Tensor = function(x.flatten(0, 1)).unflatten(0, x.shape[:2])
    return y
