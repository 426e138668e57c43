"""Float weights as whole numbers of a chip: scales, rounding, and what was lost. NumPy only, for training as well.

A layer's weights, biases and threshold share a scale, so that it is free: s integers per unit, weights
step * round(w * s / step) within [-high, high].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Integers = NDArray[np.int64]

CLIPS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)  # shares of the largest weight that are tried as the end of the range


@dataclass(frozen=True)
class Grid:
    """Whole numbers that a weight may have: multiples of `step` in [-high, high]."""

    step: int
    high: int

    @property
    def bits(self) -> int:
        """Of a sign and a magnitude."""
        return int(np.ceil(np.log2(self.high // self.step + 1))) + 1


def rounded(values: Float, scale: Float | float, grid: Grid) -> Integers:
    """Values times scale on the grid; what lies outside is clipped to its end."""
    end = grid.high // grid.step
    whole = np.clip(np.rint(values * scale / grid.step), -end, end)
    return whole.astype(np.int64) * grid.step


def clipped(values: Float, scale: Float | float, grid: Grid) -> int:
    """How many values lie outside the grid by more than rounding."""
    return int((np.abs(values * scale) > grid.high + grid.step / 2).sum())


def error(values: Float, scale: Float | float, grid: Grid) -> float:
    """Root mean square of what rounding and clipping change, relative to that of the values."""
    size = float(np.sqrt(np.mean(np.square(values)))) if values.size else 0.0
    off = rounded(values, scale, grid) / scale - values
    return float(np.sqrt(np.mean(np.square(off)))) / size if size else 0.0


def best_scale(values: Float, grid: Grid, most: float) -> float:
    """The scale, at most `most`, with the least error; a few outliers may be clipped for it."""
    largest = float(np.abs(values).max(initial=0.0))
    if not largest:
        return most
    tried = {min(grid.high / (largest * share), most) for share in CLIPS}
    return min(sorted(tried, reverse=True), key=lambda scale: error(values, scale, grid))


@dataclass(frozen=True, eq=False)
class Levels:
    """Analog inputs as whole numbers 0..`most`: n = round((x - low) / step), one low and step a channel.

    low is 0 where nothing lies below; a value above the last level counts as the last.
    """

    most: int
    low: Float
    step: Float

    @property
    def spikes(self) -> bool:
        """Are inputs 0 and 1 as they are?"""
        return self.most == 1 and not self.low.any() and bool((self.step == 1).all())

    def encoded(self, x: NDArray[np.floating]) -> Integers:
        """x [N, C, ...] -> whole numbers."""
        axes = (1, -1, *[1] * (x.ndim - 2))
        whole = np.rint((x - self.low.reshape(axes)) / self.step.reshape(axes))
        return np.clip(whole, 0, self.most).astype(np.int64)


def levels_of(samples: NDArray[np.floating], most: int, asked: int | None = None) -> Levels:
    """Levels that hold real samples [N, C, ...]: exactly where they lie on a grid of at most `most` steps, else
    `asked` (or `most`) steps between the least and the largest of each channel.
    """
    channels = [np.unique(each.astype(np.float64)) for each in np.moveaxis(samples, 1, 0)]
    grids = [_grid(values) for values in channels]
    if asked is None and all(0 < count <= most for _, count in grids):
        step = np.array([step for step, _ in grids])
        low = np.array([_low(values[0], gap) for values, gap in zip(channels, step, strict=True)])
        many = int(max(np.rint((v[-1] - at) / gap) for v, at, gap in zip(channels, low, step, strict=True)))
        if many <= most:
            return Levels(max(many, 1), low, step)
    many = asked or most
    low = np.array([min(float(values[0]), 0.0) for values in channels])
    span = np.array([max(float(values[-1]) - at, 1e-12) for values, at in zip(channels, low, strict=True)])
    return Levels(many, low, span / many)


def _low(least: float, step: float) -> float:
    """0 where the grid has it and nothing lies below."""
    return 0.0 if least >= 0 and abs(least / step - np.rint(least / step)) < 1e-3 else float(least)


def _grid(values: Float) -> tuple[float, int]:
    """The step of the grid that sorted values lie on, and how many steps it takes; 0 steps where there is none."""
    if len(values) == 1:
        return (abs(float(values[0])) or 1.0), 1
    gaps = np.diff(values)
    gaps = gaps[gaps > 1e-6 * max(1.0, float(np.abs(values).max()))]
    if not gaps.size:
        return 1.0, 1
    many = int(np.rint((values[-1] - values[0]) / gaps.min()))
    step = float(values[-1] - values[0]) / many
    off = (values - values[0]) / step
    return step, (many if np.abs(off - np.rint(off)).max() < 0.02 else 0)


TRAINABLE = {"loihi2": Grid(2, 254), "speck": Grid(1, 127), "xylo": Grid(1, 127)}
"""The weights that `stdl-train --quantize` trains for, by chip."""
