"""The stopwatch: warm-up until times settle, measured times, percentiles. It knows nothing of runtimes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from stdl_runtimes.latency_result import Histogram, Times

Milliseconds = npt.NDArray[np.floating[Any]]

WINDOW = 10  # calls whose median is compared with that of the calls before
SETTLED = 0.05  # relative difference of two such medians, below which times count as settled
FEWEST = 10  # measured calls, though they take longer than asked for ...
PATIENCE = 5  # ... unless that is so many times as long
MOST = 100_000  # measured calls: more tell nothing new
BINS = 40
FOR_P999 = 1000  # times: of fewer, less than one lies beyond the percentile


def settle(call: Callable[[], object], seconds: float) -> tuple[int, bool]:
    """Call until two windows of calls have the same median up to 5 %, or the time is over; calls, and did it settle?

    The first calls build, allocate and fill caches, and clocks go up: they are none of the times measured later.
    """
    calls, before, begun = 0, 0.0, time.perf_counter()
    while True:
        times_ms = []
        for _ in range(WINDOW):
            times_ms.append(timed(call))
            calls += 1
            if time.perf_counter() - begun > seconds:
                return calls, False
        median = float(np.median(times_ms))
        if abs(median - before) <= SETTLED * median:
            return calls, True
        before = median


def repeat(call: Callable[[], object], seconds: float) -> Milliseconds:
    """Times of calls that follow each other for so many seconds, in milliseconds: at least 10, unless they are slow."""
    found: list[float] = []
    begun = time.perf_counter()
    while len(found) < MOST:
        found.append(timed(call))
        spent = time.perf_counter() - begun
        if spent >= seconds and (len(found) >= FEWEST or spent >= PATIENCE * seconds):
            break
    return np.array(found)


def timed(call: Callable[[], object]) -> float:
    """Milliseconds of one call."""
    start = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - start) / 1e6


def times(milliseconds: Milliseconds) -> Times:
    """Percentiles as numpy interpolates them, linearly between two times."""
    p50, p90, p99, p999 = (float(value) for value in np.percentile(milliseconds, [50, 90, 99, 99.9]))
    mean = float(milliseconds.mean())
    return Times(
        n=int(milliseconds.size),
        mean_ms=mean,
        min_ms=float(milliseconds.min()),
        max_ms=float(milliseconds.max()),
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        p999_ms=p999 if milliseconds.size >= FOR_P999 else None,
        cv=float(milliseconds.std()) / mean if mean > 0 else 0.0,
    )


def histogram(milliseconds: Milliseconds) -> Histogram:
    """Bins up to p99, each by the same factor wider than the one before: times have a long tail. The last holds what is
    slower.
    """
    low, top = float(milliseconds.min()), float(np.percentile(milliseconds, 99))
    edges = np.geomspace(low, top, BINS + 1) if 0 < low < top else np.linspace(low, max(top, low + 1e-6), BINS + 1)
    counts, _ = np.histogram(np.clip(milliseconds, edges[0], edges[-1]), bins=edges)
    return Histogram([float(edge) for edge in edges], [int(count) for count in counts])
