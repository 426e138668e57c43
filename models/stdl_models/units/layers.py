"""Layers, what units are made of: a convolution or linear map, batch normalisation, neurons."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from stdl_models.neurons import Neuron
from stdl_models.units.shapes import Shape


class Synapse(nn.Module):
    """Convolution or linear map, and batch normalisation: a current.

    `name` is its node in NIR, `in_shape` the shape of one sample in one time step.
    """

    def __init__(self, name: str, in_shape: Shape, synapse: nn.Module, norm: nn.Module | None) -> None:
        super().__init__()
        self.name, self.in_shape, self.synapse, self.norm = name, in_shape, synapse, norm

    def current(self, x: Tensor) -> Tensor:
        """A neuron's input, normalised: the part that has no state. x: [N, ...], N any mix of time and batch."""
        current: Tensor = self.synapse(x)
        return current if self.norm is None else self.norm(current)


class SpikingLayer(Synapse):
    """Synapse (convolution or linear map), batch normalisation, neuron. `name` is the synapse's node in NIR."""

    def __init__(self, name: str, in_shape: Shape, synapse: nn.Module, norm: nn.Module | None, neuron: Neuron) -> None:
        super().__init__(name, in_shape, synapse, norm)
        self.neuron = neuron


def spiking_neurons(modules: nn.Module) -> Iterator[tuple[str, Neuron]]:
    """Every layer of spiking neurons with the name of its NIR node, `<layer>.<kind>`, in the order of the network."""
    for module in modules.modules():
        neuron = getattr(module, "neuron", None)  # of a layer, or of a readout that fires
        if isinstance(neuron, Neuron) and neuron.spiking:
            yield neuron_node(module.name, neuron), neuron  # type: ignore[arg-type]


def neuron_node(layer: str, neuron: Neuron) -> str:
    """NIR node name of a layer's neuron, for example 'conv1.lif'; a PLIF is a LIF there."""
    return f"{layer}.{neuron.spec.kind.lower().removeprefix('p')}"
