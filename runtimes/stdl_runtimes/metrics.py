"""Numbers that sum up a run: predictions, accuracy, agreement, spike counts and firing rates."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from stdl_export.graph import Decoding
from stdl_runtimes.base import Array, Spikes
from stdl_runtimes.results import Change, Proportion

Z95 = 1.959963984540054  # two-sided 95 % of the normal distribution

Integers = npt.NDArray[np.integer[Any]]


def decode(output: Array, decoding: Decoding) -> Array:
    """Outputs [T, B, ...] as one score per class, [B, n].

    "mean", "sum" and "last" are taken over time. "none" says that nobody decodes; to compare runtimes the sum does,
    which for spikes is their count.
    """
    flat = output.reshape(*output.shape[:2], -1)
    return _DECODERS[decoding](flat)


def predictions(output: Array, decoding: Decoding) -> Integers:
    """The class [B] with the highest score; among equals the first."""
    best: Integers = decode(output, decoding).argmax(axis=1)
    return best


def share(equal: npt.NDArray[np.bool_]) -> float:
    """The share of True."""
    return float(np.mean(equal))


def proportion(hits: npt.NDArray[np.bool_]) -> Proportion:
    """The share of True of samples [B], with Wilson's 95 % score interval (1927), which holds near 0 and 1 too."""
    n, p, z2 = int(hits.size), share(hits), Z95**2
    centre, spread = p + z2 / (2 * n), Z95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n**2))
    low, high = ((centre + sign * spread) / (1 + z2 / n) for sign in (-1, 1))
    return Proportion(p, min(max(low, 0.0), p), max(min(high, 1.0), p), n)


def change(before: npt.NDArray[np.bool_], after: npt.NDArray[np.bool_]) -> Change:
    """The share of True in `after` less that in `before`, of the same samples [B], with its 95 % interval.

    Agresti and Min (2005), "Simple improved confidence intervals for comparing matched proportions": Wald's interval of
    paired samples after half a sample was added to each of the four cells, which keeps its promise for few samples.
    """
    n, lost, won = int(before.size), int((before & ~after).sum()), int((after & ~before).sum())
    more, b, c = n + 2, lost + 0.5, won + 0.5
    centre = (c - b) / more
    spread = Z95 * math.sqrt(b + c - (c - b) ** 2 / more) / more
    return Change((won - lost) / n, max(centre - spread, -1.0), min(centre + spread, 1.0), n)


def spike_count(spikes: Spikes) -> Integers:
    """Spikes [T, B, ...] summed over time, [B, ...]."""
    count: Integers = spikes.sum(axis=0, dtype=np.int32)
    return count


_DECODERS: Mapping[Decoding, Callable[[Array], Array]] = {
    "mean": lambda output: output.mean(axis=0),
    "sum": lambda output: output.sum(axis=0),
    "last": lambda output: output[-1],
    "none": lambda output: output.sum(axis=0),
}
