"""Recordings a second: our frame building and cache against tonic's ToFrame and its cached data set.

Recordings are drawn like N-MNIST's: 34x34 pixels, about 4,000 events in 300 ms. Frames of both are checked to be equal
before anything is timed.

    python benchmarks/loading_events.py [--recordings 1000] [--repeats 5]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from common import environment, report

from stdl_train.data.events.events import EVENT, Sensor
from stdl_train.data.events.frames import to_frames
from stdl_train.data.events.options import EventOptions
from stdl_train.data.events.recordings import Recordings, as_samples

SENSOR, STEPS, WINDOW, BATCH = Sensor(34, 34), 10, 30_000, 64


def main() -> None:
    """Measure, print, and write benchmarks/results/loading_events.json and its table in docs/benchmarks.md."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--recordings", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    recordings = [_recording(index) for index in range(arguments.recordings)]
    order = np.random.default_rng(0).permutation(arguments.recordings)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["STDL_CACHE"] = folder
        ways = _ways(recordings, order, folder)
        seconds = {name: _timed(way, arguments.repeats) for name, way in ways.items()}
    rows = [[name, *_rates(found, len(recordings))] for name, found in seconds.items()]
    report(
        "loading_events",
        "Event recordings, loaded",
        ("what", "recordings/s (median)", "slowest to fastest"),
        rows,
        {"environment": environment("numpy", "tonic", "h5py"), "seconds": seconds, **vars(arguments)},
    )


def _ways(recordings: list[Any], order: Any, folder: str) -> dict[str, Callable[[], object]]:
    import tonic

    options = EventOptions(T=STEPS, window=WINDOW)
    to_frame = tonic.transforms.ToFrame(
        sensor_size=(34, 34, 2), time_window=WINDOW, start_time=0, end_time=STEPS * WINDOW
    )
    theirs = tonic.DiskCachedDataset(_Theirs(recordings, to_frame), f"{folder}/tonic")
    ours = as_samples(_ours(recordings), "test", options, None, 0)
    for index, events in enumerate(recordings):
        wanted = to_frame(events)
        assert np.array_equal(wanted, to_frames(events, SENSOR, options))
        assert np.array_equal(wanted, theirs[index][0])
    assert np.array_equal(ours.take(np.arange(5)), [to_frame(events) for events in recordings[:5]])
    batches = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    return {
        "frames of events, tonic ToFrame": lambda: [to_frame(events) for events in recordings],
        "frames of events, ours": lambda: [to_frames(events, SENSOR, options) for events in recordings],
        "cached frames in batches, tonic DiskCachedDataset": lambda: [
            np.stack([theirs[int(index)][0] for index in batch]) for batch in batches
        ],
        "cached frames in batches, ours": lambda: [ours.images[batch] for batch in batches],
    }


class _Theirs:
    """What tonic caches: frames of one recording and its label."""

    def __init__(self, recordings: list[Any], transform: Any) -> None:
        self._recordings, self._transform = recordings, transform

    def __len__(self) -> int:
        return len(self._recordings)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self._transform(self._recordings[index]), 0


def _ours(recordings: list[Any]) -> Recordings:
    count = len(recordings)
    return Recordings(
        "benchmark", SENSOR, np.zeros(count, np.int64), ("a",), [str(n) for n in range(count)],
        recordings.__getitem__, [0] * count,
    )  # fmt: skip


def _recording(index: int) -> Any:
    rng = np.random.default_rng(index)
    count = int(rng.normal(4000, 800))
    events = np.empty(max(count, 100), dtype=EVENT)
    events["t"] = np.sort(rng.integers(0, STEPS * WINDOW, len(events)))
    events["t"][0] = 0
    events["x"], events["y"] = rng.integers(0, 34, len(events)), rng.integers(0, 34, len(events))
    events["p"] = rng.integers(0, 2, len(events))
    return events


def _timed(way: Callable[[], object], repeats: int) -> list[float]:
    way()  # warm
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        way()
        found.append(time.perf_counter() - start)
    return found


def _rates(seconds: list[float], count: int) -> tuple[str, str]:
    rates = sorted(count / each for each in seconds)
    return f"{rates[len(rates) // 2]:,.0f}", f"{rates[0]:,.0f} to {rates[-1]:,.0f}"


if __name__ == "__main__":
    main()
