"""Blocks: convolution layers in a row, and a shortcut beside them.

    residual, bottleneck    spikes of the row + spikes of the shortcut           (0, 1, 2, ... can come out)
    spiking_residual        neuron(current of the row + current of the shortcut)

Where input and output have the same shape the shortcut is the input itself; else it has a 1x1 convolution.

Spikes added (SEW): Fang et al. 2021, "Deep residual learning in spiking neural networks". Currents added: Zheng et al.
2021, "Going deeper with directly-trained larger spiking neural networks".
"""

from __future__ import annotations

import string
from collections.abc import Iterable
from typing import Literal, NamedTuple

from torch import Tensor

from stdl_export.common.config import Count
from stdl_models.neurons import Neuron, NeuronSpec
from stdl_models.units.base import Spec, Unit
from stdl_models.units.flows import Flow
from stdl_models.units.layers import SpikingLayer, Synapse
from stdl_models.units.shapes import Shape, scaled
from stdl_models.units.simple import ConvSpec, conv_layer, conv_synapse

EXPANSION = 4
"""How many times wider a bottleneck is outside than inside."""


class Conv(NamedTuple):
    """A convolution of a block."""

    channels: int
    kernel: int
    stride: int


class BlockSpec(Spec):
    """What the specs of all blocks have: `channels` come out, the map becomes `stride` times smaller."""

    channels: Count
    stride: Count = 1
    norm: bool = True
    neuron: NeuronSpec = NeuronSpec()

    def row(self) -> tuple[Conv, ...]:
        """The convolutions in a row; those of a basic block here."""
        return Conv(self.channels, 3, self.stride), Conv(self.channels, 3, 1)

    def part(self, part: str, conv: Conv) -> ConvSpec:
        """A convolution of the block, named `<block>.<part>`, with the block's normalisation and neurons."""
        return ConvSpec(name=f"{self.name}.{part}", **conv._asdict(), norm=self.norm, neuron=self.neuron)

    def resized(self, in_shape: Shape, ratio: int, width: float) -> BlockSpec:
        """See Spec.resized."""
        return self.model_copy(update={"stride": ratio, "channels": scaled(self.channels, width)})


class Block(Unit):
    """A row of layers `a`, `b`, ... and, where shapes change, a `shortcut`."""

    spec: BlockSpec
    shortcut: Synapse | None

    def __init__(self, spec: BlockSpec, in_shape: Shape, dt: float) -> None:
        super().__init__(spec, in_shape)
        self.out_shape = in_shape
        for letter, conv in zip(string.ascii_lowercase, spec.row(), strict=False):
            layer = conv_layer(spec.part(letter, conv), self.out_shape, dt)
            self.add_module(letter, layer)
            self.out_shape = layer.neuron.shape
        self.shortcut = None
        if in_shape != self.out_shape:
            self.shortcut = self.make_shortcut(spec.part("shortcut", Conv(spec.channels, 1, spec.stride)), dt)

    def make_shortcut(self, spec: ConvSpec, dt: float) -> Synapse:
        """The 1x1 convolution beside the row, with neurons or without."""
        raise NotImplementedError

    @property
    def row(self) -> list[SpikingLayer]:
        """The layers in a row."""
        return [layer for layer in self.layers if layer is not self.shortcut]


class SewBlock(Block):
    """Spike-element-wise block with ADD: the last layer's spikes and the shortcut's, added."""

    shortcut: SpikingLayer | None

    def make_shortcut(self, spec: ConvSpec, dt: float) -> SpikingLayer:
        """See Block.make_shortcut; it spikes."""
        return conv_layer(spec, self.in_shape, dt)

    def most(self, most_in: int | None) -> int | None:
        """See Unit.most."""
        if super().most(most_in) is None:
            return None
        if self.shortcut is not None:
            return 2
        return None if most_in is None else most_in + 1

    def compute(self, x: Tensor, run: Flow) -> Tensor:
        """See Unit.compute."""
        h = _through(self.row, x, run)
        return h + (x if self.shortcut is None else run.layer(self.shortcut, x))


class ResidualSpec(BlockSpec):
    """SEW basic block: spikes(conv, conv) + shortcut. The shortcut is a 1x1 conv layer where shapes change."""

    kind: Literal["residual"] = "residual"


class ResidualUnit(SewBlock):
    """SEW basic block: b(a(x)) + shortcut(x)."""

    spec: ResidualSpec


class BottleneckSpec(BlockSpec):
    """SEW bottleneck: spikes(1x1, 3x3, 1x1) + shortcut. `channels` come out; a quarter of them inside."""

    kind: Literal["bottleneck"] = "bottleneck"

    def row(self) -> tuple[Conv, ...]:
        """See BlockSpec.row; the 3x3 convolution has the stride."""
        inside = max(1, self.channels // EXPANSION)
        return Conv(inside, 1, 1), Conv(inside, 3, self.stride), Conv(self.channels, 1, 1)


class BottleneckUnit(SewBlock):
    """SEW bottleneck: c(b(a(x))) + shortcut(x)."""

    spec: BottleneckSpec


class SpikingResidualSpec(BlockSpec):
    """Basic block whose last neuron takes the sum of two currents, that of the second conv and the shortcut's.

    The shortcut is the input itself, or a 1x1 convolution with batch normalisation where shapes change.
    """

    kind: Literal["spiking_residual"] = "spiking_residual"


class SpikingResidualUnit(Block):
    """Basic block that puts out binary spikes: neuron(current of b(a(x)) + shortcut(x))."""

    spec: SpikingResidualSpec

    def make_shortcut(self, spec: ConvSpec, dt: float) -> Synapse:
        """See Block.make_shortcut; it is a current."""
        return conv_synapse(spec, self.in_shape)

    @property
    def synapses(self) -> list[tuple[Synapse, Neuron]]:
        """See Unit.synapses."""
        beside = [] if self.shortcut is None else [(self.shortcut, self.row[-1].neuron)]
        return [*super().synapses, *beside]

    def compute(self, x: Tensor, run: Flow) -> Tensor:
        """See Unit.compute."""
        *inner, last = self.row
        current = run.current(last, _through(inner, x, run))
        current = current + (x if self.shortcut is None else run.current(self.shortcut, x))
        return run.neuron(last.neuron, current)


def _through(layers: Iterable[SpikingLayer], x: Tensor, run: Flow) -> Tensor:
    """x through layers in a row."""
    for layer in layers:
        x = run.layer(layer, x)
    return x
