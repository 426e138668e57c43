"""Events -> frames [T, P, H, W] of counts, and augmentation, which works on events before they are frames."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from stdl_train.data.events.events import Events, Sensor
from stdl_train.data.events.options import EventOptions

MOST = 255
"""Counts are kept as bytes. A pixel with more events in one frame is hot: the count stops here, and that is said."""


def frame_shape(sensor: Sensor, options: EventOptions) -> tuple[int, int, int, int]:
    """(T, P, H, W) that the options make of this sensor."""
    height, width = options.size or (sensor.height, sensor.width)
    return options.T, 1 if options.polarity == "merged" else sensor.polarities, height, width


def to_frames(events: Events, sensor: Sensor, options: EventOptions) -> npt.NDArray[np.int64]:
    """Counts [T, P, H, W] of events in the order of time; no events give empty frames."""
    shape = frame_shape(sensor, options)
    frame = _frame_of(events, options)
    inside = frame < options.T
    if not inside.all():
        frame, events = frame[inside], events[inside]
    y = _divide_down(events["y"], sensor.height, shape[2])
    x = _divide_down(events["x"], sensor.width, shape[3])
    p = events["p"].astype(np.int64) if shape[1] > 1 else 0
    place = ((frame * shape[1] + p) * shape[2] + y) * shape[3] + x
    return np.bincount(place, minlength=int(np.prod(shape))).reshape(shape)


def saturated(counts: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.uint8], int]:
    """Counts as bytes, and how many of them were over `MOST`."""
    over = int((counts > MOST).sum())
    return np.minimum(counts, MOST).astype(np.uint8), over


def augment(events: Events, options: EventOptions, generator: np.random.Generator) -> Events:
    """Leave a share of the events out and shift the others in time, never below 0 and in order again."""
    if options.drop:
        events = events[generator.random(len(events)) >= options.drop]
    if options.jitter_us:
        events = events.copy()
        noise = generator.standard_normal(len(events)) * options.jitter_us
        events["t"] = np.maximum(0, events["t"] + np.round(noise).astype(np.int64))
        events = events[np.argsort(events["t"], kind="stable")]
    return events


def _frame_of(events: Events, options: EventOptions) -> npt.NDArray[np.int64]:
    """[n] the frame of each event, T or more for one that comes too late. In whole numbers, so borders are exact."""
    if not len(events):
        return np.zeros(0, dtype=np.int64)
    if options.slice == "count":
        order = np.arange(len(events), dtype=np.int64)
        return order // options.window if options.window else order * options.T // len(events)
    since = events["t"] - events["t"][0]
    if options.window:
        late: npt.NDArray[np.int64] = since // options.window
        return late
    span = int(since[-1]) + 1
    share: npt.NDArray[np.int64] = since * options.T // span
    return share


def _divide_down(place: npt.NDArray[Any], full: int, size: int) -> npt.NDArray[np.int64]:
    """Pixel of a sensor with `size` pixels where the real one has `full`."""
    wide = place.astype(np.int64)
    return wide if size == full else wide * size // full
