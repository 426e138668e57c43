"""`event-folder`: recordings of one's own, one file each, in folders that are named after their classes.

FOLDER/CLASS/*.aedat4            a share of each class is drawn for testing
FOLDER/train/CLASS/*, FOLDER/test/CLASS/*   or the split is in the folders
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from stdl_export.common.errors import BadInput
from stdl_train.data.events.events import Events, Sensor
from stdl_train.data.events.options import Pixels, read_options
from stdl_train.data.events.readers import SUFFIXES, Format, Unit, reader
from stdl_train.data.events.recordings import Recordings, as_samples
from stdl_train.data.events.sets import DividedOptions
from stdl_train.data.samples import Samples, Split, divide

NAME = "event-folder"


class FolderOptions(DividedOptions):
    """sensor: [H, W]; columns: order of plain .npy columns, such as "txyp"; unit: of time in .npy and HDF5 files."""

    sensor: tuple[Pixels, Pixels]
    columns: str = ""
    unit: Unit = "us"


def event_folder(
    split: Split, path: str | None = None, limit: int | None = None, seed: int = 0, **options: Any
) -> Samples:
    """Frames [N, T, 2, H, W] of a folder of recordings; options: FolderOptions."""
    chosen: FolderOptions = read_options(FolderOptions, options, NAME)
    if path is None:
        raise BadInput(f"data set '{NAME}' needs a folder with one sub-folder a class: --set data.path=FOLDER")
    root = Path(path).expanduser()
    if not root.is_dir():
        raise BadInput(f"data set '{NAME}': folder '{root}' does not exist: check data.path")
    given = all((root / name).is_dir() for name in ("train", "test"))
    found = _recordings(root, root / split if given else root, chosen, given)
    if not given:
        found = found.take(divide(found.labels, split, chosen.test_share, chosen.split_seed))
    return as_samples(found, split, chosen, limit, seed)


def _recordings(root: Path, part: Path, options: FolderOptions, given: bool) -> Recordings:
    parts = [root / "train", root / "test"] if given else [root]
    classes = sorted({folder.name for each in parts for folder in each.iterdir() if _seen(folder) and folder.is_dir()})
    files = [
        (file, label)
        for label, name in enumerate(classes)
        for file in sorted((part / name).rglob("*"))
        if _seen(file) and file.is_file() and file.suffix.lower() in SUFFIXES
    ]
    if not files:
        raise BadInput(
            f"data set '{NAME}': no recordings in the sub-folders of '{part}': "
            f"it needs one sub-folder a class, with files {', '.join(SUFFIXES)}"
        )
    height, width = options.sensor
    form = Format(options.columns, options.unit)
    sensor = Sensor(width, height)
    stats = [file.stat() for file, _ in files]
    return Recordings(
        name=NAME,
        sensor=sensor,
        labels=np.array([label for _, label in files], dtype=np.int64),
        classes=tuple(classes),
        names=[file.relative_to(root).as_posix() for file, _ in files],
        read=partial(_read, [file for file, _ in files], sensor, form),
        stamp=[[stat.st_size, stat.st_mtime_ns] for stat in stats],
    )


def _seen(path: Path) -> bool:
    return not path.name.startswith(".")


def _read(files: list[Path], sensor: Sensor, form: Format, number: int) -> Events:
    read: Callable[[Path, Sensor], Events] | None = reader(files[number].suffix, form)
    assert read is not None  # only files with such a suffix are listed
    return read(files[number], sensor)
