"""Residual networks: four stages of blocks, or three (ResNet-19), behind a stem, with a global average pool at the end.

`resnet18` and `resnet19` add currents and put out binary spikes: Zheng et al. 2021, "Going deeper with directly-trained
larger spiking neural networks", whose ResNet-19 is wider and has a hidden linear layer of 256. `sew_resnet*` add
spikes: Fang et al. 2021, "Deep residual learning in spiking neural networks"; 50 is of bottlenecks.

Where shapes change the shortcut is a 1x1 convolution with batch normalisation; the first block of each stage but the
first halves the map.
"""

from __future__ import annotations

import string
from typing import Literal

from stdl_export.common.config import Count, Table
from stdl_models.neurons import NeuronSpec
from stdl_models.units.registry import UnitSpec
from stdl_models.units.residual import EXPANSION, BottleneckSpec, ResidualSpec, SpikingResidualSpec
from stdl_models.units.simple import ConvSpec, LinearSpec, ReadoutSpec

Parts = tuple[tuple[UnitSpec, ...], ReadoutSpec]
Stem = Literal["cifar", "imagenet"]
Block = type[ResidualSpec] | type[BottleneckSpec] | type[SpikingResidualSpec]


class ResnetOptions(Table):
    """`widths`: channels of the four stages. `stem`: `cifar` is a 3x3 convolution, `imagenet` 7x7 and 3x3, stride 2.

    The second one stands where the published form has a max pool: NIR has none, and what comes out are spikes. In a
    network of bottlenecks a stage puts out four times its width.
    """

    widths: tuple[Count, Count, Count, Count] = (64, 128, 256, 512)
    stem: Stem = "cifar"


class Resnet19Options(Table):
    """`widths`: channels of the three stages; `hidden`: features of the hidden linear layer; `stem`: as ResNet-18."""

    widths: tuple[Count, Count, Count] = (128, 256, 512)
    hidden: Count = 256
    stem: Stem = "cifar"


def resnet18(options: ResnetOptions, classes: int, neuron: NeuronSpec) -> Parts:
    """Stem, 8 basic blocks that add currents, global average pool, readout."""
    units = [*_stem(options.stem, options.widths[0], neuron)]
    units += _stages(SpikingResidualSpec, options.widths, (2, 2, 2, 2), neuron)
    return tuple(units), ReadoutSpec(classes=classes, pool="global")


def resnet19(options: Resnet19Options, classes: int, neuron: NeuronSpec) -> Parts:
    """Stem, 3 + 3 + 2 basic blocks that add currents, global average pool, fc1, readout."""
    units = [*_stem(options.stem, options.widths[0], neuron)]
    units += _stages(SpikingResidualSpec, options.widths, (3, 3, 2), neuron)
    units.append(LinearSpec(name="fc1", features=options.hidden, pool="global", neuron=neuron))
    return tuple(units), ReadoutSpec(classes=classes)


def sew_resnet18(options: ResnetOptions, classes: int, neuron: NeuronSpec) -> Parts:
    """Stem, 8 basic blocks, global average pool, readout."""
    return _sew_resnet(ResidualSpec, (2, 2, 2, 2), options, classes, neuron)


def sew_resnet34(options: ResnetOptions, classes: int, neuron: NeuronSpec) -> Parts:
    """Stem, 16 basic blocks, global average pool, readout."""
    return _sew_resnet(ResidualSpec, (3, 4, 6, 3), options, classes, neuron)


def sew_resnet50(options: ResnetOptions, classes: int, neuron: NeuronSpec) -> Parts:
    """Stem, 16 bottlenecks, global average pool, readout."""
    return _sew_resnet(BottleneckSpec, (3, 4, 6, 3), options, classes, neuron)


def _sew_resnet(
    block: Block, depths: tuple[int, ...], options: ResnetOptions, classes: int, neuron: NeuronSpec
) -> Parts:
    wider = EXPANSION if block is BottleneckSpec else 1
    units = [*_stem(options.stem, options.widths[0], neuron)]
    units += _stages(block, tuple(width * wider for width in options.widths), depths, neuron)
    return tuple(units), ReadoutSpec(classes=classes, pool="global")


def _stem(stem: Stem, width: int, neuron: NeuronSpec) -> list[UnitSpec]:
    if stem == "cifar":
        return [ConvSpec(name="stem", channels=width, neuron=neuron)]
    return [
        ConvSpec(name="stem1", channels=width, kernel=7, stride=2, neuron=neuron),
        ConvSpec(name="stem2", channels=width, kernel=3, stride=2, neuron=neuron),
    ]


def _stages(block: Block, widths: tuple[int, ...], depths: tuple[int, ...], neuron: NeuronSpec) -> list[UnitSpec]:
    """Blocks block1a, block1b, ..., block2a, ...; the first of each stage but the first has stride 2."""
    units: list[UnitSpec] = []
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True), start=1):
        for letter in string.ascii_lowercase[:depth]:
            stride = 2 if stage > 1 and letter == "a" else 1
            units.append(block(name=f"block{stage}{letter}", channels=width, stride=stride, neuron=neuron))
    return units
