"""N-MNIST, CIFAR10-DVS, DVS128 Gesture, N-Caltech101 and SHD through tonic's classes.

tonic finds and decodes the files. Here they are put into one order (tonic's is that of the file system for some sets),
checked before they are decoded (it does not notice truncated files), and named where something is wrong. tonic
downloads on its own as soon as files seem to be missing; here that is an error that says the command that fetches them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import h5py
import numpy as np
import numpy.lib.recfunctions  # tonic uses it without importing it
import numpy.typing as npt
from pydantic import Field

from stdl_export.common.config import Natural
from stdl_export.common.errors import BadInput
from stdl_train.data.events.aedat import read_aedat
from stdl_train.data.events.events import BadRecording, Events, Sensor, make_events
from stdl_train.data.events.libraries import library
from stdl_train.data.events.options import EventOptions, read_options
from stdl_train.data.events.readers import check_bin, own
from stdl_train.data.events.recordings import Recordings, as_samples
from stdl_train.data.samples import Samples, Split, divide

Indices = npt.NDArray[np.intp]


class DividedOptions(EventOptions):
    """Of a set that comes in one piece: which share of each class is for testing, and the seed that draws it."""

    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    split_seed: Natural = 0


class Cifar10DvsOptions(DividedOptions):
    """A tenth for testing, as is usual."""

    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.1


class ShdOptions(EventOptions):
    """The file does not promise an order."""

    sort: bool = True


@dataclass(frozen=True)
class TonicSet:
    """One data set. folder: of its files below tonic's, for (train, test); check: of a file before tonic reads it."""

    name: str
    tonic: str
    sensor: Sensor
    folders: tuple[str, str]
    suffix: str
    options: type[EventOptions] = EventOptions
    check: Callable[[Path], None] = lambda path: None

    @property
    def divided(self) -> bool:
        """Whether we draw the split."""
        return issubclass(self.options, DividedOptions)


N_MNIST = TonicSet("n-mnist", "NMNIST", Sensor(34, 34), ("Train", "Test"), ".bin", check=check_bin)
DVS_GESTURE = TonicSet("dvs128-gesture", "DVSGesture", Sensor(128, 128), ("ibmGestureTrain", "ibmGestureTest"), ".npy")
CIFAR10_DVS = TonicSet("cifar10-dvs", "CIFAR10DVS", Sensor(128, 128), ("", ""), ".aedat4", Cifar10DvsOptions)
N_CALTECH101 = TonicSet(
    "n-caltech101", "NCALTECH101", Sensor(240, 180), ("Caltech101",) * 2, ".bin", DividedOptions, check_bin
)
SHD = TonicSet("shd", "SHD", Sensor(700, 1, 1), ("", ""), ".h5", ShdOptions)


def n_mnist(split: Split, path: str | None = None, limit: int | None = None, seed: int = 0, **options: Any) -> Samples:
    """Frames [N, T, 2, 34, 34] of 60,000 and 10,000 digits. path: the folder given to tonic."""
    return _samples(N_MNIST, split, path, limit, seed, options)


def dvs_gesture(
    split: Split, path: str | None = None, limit: int | None = None, seed: int = 0, **options: Any
) -> Samples:
    """Frames [N, T, 2, 128, 128] of 1,077 and 264 gestures, eleven classes; times in whole milliseconds."""
    return _samples(DVS_GESTURE, split, path, limit, seed, options)


def cifar10_dvs(
    split: Split, path: str | None = None, limit: int | None = None, seed: int = 0, **options: Any
) -> Samples:
    """Frames [N, T, 2, 128, 128] of 10,000 recordings, a tenth of each class for testing."""
    return _samples(CIFAR10_DVS, split, path, limit, seed, options)


def n_caltech101(
    split: Split, path: str | None = None, limit: int | None = None, seed: int = 0, **options: Any
) -> Samples:
    """Frames [N, T, 2, 180, 240] of 8,709 recordings of 101 classes, moved to the upper left corner."""
    return _samples(N_CALTECH101, split, path, limit, seed, options)


def shd(split: Split, path: str | None = None, limit: int | None = None, seed: int = 0, **options: Any) -> Samples:
    """Frames [N, T, 1, 1, 700] of 8,156 and 2,264 spoken digits, twenty classes."""
    return _samples(SHD, split, path, limit, seed, options)


def _samples(
    which: TonicSet, split: Split, path: str | None, limit: int | None, seed: int, options: dict[str, Any]
) -> Samples:
    chosen: EventOptions = read_options(which.options, options, which.name)
    dataset = _opened(which, split, path)
    found = _of_file(which, dataset, split) if which is SHD else _of_files(which, dataset)
    if isinstance(chosen, DividedOptions):
        found = found.take(divide(found.labels, split, chosen.test_share, chosen.split_seed))
    return as_samples(found, split, chosen, limit, seed)


def _opened(which: TonicSet, split: Split, path: str | None) -> Any:
    """tonic's data set over files that are there already."""
    if path is None:
        raise BadInput(f"data set '{which.name}' needs --set data.path=FOLDER: {_command(which, split, None)}")
    root = Path(path).expanduser()
    root = root.parent if root.name == which.tonic else root
    place = root / which.tonic / which.folders[split == "test"]
    pattern = f"shd_{split}.h5" if which is SHD else f"**/*{which.suffix}"
    if not any(place.glob(pattern)):
        raise BadInput(f"data set '{which.name}': no {pattern} in '{place}': {_command(which, split, root)}")
    tonic = library("tonic", f"data set '{which.name}'")
    original = getattr(tonic.datasets, which.tonic)
    present = type(which.tonic, (original,), {"_check_exists": lambda _self: True})  # tonic wants the archive as well
    arguments = {} if which.divided else {"train": split == "train"}
    try:
        return present(str(root), **arguments)
    except (ValueError, KeyError, OSError) as error:
        raise BadInput(f"data set '{which.name}' in '{place}' is not laid out as tonic lays it out ({error})") from None


def _command(which: TonicSet, split: Split, root: Path | None) -> str:
    argument = "" if which.divided else f", train={split == 'train'}"
    return f"download it with: python -c \"import tonic; tonic.datasets.{which.tonic}('{root or 'FOLDER'}'{argument})\""


def _of_files(which: TonicSet, dataset: Any) -> Recordings:
    """One file a recording, in the order of their paths."""
    root = Path(dataset.location_on_system)
    order = np.array(sorted(range(len(dataset.data)), key=lambda index: Path(dataset.data[index]).as_posix()))
    files = [Path(dataset.data[index]) for index in order]
    names = [file.relative_to(root).as_posix() for file in files]
    targets = [dataset.targets[index] for index in order]
    classes = _classes(dataset, targets)
    number = {name: index for index, name in enumerate(classes)}
    labels = [number[target] if isinstance(target, str) else int(target) for target in targets]
    stats = [file.stat() for file in files]
    return Recordings(
        name=which.name,
        sensor=which.sensor,
        labels=np.array(labels, dtype=np.int64),
        classes=classes,
        names=names,
        read=partial(_read_file, which, dataset, order, files),
        stamp=[[stat.st_size, stat.st_mtime_ns] for stat in stats],
    )


def _classes(dataset: Any, targets: list[Any]) -> tuple[str, ...]:
    """N-Caltech101 has its folders' names for classes, the others say theirs."""
    return tuple(getattr(dataset, "classes", None) or sorted(set(targets)))


def _read_file(which: TonicSet, dataset: Any, order: Indices, files: list[Path], number: int) -> Events:
    which.check(files[number])
    if which is CIFAR10_DVS:  # the same decoder as tonic's, which gives no reason for what it cannot read
        return read_aedat(files[number], which.sensor)
    try:
        events, _ = dataset[int(order[number])]
    except (OSError, ValueError, EOFError, IndexError, TypeError) as error:
        raise BadRecording(f"it cannot be read ({error})") from None
    return make_events(events["t"], events["x"], events["y"], events["p"], which.sensor)


def _of_file(which: TonicSet, dataset: Any, split: Split) -> Recordings:
    """SHD: all recordings in one HDF5 file."""
    path = Path(dataset.location_on_system) / f"shd_{split}.h5"
    labels = _shd_labels(path)
    stat = path.stat()
    return Recordings(
        name=which.name,
        sensor=which.sensor,
        labels=labels,
        classes=tuple(key.decode("utf-8") for key in dataset.classes),
        names=[f"{path.name} {index}" for index in range(len(labels))],
        read=partial(_read_unit_spikes, which, dataset),
        stamp=[[stat.st_size, stat.st_mtime_ns, index] for index in range(len(labels))],
    )


def _shd_labels(path: Path) -> npt.NDArray[np.int64]:
    with h5py.File(path, "r") as file:
        spikes, labels = own(file, "spikes"), own(file, "labels")
        parts = [own(spikes, name) for name in ("times", "units")] if isinstance(spikes, h5py.Group) else [None]
        if labels is None or any(part is None or len(part) != len(labels) for part in parts):
            raise BadInput(f"data set 'shd': '{path}' needs spikes/times, spikes/units and labels, one a recording")
        found: npt.NDArray[np.int64] = labels[()].astype(np.int64)
        return found


def _read_unit_spikes(which: TonicSet, dataset: Any, number: int) -> Events:
    try:
        events, _ = dataset[number]
    except (OSError, ValueError, TypeError) as error:
        raise BadRecording(f"it cannot be read ({error})") from None
    return make_events(events["t"], events["x"], np.zeros_like(events["x"]), np.zeros_like(events["x"]), which.sensor)
