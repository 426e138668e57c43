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
FEW = 4  # of these, what every scale is tried on at once
BLOCK = 1024  # channels at once, so that no more than a few MiB are held
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
    for first in range(0, len(rows), BLOCK):
        block = slice(first, first + BLOCK)
        tried = np.float64(np.float32(largest[block] / np.arange(1, INT8 + 1)[:, None]))
        # [levels, rows]: a few weights rule out almost all, so the search below looks at what is left
        likely = (tried > 0) & _whole(sample[block, :FEW], tried)
        open_rows = ~empty[block]
        for level in np.flatnonzero(likely.any(axis=1)):  # the largest scale that fits: it is the number that was meant
            at = np.flatnonzero(open_rows & likely[level])
            at = at[_whole(sample[block][at], tried[level, at])]
            at = at[_whole(np.abs(rows[block][at]), tried[level, at])]
            scales[first + at] = tried[level, at]
            open_rows[at] = False
    return scales


def _whole(rows: NDArray[np.float64], scales: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which rows [rows, n] hold whole multiples of their scale [..., rows] only, up to the rounding of float32."""
    safe = np.where(scales > 0, scales, 1.0)[..., None]
    near = np.abs(np.rint(rows / safe) * safe - rows) <= ROUNDING * np.abs(rows)
    return np.asarray(near.all(axis=-1))


def _rows(weight: NDArray[np.generic]) -> NDArray[np.generic]:
    return weight.reshape(len(weight), -1)
