"""Networks that benchmarks train: small enough for two cores, deep enough for auxiliary networks to matter."""

from __future__ import annotations

from stdl_models.neurons import NeuronSpec
from stdl_models.units import ConvSpec, ReadoutSpec

WIDTHS = (8, 8, 16, 16, 32, 32, 32, 32)
STRIDES = (1, 1, 2, 1, 2, 1, 2, 1)


def vgg8s(input_shape: tuple[int, ...], classes: int, neuron: NeuronSpec) -> list[ConvSpec | ReadoutSpec]:
    """Eight thin 3x3 convolutions, three of them with stride 2, and a linear readout."""
    units: list[ConvSpec | ReadoutSpec] = [
        ConvSpec(name=f"conv{i}", channels=width, stride=stride, neuron=neuron)
        for i, (width, stride) in enumerate(zip(WIDTHS, STRIDES, strict=True), start=1)
    ]
    return [*units, ReadoutSpec(classes=classes)]
