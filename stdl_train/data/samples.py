"""What a data set gives, and how its entry point is found."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from stdl_export.common.errors import BadInput
from stdl_export.common.names import nearest, unknown

Split = Literal["train", "test"]
GROUP = "stdl.datasets"
SAID = ("split", "path", "limit", "seed")
"""What every data set is told; all else that its function takes are its options."""


@runtime_checkable
class Source(Protocol):
    """Samples that are read when they are asked for: a memory-mapped cache, pictures that are decoded on demand.

    Also what a NumPy array is. Reading is safe in several worker processes, each with its own copy of the object.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """As of an array: [N, C, H, W] or [N, T, C, H, W]."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what is read: float32 or uint8."""

    def __len__(self) -> int:
        """N."""

    def __getitem__(self, indices: npt.NDArray[np.intp], /) -> npt.NDArray[Any]:
        """The samples [n, ...] at these indices, in their order; BadInput names one that is damaged."""


@runtime_checkable
class EpochSource(Source, Protocol):
    """A source that draws something anew in each epoch of training."""

    def for_epoch(self, epoch: int) -> Source:
        """The same samples with the draws of an epoch, counted from 1."""


@dataclass(frozen=True)
class Samples:
    """Labelled samples of one split.

    images: still pictures [N, C, H, W], float32 in [0, 1] or uint8 in 255ths; or, where `timed`, recordings as frames
    [N, T, C, H, W], event counts as uint8 or float32. mean, std: per channel; network input is (x - mean) / std, where
    x is what comes out of the encoder; the same for both splits.
    """

    name: str
    images: npt.NDArray[Any] | Source
    labels: npt.NDArray[np.int64]  # [N]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    timed: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample in one time step, (C, H, W)."""
        return tuple(int(n) for n in self.images.shape[2 if self.timed else 1 :])

    @property
    def steps(self) -> int | None:
        """Time steps of a recording, None for still pictures."""
        return int(self.images.shape[1]) if self.timed else None

    def take(self, indices: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
        """Samples [n, ...] at these indices in float32: pictures in [0, 1], recordings as they were counted."""
        chosen = np.asarray(self.images[indices])
        values = np.asarray(chosen, dtype=np.float32)
        return values / np.float32(255) if chosen.dtype == np.uint8 and not self.timed else values


class Dataset(Protocol):
    """The function behind an entry point."""

    def __call__(
        self, split: Split, path: str | None = None, limit: int | None = None, seed: int = 0, **options: Any
    ) -> Samples:
        """The split's samples.

        path: folder or hub name, where the set has one; limit: so many, drawn with `seed`; options: its own, each a
        named argument of the function.
        """


def load(
    name: str, split: Split, path: str | None = None, limit: int | None = None, seed: int = 0,
    options: Mapping[str, Any] | None = None,
) -> Samples:  # fmt: skip
    """Read a registered data set; BadInput for an unknown name or option, a missing folder, samples of wrong form."""
    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in found:
        raise unknown("data set", name, found)
    dataset: Dataset = found[name].load()
    check_options(dataset, options or {}, f"data set '{name}'", SAID)
    samples = dataset(split, path=path, limit=limit, seed=seed, **(options or {}))
    if not len(samples.labels):
        raise BadInput(f"data set '{name}': its {split} split is empty")
    if problem := _problem(samples):
        raise BadInput(f"data set '{name}': its {split} split {problem}")
    return samples


def check_options(function: Callable[..., object], options: Mapping[str, Any], what: str, said: Sequence[str]) -> None:
    """BadInput for an option that the function does not name; `said`: arguments that are not options.

    A function with `**options` checks all others itself.
    """
    parameters = inspect.signature(function).parameters.values()
    known = [parameter.name for parameter in parameters if parameter.name not in said]
    checks_itself = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    for key in options:
        if key in said or not (checks_itself or key in known):
            guess = nearest(key, known)
            hint = f"did you mean '{guess}'?" if guess else f"it takes {', '.join(known) or 'none'}"
            raise BadInput(f"{what} has no option '{key}': {hint}")


def _problem(samples: Samples) -> str | None:
    """What is wrong with the form of the samples; their values are looked at when they are read."""
    shape, dtype, channels = samples.images.shape, samples.images.dtype, samples.shape[:1]
    if len(shape) != (5 if samples.timed else 4) or dtype not in (np.float32, np.uint8):
        wanted = "[N, T, C, H, W]" if samples.timed else "[N, C, H, W]"
        return f"has samples {shape} of {dtype}, not {wanted} of float32 or uint8"
    if samples.labels.shape != shape[:1] or samples.labels.dtype != np.int64:
        return f"has labels {samples.labels.shape} of {samples.labels.dtype} for {shape[0]} samples, not one int64 each"
    if samples.labels.min() < 0 or samples.labels.max() >= len(samples.classes):
        return f"has labels from {samples.labels.min()} to {samples.labels.max()} for {len(samples.classes)} classes"
    if not (len(samples.mean),) == (len(samples.std),) == channels:
        return f"has a mean and std of {len(samples.mean)} and {len(samples.std)} channels for {channels[0]}"
    return None


def draw(count: int, limit: int | None, seed: int) -> npt.NDArray[np.intp]:
    """Indices of `limit` samples out of `count` in ascending order, the same for the same seed; None: all."""
    if limit is None or limit >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).permutation(count)[:limit])


def divide(labels: npt.NDArray[np.int64], split: Split, share: float, seed: int) -> npt.NDArray[np.intp]:
    """Indices of the split: of each class a share, rounded, is drawn for testing."""
    test = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        drawn = np.random.default_rng([seed, int(label)]).permutation(members)
        test[drawn[: round(share * len(members))]] = True
    return np.flatnonzero(test == (split == "test"))
