"""From hop to hop: where two runs of one network differ first. Step, node, sample, and how near the threshold was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from stdl_runtimes.base import Array, Spikes
from stdl_runtimes.compare import Flags
from stdl_runtimes.metrics import Integers
from stdl_runtimes.results import Difference

NEVER = np.iinfo(np.int64).max


def earliest(found: Sequence[Difference | None], nodes: Sequence[str]) -> Difference | None:
    """The first of some differences: those that rounding does not explain, then by step, by node, by sample."""
    there = [each for each in found if each is not None]
    order = {node: number for number, node in enumerate(nodes)}
    return min(
        there,
        key=lambda each: (each.tie, -1 if each.t is None else each.t, order[each.node], each.sample),
        default=None,
    )


def first_spike(
    expected: Mapping[str, Spikes],
    found: Mapping[str, Spikes],
    margins: Mapping[str, Array],
    flip_margin: float,
    at: int,
) -> Difference | None:
    """The first spike that differs; all are [T, B, ...] by node, in the order of the network. at: the first sample's
    number. Each neuron counts with its own first difference: what it does after a tie follows from that.
    """
    each = [
        _first_spike(node, spikes, found[node], margins[node], flip_margin, at) for node, spikes in expected.items()
    ]
    return earliest(each, list(expected))


def _first_spike(
    node: str, expected: Spikes, found: Spikes, margins: Array, flip_margin: float, at: int
) -> Difference | None:
    differs = expected != found
    if not differs.any():
        return None
    step = differs.argmax(axis=0)  # [B, ...]
    distance = np.take_along_axis(margins, step[None], axis=0)[0]
    flipped = differs.any(axis=0) & (distance > flip_margin)
    tie = not flipped.any()
    candidates = differs.any(axis=0) if tie else flipped
    t = int(np.where(candidates, step, NEVER).min())
    where = _first_of(candidates & (step == t))
    slot = (t, *where)
    here, there = (float(spikes[slot]) for spikes in (expected, found))
    return Difference(node, t, at + where[0], where[1:], here, there, float(distance[where]), tie)


def first_count(
    expected: Mapping[str, Integers],
    found: Mapping[str, Integers],
    margins: Mapping[str, Array],
    flip_margin: float,
    at: int,
) -> Difference | None:
    """The first neuron with another count [B, ...] over all steps; its distance is the smallest of all steps'."""
    each = []
    for node, count in expected.items():
        differs, nearest = count != found[node], margins[node].min(axis=0)
        flipped = differs & (nearest > flip_margin)
        tie = not flipped.any()
        if differs.any():
            where = _first_of(differs if tie else flipped)
            here, there = (float(of[where]) for of in (count, found[node]))
            each.append(Difference(node, None, at + where[0], where[1:], here, there, float(nearest[where]), tie))
    return earliest(each, list(expected))


def first_output(
    expected: Mapping[str, Array], found: Mapping[str, Array], tolerance: float, clear: Flags, at: int
) -> Difference | None:
    """The first output [T, B, ...] that is off by more than rounding. clear [B]: samples that no tie can explain."""
    each = []
    for node, y in expected.items():
        scale = np.maximum(np.float32(1), np.abs(y).max(initial=0))
        off = ~(np.abs(y - found[node]) <= np.float32(tolerance) * scale)  # true for NaN
        mine = off & clear.reshape(1, -1, *[1] * (y.ndim - 2))
        tie = not mine.any()
        if off.any():
            where = _first_of(off if tie else mine)
            here, there = (float(of[where]) for of in (y, found[node]))
            each.append(Difference(node, where[0], at + where[1], where[2:], here, there, tie=tie))
    return earliest(each, list(expected))


def _first_of(flags: Flags) -> tuple[int, ...]:
    """Where the first True is."""
    return tuple(int(i) for i in np.unravel_index(int(flags.argmax()), flags.shape))
