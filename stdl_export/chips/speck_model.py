"""Speck's arithmetic step by step in NumPy: whole-numbered weights, thresholds and potentials, core after core.

    v += W * x + b;  n = v // threshold_high where v > 0, else 0;  v -= n threshold_high (or v = 0 where n > 0)
    v = max(v, threshold_low);  out = n, summed over pool x pool squares for each destination

These are the equations of sinabs, which SynSense's tools build their configurations from; a test compares the two. The
chip itself is driven by events: within a step it may add them in another order, and fire otherwise in between. So this
is a model of steps, not of the chip.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stdl_export.chips.speck_file import Configuration, CoreConfig

Integers = NDArray[np.int64]

SAMPLES_AT_ONCE = 64


@dataclass
class Run:
    """Spikes [T, B, F, H, W] of each core; the largest potential before firing, and the lowest, of any core."""

    spikes: dict[int, Integers]
    highest: int
    lowest: int


@dataclass
class State:
    """Potentials [B, F, H, W] by core, between steps."""

    v: dict[int, Integers]
    highest: int = 0
    lowest: int = 0
    fired: dict[int, Integers] = field(default_factory=dict)


class Model:
    """A configuration ready to be stepped."""

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self.order = configuration.order
        # float64 sums of such whole numbers are exact, and products of matrices in it many times faster
        self._weights = {k: core.kernel.reshape(core.channels, -1).astype(np.float64) for k, core in self.cores.items()}

    @property
    def cores(self) -> Mapping[int, CoreConfig]:
        """By number."""
        return self.configuration.cores

    def rest(self, batch: int) -> State:
        """Initial values of all neurons."""
        return State({k: np.repeat(core.initial[None], batch, axis=0) for k, core in self.cores.items()})

    def step(self, state: State, frame: Integers) -> None:
        """One step: events [B, C, H, W]; `state.fired` is what each core fires."""
        arrived: dict[int, Integers] = {}
        for destination in self.configuration.input:
            _add(arrived, destination.core, frame)
        for k in self.order:
            core = self.cores[k]
            spikes = state.fired[k] = self._fire(state, k, core, arrived.pop(k, None))
            for destination in core.destinations:
                _add(arrived, destination.core, pooled(spikes, destination.pool))

    def run(self, frames: Integers) -> Run:
        """A sequence from rest: [T, B, C, H, W]."""
        state, kept = self.rest(frames.shape[1]), dict[int, list[Integers]]()
        for frame in frames:
            self.step(state, frame)
            for k, spikes in state.fired.items():
                kept.setdefault(k, []).append(spikes)
        return Run({k: np.stack(each) for k, each in kept.items()}, state.highest, state.lowest)

    def _fire(self, state: State, k: int, core: CoreConfig, x: Integers | None) -> Integers:
        v = state.v[k] + core.bias[:, None, None]
        if x is not None and x.any():
            v = v + _convolved(x, self._weights[k], core)
        state.highest, state.lowest = max(state.highest, int(v.max())), min(state.lowest, int(v.min()))
        n: Integers = np.where(v > 0, v // core.threshold_high, 0)
        v = np.where(n > 0, 0, v) if core.to_zero else v - n * core.threshold_high
        state.v[k] = np.maximum(v, core.threshold_low)
        return n


def pooled(spikes: Integers, size: int) -> Integers:
    """Sums over squares, rounded down at the rim: [B, C, H, W] -> [B, C, H // size, W // size]."""
    if size == 1:
        return spikes
    height, width = spikes.shape[2] // size, spikes.shape[3] // size
    cut = spikes[:, :, : height * size, : width * size]
    found: Integers = cut.reshape(*cut.shape[:2], height, size, width, size).sum(axis=(3, 5))
    return found


def _add(arrived: dict[int, Integers], core: int, spikes: Integers) -> None:
    arrived[core] = arrived[core] + spikes if core in arrived else spikes


def _convolved(x: Integers, weights: NDArray[np.float64], core: CoreConfig) -> Integers:
    """[B, C, H, W] -> [B, F, H', W']."""
    pad, step, size = core.padding, core.stride, core.kernel.shape[2]
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(2, 3))[:, :, ::step, ::step]
    columns = windows.transpose(0, 2, 3, 1, 4, 5).reshape(len(x), windows.shape[2] * windows.shape[3], -1)
    sums = (columns @ weights.T).transpose(0, 2, 1)
    found: Integers = sums.reshape(len(x), core.channels, *windows.shape[2:4]).astype(np.int64)
    return found
