"""Frames against a plain loop over events, the borders of windows, and augmentation."""

from __future__ import annotations

import numpy as np
import pytest

from stdl_export.common.errors import BadInput
from stdl_train.data.events.events import EVENT, BadRecording, Sensor, in_order, make_events
from stdl_train.data.events.frames import augment, frame_shape, saturated, to_frames
from stdl_train.data.events.options import EventOptions, read_options

SENSOR = Sensor(11, 7)


def some_events(count=500, seed=0, sensor=SENSOR, duration=10_000):
    rng = np.random.default_rng(seed)
    events = np.empty(count, dtype=EVENT)
    events["t"] = np.sort(rng.integers(100, duration, count))
    events["x"], events["y"] = rng.integers(0, sensor.width, count), rng.integers(0, sensor.height, count)
    events["p"] = rng.integers(0, sensor.polarities, count)
    return events


def by_loop(events, sensor, options):
    frames = np.zeros(frame_shape(sensor, options), dtype=np.int64)
    _, channels, height, width = frames.shape
    first, last = events["t"][0], events["t"][-1]
    for number, (t, x, y, p) in enumerate(events.tolist()):
        if options.slice == "count":
            index = number // options.window if options.window else int(options.T * number / len(events))
        elif options.window:
            index = (t - first) // options.window
        else:
            index = int(options.T * ((t - first) / (last - first + 1)))
        if index < options.T:
            frames[index, p if channels > 1 else 0, y * height // sensor.height, x * width // sensor.width] += 1
    return frames


@pytest.mark.parametrize(
    "options",
    [
        {"T": 4},
        {"T": 7, "slice": "count"},
        {"T": 5, "window": 1300},
        {"T": 3, "slice": "count", "window": 41},
        {"T": 20, "window": 1000},
        {"T": 4, "size": (3, 5)},
        {"T": 4, "polarity": "merged", "size": (7, 4)},
    ],
    ids=str,
)
def test_frames_equal_a_loop(options):
    options = EventOptions(**options)
    for seed in range(3):
        events = some_events(seed=seed)
        assert np.array_equal(to_frames(events, SENSOR, options), by_loop(events, SENSOR, options))


def test_every_event_is_in_one_frame_where_nothing_is_left_out():
    events = some_events()
    for slicing in ("time", "count"):
        frames = to_frames(events, SENSOR, EventOptions(T=9, slice=slicing))
        assert frames.sum() == len(events)
        assert (frames.sum((1, 2, 3)) > 0).all()
    equal = to_frames(events, SENSOR, EventOptions(T=10, slice="count")).sum((1, 2, 3))
    assert set(equal.tolist()) == {50}


def test_borders_of_windows_are_exact():
    events = some_events(4)
    events["t"] = [10, 109, 110, 210]
    events["x"] = events["y"] = events["p"] = 0
    assert to_frames(events, SENSOR, EventOptions(T=2, window=100))[:, 0, 0, 0].tolist() == [2, 1]
    assert to_frames(events, SENSOR, EventOptions(T=2))[:, 0, 0, 0].tolist() == [
        3,
        1,
    ]  # of 201 us


def test_timestamps_of_years_do_not_overflow():
    events = some_events()
    late = events.copy()
    late["t"] += 1_700_000_000_000_000
    options = EventOptions(T=6)
    assert np.array_equal(to_frames(late, SENSOR, options), to_frames(events, SENSOR, options))


def test_counts_stop_at_a_byte_and_are_counted():
    events = some_events(600)
    events["x"] = events["y"] = events["p"] = 0
    frames, over = saturated(to_frames(events, SENSOR, EventOptions(T=2, slice="count")))
    assert frames[:, 0, 0, 0].tolist() == [255, 255]
    assert over == 2


def test_drop_and_jitter():
    events = some_events(4000)
    generator = np.random.default_rng(5)
    options = EventOptions(drop=0.25)
    dropped = augment(events, options, generator)
    assert 0.7 < len(dropped) / len(events) < 0.8
    jittered = augment(events, EventOptions(jitter_us=500.0), np.random.default_rng(5))
    assert len(jittered) == len(events)
    assert (np.diff(jittered["t"]) >= 0).all()
    assert jittered["t"].min() >= 0
    assert sorted(jittered["x"]) == sorted(events["x"])
    expected = events["t"] + np.round(np.random.default_rng(5).standard_normal(4000) * 500).astype(int)
    assert sorted(jittered["t"]) == sorted(np.maximum(0, expected))
    assert to_frames(events[:0], SENSOR, options).sum() == 0


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (([1, 2], [0, 11], [0, 0], [0, 1]), r"event 1 has x 11, outside 0 to 10"),
        (([1, 2], [0, -1], [0, 0], [0, 1]), r"event 1 has x -1"),
        (([1, 2], [0, 1], [7, 0], [0, 1]), r"event 0 has y 7"),
        (([1, -2], [0, 1], [0, 0], [0, 1]), r"event 1 has timestamp -2"),
        (([1, 2], [0, 1], [0, 0], [0, 2]), r"polarity 2"),
        (([], [], [], []), "no events"),
        (([1.0, np.nan], [0, 1], [0, 0], [0, 1]), "not numbers"),
        (([1, 2], [0], [0, 0], [0, 1]), "shapes"),
    ],
)
def test_impossible_events_are_refused(columns, message):
    with pytest.raises(BadRecording, match=message):
        make_events(*columns, SENSOR)


def test_events_out_of_order_are_refused_or_sorted():
    events = make_events([5, 9, 7, 8], [0, 1, 2, 3], [0] * 4, [1] * 4, SENSOR)
    with pytest.raises(BadRecording, match="event 2 is at 7 us after one at 9 us"):
        in_order(events, sort=False)
    assert in_order(events, sort=True)["x"].tolist() == [0, 2, 3, 1]


def test_wrong_options_are_named():
    for options, message in (
        ({"windw": 3}, "did you mean 'window'"),
        ({"T": 0}, "'T' = 0"),
        ({"drop": 1.0}, "'drop'"),
        ({"slice": "frames"}, "'slice'"),
    ):
        with pytest.raises(BadInput, match=message):
            read_options(EventOptions, options, "x")
