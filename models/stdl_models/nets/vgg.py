"""VGG-style networks: plain 3x3 convolutions, average pools or strides, linear readout.

vgg5: four convolutions (strides 1, 2, 1, 2) and the readout; for 8x8 to 32x32. vgg11: eight convolutions with average
pools, two hidden linear layers and the readout, the CIFAR form of VGG-11 (Simonyan and Zisserman 2015, configuration
A).
"""

from __future__ import annotations

from stdl_export.common.config import Count, Table
from stdl_models.neurons import NeuronSpec
from stdl_models.units import ConvSpec, LinearSpec, PoolSpec, ReadoutSpec, UnitSpec

Parts = tuple[tuple[UnitSpec, ...], ReadoutSpec]


class Vgg5Options(Table):
    """`widths`: channels of the four convolutions."""

    widths: tuple[Count, Count, Count, Count] = (32, 64, 64, 128)


class Vgg11Options(Table):
    """`widths`: channels of the five stages; `hidden`: features of the two hidden linear layers."""

    widths: tuple[Count, Count, Count, Count, Count] = (64, 128, 256, 512, 512)
    hidden: tuple[Count, ...] = (512, 512)


def vgg5(options: Vgg5Options, classes: int, neuron: NeuronSpec) -> Parts:
    """conv1 to conv4 and the readout."""
    strides = (1, 2, 1, 2)
    units = tuple(
        ConvSpec(name=f"conv{i}", channels=width, stride=stride, neuron=neuron)
        for i, (width, stride) in enumerate(zip(options.widths, strides, strict=True), start=1)
    )
    return units, ReadoutSpec(classes=classes)


def vgg11(options: Vgg11Options, classes: int, neuron: NeuronSpec) -> Parts:
    """Stages of 1, 1, 2, 2, 2 convolutions with an average pool between stages, fc1, fc2 and the readout."""
    units: list[UnitSpec] = []
    convs = 0
    for stage, (width, depth) in enumerate(zip(options.widths, (1, 1, 2, 2, 2), strict=True), start=1):
        if stage > 1:
            units.append(PoolSpec(name=f"pool{stage - 1}"))
        for _ in range(depth):
            convs += 1
            units.append(ConvSpec(name=f"conv{convs}", channels=width, neuron=neuron))
    units += [LinearSpec(name=f"fc{i}", features=n, neuron=neuron) for i, n in enumerate(options.hidden, start=1)]
    return tuple(units), ReadoutSpec(classes=classes)
