"""Recordings, wherever they come from -> `Samples` of frames, through the cache."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from stdl_export.common.errors import BadInput
from stdl_train.data.events.cache import Cache, Piece, cached
from stdl_train.data.events.events import EVENT, BadRecording, Events, Sensor, in_order
from stdl_train.data.events.frames import augment, frame_shape, saturated, to_frames
from stdl_train.data.events.options import EventOptions
from stdl_train.data.samples import Samples, Split, draw

log = logging.getLogger("stdl.data")


@dataclass(frozen=True)
class Recordings:
    """The recordings of one split, not read yet.

    read: number -> events, BadRecording where one is damaged; names: of each, for messages; stamp: what tells that
    the content has changed (file sizes and times, options of the reader), as JSON has it.
    """

    name: str
    sensor: Sensor
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    names: Sequence[str]
    read: Callable[[int], Events]
    stamp: Sequence[Any]

    def take(self, chosen: npt.NDArray[np.intp]) -> Recordings:
        """Only those; numbers count from 0 again."""
        return replace(
            self,
            labels=self.labels[chosen],
            names=[self.names[index] for index in chosen],
            read=partial(_read_at, self.read, chosen),
            stamp=[self.stamp[index] for index in chosen],
        )


def _read_at(read: Callable[[int], Events], chosen: npt.NDArray[np.intp], index: int) -> Events:
    return read(int(chosen[index]))


def as_samples(recordings: Recordings, split: Split, options: EventOptions, limit: int | None, seed: int) -> Samples:
    """Counts [N, T, P, H, W]. With augmentation in training the events are kept, and frames made when read."""
    _check_labels(recordings)
    recordings = recordings.take(draw(len(recordings.labels), limit, seed))
    if not len(recordings.labels):
        raise BadInput(f"data set '{recordings.name}': its {split} split is empty: check data.path")
    augmented = options.augments and split == "train"
    key = {
        "set": recordings.name,
        "kind": "events" if augmented else "frames",
        "sensor": [recordings.sensor.width, recordings.sensor.height, recordings.sensor.polarities],
        "options": _of_content(options, augmented),
        "names": list(recordings.names),
        "stamp": list(recordings.stamp),
    }
    pack = _pack_events if augmented else _pack_frames
    cache = cached(recordings.name, key, len(recordings.labels), partial(_piece, recordings, options, pack))
    _say(recordings, cache)
    source = (
        EventFrames(cache, recordings.sensor, options, seed)
        if augmented
        else CachedFrames(cache, frame_shape(recordings.sensor, options))
    )
    channels = source.shape[2]
    return Samples(
        name=recordings.name, images=source, labels=recordings.labels[cache.kept], classes=recordings.classes,
        mean=(0.0,) * channels, std=(1.0,) * channels, timed=True,
    )  # fmt: skip


class CachedFrames:
    """Frames [N, T, P, H, W] uint8 in memory-mapped files; a `Source`. A copy in a worker opens the files itself."""

    dtype: np.dtype[Any] = np.dtype(np.uint8)

    def __init__(self, cache: Cache, shape: tuple[int, ...]) -> None:
        self._cache = cache
        self.shape = (len(cache.kept), *shape)
        self._starts = np.concatenate([[0], np.cumsum(cache.sizes)])
        self._open: dict[tuple[int, str], npt.NDArray[Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, indices: npt.NDArray[np.intp]) -> npt.NDArray[np.uint8]:
        wanted = np.atleast_1d(np.arange(len(self))[indices])
        out = np.empty((len(wanted), *self.shape[1:]), dtype=np.uint8)
        pieces = np.searchsorted(self._starts, wanted, side="right") - 1
        for row, (index, piece) in enumerate(zip(wanted, pieces, strict=True)):
            out[row] = self._one(int(piece), int(index - self._starts[piece]), int(index))
        return out

    def _one(self, piece: int, place: int, _index: int) -> npt.NDArray[np.uint8]:
        frames: npt.NDArray[np.uint8] = self._array(piece, "frames")[place]
        return frames

    def _array(self, piece: int, name: str) -> npt.NDArray[Any]:
        if (piece, name) not in self._open:
            self._open[piece, name] = self._cache.array(piece, name)
        return self._open[piece, name]


class EventFrames(CachedFrames):
    """Frames made of cached events when they are read, with events dropped and jittered by `seed`, epoch and index.

    The trainer calls `for_epoch`; until then it is epoch 0.
    """

    def __init__(self, cache: Cache, sensor: Sensor, options: EventOptions, seed: int, epoch: int = 0) -> None:
        super().__init__(cache, frame_shape(sensor, options))
        self._sensor, self._options, self._seed, self.epoch = sensor, options, seed, epoch

    def for_epoch(self, epoch: int) -> EventFrames:
        """The same recordings with that epoch's draws."""
        return EventFrames(self._cache, self._sensor, self._options, self._seed, epoch)

    def _one(self, piece: int, place: int, index: int) -> npt.NDArray[np.uint8]:
        offsets = self._array(piece, "offsets")
        events = np.asarray(self._array(piece, "events")[offsets[place] : offsets[place + 1]])
        generator = np.random.default_rng([self._seed, self.epoch, index])
        return saturated(to_frames(augment(events, self._options, generator), self._sensor, self._options))[0]


def _piece(recordings: Recordings, options: EventOptions, pack: Any, numbers: range) -> Piece:
    """Read some recordings; a damaged one is named, and left out only where that was asked for."""
    found, kept, skipped = [], [], 0
    for number in numbers:
        events = _read(recordings, options, number)
        if events is None:
            skipped += 1
            continue
        found.append(events)
        kept.append(number)
    arrays, notes = pack(found, recordings.sensor, options)
    return Piece(arrays, kept, {"skipped": skipped, **notes})


def _read(recordings: Recordings, options: EventOptions, number: int) -> Events | None:
    try:
        return in_order(recordings.read(number), options.sort)
    except (BadRecording, OSError) as problem:
        where = f"data set '{recordings.name}': recording '{recordings.names[number]}': {problem}"
        if not options.skip_damaged:
            raise BadInput(f"{where}; repair it, or leave such out with data.options.skip_damaged = true") from None
        log.warning("%s; left out", where)
        return None


def _pack_frames(found: list[Events], sensor: Sensor, options: EventOptions) -> tuple[dict[str, Any], dict[str, int]]:
    frames = np.zeros((len(found), *frame_shape(sensor, options)), dtype=np.uint8)
    over = 0
    for row, events in enumerate(found):
        frames[row], more = saturated(to_frames(events, sensor, options))
        over += more
    return {"frames": frames}, {"saturated": over}


def _pack_events(found: list[Events], _sensor: Sensor, _options: EventOptions) -> tuple[dict[str, Any], dict[str, int]]:
    offsets = np.concatenate([[0], np.cumsum([len(events) for events in found], dtype=np.int64)]).astype(np.int64)
    return {"events": np.concatenate([np.empty(0, EVENT), *found]), "offsets": offsets}, {}


def _of_content(options: EventOptions, augmented: bool) -> dict[str, Any]:
    """The options that the bytes depend on: all for frames; events are the same whatever frames are made of them."""
    said = options.model_dump(mode="json", exclude={"drop", "jitter_us"})
    frames = {"T", "slice", "window", "size", "polarity"}
    return {name: value for name, value in said.items() if not (augmented and name in frames)}


def _check_labels(recordings: Recordings) -> None:
    wrong = np.flatnonzero((recordings.labels < 0) | (recordings.labels >= len(recordings.classes)))
    if len(wrong):
        first = int(wrong[0])
        raise BadInput(
            f"data set '{recordings.name}': recording '{recordings.names[first]}' has label "
            f"{recordings.labels[first]}, outside 0 to {len(recordings.classes) - 1}"
        )


def _say(recordings: Recordings, cache: Cache) -> None:
    """What a user should know of a cache, also where it was built by an earlier run."""
    name, skipped, over = recordings.name, cache.notes.get("skipped", 0), cache.notes.get("saturated", 0)
    if skipped:
        log.warning("data set '%s': %d of %d recordings are damaged and left out", name, skipped, len(recordings.names))
    if over:
        log.warning("data set '%s': %d counts were above 255 events in one pixel and frame and stop there", name, over)
    if not len(cache.kept):
        raise BadInput(f"data set '{name}': all {len(recordings.names)} recordings are damaged")
