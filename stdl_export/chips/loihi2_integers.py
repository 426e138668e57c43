"""A chain in floats as layers of whole numbers: scales, thresholds, biases, and what was lost.

A layer's weights, bias and threshold share one scale, since only v against the threshold counts: the threshold of 1 in
floats becomes T, weights become W T on the grid of even numbers in [-254, 254], the bias rint(b T). T is as large as
weights, bias and threshold have bits for; a layer that carries relays needs T <= 253, below the weight of a relay. A
readout has no threshold to reach: T is then what its potential can grow by before it would fire.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from stdl_export.chips import quantise
from stdl_export.chips.base import Refusal
from stdl_export.chips.links import Link, sizes
from stdl_export.chips.loihi2_model import widest
from stdl_export.chips.loihi2_neurons import DECAY, Parameters
from stdl_export.chips.loihi2_weights import applied
from stdl_export.chips.maps import Float
from stdl_export.chips.netx import Conv, Dense, Integers, Neuron, NeuronLayer
from stdl_export.common.errors import BadInput

GRID = quantise.TRAINABLE["loihi2"]
MOST_THRESHOLD = (1 << 17) - 1
MOST_BIAS = (1 << 12) - 1  # 13 bits, signed, less its odd end
RELAY = 254  # the weight of a relay, and so above every threshold of a layer that carries one
SMALLER = 0.97  # by how much a scale is lowered until a dense synapse applies just what is stored


@dataclass(frozen=True, eq=False)
class Rounded:
    """A layer in whole numbers. scale: of weights and threshold; clipped: how many weights; error: of all, relative.

    bound: the largest accumulator that its weights can make, reached or not. off: how far a decay is off.
    """

    link: Link
    layer: NeuronLayer
    scale: float
    error: float
    clipped: int
    bound: int
    off: float

    @property
    def own(self) -> int:
        """How many outputs (channels of an image) are the unit's own; the others are relays."""
        return len(self.link.main)


def normalised(link: Link, made: Parameters) -> Link:
    """The link with rows of weights and biases in units of a threshold of 1."""
    shape = link.bias.shape
    row = np.broadcast_to(_like(made.row, link), shape)
    bias = link.bias * row + np.broadcast_to(_like(made.bias, link), shape)
    flat = row.reshape(shape[0], -1)
    weight = link.main * flat[:, :1].reshape(-1, *[1] * (link.main.ndim - 1))
    recurrent = None if link.recurrent is None else link.recurrent * flat[:, :1]
    return replace(link, main=weight, recurrent=recurrent, bias=bias)


def varies(link: Link, made: Parameters) -> bool:
    """Do rows have factors that differ within a channel? Then a convolution cannot have them."""
    if link.dense:
        return False
    rows = np.broadcast_to(_like(made.row, link), link.bias.shape).reshape(len(link.bias), -1)
    return bool((rows != rows[:, :1]).any())


def _like(values: Float, link: Link) -> Float:
    """Parameters of the unit's own shape (collapsed) as they broadcast against the link's bias."""
    if not values.ndim:
        return values
    whole: Float = np.broadcast_to(values, link.unit.shape).reshape(link.bias.shape)
    return whole


def rounded(link: Link, made: Parameters, inputs: int, most: float) -> Rounded:
    """The layer with the best scale, at most `most`. inputs: the largest number that arrives on a synapse."""
    weights = link.main if link.recurrent is None else np.concatenate([link.main, link.recurrent], axis=1)
    spiking = link.unit.numbers is not None and link.unit.numbers.spikes
    biased = float(np.abs(link.bias).max(initial=0.0))
    end = min(most, MOST_BIAS / biased if biased else np.inf, RELAY - 1 if link.hosts else np.inf)
    end = min(end, MOST_THRESHOLD) if spiking else end
    scale = quantise.best_scale(weights, GRID, end) if weights.any() else 1.0
    scale = max(math.floor(scale), 1.0) if spiking else scale
    for _ in range(200):
        layer = _layer(link, made, scale, spiking)
        if _applied(layer) or scale <= 1:
            break
        scale = max(math.floor(scale * SMALLER), 1.0) if spiking else scale * SMALLER
    bound = max(widest(layer.weight, inputs), 0)
    if isinstance(layer, Dense) and layer.recurrent is not None:
        bound += widest(layer.recurrent, 1)
    lost = quantise.error(weights, scale, GRID), quantise.clipped(weights, scale, GRID)
    return Rounded(link, layer, float(scale), *lost, bound, made.off)


def _layer(link: Link, made: Parameters, scale: float, spiking: bool) -> NeuronLayer:
    own = quantise.rounded(link.main, scale, GRID)
    weight = np.concatenate([own, link.relays.astype(np.int64) * RELAY])
    threshold = np.asarray(int(scale) if spiking else MOST_THRESHOLD, np.int64)
    neuron = Neuron(np.asarray(made.i_decay, np.int64), np.asarray(made.v_decay, np.int64), threshold)
    bias = _bias(link, np.rint(link.bias * scale).astype(np.int64))
    if link.dense:
        back = None if link.recurrent is None else _with_relays(quantise.rounded(link.recurrent, scale, GRID), link)
        late = None if link.delay is None else np.pad(link.delay, ((0, len(link.relays)), (0, 0)))
        return Dense(weight, neuron, bias, late, back)
    weight, groups = _grouped(weight)
    return Conv(weight, neuron, sizes(link), bias, link.stride, link.begin, (1, 1), groups)


def _with_relays(recurrent: Integers, link: Link) -> Integers:
    """Relays take and give nothing by recurrence."""
    more = len(link.relays)
    return np.pad(recurrent, ((0, more), (0, more)))


def _bias(link: Link, own: Integers) -> Integers | None:
    """One number a channel where that is all it is; None where it is 0."""
    if not own.any():
        return None
    whole = np.concatenate([own, np.zeros((len(link.relays), *own.shape[1:]), np.int64)])
    flat = whole.reshape(len(whole), -1)
    return flat[:, 0] if (flat == flat[:, :1]).all() else whole


def _grouped(weight: Integers) -> tuple[Integers, int]:
    """A kernel in as many groups as its zeros allow: pools and depthwise convolutions are stored without them."""
    outputs, inputs = weight.shape[:2]
    used = weight.reshape(outputs, inputs, -1).any(axis=2)
    for groups in range(math.gcd(outputs, inputs), 1, -1):
        if math.gcd(outputs, inputs) % groups:
            continue
        rows, columns = outputs // groups, inputs // groups
        mask = np.kron(np.eye(groups, dtype=np.bool_), np.ones((rows, columns), np.bool_))
        if not (used & ~mask).any():
            parts = [weight[g * rows : (g + 1) * rows, g * columns : (g + 1) * columns] for g in range(groups)]
            return np.concatenate(parts), groups
    return weight, 1


def _applied(layer: NeuronLayer) -> bool:
    """Does the chip's synapse apply just the weights that are stored?"""
    if isinstance(layer, Conv):
        return True
    try:
        return applied(layer.weight, layer.recurrent).is_file(layer.weight, layer.recurrent)
    except BadInput:
        return False


def _own_weights(made: Rounded) -> Integers:
    own = made.layer.weight[: made.own]
    back = made.layer.recurrent if isinstance(made.layer, Dense) else None
    return own if back is None else np.concatenate([own.reshape(-1), back.reshape(-1)])


def refusals(made: Rounded) -> Iterator[Refusal]:
    """What of a layer in whole numbers does not fit the chip."""
    path, layer = made.link.unit.path, made.layer
    if not _own_weights(made).any():
        at = f"0 in whole numbers at the largest scale, {made.scale:g}" if made.link.main.any() else "0 everywhere"
        way_out = "raise weights or gain against threshold and bias" if made.link.main.any() else "remove the layer"
        yield Refusal(path, "its weight", at, "one that is not 0", way_out)
    elif not _applied(layer):
        low, high = int(layer.weight.min()), int(layer.weight.max())
        limit = "mixed signs in [-254, 254] and even, or positive to 254"
        yield Refusal(path, "its weight", f"{low} to {high} in whole numbers", limit, "train weights of both signs")
    biased = int(np.abs(layer.bias).max()) if layer.bias is not None else 0
    if biased > MOST_BIAS + 1:
        way_out = "lower the bias against the weights, or raise v_threshold"
        yield Refusal(path, "its bias", f"{biased} at the smallest scale", f"13 bits, {MOST_BIAS}", way_out)
    if made.link.hosts and int(layer.neuron.i_decay) != DECAY:
        way_out = "use LIF or IF in layers that a connection jumps over"
        yield Refusal(path, "its synapse", "one with memory, and it would carry a skip connection", "none", way_out)
