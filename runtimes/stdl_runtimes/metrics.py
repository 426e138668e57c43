"""Numbers that sum up a run: predictions, accuracy, agreement, spike counts and firing rates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from stdl_export.graph import Decoding
from stdl_runtimes.base import Array, Spikes

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
