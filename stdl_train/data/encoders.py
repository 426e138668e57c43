"""From still pictures to input over time, in NumPy: encoders, registered as entry points of the group `stdl.encoders`.

    direct      the picture in every step
    poisson     a spike with the probability of the pixel's value, drawn anew in each step (rate coding)
    latency     one spike a pixel, the brighter the earlier (time to first spike)
    rows        row t of the picture in step t, as counts of spikes; and a clock that says which row it is

An encoder is a function `(images, T, indices, seed, **options) -> x`, where x is [T, n, ...] with pictures' own shape;
one that makes another shape of them has an attribute `shape` that says which (`shape_of`). What one draws at random
depends on the seed and on the sample's own index alone, so training, evaluation, golden samples and validation can be
repeated exactly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from stdl_export.common.errors import BadInput
from stdl_export.common.names import unknown

GROUP = "stdl.encoders"
SAID = ("images", "T", "indices", "seed")
"""What every encoder is told; all else that its function takes are its options."""

Array = npt.NDArray[np.float32]


class Encoder(Protocol):
    """The function behind an entry point."""

    def __call__(
        self, images: Array, T: int, indices: npt.NDArray[np.intp], seed: Sequence[int], **options: Any
    ) -> Array:
        """Pictures [n, ...] in [0, 1] -> x [T, n, ...], float32.

        indices: each picture's place in its data set, [n]; seed: whole numbers from 0 on.
        """


def direct(images: Array, T: int, indices: npt.NDArray[np.intp], seed: Sequence[int]) -> Array:
    """The picture itself in every step; a view."""
    return np.broadcast_to(images, (T, *images.shape))


def poisson(images: Array, T: int, indices: npt.NDArray[np.intp], seed: Sequence[int], gain: float = 1.0) -> Array:
    """1 with probability min(1, gain * pixel), else 0; every pixel and step on its own.

    A Bernoulli draw a step is what is called Poisson rate coding; spike counts are binomial.
    """
    _require("poisson", "gain", gain, 0.0, math.inf)
    x = np.empty((len(images), T, *images.shape[1:]), np.float32)
    for drawn, picture, index in zip(x, images, indices, strict=True):
        uniform = np.random.default_rng((*seed, int(index))).random(drawn.shape, dtype=np.float32)
        drawn[:] = uniform < np.float32(gain) * picture
    return np.ascontiguousarray(np.moveaxis(x, 1, 0))


def latency(
    images: Array, T: int, indices: npt.NDArray[np.intp], seed: Sequence[int], threshold: float = 0.05
) -> Array:
    """One spike a pixel at step round((1 - pixel) (T - 1)), none where the pixel is not above `threshold`."""
    _require("latency", "threshold", threshold, 0.0, 1.0)
    when = np.rint((1 - images) * np.float32(T - 1))
    when[images <= np.float32(threshold)] = T  # never
    steps = np.arange(T).reshape(-1, *(1,) * images.ndim)
    x: Array = (when == steps).astype(np.float32)
    return x


class Rows:
    """Row t of a picture in step t, [C, H, W] -> [1, 1, C*W (+ H)]: for chips with few inputs and a memory.

    An input gives round(levels * pixel) spikes in its step. clock: H more inputs, of which number t gives one spike in
    step t; a network without biases learns from it which row it sees. After the last row nothing comes any more.
    """

    def __call__(
        self, images: Array, T: int, indices: npt.NDArray[np.intp], seed: Sequence[int], levels: int = 15,
        clock: bool = True,
    ) -> Array:  # fmt: skip
        """See the class and Encoder."""
        _require("rows", "levels", levels, 0, 256)
        if int(levels) != levels:
            raise BadInput(f"encoding 'rows': levels = {levels!r:.40} must be a whole number")
        n, channels, height, width = images.shape
        if height > T:
            raise BadInput(
                f"encoding 'rows': {T} time steps do not show {height} rows: set model.T to {height} or more"
            )
        x = np.zeros((T, n, 1, 1, channels * width + height * bool(clock)), np.float32)
        rows = np.rint(images * np.float32(levels)).transpose(2, 0, 1, 3)  # [H, n, C, W]
        x[:height, :, 0, 0, : channels * width] = rows.reshape(height, n, channels * width)
        if clock:
            x[np.arange(height), :, 0, 0, channels * width + np.arange(height)] = 1
        return x

    def shape(self, sample: tuple[int, ...], levels: int = 15, clock: bool = True) -> tuple[int, ...]:
        """Of what comes out in one step, for pictures of this shape."""
        channels, height, width = sample
        return 1, 1, channels * width + height * bool(clock)


rows = Rows()


def shape_of(encoder: Encoder, sample: tuple[int, ...], options: Mapping[str, Any]) -> tuple[int, ...]:
    """What an encoder makes of pictures of a shape in one step, without T and n."""
    shape = getattr(encoder, "shape", None)
    return sample if shape is None else tuple(shape(sample, **options))


OURS: Mapping[str, Any] = {"direct": direct, "poisson": poisson, "latency": latency, "rows": rows}
"""Registered in pyproject.toml as well; here so that an installation that is older than one of them finds it."""


def find(name: str) -> Encoder:
    """A registered encoder; BadInput names the nearest where there is none of this name."""
    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in found and name not in OURS:
        raise unknown("encoding", name, {*found, *OURS, "frames"})
    encoder: Encoder = found[name].load() if name in found else OURS[name]
    return encoder


def _require(encoder: str, option: str, value: object, low: float, high: float) -> None:
    """Refuse what is not a number from low (not itself) to high."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not low < value < high:  # type: ignore[operator]
        limit = f"above {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
        raise BadInput(f"encoding '{encoder}': {option} = {value!r:.40} must be a number {limit}")
