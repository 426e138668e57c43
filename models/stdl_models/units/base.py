"""What all units and their specs share."""

from __future__ import annotations

from torch import Tensor, nn

from stdl_export.common.config import Name, Table
from stdl_models.neurons import Neuron
from stdl_models.units import flows
from stdl_models.units.flows import Flow, State
from stdl_models.units.layers import SpikingLayer, Synapse
from stdl_models.units.shapes import Shape


class Spec(Table):
    """What every unit's spec has: a name, unique in the network, and the kind of the unit."""

    name: Name
    kind: str

    def resized(self, in_shape: Shape, ratio: int, width: float) -> Spec:
        """The spec of an auxiliary copy for inputs of `in_shape`. Units with neurons have one.

        ratio: how many times smaller than its input the map that comes out is, where there is one; width: factor on
        channels or features.
        """
        raise NotImplementedError("only units with neurons are copied")


class Unit(nn.Module):
    """What all units share. `in_shape` and `out_shape` are those of one sample in one time step."""

    spec: Spec
    in_shape: Shape
    out_shape: Shape

    def __init__(self, spec: Spec, in_shape: Shape) -> None:
        super().__init__()
        self.spec, self.in_shape = spec, in_shape

    @property
    def name(self) -> str:
        """The unit's name, unique in its network."""
        return self.spec.name

    @property
    def layers(self) -> list[SpikingLayer]:
        """The layers with neurons, in the order of `State`."""
        return [module for module in self.children() if isinstance(module, SpikingLayer)]

    @property
    def synapses(self) -> list[tuple[Synapse, Neuron]]:
        """Every synapse with the neurons that its current reaches."""
        return [(layer, layer.neuron) for layer in self.layers]

    @property
    def rest(self) -> State:
        """The state before the first time step."""
        return (None,) * len(self.layers)

    def most(self, most_in: int | None) -> int | None:
        """The largest value of the output, or None where it is not always a whole number.

        Spikes: 1, a residual sum: more. most_in: the same of the input. Whole numbers can be kept in bits, so a cut may
        stand there.
        """
        return None if any(layer.neuron.most is None for layer in self.layers) else 1

    def compute(self, x: Tensor, run: Flow) -> Tensor:
        """What the unit computes, whatever the flow; neurons in the order of `layers`."""
        raise NotImplementedError

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """One time step: x [B, *in_shape] -> y [B, *out_shape] and the new state."""
        return flows.step(self.compute, x, state)

    def sequence(self, x: Tensor) -> Tensor:
        """All time steps from rest, x [T, B, *in_shape] -> y [T, B, *out_shape]: the same function, batched over T.

        Gradients pass through time; batch statistics are those of T*B.
        """
        return flows.sequence(self.compute, x)

    def chunk(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """c consecutive steps, x [c, B, *in_shape] -> y [c, B, *out_shape] and the new state, detached.

        Equals c calls of `step` with the state detached between them: batch statistics are those of each step. The
        state that comes in is used up: its potentials may be overwritten by the new ones.
        """
        return flows.chunk(self.compute, x, state)
