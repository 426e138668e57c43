"""Labelled samples for validation: a registered data set (entry points `stdl.datasets`) or an .npz file. No torch."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stdl_export.bundle import Manifest, read_arrays
from stdl_export.common.errors import BadInput, Unavailable
from stdl_export.common.names import unknown
from stdl_runtimes.base import Array
from stdl_runtimes.metrics import Integers

GROUP = "stdl.datasets"


@dataclass(frozen=True)
class Samples:
    """What the network takes, [B, ...] or [T, B, ...] as the manifest says, with labels [B]."""

    name: str
    input: Array
    labels: Integers


def load(source: str, manifest: Manifest, *, timesteps: int, path: str | None, limit: int | None) -> Samples:
    """The test samples of a data set, normalised as in training.

    source: the name of a registered data set, or an .npz file with `images` float32 [N, ...] in [0, 1] and `labels`
    [N]. path: where a data set's files lie. BadInput where the samples do not fit the network, which has one Input and
    one Output that is its prediction.
    """
    shape, classes = manifest.input.shape, _classes(manifest)
    images, labels = _read(source, limit) if source.endswith(".npz") else _registered(source, path, limit)
    if images.dtype.kind not in "fiub" or not np.isfinite(images).all():
        raise BadInput(f"data '{source}': images must be finite numbers, found {images.dtype} or values that are not")
    if images.shape[1:] != shape or not len(images):
        wanted = ", ".join(map(str, shape))
        raise BadInput(f"data '{source}' has samples {images.shape}, the network takes [N, {wanted}]")
    whole = labels.dtype.kind in "iu" and labels.shape == images.shape[:1]
    if not whole or labels.min() < 0 or labels.max() >= classes:
        raise BadInput(f"data '{source}': labels must be one whole number below {classes} for each sample")
    return Samples(Path(source).name, _as_input(_normalised(images, manifest), manifest, timesteps), labels)


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


def _registered(name: str, path: str | None, limit: int | None) -> tuple[Any, Any]:
    found = {entry.name: entry for entry in importlib.metadata.entry_points(group=GROUP)}
    if name not in found:
        raise unknown("data set (or .npz file)", name, found)
    try:
        data = found[name].load()("test", path, limit)
    except ImportError as error:
        raise Unavailable(f"data set '{name}' cannot be read here: {error}: install what it needs") from None
    return data.images, data.labels


def _normalised(images: Any, manifest: Manifest) -> Array:
    """(x - mean) / std per channel, in float32."""
    samples = np.asarray(images, dtype=np.float32)
    if manifest.data is None:
        return samples
    per_channel = (-1, *[1] * (samples.ndim - 2))
    mean, std = (np.array(values, np.float32) for values in (manifest.data.mean, manifest.data.std))
    if not mean.size == std.size == samples.shape[1]:
        raise BadInput(f"the bundle normalises {mean.size} channels, its samples have {samples.shape[1]}")
    normalised: Array = (samples - mean.reshape(per_channel)) / std.reshape(per_channel)
    return normalised


def _as_input(samples: Array, manifest: Manifest, timesteps: int) -> Array:
    """Direct encoding shows the same frame at every step; a network with a repeated input does so by itself."""
    if manifest.input.mode == "repeat":
        return samples
    if manifest.input.encoding != "direct":
        raise BadInput("the network takes sequences, and its bundle does not say how to make them of single images")
    return np.broadcast_to(samples, (timesteps, *samples.shape))
