"""A network's float weights as Xylo's 8-bit ones, with thresholds and states in 16 bits.

Neurons do not share scales: neuron n has T_n units per threshold, and all that reaches it is in these units.

    S_n = what brings its weights nearest to -127..127
    T_n = round(threshold S_n 2^shift),  S_n = T_n / (threshold 2^shift) exactly
    w = round(weight S_n),  bias = round(bias S_n 2^shift)

Weights are shifted left by `shift` bits, with threshold and bias: states then lose less when their bits are shifted
right to decay, which takes off at least 1. But thresholds have 16 bits, so with a large shift neurons of small weights
get few units. The shift is the one with which spikes of golden samples are nearest to the graph's, of those with which
no state comes beyond half of its 16 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stdl_export.chips.quantise import Float, Grid, Integers, best_scale, error, rounded
from stdl_export.chips.xylo_file import MOST_SHIFT, Specification
from stdl_export.chips.xylo_limits import Matrices
from stdl_export.chips.xylo_map import Layer, Network
from stdl_export.chips.xylo_model import HIGH, LOW, Model

GRID = Grid(step=1, high=127)
HEADROOM = 2
MOST_UNITS = HIGH // 8
"""Of a threshold, shifted: potentials far below it, and currents that fire several times, need the rest of 16 bits."""

CALIBRATED, FEWEST, MOST_WORK = 256, 16, 1 << 24
"""Golden samples that shifts are chosen on: the most, the fewest; and how many weights of all of them, in between."""


@dataclass(frozen=True, eq=False)
class Group:
    """Neurons with all weights that reach them, [sources, neurons], and what became of these."""

    weights: Float
    whole: Integers
    threshold: Integers
    bias: Integers
    scale: Float  # [neurons], units of a weight of 1, without the shift


@dataclass(frozen=True, eq=False)
class Seen:
    """What the graph makes of golden samples: input spikes [T, B, I]; spikes [B, neurons] of the hidden neurons in the
    chip's order, and of the outputs, each summed over T.
    """

    spikes: Integers
    hidden: Integers
    output: Integers


def group(weights: Float, threshold: Float, bias: Float, whole: Float, shift: int) -> Group:
    """Scales, and whole numbers by them. whole: the scales [neurons] by which layers may have been trained."""
    most = MOST_UNITS / (threshold * (1 << shift))
    each = zip(weights.T, np.minimum(whole, most), most, strict=True)
    scale = np.array([_best(column, trained, limit) for column, trained, limit in each])
    units = np.maximum(np.rint(threshold * scale * (1 << shift)), 1).astype(np.int64)
    scale = units / (threshold * (1 << shift))
    rounded_ = rounded(weights, scale, GRID)
    biases = np.clip(np.rint(bias * scale * (1 << shift)), LOW, HIGH).astype(np.int64)
    return Group(weights, rounded_, units, biases, scale)


def _best(column: Float, trained: float, most: float) -> float:
    """The scale with the least error; that of the training, which rounds nothing, where the layer was trained so."""
    own = best_scale(column, GRID, most)
    return trained if error(column, trained, GRID) < error(column, own, GRID) else own


def _trained(layer: Layer) -> Float:
    """The scale [neurons] that puts a layer's largest weight at the end of the range, as training for the chip does."""
    weights = [*([] if layer.of_input is None else [layer.of_input]), *layer.of_layers.values()]
    largest = max((float(np.abs(each).max(initial=0)) for each in weights), default=0.0)
    return np.full(layer.size, GRID.high / largest if largest else 1.0)


def specification(
    found: Network, on: Matrices, shifts: tuple[int, int], dt: float
) -> tuple[Specification, Group, Group]:
    """The network in whole numbers, and its groups: hidden neurons, outputs."""
    values = {name: _placed(found, on, name) for name in ("threshold", "bias", "dash_syn", "dash_mem")}
    last, trained = found.output, np.empty(len(on.order))
    trained[on.order] = np.concatenate([_trained(layer) for layer in found.hidden])
    all_weights = np.concatenate([on.into, on.between])
    hidden = group(all_weights, values["threshold"], values["bias"], trained, shifts[0])
    out = group(on.out, last.threshold, last.bias, _trained(last), shifts[1])
    into, between = hidden.whole[: found.inputs], hidden.whole[found.inputs :]
    spec = Specification(
        weights_in=into[:, :, None].astype(np.int8),
        weights_rec=between[:, :, None].astype(np.int8),
        weights_out=out.whole.astype(np.int8),
        dash_mem=values["dash_mem"].astype(np.uint8),
        dash_syn=values["dash_syn"].astype(np.uint8),
        dash_syn_2=values["dash_syn"].astype(np.uint8),
        dash_mem_out=last.dash_mem.astype(np.uint8),
        dash_syn_out=last.dash_syn.astype(np.uint8),
        threshold=hidden.threshold.astype(np.int16),
        threshold_out=out.threshold.astype(np.int16),
        bias=hidden.bias.astype(np.int16),
        bias_out=out.bias.astype(np.int16),
        weight_shift_in=shifts[0],
        weight_shift_rec=shifts[0],
        weight_shift_out=shifts[1],
        aliases=((),) * len(on.between),
        dt=dt,
    )
    return spec, hidden, out


def choose_shifts(found: Network, on: Matrices, seen: Seen, dt: float, asked: int | None) -> tuple[int, int]:
    """The shifts of the hidden neurons and of the outputs; asked: this one for both."""
    if asked is not None:
        return asked, asked
    hidden = min(range(MOST_SHIFT + 1), key=lambda shift: _off(found, on, seen, dt, (shift, 0))[0])
    return hidden, min(range(MOST_SHIFT + 1), key=lambda shift: _off(found, on, seen, dt, (hidden, shift))[1])


def _off(found: Network, on: Matrices, seen: Seen, dt: float, shifts: tuple[int, int]) -> tuple[float, float]:
    """Spikes too many plus too few of hidden neurons and outputs; infinite where their states come near their end."""
    spec, *_ = specification(found, on, shifts, dt)
    run = Model(spec).run(padded(seen.spikes, found.latency))
    late = _late(found, on)
    counts = np.stack([_from(run.hidden[:, :, n], at, len(seen.spikes)) for n, at in enumerate(late)], axis=-1)
    off = np.abs(counts - seen.hidden).sum(), np.abs(run.output[found.latency :].sum(axis=0) - seen.output).sum()
    sizes = [np.abs(each).max(initial=0) for each in (run.i, run.v, run.i_out, run.v_out)]
    return tuple(  # type: ignore[return-value]
        float(each) if max(part) <= HIGH / HEADROOM else np.inf
        for each, part in zip(off, (sizes[:2], sizes[2:]), strict=True)
    )


def _from(spikes: Integers, late: int, steps: int) -> Integers:
    counts: Integers = spikes[late : late + steps].sum(axis=0)
    return counts


def _late(found: Network, on: Matrices) -> Integers:
    """How late each hidden neuron is, in the chip's order."""
    late = np.empty(len(on.order), np.int64)
    late[on.order] = np.concatenate([np.full(layer.size, layer.late) for layer in found.hidden])
    return late


def padded(spikes: Integers, steps: int) -> Integers:
    """A sequence with empty steps behind it, for what is late."""
    return np.concatenate([spikes, np.zeros((steps, *spikes.shape[1:]), spikes.dtype)])


def _placed(found: Network, on: Matrices, name: str) -> NDArray[Any]:
    """A value of every hidden neuron, in the chip's order."""
    values = np.concatenate([getattr(layer, name) for layer in found.hidden])
    placed = np.empty_like(values)
    placed[on.order] = values
    return placed


def neurons_of(found: Network, on: Matrices) -> dict[str, list[int]]:
    """The places on the chip of each hidden layer's neurons, in their order in the graph."""
    ends = np.cumsum([layer.size for layer in found.hidden])[:-1]
    return {layer.path: part.tolist() for layer, part in zip(found.hidden, np.split(on.order, ends), strict=True)}


def columns(found: Network, on: Matrices, layer: Layer, of: Group) -> Group:
    """What of a group belongs to one layer."""
    if layer.path == found.output.path:
        return of
    at = neurons_of(found, on)[layer.path]
    return Group(of.weights[:, at], of.whole[:, at], of.threshold[at], of.bias[at], of.scale[at])
