"""What a data set gives, and how its entry point is found."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from stdl_export.common.errors import BadInput
from stdl_export.common.names import unknown

Split = Literal["train", "test"]
GROUP = "stdl.datasets"


@dataclass(frozen=True)
class Samples:
    """Images in [0, 1] with labels. Network input is (images - mean) / std per channel, the same for both splits."""

    name: str
    images: npt.NDArray[np.float32]  # [N, C, H, W]
    labels: npt.NDArray[np.int64]  # [N]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Dataset(Protocol):
    """The function behind an entry point."""

    def __call__(self, split: Split, path: str | None = None, limit: int | None = None, seed: int = 0) -> Samples:
        """The split's samples; path: folder or hub name, where the set has one; limit: so many, drawn with `seed`."""


def load(name: str, split: Split, path: str | None = None, limit: int | None = None, seed: int = 0) -> Samples:
    """Read a registered data set; BadInput for an unknown name, a missing folder or images that cannot be read."""
    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in found:
        raise unknown("data set", name, found)
    dataset: Dataset = found[name].load()
    samples = dataset(split, path=path, limit=limit, seed=seed)
    if not len(samples.labels):
        raise BadInput(f"data set '{name}': its {split} split is empty")
    return samples


def draw(count: int, limit: int | None, seed: int) -> npt.NDArray[np.intp]:
    """Indices of `limit` samples out of `count` in ascending order, the same for the same seed; None: all."""
    if limit is None or limit >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).permutation(count)[:limit])
