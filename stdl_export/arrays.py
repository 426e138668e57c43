"""What goes into a network and comes out of it, by name where there are several, and .npz files of arrays."""

from __future__ import annotations

import lzma
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stdl_export.common.errors import BadInput, one_line
from stdl_export.graph import NodeName

MAX_ARRAY_BYTES = 8 << 30  # all arrays of an .npz file together, unpacked

Array = NDArray[np.float32]

Values = Array | Mapping[NodeName, Array]
"""What goes in or comes out: an array, or, of several Inputs or Outputs, one for each by its name."""


def mapped(values: Values, change: Callable[[Array], Array]) -> Values:
    """The values, each of them changed."""
    if isinstance(values, Mapping):
        return {name: change(array) for name, array in values.items()}
    return change(values)


def labelled(kind: str, values: Values) -> dict[str, Array]:
    """The values as `golden.npz` calls them: `input`, or of several `input:<node>`."""
    if isinstance(values, Mapping):
        return {f"{kind}:{name}": array for name, array in values.items()}
    return {kind: values}


def unlabelled(kind: str, arrays: Mapping[str, Array]) -> Values | None:
    """The inverse; None where there are none."""
    mark = f"{kind}:"
    several = {name.removeprefix(mark): array for name, array in arrays.items() if name.startswith(mark)}
    return several or arrays.get(kind)


# What zipfile, its decompressors and NumPy raise for a damaged file; RuntimeError is of zipfile: encrypted, or
# compressed in a way or a version that it does not know.
_DAMAGE = (
    OSError, EOFError, ValueError, KeyError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
)  # fmt: skip


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of an .npz file, without unpickling, and only if together they stay below a limit."""
    try:
        with zipfile.ZipFile(path) as file:
            size = sum(item.file_size for item in file.infolist())
        if size > MAX_ARRAY_BYTES:
            raise BadInput(f"'{path}' unpacks to {size} bytes, more than {MAX_ARRAY_BYTES}: it was refused")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except FileNotFoundError:
        raise BadInput(f"'{path}' does not exist: check the path") from None
    except _DAMAGE as error:
        raise BadInput(f"'{path}' is not a readable .npz file of plain arrays: {one_line(str(error)):.160}") from None
