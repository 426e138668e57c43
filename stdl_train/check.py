"""`stdl-train --check`: what a recipe's data looks like and what the network is given of it, before any training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Table

from stdl_export.common.errors import Unavailable
from stdl_export.common.files import atomic_file
from stdl_models.network import InputSpec, over_time
from stdl_train.data.samples import Samples
from stdl_train.loading import Data

ROWS, COLUMNS = 8, 16
"""Samples and time steps in the picture, at most."""
CELL, GAP = 48, 4  # pixels
BALANCE_WARNING = 3.0  # the commonest class against the rarest


def check(
    samples: tuple[Samples, Samples], source: InputSpec, T: int, batch: int, picture: Path, console: Console
) -> None:
    """Print shapes, class balance and the encoding's firing rate; write a picture of a few samples over time.

    samples: training and test split. batch: samples that are encoded, from all over the training split.
    """
    train, test = samples
    step = max(1, len(train.labels) // batch)
    chosen = torch.arange(len(train.labels))[::step][:batch]
    data = Data.of(train, torch.device("cpu"), source, T)
    images, _ = data.take(chosen)
    given = over_time(data.encoded(images, chosen), T, source.shape)
    encoded = over_time(images if data.encoding is None else data.encoding(images, chosen), T, source.shape).numpy()
    console.print(_described(train, test, source, given), highlight=False, soft_wrap=True)
    console.print(_balance(train, test))
    rates = (encoded != 0).mean((1, 2, 3, 4))
    console.print(
        f"values that are not 0: {rates.mean():.2%}; by time step {' '.join(f'{rate:.1%}' for rate in rates)}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    if rates.max() == 0:
        console.print("warning: the network is given zeros only: check data.encoding and data.options")
    write_picture(encoded[:COLUMNS, :ROWS], picture)
    shown = ", ".join(train.classes[label] for label in train.labels[chosen.numpy()][:ROWS])
    console.print(f"picture: {picture} (a row is a sample, a column a time step; {shown})", soft_wrap=True)


def write_picture(x: npt.NDArray[np.float32], path: Path) -> None:
    """Samples [T, B, C, H, W] as a PNG, time from left to right, each sample in the range of its own values.

    One channel: grey. Two, as of event cameras: the first blue, the second red. Three: colours. More: their mean.
    """
    try:
        from PIL import Image
    except ImportError:
        raise Unavailable("--check draws a picture with pillow: pip install 'stdl-toolchain[train]'") from None
    pixels = _coloured(x)  # [T, B, H, W, 3]
    top = np.maximum(pixels.max((0, 2, 3, 4), keepdims=True), 1e-6)
    levels = (np.clip(pixels / top, 0, 1) * 255).astype(np.uint8)
    factor = max(1, CELL // max(levels.shape[2:4]))
    levels = levels.repeat(factor, 2).repeat(factor, 3)
    levels = np.pad(levels, ((0, 0), (0, 0), (0, GAP), (0, GAP), (0, 0)), constant_values=96)
    steps, count, height, width, _ = levels.shape
    sheet = levels.transpose(1, 2, 0, 3, 4).reshape(count * height, steps * width, 3)
    with atomic_file(path) as part:
        Image.fromarray(np.ascontiguousarray(sheet)).save(part, format="PNG")


def _coloured(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """[T, B, C, H, W] -> [T, B, H, W, 3]."""
    channels = np.moveaxis(x, 2, -1)
    if channels.shape[-1] == 2:
        return np.stack([channels[..., 1], np.zeros_like(channels[..., 0]), channels[..., 0]], -1)
    if channels.shape[-1] != 3:
        channels = channels.mean(-1, keepdims=True)
    return np.broadcast_to(channels, (*channels.shape[:-1], 3))


def _described(train: Samples, test: Samples, source: InputSpec, given: torch.Tensor) -> str:
    """Shapes of what is stored and of what the network is given, in words."""
    kind = f"recordings of {train.steps} frames" if train.timed else "still pictures"
    options: Any = " ".join(f"{key}={value}" for key, value in source.encoding_options.items())
    shape = (given.shape[0], "B", *source.shape)
    return (
        f"data {train.name}: {len(train.labels)} training and {len(test.labels)} test samples, {kind}, "
        f"{'x'.join(map(str, train.shape))} {train.images.dtype}\n"
        f"network input: [{', '.join(map(str, shape))}], encoding {source.encoding} {options}".rstrip()
        + f"; values {given.min():.3g} to {given.max():.3g}, mean {given.mean():.3g}, std {given.std():.3g}"
    )


def _balance(train: Samples, test: Samples) -> Table:
    """Samples of each class in both splits."""
    counts = [np.bincount(split.labels, minlength=len(train.classes)) for split in (train, test)]
    commonest, rarest = counts[0].max(), counts[0].min()
    uneven = commonest > BALANCE_WARNING * max(1, rarest)
    title = f"{len(train.classes)} classes, {rarest} to {commonest} training samples each"
    table = Table("class", "training", "test", title=title + (": uneven" if uneven else ""))
    for name, *numbers in zip(train.classes, *counts, strict=True):
        table.add_row(name, *map(str, numbers))
    return table
