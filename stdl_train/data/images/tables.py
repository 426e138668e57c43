"""Pictures in Parquet files, local or on the hub, through the `datasets` library."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stdl_export.common.errors import BadInput, Unavailable, one_line
from stdl_train.data.images.pixels import BadPicture, Stored
from stdl_train.data.images.source import Pictures

BUFFER = 1000
"""Samples among which a stream is shuffled; its files are shuffled as well."""


class Table:
    """One split as the `datasets` library gives it. `columns`: possible names of pictures and of labels."""

    def __init__(self, name: str, where: str, table: Any, columns: tuple[Sequence[str], Sequence[str]]) -> None:
        self.name, self.where, self._table = name, where, table
        self._image, self._label = (self._column(names) for names in columns)
        kind = getattr(table.features[self._label], "dtype", "")
        if not str(kind).startswith(("int", "uint")):
            raise BadInput(f"data set '{name}' in '{where}': column '{self._label}' holds {kind}, not whole numbers")

    def _column(self, names: Sequence[str]) -> str:
        found = self._table.column_names or []
        for name in names:
            if name in found:
                return name
        raise BadInput(f"data set '{self.name}' in '{self.where}': no column {' or '.join(names)}, found {found}")

    def _undecoded(self) -> Any:
        """Image column as encoded bytes, and nothing but the two columns: decoding is ours, with its errors."""
        import datasets

        kept = self._table.select_columns([self._image, self._label])
        return kept.cast_column(self._image, datasets.Image(decode=False))

    def classes(self, known: tuple[str, ...] | int) -> tuple[str, ...]:
        """Names in the order of labels: the set's own, or those in the file, or numbers."""
        if not isinstance(known, int):
            return known
        names = getattr(self._table.features[self._label], "names", None) or [str(label) for label in range(known)]
        if len(names) != known:
            raise BadInput(
                f"data set '{self.name}' in '{self.where}': it names {len(names)} classes, the set has {known}"
            )
        return tuple(names)

    def pictures(self, known: tuple[str, ...] | int, stamp: Sequence[Any] | None) -> Pictures:
        """All of them, read when asked for."""
        table = self._undecoded()
        labels = self._labels(table.select_columns([self._label])[self._label] if len(table) else [])
        read = partial(_row, table, self._image)
        return Pictures(self.name, labels, self.classes(known), read, _title, stamp)

    def streamed(self, known: tuple[str, ...] | int, limit: int, seed: int) -> Pictures:
        """The first `limit` of a shuffled stream, kept in memory as they are encoded."""
        stream = self._undecoded().shuffle(seed=seed, buffer_size=min(BUFFER, 10 * limit))
        rows = _guarded(self.name, self.where, lambda: list(islice(stream, limit)))
        stored = [row[self._image] for row in rows]
        labels = self._labels([row[self._label] for row in rows])
        return Pictures(self.name, labels, self.classes(known), partial(_kept, stored), _title)

    def _labels(self, values: Any) -> npt.NDArray[np.int64]:
        try:
            return np.asarray(values, dtype=np.int64)
        except (TypeError, ValueError, OverflowError):
            raise BadInput(
                f"data set '{self.name}' in '{self.where}': column '{self._label}' has entries without a label"
            ) from None


def _row(table: Any, column: str, index: int) -> Stored:
    return _stored(table[index][column])


def _kept(stored: list[Any], index: int) -> Stored:
    return _stored(stored[index])


def _stored(value: Any) -> Stored:
    """What the library gives for an undecoded picture: its bytes. A path in a table would lead out of it."""
    data = value.get("bytes") if isinstance(value, dict) else None
    if not isinstance(data, bytes):
        raise BadPicture("has no bytes in its table: store pictures in the Parquet file, not their paths")
    return data


def _title(index: int) -> str:
    return f"image {index}"


def parquet_files(root: Path, config: str | None, names: Sequence[str]) -> list[Path]:
    """`train-*.parquet` or the like, in the folder itself or where the hub's copies have them."""
    for place in (root, root / "data", *((root / config,) if config else ())):
        for name in names:
            if files := sorted(place.glob(f"{name}-*.parquet")):
                return files
    return []


def open_files(name: str, files: list[Path], streaming: bool) -> Any:
    """Local Parquet files as a table of the library."""
    paths = [str(file) for file in files]
    where = str(files[0].parent)
    return _guarded(
        name,
        where,
        lambda: _library(name).load_dataset("parquet", data_files={"train": paths}, split="train", streaming=streaming),
    )


def open_hub(name: str, where: str, config: str | None, split: str, streaming: bool) -> Any:
    """A set of the hub; downloaded and kept by the library unless it is streamed."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", where) or where.startswith("."):
        raise BadInput(f"data set '{name}': folder '{where}' does not exist: check data.path")
    return _guarded(name, where, lambda: _library(name).load_dataset(where, config, split=split, streaming=streaming))


def _library(name: str) -> Any:
    try:
        import datasets
    except ImportError:
        raise Unavailable(
            f"data set '{name}' in Parquet files needs the datasets library: pip install 'stdl-toolchain[train]'"
        ) from None
    datasets.disable_progress_bars()
    return datasets


def _guarded(name: str, where: str, action: Callable[[], Any]) -> Any:
    """What the library cannot read or reach as one line that says what to do."""
    datasets = _library(name)
    import pyarrow

    try:
        return action()
    except (datasets.exceptions.DatasetsError, pyarrow.ArrowException, OSError, ValueError, RuntimeError) as error:
        raise BadInput(
            f"data set '{name}' cannot be read from '{where}' ({one_line(str(error))[:160]}): {advice(where)}"
        ) from None


def advice(hub_name: str) -> str:
    """How to get a set of the hub into a folder."""
    if Path(hub_name).exists():
        return "download it again, or check data.path"
    return (
        f"get it with: hf download {hub_name} --repo-type dataset --local-dir FOLDER, and give --set data.path=FOLDER "
        "(gated sets: accept their terms and hf auth login first)"
    )
