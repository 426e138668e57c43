"""Labelled samples for validation: a registered data set (entry points `stdl.datasets`) or an .npz file. No torch.

They become what the network takes as in training: encoded over time by the encoder that the manifest names (entry
points `stdl.encoders`), with its options and seed, then normalised.
"""

from __future__ import annotations

import importlib.metadata
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stdl_export.arrays import read_arrays
from stdl_export.common.errors import BadInput, Unavailable
from stdl_export.common.names import unknown
from stdl_export.manifest import Manifest
from stdl_runtimes.base import Array
from stdl_runtimes.metrics import Integers

DATASETS, ENCODERS = "stdl.datasets", "stdl.encoders"
DIRECT, FRAMES = "direct", "frames"


@dataclass(frozen=True)
class Samples:
    """Labelled samples [B], read and encoded a few at a time: a data set need not fit into memory.

    images: gives those at some indices, [n, ...]: an array, or what a data set reads when it is asked.
    """

    name: str
    labels: Integers
    images: Any
    manifest: Manifest
    timesteps: int

    def input(self, indices: npt.NDArray[np.intp]) -> Array:
        """What the network takes at these indices, [n, ...] or [T, n, ...] as the manifest says."""
        images = np.asarray(self.images[indices])
        if not np.isfinite(images).all():
            raise BadInput(f"data '{self.name}': images must be finite numbers, found values that are not")
        values = np.asarray(images, dtype=np.float32)
        if images.dtype == np.uint8 and self.manifest.input.encoding != FRAMES:
            values /= np.float32(255)
        return normalised(_encoded(values, self.manifest, self.timesteps, indices), self.manifest)

    def parts(self, samples: int) -> Iterator[Array]:
        """The inputs of all of them, so many at once."""
        for start in range(0, len(self.labels), samples):
            yield self.input(np.arange(start, min(start + samples, len(self.labels))))


def load(source: str, manifest: Manifest, *, timesteps: int, path: str | None, limit: int | None) -> Samples:
    """The test samples of a data set, encoded and normalised as in training.

    source: the name of a registered data set, or an .npz file with `labels` [N] and `images`: pictures [N, ...] in
    [0, 1] (or uint8 in 255ths), or recordings [N, T, ...] where the network was trained on such. path: where a data
    set's files lie. BadInput where the samples do not fit the network, which has one Input and one Output that is its
    prediction; of single samples only when they are read.
    """
    recorded, classes = manifest.input.encoding == FRAMES, _classes(manifest)
    shape = (*((timesteps,) if recorded else ()), *manifest.input.shape)
    is_file = source.endswith(".npz")
    images, labels = _read(source, limit) if is_file else _registered(source, manifest, path, limit)
    if images.dtype.kind not in "fiub":
        raise BadInput(f"data '{source}': images must be finite numbers, found {images.dtype}")
    if _given(tuple(images.shape[1:]), manifest) != shape or not len(images):
        wanted = ", ".join(map(str, shape))
        raise BadInput(f"data '{source}' has samples {tuple(images.shape)}, the network takes [N, {wanted}]")
    whole = labels.dtype.kind in "iu" and labels.shape == (len(images),)
    if not whole or labels.min() < 0 or labels.max() >= classes:
        raise BadInput(f"data '{source}': labels must be one whole number below {classes} for each sample")
    samples = Samples(Path(source).name, labels, images, manifest, timesteps)
    samples.input(np.zeros(1, np.intp))  # an encoding that cannot be had is said before anything runs
    return samples


def _classes(manifest: Manifest) -> int:
    """How many classes the prediction has."""
    shapes = {tensor.node: tensor.shape for tensor in manifest.output.tensors}
    if manifest.output.prediction is None:
        raise BadInput(f"data has labels, but no Output is the prediction: name one of {', '.join(shapes)} at export")
    return int(np.prod(shapes[manifest.output.prediction]))


def _read(source: str, limit: int | None) -> tuple[Any, Any]:
    arrays = read_arrays(Path(source))
    if missing := {"images", "labels"} - set(arrays):
        raise BadInput(f"'{source}' has no array '{min(missing)}': it needs images [N, ...] in [0, 1] and labels [N]")
    if not arrays["images"].ndim or not arrays["labels"].ndim:
        raise BadInput(f"'{source}': images and labels are one number each: it needs images [N, ...] and labels [N]")
    return arrays["images"][:limit], arrays["labels"][:limit]


def _registered(name: str, manifest: Manifest, path: str | None, limit: int | None) -> tuple[Any, Any]:
    """The set's test split; with the options it was trained with, if it is the set that the network was trained on."""
    options = manifest.data.options if manifest.data is not None and manifest.data.name == name else {}
    function = _entry_point(DATASETS, name, "data set (or .npz file)")
    try:
        data = _call(function, f"data set '{name}'", "test", path=path, limit=limit, **options)
        if len(data.labels) and getattr(data, "timed", False) != (manifest.input.encoding == FRAMES):
            kind = "recordings" if data.timed else "still pictures"
            raise BadInput(f"data set '{name}' holds {kind}, which is not what the network was trained on")
        return data.images, data.labels
    except ImportError as error:
        raise Unavailable(f"data set '{name}' cannot be read here: {error}: install what it needs") from None


def _given(sample: tuple[int, ...], manifest: Manifest) -> tuple[int, ...] | None:
    """What the network is given of samples of a shape in a step: most encoders keep it. None: one cannot have it."""
    name = manifest.input.encoding
    if manifest.input.mode == "repeat" or name in (None, DIRECT, FRAMES):
        return sample
    shape = getattr(_entry_point(ENCODERS, name, "encoding"), "shape", None)
    try:
        return sample if shape is None else tuple(shape(sample, **manifest.input.encoding_options))
    except (TypeError, ValueError):
        return None


def _encoded(samples: Array, manifest: Manifest, timesteps: int, indices: npt.NDArray[np.intp]) -> Array:
    """Samples [n, ...] as the network takes them over time; a network with a repeated input repeats it by itself.

    indices: their numbers in the data set, on which what an encoder draws depends.
    """
    name = manifest.input.encoding
    if manifest.input.mode == "repeat":
        return samples
    if name is None:
        raise BadInput("the network takes sequences, and its bundle does not say how to make them of single images")
    if name == DIRECT:
        return np.broadcast_to(samples, (timesteps, *samples.shape))
    if name == FRAMES:
        return np.ascontiguousarray(np.moveaxis(samples, 1, 0))
    encoder, seed = _entry_point(ENCODERS, name, "encoding"), (manifest.input.encoding_seed,)
    x = _call(encoder, f"encoding '{name}'", samples, timesteps, indices, seed, **manifest.input.encoding_options)
    return np.asarray(x, dtype=np.float32)


def _entry_point(group: str, name: str, what: str) -> Callable[..., Any]:
    """A function that is registered under a name."""
    found = {entry.name: entry for entry in importlib.metadata.entry_points(group=group)}
    if name not in found:
        raise unknown(what, name, found)
    try:
        function: Callable[..., Any] = found[name].load()
    except ImportError as error:
        raise Unavailable(f"{what} '{name}' cannot be had here: {error}: install what it needs") from None
    return function


def _call(function: Callable[..., Any], what: str, *args: Any, **options: Any) -> Any:
    """Call it with options from a manifest, which may be of another version or anybody's."""
    try:
        inspect.signature(function).bind(*args, **options)
    except TypeError as error:
        raise BadInput(f"{what} does not take the options that the bundle says: {error}: export it again") from None
    return function(*args, **options)


def normalised(samples: Array, manifest: Manifest) -> Array:
    """(x - mean) / std per channel, in float32; samples [N, C, ...] or [T, N, C, ...]."""
    if manifest.data is None:
        return samples
    channels = samples.shape[-len(manifest.input.shape)]
    mean, std = (np.array(values, np.float32) for values in (manifest.data.mean, manifest.data.std))
    if not mean.size == std.size == channels:
        raise BadInput(f"the bundle normalises {mean.size} channels, its samples have {channels}")
    per_channel = (-1, *[1] * (len(manifest.input.shape) - 1))
    normalised: Array = (samples - mean.reshape(per_channel)) / std.reshape(per_channel)
    return normalised
