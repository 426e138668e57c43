"""How long one inference takes, seen from the caller: copies, compute and state handling together."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterable

import numpy as np

from stdl_export.arrays import Values
from stdl_runtimes.base import Mode, Runtime, Session
from stdl_runtimes.ends import Arrays
from stdl_runtimes.results import Histogram, Latency, Times

BINS = 40
FOR_P999 = 1000  # times: of fewer, less than one lies beyond the percentile


def measure(
    runtime: Runtime, mode: Mode, frames: Values, timesteps: int, *, runs: int = 100, warm_up: int = 10
) -> Latency:
    """Time whole sequences. frames: [B, ...] where the input is repeated, else [T, B, ...]; of several by name.

    In mode "step" a sequence is a reset and `timesteps` calls, as made by an application that gets frame after frame.
    """
    ends = runtime.ends
    x, _ = ends.sequence(frames, timesteps)
    batch = ends.samples(x)
    with contextlib.ExitStack() as stack:
        call: Callable[[], object] = functools.partial(runtime.run, x, timesteps)
        if mode == "step":
            session = stack.enter_context(runtime.session(batch))
            call = functools.partial(_steps, session, ends.steps(x, timesteps))
        for _ in range(warm_up):
            call()
        times_ns = [_timed(call) for _ in range(runs)]
    whole = np.array(times_ns) / 1e6
    return Latency(timesteps, warm_up, True, times(whole), times(whole / timesteps), histogram(whole))


def times(milliseconds: np.ndarray) -> Times:
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


def histogram(milliseconds: np.ndarray) -> Histogram:
    """Bins of equal width up to p99; what is slower is in the last one."""
    top = float(np.percentile(milliseconds, 99))
    counts, edges = np.histogram(np.minimum(milliseconds, top), bins=BINS)
    return Histogram([float(edge) for edge in edges], [int(count) for count in counts])


def _timed(call: Callable[[], object]) -> int:
    start = time.perf_counter_ns()
    call()
    return time.perf_counter_ns() - start


def _steps(session: Session, frames: Iterable[Arrays]) -> None:
    session.reset()
    for frame in frames:
        session.step(frame)
