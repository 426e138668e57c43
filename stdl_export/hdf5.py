"""HDF5 files as untrusted input: nested dictionaries of numbers and text, every object checked before it is read.

Links, virtual data sets and external storage reach into other files, declared shapes cost no bytes in the file, and a
damaged heap sends the HDF5 library into an endless loop: all of that is refused here.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from stdl_export.common.errors import BadInput, one_line

MAX_BYTES = 2 << 30  # all arrays of a file together, by their declared shapes
MAX_TEXT = 16 << 20  # all strings of a file together
MAX_OBJECTS = 200_000
MAX_DEPTH = 32

SIGNATURE = b"\x89HDF\r\n\x1a\n"
HEAP = b"GCOL\x01\0\0\0"  # a global heap collection, where HDF5 keeps strings: signature, version, zeros
HEAP_HEADER = struct.Struct("<8sQ")  # the above, size of the collection
HEAP_OBJECT = struct.Struct("<HHIQ")  # index, references, zeros, size


def read(path: Path, group: str, what: str = "NIR graph", suffix: str = ".nir") -> dict[str, Any]:
    """Everything in one top-level group; `BadInput` on one line for anything that is not plain data within limits.

    what, suffix: of the files that have such a group, for messages.
    """
    if not path.is_file():
        raise BadInput(f"'{path}' does not exist or is no file: check the path")
    _check_heaps(path, suffix)
    try:
        with h5py.File(path, "r") as file:
            top = file[group] if isinstance(file.get(group, getlink=True), h5py.HardLink) else None
            if not isinstance(top, h5py.Group):
                raise BadInput(f"'{path}' is an HDF5 file, but not a {what}: it has no group '{group}'")
            return _Reader(path).group(top, group, 0)
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, OverflowError) as error:  # damaged: any of these
        raise BadInput(f"'{path}' is not a readable HDF5 file: {one_line(str(error)):.160}") from None


def _check_heaps(path: Path, suffix: str) -> None:
    """Walk the heaps of strings as the HDF5 library will: each object must lead on, and stay inside its heap."""
    foreign = BadInput(f"'{path}' is not an HDF5 file, as every {suffix} file is: check the path, or write it again")
    damaged = BadInput(f"'{path}' is not a readable HDF5 file: its heap of strings is damaged; write it again")
    if path.stat().st_size < len(SIGNATURE):
        raise foreign
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content[: len(SIGNATURE)] != SIGNATURE:
            raise foreign
        steps = len(content) // 8 + 1  # for all heaps together: those of a sound file do not overlap
        start = content.find(HEAP)
        while start >= 0:
            steps = _walk_heap(content, start, steps)
            if steps < 0:
                raise damaged
            start = content.find(HEAP, start + 1)


def _walk_heap(content: mmap.mmap, start: int, steps: int) -> int:
    """How many of the steps are left at the end of a heap; -1 where it is damaged or there are too few."""
    if start + HEAP_HEADER.size > len(content):
        return -1
    end = start + HEAP_HEADER.unpack_from(content, start)[1]
    if end > len(content):
        return -1
    at = start + HEAP_HEADER.size
    while at + HEAP_OBJECT.size <= end:
        index, _, _, size = HEAP_OBJECT.unpack_from(content, at)
        step = HEAP_OBJECT.size + -(-size // 8) * 8 if index else size  # index 0: free space, its header included
        steps -= 1
        if not 0 < step <= end - at or steps < 0:
            return -1
        at += step
    return steps


class _Reader:
    """One walk over a file that counts what it has read, so that sums are limited too."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.objects = self.bytes = self.text = 0

    def refuse(self, where: str, reason: str) -> BadInput:
        return BadInput(f"'{self.path}': '{where}' {reason}: it was refused")

    def group(self, group: h5py.Group, where: str, depth: int) -> dict[str, Any]:
        """Everything below a group, as nested dictionaries."""
        if depth > MAX_DEPTH:  # a group that is linked into itself ends here, too
            raise self.refuse(where, f"is nested deeper than {MAX_DEPTH} groups")
        found: dict[str, Any] = {}
        for name in group:
            path = f"{where}/{name}"
            self.objects += 1
            if self.objects > MAX_OBJECTS:
                raise self.refuse(path, f"is one of more than {MAX_OBJECTS} objects")
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise self.refuse(path, "is a link")
            item = group[name]
            if isinstance(item, h5py.Group):
                found[name] = self.group(item, path, depth + 1)
            elif isinstance(item, h5py.Dataset):
                found[name] = self.dataset(item, path)
            else:
                raise self.refuse(path, "is neither a group nor a data set")
        return found

    def dataset(self, item: h5py.Dataset, where: str) -> Any:
        """The value of a data set: str or nested lists of str, NumPy scalar or array."""
        if item.external or item.is_virtual:
            raise self.refuse(where, "keeps its data in another file")
        if item.shape is None:
            raise self.refuse(where, "is empty")
        if h5py.check_string_dtype(item.dtype) is not None:
            return self.strings(item, where)
        if item.dtype.kind not in "biuf":
            raise self.refuse(where, f"has type {item.dtype}")
        # A chunk is unpacked whole, so its size counts as well.
        self.bytes += max(_size(item.shape), _size(item.chunks or ())) * item.dtype.itemsize
        if self.bytes > MAX_BYTES:
            raise self.refuse(where, f"brings the declared size above {MAX_BYTES >> 30} GiB")
        return item[()]

    def strings(self, item: h5py.Dataset, where: str) -> Any:
        """Text. Strings of one length count as declared, before they are read; others come one at a time, since many
        references to one long string are cheap in a file, but not in memory.
        """
        count = max(_size(item.shape), _size(item.chunks or ()))
        if count > MAX_OBJECTS:
            raise self.refuse(where, f"holds more than {MAX_OBJECTS} strings")
        fixed = item.dtype.kind == "S"
        if fixed:
            self.count_text(count * item.dtype.itemsize, where)
        source = np.asarray(item[()]) if fixed else item
        found = np.empty(item.shape, dtype=object)
        for index in np.ndindex(item.shape):
            found[index] = bytes(source[index]).decode("utf-8")
            if not fixed:
                self.count_text(len(found[index]), where)
        return found.tolist()

    def count_text(self, length: int, where: str) -> None:
        self.text += length
        if self.text > MAX_TEXT:
            raise self.refuse(where, f"brings all text above {MAX_TEXT >> 20} MiB")


def _size(shape: tuple[int, ...]) -> int:
    count = 1
    for length in shape:
        count *= int(length)
    return count
