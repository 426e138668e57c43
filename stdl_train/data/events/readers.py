"""Files of events -> events, by the end of their names. What a library reads wrong is decoded by us."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

from stdl_train.data.events.aedat import read_aedat
from stdl_train.data.events.events import BadRecording, Events, Sensor, make_events
from stdl_train.data.events.libraries import library
from stdl_train.data.events.prophesee import read_dat, read_raw

Unit = Literal["ns", "us", "ms", "s"]
MICROSECONDS: dict[Unit, float] = {"ns": 1e-3, "us": 1, "ms": 1e3, "s": 1e6}
NAMES = {"t": ("t", "ts", "times"), "x": ("x", "xs"), "y": ("y", "ys"), "p": ("p", "ps", "polarity")}
"""How HDF5 files and structured arrays call the columns; DSEC, MVSEC-like conversions and ours among them."""
GROUPS = ("events", "/")


@dataclass(frozen=True)
class Format:
    """What a file does not say: the order of plain columns, the unit of time."""

    columns: str = ""
    unit: Unit = "us"


def reader(suffix: str, form: Format) -> Callable[[Path, Sensor], Events] | None:
    """The function that reads files with this suffix, None where there is none."""
    readers: dict[str, Callable[[Path, Sensor], Events]] = {
        ".aedat": read_aedat,
        ".aedat4": read_aedat,
        ".dat": read_dat,
        ".raw": read_raw,
        ".bin": read_bin,
        ".npy": partial(read_npy, form=form),
        ".h5": partial(read_hdf5, form=form),
        ".hdf5": partial(read_hdf5, form=form),
    }
    return readers.get(suffix.lower())


SUFFIXES = (".aedat", ".aedat4", ".bin", ".dat", ".h5", ".hdf5", ".npy", ".raw")


def read_bin(path: Path, sensor: Sensor) -> Events:
    """N-MNIST and N-Caltech101: 5 bytes an event, by tonic, which does not notice where the last one is not whole."""
    check_bin(path)
    events = library("tonic.io", "a '.bin' recording").read_mnist_file(
        str(path), dtype=np.dtype([(name, np.int64) for name in "xytp"])
    )
    return make_events(events["t"], events["x"], events["y"], events["p"], sensor)


def check_bin(path: Path) -> None:
    """BadRecording where an ATIS file is empty or ends inside an event."""
    size = path.stat().st_size
    if not size:
        raise BadRecording("it holds no events")
    if size % 5:
        raise BadRecording(f"it is truncated: {size} bytes are no whole number of events of 5 bytes")


def read_npy(path: Path, sensor: Sensor, form: Format) -> Events:
    """A structured array with t, x, y, p, or a plain one [n, 4], whose columns `form` names."""
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BadRecording(f"it is no whole .npy file of numbers ({error})") from None
    if array.dtype.names:
        return _of_columns(lambda name: array[name] if name in array.dtype.names else None, sensor, form)
    if array.ndim != 2 or array.shape[1] != 4:
        raise BadRecording(f"it has shape {array.shape}; events are [n, 4] or a structured array with t, x, y, p")
    if sorted(form.columns) != sorted("txyp"):
        raise BadRecording('its columns have no names: say their order, for example data.options.columns = "txyp"')
    return _of_columns(lambda name: array[:, form.columns.index(name)] if len(name) == 1 else None, sensor, form)


def read_hdf5(path: Path, sensor: Sensor, form: Format) -> Events:
    """Datasets t, x, y, p (or ts, xs, ys, ps) in the group `events` or at the root; never through links."""
    try:
        with h5py.File(path, "r") as file:
            for name in GROUPS:
                group = file if name == "/" else own(file, name)
                if isinstance(group, h5py.Group) and any(key in group for key in NAMES["t"]):
                    return _of_columns(partial(_numbers, group), sensor, form)
    except OSError as error:
        raise BadRecording(f"it is no whole HDF5 file ({error})") from None
    raise BadRecording("it has no datasets t, x, y, p, in a group 'events' or at the root")


def own(group: h5py.Group, name: str) -> Any:
    """A member that lies in this file itself, else None: links can lead into other files."""
    return group[name] if isinstance(group.get(name, getlink=True), h5py.HardLink) else None


def _numbers(group: h5py.Group, name: str) -> Any:
    found = own(group, name)
    return found[()] if isinstance(found, h5py.Dataset) and found.dtype.kind in "iufb" else None


def _of_columns(column: Callable[[str], Any], sensor: Sensor, form: Format) -> Events:
    """Events of columns that may have any of their names."""
    found = {}
    for name, others in NAMES.items():
        values = next((value for value in map(column, others) if value is not None), None)
        if values is None:
            raise BadRecording(f"it has no column {' or '.join(others)}")
        found[name] = values
    if form.unit != "us" or found["t"].dtype.kind == "f":
        found["t"] = np.round(found["t"].astype(np.float64) * MICROSECONDS[form.unit])
    if found["p"].dtype.kind in "if" and len(found["p"]) and found["p"].min() == -1:
        found["p"] = found["p"] > 0  # -1 and 1
    return make_events(found["t"], found["x"], found["y"], found["p"], sensor)
