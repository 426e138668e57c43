"""SEW ResNets: residual blocks that add spikes (Fang et al.

2021, "Deep residual learning in spiking neural networks").
"""

from __future__ import annotations

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


def sew_resnet18(
    options: SewResnetOptions, classes: int, neuron: NeuronSpec
) -> tuple[tuple[UnitSpec, ...], ReadoutSpec]:
    """Stem, four stages of two basic blocks (strides 1, 2, 2, 2), global average pool, readout."""
    width = options.widths[0]
    units: list[UnitSpec] = (
        [
            ConvSpec(name="stem1", channels=width, kernel=7, stride=2, neuron=neuron),
            ConvSpec(name="stem2", channels=width, kernel=3, stride=2, neuron=neuron),
        ]
        if options.stem == "imagenet"
        else [ConvSpec(name="stem", channels=width, neuron=neuron)]
    )
    for stage, width in enumerate(options.widths, start=1):
        units += [
            ResidualSpec(
                name=f"block{stage}{letter}",
                channels=width,
                stride=2 if stage > 1 and letter == "a" else 1,
                neuron=neuron,
            )
            for letter in "ab"
        ]
    return tuple(units), ReadoutSpec(classes=classes, pool="global")
