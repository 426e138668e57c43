"""idx files, as MNIST and Fashion-MNIST are distributed, packed by gzip or not.

Two zero bytes, the type of the values (0x08: bytes), the number of axes, a big-endian int32 for each axis, then the
values, the last axis fastest (LeCun, "The MNIST database of handwritten digits").
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stdl_export.common.errors import BadInput
from stdl_train.data.images.pixels import Stored
from stdl_train.data.images.source import Pictures
from stdl_train.data.samples import Split

BYTES = 0x08
PREFIX = {"train": "train", "test": "t10k"}
PLACES = ("", "raw", "MNIST/raw", "FashionMNIST/raw")
"""Where the files lie below the folder: themselves, or as torchvision puts them."""
LARGEST = 2**30


def find_idx(root: Path, split: Split) -> tuple[Path, Path] | None:
    """The files of images and labels, or None where one of them is not there."""
    found = [next(_candidates(root, f"{PREFIX[split]}-{what}", axes), None) for what, axes in KINDS]
    images, labels = found
    return None if images is None or labels is None else (images, labels)


KINDS = (("images", 3), ("labels", 1))


def _candidates(root: Path, stem: str, axes: int) -> Iterator[Path]:
    for place in PLACES:
        for name in (f"{stem}-idx{axes}-ubyte", f"{stem}.idx{axes}-ubyte"):
            for suffix in ("", ".gz"):
                if (path := root / place / (name + suffix)).is_file():
                    yield path


def idx_pictures(name: str, files: tuple[Path, Path], classes: tuple[str, ...]) -> Pictures:
    """All of them, in memory as bytes."""
    images, labels = (read_idx(path, axes) for path, (_, axes) in zip(files, KINDS, strict=True))
    if len(images) != len(labels):
        raise BadInput(
            f"data set '{name}': '{files[0]}' holds {len(images)} pictures, '{files[1]}' {len(labels)} labels"
        )
    stats = [path.stat() for path in files]
    return Pictures(
        name=name,
        labels=labels.astype(np.int64),
        classes=classes,
        read=_Rows(images),
        title=_title,
        stamp=[[path.as_posix(), stat.st_size, stat.st_mtime_ns] for path, stat in zip(files, stats, strict=True)],
    )


class _Rows:
    def __init__(self, images: npt.NDArray[np.uint8]) -> None:
        self._images = images

    def __call__(self, index: int) -> Stored:
        row: npt.NDArray[np.uint8] = self._images[index]
        return row


def _title(index: int) -> str:
    return f"image {index}"


def read_idx(path: Path, axes: int) -> npt.NDArray[np.uint8]:
    """Bytes with so many axes; BadInput where the file is no such file, or is cut off, or holds more than it says."""
    opener = gzip.open if path.suffix == ".gz" else open
    head = 4 + 4 * axes
    try:
        with opener(path, "rb") as file:
            start = file.read(head)
            if len(start) < head or start[:4] != bytes((0, 0, BYTES, axes)):
                raise BadInput(f"'{path}' is no idx file of bytes with {axes} axes: download it again")
            shape = struct.unpack(f">{axes}I", start[4:])
            count = math.prod(shape)
            if not 0 < count <= LARGEST:
                raise BadInput(f"'{path}' says it holds {' x '.join(map(str, shape))} bytes: download it again")
            data = file.read(count + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"'{path}' cannot be read ({error}): download it again") from None
    if len(data) != count:
        found = f"only {len(data)}" if len(data) < count else "more"
        raise BadInput(f"'{path}' says it holds {count} bytes and holds {found}: download it again")
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)
