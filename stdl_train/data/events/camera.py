"""A simulated event camera: pixels that say when their logarithmic intensity has changed by a threshold.

The principle of the dynamic vision sensor (Lichtsteiner, Posch and Delbruck 2008): a pixel keeps the log intensity of
its last event; once the present one differs by its threshold it sends an event with time and sign, and is blind for a
refractory time, after which it starts from what it then sees. Thresholds differ from pixel to pixel, and pixels fire
at random now and then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stdl_train.data.events.events import EVENT, Events, Sensor

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Camera:
    """Its sensor and its physics; times in microseconds."""

    sensor: Sensor
    threshold: float = 0.25
    """Change of the natural logarithm of intensity for which a pixel sends an event."""
    mismatch: float = 0.03
    """Standard deviation of the threshold over the pixels of this camera."""
    refractory_us: int = 1000
    noise_hz: float = 0.5
    """Events a second that a pixel sends without a cause."""
    dark: float = 0.1
    """Intensity where nothing is seen; 1 is white."""
    step_us: int = 1000
    """Light is taken as linear in time between steps; at most one event a pixel in each."""
    seed: int = 0
    """Of the mismatch: another seed is another camera."""

    def __post_init__(self) -> None:
        """A pixel fires at most once a step, so it has to be blind for at least one."""
        assert self.refractory_us >= self.step_us > 0
        assert self.threshold > 5 * self.mismatch >= 0

    def thresholds(self) -> Floats:
        """[H, W], of each pixel."""
        drawn = np.random.default_rng(self.seed).standard_normal((self.sensor.height, self.sensor.width))
        return self.threshold + self.mismatch * np.clip(drawn, -4, 4)


def record(
    camera: Camera, light: Callable[[int], Floats], duration_us: int, generators: Sequence[np.random.Generator]
) -> list[Events]:
    """Events of N recordings that run side by side.

    light: time in us -> intensities [N, H, W] in [0, 1]; generators: one a recording, for its noise, so that a
    recording does not depend on which others run beside it. Steps of `camera.step_us` divide `duration_us`.
    """
    found = _signal(camera, light, duration_us)
    noise = [_noise(camera, duration_us, generator) for generator in generators]
    which = found["n"]
    starts = np.searchsorted(which, np.arange(len(generators) + 1))
    recordings = []
    for index, extra in enumerate(noise):
        events = np.concatenate([found["event"][starts[index] : starts[index + 1]], extra])
        recordings.append(events[np.lexsort((events["p"], events["x"], events["y"], events["t"]))])
    return recordings


def _signal(camera: Camera, light: Callable[[int], Floats], duration_us: int) -> npt.NDArray[np.void]:
    """All events that the light causes, by recording: structured (n, event)."""
    step = camera.step_us
    now = _log(camera, light(0))
    pixels = now[0].size
    threshold = np.tile(camera.thresholds().ravel(), len(now))  # here and below, one axis for all pixels of all N
    shape, now = now.shape, now.ravel()
    kept = now.copy()  # what a pixel compares with
    blind_until = np.zeros(len(now))
    blind = np.zeros(0, dtype=np.intp)
    found = []
    for start in range(0, duration_us, step):
        following = _log(camera, light(start + step)).ravel()
        waking = blind[blind_until[blind] <= start + step]
        kept[waking] = _between(now[waking], following[waking], (blind_until[waking] - start) / step)
        fires = np.flatnonzero(np.abs(following - kept) >= threshold)
        fires = fires[blind_until[fires] <= start + step]
        at = _crossing(now[fires], following[fires], kept[fires], threshold[fires], blind_until[fires], start, step)
        n, pixel = np.divmod(fires, pixels)
        found.append(_pack(n, at, pixel % shape[2], pixel // shape[2], following[fires] > kept[fires]))
        blind_until[fires] = at + camera.refractory_us
        blind = np.concatenate([blind[blind_until[blind] > start + step], fires])
        now = following
    events = np.concatenate(found)
    return events[np.argsort(events["n"], kind="stable")]


def _between(now: Floats, following: Floats, share: Floats) -> Floats:
    value: Floats = now + (following - now) * share
    return value


def _crossing(
    now: Floats, following: Floats, kept: Floats, threshold: Floats, blind_until: Floats, start: int, step: int
) -> Floats:
    """Whole microseconds at which light that changes linearly from `now` to `following` reaches the threshold.

    Not before a pixel sees again, and in that moment where the light had passed the threshold already.
    """
    seeing_from = np.maximum(blind_until, start)
    slope = (following - now) / step
    missing: Floats = kept + np.sign(following - kept) * threshold - now
    wait = np.divide(missing, slope, out=np.zeros_like(slope), where=slope != 0)
    return np.clip(np.round(start + wait), np.ceil(seeing_from), start + step)


def _log(camera: Camera, intensity: Floats) -> Floats:
    """Rounded, so that the last bits of a matrix product or a logarithm, which differ by machine, decide nothing."""
    logarithm: Floats = np.log(camera.dark + (1 - camera.dark) * intensity).round(9)
    return logarithm


def _pack(
    n: npt.ArrayLike, t: npt.ArrayLike, x: npt.ArrayLike, y: npt.ArrayLike, p: npt.ArrayLike
) -> npt.NDArray[np.void]:
    packed = np.empty(np.shape(n), dtype=[("n", "<i8"), ("event", EVENT)])
    packed["n"] = n
    for name, column in (("t", t), ("x", x), ("y", y), ("p", p)):
        packed["event"][name] = column
    return packed


def _noise(camera: Camera, duration_us: int, generator: np.random.Generator) -> Events:
    sensor = camera.sensor
    count = generator.poisson(camera.noise_hz * sensor.width * sensor.height * duration_us * 1e-6)
    events = np.empty(count, dtype=EVENT)
    events["t"] = generator.integers(0, duration_us, count)
    events["x"] = generator.integers(0, sensor.width, count)
    events["y"] = generator.integers(0, sensor.height, count)
    events["p"] = generator.integers(0, 2, count)
    return events
