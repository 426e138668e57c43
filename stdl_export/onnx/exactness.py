"""Which values are whole multiples of a known number, within known bounds: those that int8 holds without loss.

    spikes {0, 1}                  scale 1                  0 .. 1
    spikes * out_scale             scale out_scale          0 .. 1
    sum of values                  the smallest scale, of which all others are multiples; bounds add
    AvgPool2d of k*k values        scale / (k*k)            0 .. k*k * high
    SumPool2d of k*k values        same scale               0 .. k*k * high
    Scale by one number c          scale * |c|              bounds change sides where c < 0
    Flatten, Output                as they come
    Delay, a value of the step before     with 0, which is there before the first step

All else is analog: an Input, whatever has weights, potentials, and neurons that spike any number of times in a step
("floor"). A scale that is no power of two makes int8 as exact as float32 is: the same number, rounded once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import nir
import numpy as np
from numpy.typing import NDArray

from stdl_export.graph import NodeName
from stdl_export.primitives import pool_window
from stdl_export.program import Node, Program
from stdl_export.semantics import collapse

INT8 = 127  # symmetric: -128 is left out
WHOLE = 1e-6  # how far a quotient of two scales may be from a whole number, relative to it: float32 rounds them


@dataclass(frozen=True)
class Grid:
    """Values n * scale for whole numbers low <= n <= high; scale > 0."""

    scale: float
    low: int
    high: int

    @property
    def fits_int8(self) -> bool:
        """Does int8 hold all of them?"""
        return max(abs(self.low), abs(self.high)) <= INT8

    @property
    def largest(self) -> float:
        """The largest magnitude."""
        return self.scale * max(abs(self.low), abs(self.high))

    def with_zero(self) -> Grid:
        """The same, and 0."""
        return replace(self, low=min(self.low, 0), high=max(self.high, 0))

    def plus(self, other: Grid) -> Grid | None:
        """The sums of a value of each; None where neither scale is a multiple of the other."""
        fine, coarse = (self, other) if self.scale <= other.scale else (other, self)
        quotient = coarse.scale / fine.scale
        times = round(quotient)
        if abs(quotient - times) > WHOLE * times:
            return None
        return Grid(fine.scale, fine.low + times * coarse.low, fine.high + times * coarse.high)

    def times(self, factor: float) -> Grid | None:
        """All of them times one number; None for 0 and what is not finite."""
        scale = self.scale * abs(factor)
        if not (np.isfinite(scale) and np.float32(scale) > 0):
            return None
        low, high = (self.low, self.high) if factor > 0 else (-self.high, -self.low)
        return Grid(scale, low, high)


Found = Grid | None
Rule = Callable[[Node, Grid], Found]


def grids(made: Program) -> dict[NodeName, Grid]:
    """What arrives at each node, for those at which only multiples of a known number do."""
    values: dict[NodeName, Grid] = {path: own for path, node in made.nodes.items() if (own := _own(node)) is not None}
    found: dict[NodeName, Grid] = {}
    for path, node in made.nodes.items():
        total = _arriving(node, values)
        if total is None:
            continue
        found[path] = total
        rule = RULES.get(type(node.node))
        if rule is not None and (given := rule(node, total)) is not None:
            values[path] = given
    return found


def _own(node: Node) -> Found:
    """Of what spikes: known without its input."""
    one = Grid(1.0, 0, 1)
    if isinstance(node.node, nir.Threshold):
        return one
    if node.numbers is None or not node.spikes or node.numbers.spike == "floor":
        return None
    return _times_one_number(one, node.numbers.out_scale)


def _arriving(node: Node, values: Mapping[NodeName, Grid]) -> Found:
    """The sum of its sources."""
    total: Found = None
    for source in node.sources:
        value = values.get(source.path)
        if value is None:
            return None
        value = value.with_zero() if source.previous else value
        total = value if total is None else total.plus(value)
        if total is None:
            return None
    return total


def _times_one_number(grid: Grid, factor: NDArray[np.generic]) -> Found:
    """Times a factor that is the same everywhere; None where it varies."""
    one = collapse(np.asarray(factor, np.float32))
    return grid.times(float(one)) if one.ndim == 0 else None


def _summed(node: Node, grid: Grid) -> Grid:
    """The sum over a window; outside of the frame are zeros."""
    size, grid = int(np.prod(pool_window(node.node).kernel)), grid.with_zero()
    return Grid(grid.scale, size * grid.low, size * grid.high)


def _averaged(node: Node, grid: Grid) -> Found:
    """The mean over a window, padded zeros included."""
    return _summed(node, grid).times(1 / float(np.prod(pool_window(node.node).kernel)))


RULES: Mapping[type, Rule] = {
    nir.AvgPool2d: _averaged,
    nir.SumPool2d: _summed,
    nir.Scale: lambda node, grid: _times_one_number(grid, node.node.scale),
    nir.Flatten: lambda node, grid: grid,
    nir.Output: lambda node, grid: grid,
    nir.Delay: lambda node, grid: grid.with_zero(),
}
