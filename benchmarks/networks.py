"""Networks that benchmarks train: small enough for two cores, deep enough for auxiliary networks to matter."""

from __future__ import annotations

from stdl_models.neurons import NeuronSpec
from stdl_models.units.simple import ConvSpec, ReadoutSpec

Units = list[ConvSpec | ReadoutSpec]


def vgg8s(input_shape: tuple[int, ...], classes: int, neuron: NeuronSpec) -> Units:
    """Eight thin 3x3 convolutions, three of them with stride 2, and a linear readout."""
    return plain((8, 8, 16, 16, 32, 32, 32, 32), (1, 1, 2, 1, 2, 1, 2, 1), classes, neuron)


def vgg6s(input_shape: tuple[int, ...], classes: int, neuron: NeuronSpec) -> Units:
    """Six thin 3x3 convolutions, two of them with stride 2, and a linear readout; for 8x8."""
    return plain((16, 16, 32, 32, 64, 64), (1, 1, 2, 1, 2, 1), classes, neuron)


def plain(widths: tuple[int, ...], strides: tuple[int, ...], classes: int, neuron: NeuronSpec) -> Units:
    """Convolutions of the given channels and strides, each with batch normalisation and neurons, then the readout."""
    units: Units = [
        ConvSpec(name=f"conv{i}", channels=channels, stride=stride, neuron=neuron)
        for i, (channels, stride) in enumerate(zip(widths, strides, strict=True), start=1)
    ]
    return [*units, ReadoutSpec(classes=classes)]
