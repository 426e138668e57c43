"""The network that a netx file holds (Lava's format for Loihi 2): layers in a row, whole numbers.

Shapes are those of torch: images (C, H, W), weights (outputs, inputs / groups, height, width). What the file says in
another order is turned by the reader and the writer (`netx_read`, `netx_write`), nobody else sees it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stdl_export.primitives import Shape, Window

Integers = NDArray[np.int64]

MOST_DELAY = 62
MOST_NEURONS = 1 << 24  # of one layer: 16 chips full; a shape costs nothing to write into a file


@dataclass(frozen=True, eq=False)
class Neuron:
    """The leaky integrate-and-fire neurons of a layer (CUBA), see `loihi2_model`.

    i_decay 0..4096 (4096: no memory of the synapse), v_decay 0..4096 (0: none is lost), v_threshold in units of the
    weights: one number each, or one an output channel, which Lava's model takes and its documents do not promise.
    """

    i_decay: Integers
    v_decay: Integers
    v_threshold: Integers


@dataclass(frozen=True, eq=False)
class Dense:
    """weight (out, in), bias (out,) or one number; delay (out, in) in further steps; recurrent (out, out)."""

    weight: Integers
    neuron: Neuron
    bias: Integers | None = None
    delay: Integers | None = None
    recurrent: Integers | None = None

    @property
    def shape(self) -> Shape:
        """What it puts out."""
        return (len(self.weight),)

    @property
    def kind(self) -> Literal["dense", "dense_rec"]:
        """What the file calls it."""
        return "dense" if self.recurrent is None else "dense_rec"


@dataclass(frozen=True, eq=False)
class Conv:
    """weight (O, I / groups, kH, kW), bias (O,) or the whole map (O, H, W); shape: what it puts out, (O, H, W).

    stride, padding (of zeros, on both sides) and dilation are (y, x).
    """

    weight: Integers
    neuron: Neuron
    shape: Shape
    bias: Integers | None = None
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    kind: Literal["conv"] = field(default="conv", init=False)

    @property
    def window(self) -> Window:
        """How the kernel moves."""
        height, width = self.weight.shape[2:]
        return Window((height, width), self.stride, self.dilation, self.padding, self.padding)

    @property
    def channels(self) -> int:
        """Of what it takes."""
        return int(self.weight.shape[1]) * self.groups


@dataclass(frozen=True)
class Flatten:
    """(C, H, W) -> (C * H * W,); no neurons, no time."""

    shape: Shape


NeuronLayer = Dense | Conv
Layer = NeuronLayer | Flatten


@dataclass(frozen=True, eq=False)
class Network:
    """A file's layers in the order of execution; `input_shape` is None where the file leaves it to its reader."""

    layers: tuple[Layer, ...]
    input_shape: Shape | None = None

    @property
    def neurons(self) -> list[NeuronLayer]:
        """The layers with neurons, in order: the k-th is k + 1 steps late."""
        return [layer for layer in self.layers if not isinstance(layer, Flatten)]


@dataclass(frozen=True)
class ReaderOptions:
    """What Lava's reader is told beside the file (`netx.hdf5.Network`).

    input_message_bits: 0, inputs are spikes, whatever their size; more, inputs are whole numbers that are multiplied.
    reset_interval: u and v of the k-th layer are cleared before step t where t + 1 and k + 1 + reset_offset are the
    same modulo it; None: never.
    """

    input_message_bits: int = 0
    reset_interval: int | None = None
    reset_offset: int = 0


def same(one: Network, other: Network) -> bool:
    """Are two networks equal, every number of every layer?"""
    return _plain(one.layers) == _plain(other.layers) and one.input_shape == other.input_shape


def _plain(value: Any) -> Any:
    """As nested tuples, which compare."""
    if isinstance(value, np.ndarray):
        return (value.shape, value.tobytes())
    if hasattr(value, "__dataclass_fields__"):
        return (type(value).__name__, *(_plain(getattr(value, name)) for name in value.__dataclass_fields__))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(_plain(each) for each in value)
    return value
