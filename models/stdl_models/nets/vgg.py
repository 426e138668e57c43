"""VGG-style networks: plain 3x3 convolutions, average pools or strides, linear readout.

vgg5: four convolutions (strides 1, 2, 1, 2) and the readout; for 8x8 to 32x32. vgg9: three stages of two convolutions,
two hidden linear layers and the readout. vgg11 and vgg16: eight and thirteen convolutions in five stages, as in
Simonyan and Zisserman 2015 (configurations A and D), two hidden linear layers and the readout.

An average pool halves the map behind every stage but the last. `form`: what stands in front of the first linear map.

    cifar      nothing, in vgg9 one more halving; 32x32 has become 8x8 (vgg5), 4x4 (vgg9), 2x2
    imagenet   an average pool: 224x224 has become 7x7, as in the published form; in vgg5 the global one
"""

from __future__ import annotations

from typing import Literal

from stdl_export.common.config import Count, Table
from stdl_models.neurons import NeuronSpec
from stdl_models.units.registry import UnitSpec
from stdl_models.units.simple import ConvSpec, LinearSpec, PoolSpec, ReadoutSpec

Parts = tuple[tuple[UnitSpec, ...], ReadoutSpec]
Form = Literal["cifar", "imagenet"]


class Vgg5Options(Table):
    """`widths`: channels of the four convolutions. `form`: `imagenet` has stride 2 everywhere and a global pool.

    `norm`, `bias`: of the convolutions, as in ConvSpec; `bias`: of the readout too. `readout`: its neurons, if any.
    """

    widths: tuple[Count, Count, Count, Count] = (32, 64, 64, 128)
    form: Form = "cifar"
    norm: bool = True
    bias: bool = True
    readout: NeuronSpec | None = None


class Vgg9Options(Table):
    """`widths`: channels of the three stages; `hidden`: features of the hidden linear layers; `form`: see above."""

    widths: tuple[Count, Count, Count] = (64, 128, 256)
    hidden: tuple[Count, ...] = (1024, 1024)
    form: Form = "cifar"


class Vgg11Options(Table):
    """`widths`: channels of the five stages; `hidden`: features of the hidden linear layers; `form`: see the module.

    Without `hidden` the form chooses: 512, 512 or, for ImageNet, 4096, 4096.
    """

    widths: tuple[Count, Count, Count, Count, Count] = (64, 128, 256, 512, 512)
    hidden: tuple[Count, ...] | None = None
    form: Form = "cifar"


def vgg5(options: Vgg5Options, classes: int, neuron: NeuronSpec) -> Parts:
    """conv1 to conv4 and the readout."""
    imagenet = options.form == "imagenet"
    strides = (2, 2, 2, 2) if imagenet else (1, 2, 1, 2)
    rest = {"norm": options.norm, "bias": options.bias, "neuron": neuron}
    units = tuple(
        ConvSpec(name=f"conv{i}", channels=width, stride=stride, **rest)
        for i, (width, stride) in enumerate(zip(options.widths, strides, strict=True), start=1)
    )
    pool: Literal["none", "global"] = "global" if imagenet else "none"
    return units, ReadoutSpec(classes=classes, pool=pool, bias=options.bias, neuron=options.readout)


def vgg9(options: Vgg9Options, classes: int, neuron: NeuronSpec) -> Parts:
    """Stages of 2, 2, 2 convolutions, fc1, fc2 and the readout."""
    last_pool = 8 if options.form == "imagenet" else 2
    return _vgg((2, 2, 2), options.widths, last_pool, options.hidden, classes, neuron)


def vgg11(options: Vgg11Options, classes: int, neuron: NeuronSpec) -> Parts:
    """Stages of 1, 1, 2, 2, 2 convolutions, fc1, fc2 and the readout."""
    return _vgg_of_five((1, 1, 2, 2, 2), options, classes, neuron)


def vgg16(options: Vgg11Options, classes: int, neuron: NeuronSpec) -> Parts:
    """Stages of 2, 2, 3, 3, 3 convolutions, fc1, fc2 and the readout."""
    return _vgg_of_five((2, 2, 3, 3, 3), options, classes, neuron)


def _vgg_of_five(depths: tuple[int, ...], options: Vgg11Options, classes: int, neuron: NeuronSpec) -> Parts:
    imagenet = options.form == "imagenet"
    hidden = ((4096, 4096) if imagenet else (512, 512)) if options.hidden is None else options.hidden
    return _vgg(depths, options.widths, 2 if imagenet else 1, hidden, classes, neuron)


def _vgg(
    depths: tuple[int, ...], widths: tuple[int, ...], last_pool: int, hidden: tuple[int, ...], classes: int,
    neuron: NeuronSpec,
) -> Parts:  # fmt: skip
    """Stages with an average pool between them; last_pool: kernel of the pool behind the last one, 1: none."""
    units: list[UnitSpec] = []
    convs = 0
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True), start=1):
        if stage > 1:
            units.append(PoolSpec(name=f"pool{stage - 1}"))
        for _ in range(depth):
            convs += 1
            units.append(ConvSpec(name=f"conv{convs}", channels=width, neuron=neuron))
    if last_pool > 1:
        units.append(PoolSpec(name=f"pool{len(depths)}", kernel=last_pool))
    units += [LinearSpec(name=f"fc{i}", features=n, neuron=neuron) for i, n in enumerate(hidden, start=1)]
    return tuple(units), ReadoutSpec(classes=classes)
