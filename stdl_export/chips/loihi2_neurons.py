"""A layer of NIR's neurons in discrete time as Loihi 2 has them, in floats whose threshold is 1; or why it has not.

    given       i = syn_decay i + syn_gain x;  v = decay v + gain i + leak;  s = v > v_threshold;  v = v_reset where s
    result      u = (1 - i_decay/4096) u + W x;  v = (1 - v_decay/4096) v + u + b;  s = v > 1;  v = 0 where s

with v counted from v_reset in units of v_threshold - v_reset, so W = row * W_nir and b = row * bias + ...: factors for
each row are free, since a layer has one threshold, but any weights.

The orders "jump, decay, use" and "jump, use, decay" of a synapse are the first line too, with other numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from stdl_export.chips.base import Refusal
from stdl_export.chips.maps import Float, float64
from stdl_export.chips.units import Unit
from stdl_export.semantics import Discrete, Synapse

DECAY = 4096  # 12 bits
TRAIN_OTHERWISE = "train with hard reset and strict thresholds, NIR's own neurons"


@dataclass(frozen=True, eq=False)
class Parameters:
    """row: what weights and biases of the unit are multiplied with; bias: what is added to v in every step besides.

    Both broadcast against the unit's shape. shown: of a readout, by which u or v of the chip is multiplied. off: the
    largest difference between a decay and the chip's.
    """

    i_decay: int
    v_decay: int
    row: Float
    bias: Float
    off: float = 0.0


def parameters(unit: Unit, refused: list[Refusal]) -> Parameters:
    """The unit's neurons; what the chip has not is added to `refused`. A readout without neurons keeps all it gets."""
    if unit.numbers is None:
        return Parameters(DECAY, 0, np.ones(()), np.zeros(()))
    k = unit.numbers
    refused += _reasons(unit, k)
    decay = float64(k.decay)
    v_decay = int(np.rint(DECAY * (1 - decay.reshape(-1)[0])))
    i_decay, gain, i_off = _synapse(k.synapse)
    off = max(abs(float(decay.reshape(-1)[0]) - (1 - v_decay / DECAY)), i_off)
    if not k.spikes:
        return Parameters(i_decay, min(v_decay, DECAY), float64(k.gain) * gain, float64(k.leak), off)
    high = float64(k.v_threshold) - float64(k.v_reset)
    high = np.where(high > 0, high, 1.0)
    bias = (float64(k.leak) - (1 - decay) * float64(k.v_reset)) / high
    return Parameters(i_decay, v_decay, float64(k.gain) * gain / high, bias, off)


def _synapse(synapse: Synapse | None) -> tuple[int, Float, float]:
    """i_decay, what weights are multiplied with, and how far the decay is off."""
    if synapse is None:
        return DECAY, np.ones(()), 0.0
    decay = float64(synapse.decay)
    kept = float(decay.reshape(-1)[0])
    found = int(np.rint(DECAY * (1 - kept)))
    gain = float64(synapse.gain) * (decay if synapse.order == "jump_decay_use" else 1.0)
    return found, gain, abs(kept - (1 - found / DECAY))


def _reasons(unit: Unit, k: Discrete) -> Iterator[Refusal]:
    """Everything that these neurons do and the chip's do not."""
    yield from _one_decay(unit, "decay of v", k.decay, 0, DECAY - 1 if k.spikes else DECAY)
    if k.synapse is not None:
        yield from _of_synapse(unit, k.synapse)
    if k.v_min is not None:
        yield Refusal(unit.path, "v_min", f"{float(np.min(k.v_min)):g}", "potentials without a floor", TRAIN_OTHERWISE)
    if not k.spikes:
        if (k.v_init != 0).any() or k.output != "new":
            yield Refusal(unit.path, "a readout's start or output", f"{_range(k.v_init)}, '{k.output}'", "0 and 'new'",
                          "take another dialect")  # fmt: skip
        return
    for field, value, wanted in (
        ("reset", k.reset, "v_reset"), ("reset_when", k.reset_when, "now"), ("spike_from", k.spike_from, "new"),
    ):  # fmt: skip
        if value != wanted:
            yield Refusal(unit.path, field, f"'{value}'", f"'{wanted}'", TRAIN_OTHERWISE)
    if k.spike == "floor":
        yield Refusal(unit.path, "spike", "'floor', several in a step", "one spike in a step", TRAIN_OTHERWISE)
    if (float64(k.v_threshold) <= float64(k.v_reset)).any():
        limit = "a threshold above v_reset"
        yield Refusal(unit.path, "v_threshold", _range(k.v_threshold), limit, "raise it, or lower v_reset")
    if (np.asarray(k.v_init) != np.asarray(k.v_reset)).any():
        limit = f"v_reset, {_range(k.v_reset)}"
        yield Refusal(unit.path, "v before the first step", _range(k.v_init), limit, "set v_reset to 0")


def _of_synapse(unit: Unit, synapse: Synapse) -> Iterator[Refusal]:
    yield from _one_decay(unit, "decay of i", synapse.decay, 1, DECAY)
    if synapse.order == "use_then_update":
        limit = "'update_then_use' and orders that equal it"
        yield Refusal(unit.path, "syn_order", f"'{synapse.order}'", limit, "take another dialect")
    leaks = synapse.leak if synapse.order != "jump_decay_use" else np.zeros(())
    if (synapse.i_init != 0).any() or (leaks != 0).any():
        yield Refusal(unit.path, "the synapse's start or leak", f"{_range(synapse.i_init)}, {_range(leaks)}", "0",
                      "take another dialect")  # fmt: skip
    if unit.bias.any() and (synapse.decay != 0).any():
        worst = float(np.abs(unit.bias).max())
        way_out = "train without it, or let v_leak do its work: the chip adds biases behind the synapse"
        yield Refusal(unit.path, "the bias in front of its synapse", f"up to {worst:.4g}", "0", way_out)


def _one_decay(unit: Unit, name: str, decay: Any, low: int, high: int) -> Iterator[Refusal]:
    """One number for the layer, within the chip's bits."""
    values = float64(decay)
    if values.size > 1:
        way_out = "train one time constant a layer, or split the layer"
        yield Refusal(unit.path, name, _range(values), "one number for a layer", way_out)
    whole = np.rint(DECAY * (1 - values))
    if (whole < low).any() or (whole > high).any():
        limit = f"{1 - high / DECAY:.4g} to {1 - low / DECAY:.4g} ({low}..{high} of 4096 lost in a step)"
        yield Refusal(unit.path, name, _range(values), limit, "change tau or dt")


def _range(values: Any) -> str:
    low, high = float(np.min(values)), float(np.max(values))
    return f"{low:.6g}" if low == high else f"{low:.6g} to {high:.6g}"
