"""The simulated camera against arithmetic by hand, and digits-events: deterministic, split, learnable."""

from __future__ import annotations

import numpy as np
import pytest

from stdl_export.common.errors import BadInput
from stdl_train.data.digits import digits
from stdl_train.data.events.camera import Camera, record
from stdl_train.data.events.digits_events import DigitsEventsOptions, digits_events, recordings
from stdl_train.data.events.events import Sensor
from stdl_train.data.events.saccades import Saccades

KNOWN_COUNT, KNOWN_TIMES = 1741, 267_093_579
QUIET = {"noise_hz": 0.0, "mismatch": 0.0, "dark": 0.1, "step_us": 1000}


def generators(count, start=0):
    return [np.random.default_rng([9, start + index]) for index in range(count)]


def exponential(rate_per_us):
    """Light whose logarithm is a straight line of that slope, pixel for pixel; 0.1 at time 0."""

    def light(time_us):
        intensity = 0.1 * np.exp(np.asarray(rate_per_us) * time_us)
        return (intensity - 0.1) / 0.9

    return light


def test_a_ramp_gives_events_where_arithmetic_says():
    """Log light grows by 0.1 a ms: threshold 0.25 after 2.5 ms, blind 1 ms, then 2.5 ms again from what is seen."""
    slopes = np.array([[[1e-4, -1e-4, 0.0]]])
    events = record(Camera(Sensor(3, 1), refractory_us=1000, **QUIET), exponential(slopes), 12_000, generators(1))[0]
    brighter, darker = events[events["x"] == 0], events[events["x"] == 1]
    assert brighter["t"].tolist() == [2500, 6000, 9500]
    assert darker["t"].tolist() == [2500, 6000, 9500]
    assert set(brighter["p"]) == {1}
    assert set(darker["p"]) == {0}
    assert not (events["x"] == 2).any()


def test_a_longer_refractory_time_loses_events():
    slopes = np.array([[[1e-4]]])
    events = record(Camera(Sensor(1, 1), refractory_us=4500, **QUIET), exponential(slopes), 20_000, generators(1))[0]
    assert events["t"].tolist() == [2500, 9500, 16500]


def test_thresholds_differ_by_pixel_and_camera():
    first = Camera(Sensor(8, 6), seed=1).thresholds()
    assert first.shape == (6, 8)
    assert 0.01 < first.std() < 0.05
    assert not np.array_equal(first, Camera(Sensor(8, 6), seed=2).thresholds())


def test_noise_has_its_rate_and_is_not_caused():
    camera = Camera(Sensor(20, 10), noise_hz=5.0)
    events = record(camera, lambda _: np.zeros((50, 10, 20)), 100_000, generators(50))
    counts = np.array([len(each) for each in events])
    assert abs(counts.mean() - 5.0 * 200 * 0.1) < 5
    assert counts.std() > 5
    assert all((np.diff(each["t"]) >= 0).all() for each in events)
    assert max(int(each["x"].max()) for each in events) == 19


def test_a_recording_does_not_depend_on_the_others():
    sensor = Sensor(16, 16)
    pictures = digits("train").images[:4, 0].astype(np.float64)
    motion, camera = Saccades(sensor), Camera(sensor)
    together = record(camera, motion.light(pictures, generators(4)), motion.duration_us, generators(4, 50))
    alone = record(camera, motion.light(pictures[2:3], generators(1, 2)), motion.duration_us, generators(1, 52))[0]
    assert np.array_equal(together[2], alone)
    assert not np.array_equal(together[2], together[1])


def test_motion_is_bilinear_and_ends_where_it_began():
    """At scale 1 and a shift of whole pixels the picture is the picture, half way between it is the mean of two."""
    sensor = Sensor(8, 8)
    motion = Saccades(sensor, scale=1.0, reach=1.0, variation=0.0, saccade_us=100)
    picture = np.random.default_rng(0).random((1, 8, 8))
    seen = motion.light(picture, generators(1))
    np.testing.assert_allclose(seen(0)[0, :-1], picture[0, 1:])  # begins one up
    np.testing.assert_allclose(seen(300), seen(0))
    np.testing.assert_allclose(motion.position(50), [-0.5, 0.0], atol=1e-12)
    np.testing.assert_allclose(seen(50)[0, :, :-1], (picture[0, :, :-1] + picture[0, :, 1:]) / 2)


def test_digits_events_are_the_same_each_time(tmp_path, monkeypatch):
    monkeypatch.setenv("STDL_CACHE", str(tmp_path / "a"))
    first = digits_events("test", limit=40, seed=3)
    monkeypatch.setenv("STDL_CACHE", str(tmp_path / "b"))
    again = digits_events("test", limit=40, seed=3)
    everything = np.arange(40)
    assert first.images.shape == (40, 10, 2, 16, 16)
    assert first.timed
    assert first.mean == (0.0, 0.0)
    assert np.array_equal(first.take(everything), again.take(everything))
    frames = first.take(everything)
    assert frames.sum((1, 2, 3, 4)).min() > 300
    assert (frames.sum((0, 3, 4)) > 0).all()  # both polarities at all times
    assert not np.array_equal(digits_events("train", limit=40, seed=3).take(everything), frames)
    other = digits_events("test", limit=40, seed=3, camera_seed=1)
    assert not np.array_equal(other.take(everything), frames)


def test_known_events():
    """Pins recording 0, so that a change to the simulation, or a machine that computes otherwise, is noticed."""
    events = recordings("test", DigitsEventsOptions()).read(0)
    assert len(events) == KNOWN_COUNT
    assert int(events["t"].sum()) == KNOWN_TIMES


def test_digits_events_can_be_learned(tmp_path, monkeypatch):
    """A linear classifier on all frames by ridge regression, without torch."""
    monkeypatch.setenv("STDL_CACHE", str(tmp_path))
    train, test = digits_events("train", T=5), digits_events("test", T=5)
    assert (len(train.labels), len(test.labels)) == (1438, 359)
    x, x_test = (s.take(np.arange(len(s.labels))).reshape(len(s.labels), -1) for s in (train, test))
    gram = x @ x.T
    weights = np.linalg.solve(gram + 0.1 * np.trace(gram) / len(x) * np.eye(len(x)), np.eye(10)[train.labels])
    accuracy = ((x_test @ x.T @ weights).argmax(1) == test.labels).mean()
    assert accuracy > 0.93


def test_options_are_checked():
    with pytest.raises(BadInput, match="did you mean 'noise_hz'"):
        digits_events("test", noise_hx=1.0)
    with pytest.raises(BadInput, match="made here"):
        digits_events("test", path="somewhere")
