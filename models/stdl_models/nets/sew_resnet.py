"""SEW ResNets: residual blocks that add spikes.

Fang et al. 2021, "Deep residual learning in spiking neural networks".
"""

from __future__ import annotations

import string
from typing import Literal

from stdl_export.common.config import Count, Table
from stdl_models.neurons import NeuronSpec
from stdl_models.units import ConvSpec, ReadoutSpec, ResidualSpec, UnitSpec


class SewResnetOptions(Table):
    """`widths`: channels of the four stages. `stem`: `cifar` is a 3x3 convolution, `imagenet` 7x7 and 3x3, stride 2.

    The second one stands where the published form has a max pool: NIR has none, and what comes out are spikes.
    """

    widths: tuple[Count, Count, Count, Count] = (64, 128, 256, 512)
    stem: Literal["cifar", "imagenet"] = "cifar"


Parts = tuple[tuple[UnitSpec, ...], ReadoutSpec]
DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
"""Basic blocks in each of the four stages, by the number that the network is called after."""


def sew_resnet18(options: SewResnetOptions, classes: int, neuron: NeuronSpec) -> Parts:
    """Stem, 8 basic blocks, global average pool, readout."""
    return _sew_resnet(DEPTHS[18], options, classes, neuron)


def sew_resnet34(options: SewResnetOptions, classes: int, neuron: NeuronSpec) -> Parts:
    """Stem, 16 basic blocks, global average pool, readout."""
    return _sew_resnet(DEPTHS[34], options, classes, neuron)


def _sew_resnet(depths: tuple[int, ...], options: SewResnetOptions, classes: int, neuron: NeuronSpec) -> Parts:
    """Four stages of basic blocks; the first block of each stage but the first has stride 2."""
    width = options.widths[0]
    units: list[UnitSpec] = (
        [
            ConvSpec(name="stem1", channels=width, kernel=7, stride=2, neuron=neuron),
            ConvSpec(name="stem2", channels=width, kernel=3, stride=2, neuron=neuron),
        ]
        if options.stem == "imagenet"
        else [ConvSpec(name="stem", channels=width, neuron=neuron)]
    )
    for stage, (width, depth) in enumerate(zip(options.widths, depths, strict=True), start=1):
        for letter in string.ascii_lowercase[:depth]:
            stride = 2 if stage > 1 and letter == "a" else 1
            units.append(ResidualSpec(name=f"block{stage}{letter}", channels=width, stride=stride, neuron=neuron))
    return tuple(units), ReadoutSpec(classes=classes, pool="global")
