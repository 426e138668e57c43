"""One step of a neuron layer in NumPy, for the reference: exactly what `semantics` says, in float32.

Arrays are [B, ...]; a state is v, i (of a synapse) or s (the spike of the step before).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from stdl_export.semantics import Discrete, Synapse
from stdl_runtimes.base import Array


@dataclass(frozen=True)
class NeuronStep:
    """What a neuron layer makes of one step, all [B, ...]: what it puts out and what it stores; where it spikes, its
    spikes {0, 1, ...} and the potential that they were read from.
    """

    output: Array
    state: dict[str, Array]
    spikes: Array | None = None
    decided: Array | None = None


def neuron_step(k: Discrete, x: Array, state: Mapping[str, Array]) -> NeuronStep:
    """One step of a neuron layer with input x [B, ...]: the equations at the head of `semantics`, in their order."""
    current, after = x, dict(state)
    if k.synapse is not None:
        current, after["i"] = synapse_step(k.synapse, x, state["i"])
    v = state["v"]
    if not k.spikes:
        after["v"] = _charged(k, v, current)
        return NeuronStep(v if k.output == "prev" else after["v"], after)
    if k.spike_from == "prev":
        s, decided = spikes_of(k, v), v
        after["v"] = (
            _charged(k, v, current) - k.v_threshold * s
            if k.reset_when == "next_sub"
            else _charged(k, reset(k, v, s), current)
        )
    else:
        decided = potential(k, _charged(k, v, current), state)
        s = spikes_of(k, decided)
        after["v"] = _settled(k, decided, s, v)
    if k.v_min is not None:
        after["v"] = np.maximum(after["v"], k.v_min)
    if "s" in after:
        after["s"] = s
    return NeuronStep(s * k.out_scale, after, s, decided)


def synapse_step(k: Synapse, x: Array, i: Array) -> tuple[Array, Array]:
    """The current c that the membrane gets, and the i that is stored."""
    if k.order == "jump_use_decay":
        current = i + k.gain * x
        return current, k.decay * current + k.leak
    if k.order == "jump_decay_use":
        current = k.decay * (i + k.gain * x)
        return current, current
    updated = (k.decay * i + k.gain * x) + k.leak
    return (i if k.order == "use_then_update" else updated), updated


def potential(k: Discrete, charged: Array, state: Mapping[str, Array]) -> Array:
    """u, what spikes are read from: the charged potential less what an earlier spike still takes off."""
    if k.reset_when == "next_sub":
        return charged - k.v_threshold * state["s"]
    if k.reset_when == "next_drop":
        return np.where(state["s"] > 0, np.float32(0), charged)
    if k.reset_when == "now_nodouble":
        return charged - spikes_of(k, state["v"]) * k.v_threshold
    return charged


def spikes_of(k: Discrete, u: Array) -> Array:
    """s, float32 {0, 1} or a count."""
    fired = u > k.v_threshold if k.spike == ">" else u >= k.v_threshold
    s: Array = fired.astype(np.float32)
    return s * np.floor(u / k.v_threshold) if k.spike == "floor" else s


def reset(k: Discrete, u: Array, s: Array) -> Array:
    """v after spikes s of the same step."""
    if k.reset == "v_reset":
        return np.where(s > 0, k.v_reset, u)
    return u - s * k.v_threshold if k.reset == "subtract" else u


def margin(k: Discrete, u: Array) -> Array:
    """How far potentials are from the other decision, relative to what they are compared with where that is above 1:
    the threshold, or the nearest of its multiples.
    """
    nearest = k.v_threshold
    if k.spike == "floor":
        nearest = nearest * np.maximum(np.float32(1), np.round(u / k.v_threshold))
    distance: Array = np.abs(u - nearest) / np.maximum(np.float32(1), np.abs(nearest))
    return distance


def _charged(k: Discrete, v: Array, current: Array) -> Array:
    return (k.decay * v + k.gain * current) + k.leak


def _settled(k: Discrete, u: Array, s: Array, before: Array) -> Array:
    """v, what is stored of u; before: the v that the step began with."""
    if k.reset_when == "now":
        return reset(k, u, s)
    return u - (s - spikes_of(k, before)) * k.v_threshold if k.reset_when == "now_nodouble" else u
