"""`digits-events`: the embedded digits moved by small saccades before a simulated event camera, 16x16 pixels, 300 ms.

1,438 and 359 recordings in the split of `digits`. Made when first asked for, in seconds, then cached. The same on
every machine: each recording has a seed of its own, made of `camera_seed` and its number.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stdl_export.common.config import Natural, NaturalFloat
from stdl_export.common.errors import BadInput
from stdl_train.data.digits import digits
from stdl_train.data.events.camera import Camera, record
from stdl_train.data.events.events import Events, Sensor
from stdl_train.data.events.options import EventOptions, read_options
from stdl_train.data.events.recordings import Recordings, as_samples
from stdl_train.data.events.saccades import Saccades
from stdl_train.data.samples import Samples, Split

NAME = "digits-events"
SENSOR = Sensor(16, 16)
TOGETHER = 128
"""Recordings simulated side by side."""


class DigitsEventsOptions(EventOptions):
    """Of all event data sets, and: noise_hz: events a second that a pixel sends for nothing; camera_seed: of it all."""

    noise_hz: NaturalFloat = 0.5
    camera_seed: Natural = 0


def digits_events(
    split: Split, path: str | None = None, limit: int | None = None, seed: int = 0, **options: Any
) -> Samples:
    """Frames [N, T, 2, 16, 16]. There is nothing to download and no path; options: DigitsEventsOptions."""
    chosen: DigitsEventsOptions = read_options(DigitsEventsOptions, options, NAME)
    if path is not None:
        raise BadInput(f"data set '{NAME}' is made here: leave data.path out")
    return as_samples(recordings(split, chosen), split, chosen, limit, seed)


def recordings(split: Split, options: DigitsEventsOptions) -> Recordings:
    """All recordings of a split; nothing is simulated before it is read."""
    pictures = digits(split)
    count = len(pictures.labels)
    camera = Camera(SENSOR, noise_hz=options.noise_hz, seed=options.camera_seed)
    stamp = [split, options.noise_hz, options.camera_seed]
    return Recordings(
        name=NAME,
        sensor=SENSOR,
        labels=pictures.labels,
        classes=pictures.classes,
        names=[f"{split} {index}" for index in range(count)],
        read=Simulated(pictures.take(np.arange(count))[:, 0].astype(np.float64), camera, Saccades(SENSOR), split),
        stamp=[stamp] * count,
    )


class Simulated:
    """number -> events. Simulates `TOGETHER` recordings at once and keeps the last of such groups."""

    def __init__(self, pictures: Any, camera: Camera, motion: Saccades, split: Split) -> None:
        self._pictures, self._camera, self._motion, self._split = pictures, camera, motion, split
        self._group, self._events = -1, list[Events]()

    def __call__(self, number: int) -> Events:
        """The events of one recording, the same whatever was read before."""
        group = number // TOGETHER
        if group != self._group:
            first = group * TOGETHER
            self._events = self._simulate(range(first, min(first + TOGETHER, len(self._pictures))))
            self._group = group
        return self._events[number - group * TOGETHER]

    def _simulate(self, numbers: range) -> list[Events]:
        part = ("train", "test").index(self._split)
        generators = [np.random.default_rng([self._camera.seed, part, number]) for number in numbers]
        light = self._motion.light(self._pictures[numbers.start : numbers.stop], generators)
        return record(self._camera, light, self._motion.duration_us, generators)
