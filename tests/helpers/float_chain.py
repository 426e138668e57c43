"""A chain of layers with relays, run in floats: what the integers are made of, to be compared with the reference."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from stdl_export.chips.links import Link, sizes
from stdl_export.chips.loihi2_build import Structure
from stdl_export.chips.loihi2_integers import normalised
from stdl_export.chips.maps import Kernel, Map

DECAY = 4096


class FloatLayer:
    """One link: its neurons in float64, and its relays, which fire where what they repeat fired."""

    def __init__(self, link: Link, parameters: Any, batch: int) -> None:
        self.link = normalised(link, parameters)
        numbers = link.unit.numbers
        self.spiking = numbers is not None and numbers.spikes
        self.decay = 0.0 if numbers is None else float(np.asarray(numbers.decay).reshape(-1)[0])
        synapse = None if numbers is None else numbers.synapse
        self.syn = 0.0 if synapse is None else float(np.asarray(synapse.decay).reshape(-1)[0])
        self.u = np.zeros((batch, *link.bias.shape))
        self.v, self.s = self.u.copy(), self.u.copy()
        self.past: list[np.ndarray] = []

    def step(self, x: np.ndarray) -> np.ndarray:
        """x [B, ...] of all streams -> everything that the layer puts out (its potential, where it is a readout)."""
        self.past.insert(0, x)
        a = np.stack([self._weights(self.link.main, each) for each in x]) if self.link.delay is None else self._late()
        if self.link.recurrent is not None:
            a = a + self.s @ self.link.recurrent.T
        self.u = self.syn * self.u + a
        self.v = self.decay * self.v + self.u + self.link.bias
        if not self.spiking:
            return self.v
        self.s = (self.v > 1).astype(float)
        self.v = np.where(self.s > 0, 0, self.v)
        carried = np.stack([self._weights(self.link.relays, each) for each in x])
        return np.concatenate([self.s, carried], axis=1)

    def _late(self) -> np.ndarray:
        """Every weight times what came in its delay ago."""
        total = 0
        for late in np.unique(self.link.delay):
            if late < len(self.past):
                weight = np.where(self.link.delay == late, self.link.main, 0)
                total = total + self.past[late].reshape(len(self.past[late]), -1) @ weight.T
        return np.zeros((len(self.past[0]), len(self.link.main))) + total

    def _weights(self, weight: np.ndarray, x: np.ndarray) -> np.ndarray:
        if self.link.dense:
            return weight @ x.reshape(-1)
        _, height, width = sizes(self.link)
        if not len(weight):
            return np.zeros((0, height, width))
        target = (len(weight), height, width)
        kernel = Kernel(weight, self.link.stride, self.link.begin, (height, width))
        return Map(x.shape, target, kernel, np.zeros(target)).applied(x)


def run(made: Structure, x: np.ndarray, steps: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Spikes [T, B, ...] by node, and outputs [T, B, ...]. x: [B, ...] where it is repeated, else [T, B, ...]."""
    batch = x.shape[0 if made.repeat else 1]
    layers = [FloatLayer(link, each, batch) for link, each in zip(made.links, made.parameters, strict=True)]
    fired: dict[str, list[np.ndarray]] = {}
    shown = []
    for t in range(steps):
        values = (x if made.repeat else x[t]).astype(np.float64)
        values = values[:, :, None] if values.ndim == 3 else values
        for layer in layers:
            values = layer.step(values)
            unit = layer.link.unit
            if layer.spiking:
                own = values[:, : len(layer.link.main)]
                fired.setdefault(unit.path, []).append(own.reshape(batch, *unit.shape) > 0)
        last = made.links[-1].unit
        own = values[:, : math.prod(last.shape)] if values.ndim == 2 else values[:, : len(made.links[-1].main)]
        shown.append(own.reshape(batch, *last.shape) * made.found.amplitude)
    return {path: np.stack(each) for path, each in fired.items()}, np.stack(shown)
