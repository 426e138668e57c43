"""Weights as int8 times a scale per output channel, symmetric.

    q = round(w / scale), -127 .. 127        scale = max|w| / 127 of the channel

A channel whose weights are whole multiples n * s of a number already, with |n| <= 127, keeps that s: nothing is lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from stdl_export.onnx.exactness import INT8

SAMPLE = 32  # weights of a channel that a scale is tried on before it is tried on all
ROUNDING = 2.0**-22  # relative: a product n * s is rounded to float32, and so is s


@dataclass(frozen=True, eq=False)
class Quantised:
    """values int8 [channels, ...], scales float32 [channels]: weight = values * scales."""

    weight: NDArray[np.float32]
    values: NDArray[np.int8]
    scales: NDArray[np.float32]

    @cached_property
    def error(self) -> NDArray[np.float64]:
        """What each weight is off by, [channels, weights of one]."""
        off: NDArray[np.float64] = (
            np.float64(_rows(self.weight)) - np.float32(_rows(self.values)) * self.scales[:, None]
        )
        return off


def quantised(weight: NDArray[np.float32]) -> Quantised:
    """Weights [channels, ...], finite, in int8."""
    rows = np.float64(_rows(weight))
    scales = _scales(rows)
    values = np.clip(np.rint(rows / scales[:, None]), -INT8, INT8).astype(np.int8)
    return Quantised(weight, values.reshape(weight.shape), scales.astype(np.float32))


def _scales(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """One per row, a number that float32 holds; 1 for a row of zeros."""
    largest = np.abs(rows).max(axis=1, initial=0)
    empty = np.float32(largest / INT8) == 0
    scales = np.where(empty, 1.0, np.float64(np.float32(largest / INT8)))
    sample = np.abs(rows[:, :: max(1, rows.shape[1] // SAMPLE)])
    left = np.flatnonzero(~empty)
    for levels in range(1, INT8 + 1):  # the largest scale that fits: with few levels it is the number that was meant
        tried = np.float64(np.float32(largest[left] / levels))
        fits = (tried > 0) & _whole(sample[left], tried)
        fits[fits] = _whole(np.abs(rows[left[fits]]), tried[fits])
        scales[left[fits]] = tried[fits]
        left = left[~fits]
    return scales


def _whole(rows: NDArray[np.float64], scales: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which rows hold whole multiples of their scale only, up to the rounding of float32."""
    safe = np.where(scales > 0, scales, 1.0)[:, None]
    near = np.abs(np.rint(rows / safe) * safe - rows) <= ROUNDING * np.abs(rows)
    return np.asarray(near.all(axis=1))


def _rows(weight: NDArray[np.generic]) -> NDArray[np.generic]:
    return weight.reshape(len(weight), -1)
