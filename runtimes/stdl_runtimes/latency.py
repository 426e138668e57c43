"""How long one inference takes, seen from the caller: copies, compute and state handling together."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from stdl_export.arrays import Values
from stdl_runtimes.base import Mode, Runtime, Session
from stdl_runtimes.ends import Arrays


@dataclass(frozen=True)
class Latency:
    """Percentiles in milliseconds over `runs` inferences of a whole sequence of `timesteps`, after the warm-up."""

    batch: int
    timesteps: int
    runs: int
    warm_up: int
    p50_ms: float
    p90_ms: float
    p99_ms: float


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
    p50, p90, p99 = (float(value) / 1e6 for value in np.percentile(times_ns, [50, 90, 99]))
    return Latency(batch, timesteps, runs, warm_up, p50, p90, p99)


def _timed(call: Callable[[], object]) -> int:
    start = time.perf_counter_ns()
    call()
    return time.perf_counter_ns() - start


def _steps(session: Session, frames: Iterable[Arrays]) -> None:
    session.reset()
    for frame in frames:
        session.step(frame)
