"""Xylo's arithmetic in NumPy: the second version of its core (XyloAudio 2 and 3, XyloIMU), every state a 16-bit number.

One time step; sat saturates to [-32768, 32767], w are weights shifted left, S = 1 or 2 synapses a hidden neuron:

    dec(x, d) = x >> d, or sign(x) if that is 0 and x is not      (>> floors: -1 >> d = -1)
    i_s = sat(i_s + w)  for every spike that comes, one by one: inputs, then hidden spikes of the step before
    i_s = i_s - dec(i_s, dash_syn_s)                              what just arrived decays, too
    dv  = sat(wrap16(-dec(v, dash_mem)) + sum over s of i_s);  dv = sat(dv + bias);  v = sat(v + dv)
    n   = copies of spikes that came so far;  while v >= threshold and n < 31 (an output: 1):  n += 1, v -= threshold
    a neuron with an alias:  n of its target = min(31, n of its target + n), neurons in the order of their index

So a neuron fires several times a step, resets by subtraction, and a hidden spike reaches hidden neurons and outputs one
step later. Found equal to the package xylosim 0.1.3, which is written after the chip; a test compares them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stdl_export.chips.xylo_file import Specification

Integers = NDArray[np.int64]

LOW, HIGH = -(1 << 15), (1 << 15) - 1
MOST_IN, MOST_HIDDEN = 15, 31
"""Spikes of an input and of a hidden neuron in one step; an output fires once."""


@dataclass
class State:
    """What the chip keeps between steps: synapses [S, B, N], potentials [B, N], the last hidden spikes [B, N]; those
    of the outputs [B, O].
    """

    i: Integers
    v: Integers
    spikes: Integers
    i_out: Integers
    v_out: Integers

    @classmethod
    def rest(cls, network: Specification, batch: int) -> State:
        """All 0."""
        hidden, outputs = (batch, network.hidden), (batch, network.outputs)
        i = np.zeros((network.synapses, *hidden), np.int64)
        return cls(i, *(np.zeros(shape, np.int64) for shape in (hidden, hidden, outputs, outputs)))


@dataclass
class Record:
    """A run: spikes [T, B, N] of the hidden neurons and [T, B, O] of the outputs, and their states, likewise."""

    hidden: Integers
    output: Integers
    i: Integers = field(default_factory=lambda: np.zeros(0, np.int64))  # [T, S, B, N]
    v: Integers = field(default_factory=lambda: np.zeros(0, np.int64))
    i_out: Integers = field(default_factory=lambda: np.zeros(0, np.int64))
    v_out: Integers = field(default_factory=lambda: np.zeros(0, np.int64))


class Model:
    """A specification ready to be stepped."""

    def __init__(self, network: Specification) -> None:
        self.network = network
        wide = {name: getattr(network, f"weights_{name}").astype(np.int64) for name in ("in", "rec", "out")}
        self._in, self._rec, self._out = (
            matrix << getattr(network, f"weight_shift_{name}") for name, matrix in wide.items()
        )
        self._dash_syn = (network.dash_syn.astype(np.int64), network.dash_syn_2.astype(np.int64))

    def step(self, state: State, inputs: Integers) -> Integers:
        """One step: inputs [B, I], spikes of each channel -> spikes [B, O] of the outputs; changes the state."""
        before, network = state.spikes, self.network
        for s in range(network.synapses):
            arrived = _arrived(state.i[s], inputs, self._in[:, :, s])
            arrived = _arrived(arrived, before, self._rec[:, :, s])
            state.i[s] = arrived - _decay(arrived, self._dash_syn[s])
        state.v = _integrated(state.v, state.i.sum(axis=0), network.dash_mem, network.bias)
        state.spikes, state.v = self._fire(state.v)
        arrived = _arrived(state.i_out, before, self._out)
        state.i_out = arrived - _decay(arrived, network.dash_syn_out.astype(np.int64))
        state.v_out = _integrated(state.v_out, state.i_out, network.dash_mem_out, network.bias_out)
        fired = (state.v_out >= network.threshold_out).astype(np.int64)
        state.v_out = state.v_out - fired * network.threshold_out
        return fired

    def run(self, inputs: Integers) -> Record:
        """A sequence from rest: inputs [T, B, I] -> every spike and state."""
        state = State.rest(self.network, inputs.shape[1])
        kept: list[tuple[Integers, ...]] = []
        for frame in inputs:
            output = self.step(state, frame)
            kept.append((state.spikes, output, state.i.copy(), state.v, state.i_out, state.v_out))
        return Record(*(np.stack(each) for each in zip(*kept, strict=True)))

    def _fire(self, v: Integers) -> tuple[Integers, Integers]:
        """Spikes [B, N] and v after the reset."""
        threshold, copies = self.network.threshold.astype(np.int64), self.network.copies
        if not any(copies):
            fired = np.clip(v // threshold, 0, MOST_HIDDEN)
            return fired, v - fired * threshold
        fired, left = np.zeros_like(v), v.copy()
        for k, targets in enumerate(copies):  # in order, since a copy counts against the most that its target fires
            own = np.clip(left[:, k] // threshold[k], 0, np.maximum(MOST_HIDDEN - fired[:, k], 0))
            fired[:, k] += own
            left[:, k] -= own * threshold[k]
            for target in targets:
                fired[:, target] = np.minimum(MOST_HIDDEN, fired[:, target] + fired[:, k])
        return fired, left


def _decay(x: Integers, dash: Integers) -> Integers:
    """What a state loses in a step: at least 1 in size, so that it comes to rest."""
    shifted = x >> dash
    return np.where(shifted == 0, np.sign(x), shifted)


def _integrated(v: Integers, current: Integers, dash: NDArray[np.uint8], bias: NDArray[np.int16]) -> Integers:
    """v before the reset."""
    lost = -_decay(v, dash.astype(np.int64))
    lost = np.where(lost > HIGH, LOW, lost)  # -(-32768) has no 16 bits
    dv = np.clip(np.clip(lost + current, LOW, HIGH) + bias, LOW, HIGH)
    integrated: Integers = np.clip(v + dv, LOW, HIGH)
    return integrated


def _arrived(i: Integers, spikes: Integers, weights: Integers) -> Integers:
    """A synapse [B, N] after spikes [B, K] over weights [K, N]. They come one by one and saturate each time, which
    matters only where some order of them could leave the range.
    """
    # As float64, which is exact for such numbers, a product of matrices is many times faster.
    counts = spikes.astype(np.float64)
    up, down = (counts @ np.maximum(side, 0).astype(np.float64) for side in (weights, -weights))
    total: Integers = i + (up - down).astype(np.int64)
    risky = ((i + up > HIGH) | (i - down < LOW)).any(axis=1)
    if risky.any():
        total[risky] = _one_by_one(i[risky], spikes[risky], weights)
    return total


def _one_by_one(i: Integers, spikes: Integers, weights: Integers) -> Integers:
    for source, row in _sources(spikes, weights):
        for count in range(int(spikes[:, source].max())):
            i = np.where(spikes[:, source, None] > count, np.clip(i + row, LOW, HIGH), i)
    return i


def _sources(spikes: Integers, weights: Integers) -> Iterator[tuple[int, Integers]]:
    """The sources of any spikes, in order, with the weights of each."""
    return ((int(source), weights[source]) for source in np.flatnonzero(spikes.any(axis=0)))
