"""How long inference takes, as MLPerf's scenarios have it, seen from the caller: copies, compute and states together.

SingleStream: one sample, answered before the next comes (p90 is what the field compares). MultiStream: queries of eight
samples (p99). Offline: all samples are there (samples a second). The names and what is measured are MLPerf's; how long
is not: a submission runs for minutes, this for a second each. Where a runtime can tell its parts, they are trtexec's.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from stdl_runtimes.base import Mode, Runtime
from stdl_runtimes.ends import Arrays
from stdl_runtimes.latency_result import Latency, Query, Throughput, Times
from stdl_runtimes.timing import Milliseconds, histogram, repeat, settle, timed, times

IN_A_QUERY = 8  # MLPerf's MultiStream
DIFFERENT = 64  # samples that single inferences go through in turn
WARM_UP = 0.5  # of the seconds of a measurement, at most
SLOW = 4  # times the seconds of a measurement: a query that takes longer is not measured
VARIES = 0.25  # coefficient of variation above which times are doubtful
BOUND = 0.8  # enqueue time over compute time above which the host holds the device up, as trtexec has it
PARTS = ("h2d", "compute", "d2h", "enqueue")


@dataclass(frozen=True)
class Plan:
    """How long each scenario is measured, and the batch of Offline."""

    seconds: float = 1.0
    batch: int = 64


@dataclass
class Stopwatch:
    """One runtime in one mode on some samples: x, inputs of a run, at least one sample."""

    runtime: Runtime
    mode: Mode
    x: Arrays
    timesteps: int
    plan: Plan
    steps_ms: list[float] = field(default_factory=list)

    def call(self, batch: int, stack: contextlib.ExitStack) -> Callable[[], object]:
        """Infers the next `batch` samples with every call. The session that steps need is closed with the stack."""
        parts = itertools.cycle(self.parts(batch))
        if self.mode == "sequence":
            return lambda: self.runtime.run(next(parts), self.timesteps)
        session = stack.enter_context(self.runtime.session(batch))
        frames = itertools.cycle([self.runtime.ends.steps(part, self.timesteps) for part in self.parts(batch)])

        def step_through() -> None:
            session.reset()
            for frame in next(frames):
                begun = time.perf_counter_ns()
                session.step(frame)
                self.steps_ms.append((time.perf_counter_ns() - begun) / 1e6)

        return step_through

    def parts(self, batch: int) -> list[Arrays]:
        """Batches of samples, each in one piece; where there are too few samples, they are taken again."""
        samples = self.runtime.ends.samples(self.x)
        starts = range(0, max(1, min(DIFFERENT, samples) // batch) * batch, batch)
        taken = [self.runtime.ends.taken(self.x, np.arange(at, at + batch) % samples) for at in starts]
        return [{name: np.ascontiguousarray(each) for name, each in part.items()} for part in taken]


def measure(runtime: Runtime, mode: Mode, x: Arrays, timesteps: int, plan: Plan | None = None) -> Latency:
    """Time whole sequences. x: inputs of a run by node, [B, ...] where the input is repeated, else [T, B, ...].

    In mode "step" a sequence is a reset and `timesteps` calls, as made by an application that gets frame after frame.
    """
    watch = Stopwatch(runtime, mode, x, timesteps, plan or Plan())
    warm_up, stable, whole = _single_stream(watch)
    steps = times(np.array(watch.steps_ms)) if mode == "step" else times(whole / timesteps)
    usual, sample, parts = float(np.median(whole)), times(whole), _parts(watch)
    reason = _too_much(watch, IN_A_QUERY, usual)
    return Latency(
        timesteps=timesteps,
        warm_up=warm_up,
        stable=stable,
        sample=sample,
        step=steps,
        histogram=histogram(whole),
        multi_stream=None if reason else _multi_stream(watch),
        offline=_offline(watch, _offline_batch(watch, usual)),
        parts=parts,
        device_bytes=runtime.device_bytes(),
        skipped={"multi-stream": reason} if reason else {},
        notes=_notes(stable, sample, parts),
    )


def _notes(stable: bool, sample: Times, parts: dict[str, Times]) -> list[str]:
    """As trtexec warns, but for the variation: hosts that others use vary by more than its 2.5 %."""
    found = []
    if not stable:
        found.append("times had not settled when the warm-up ended: give more --latency-seconds")
    if sample.cv > VARIES:
        found.append(f"times vary by {sample.cv:.0%}: is the machine busy, are its clocks free to change?")
    if {"enqueue", "compute"} <= parts.keys() and parts["enqueue"].p50_ms > BOUND * parts["compute"].p50_ms:
        found.append("the host hands work over hardly faster than the device does it: CUDA graphs would help")
    return found


def _single_stream(watch: Stopwatch) -> tuple[int, bool, Milliseconds]:
    with contextlib.ExitStack() as stack:
        call = watch.call(1, stack)
        warm_up, stable = settle(call, WARM_UP * watch.plan.seconds)
        watch.steps_ms.clear()
        return warm_up, stable, repeat(call, watch.plan.seconds)


def _multi_stream(watch: Stopwatch) -> Query:
    with contextlib.ExitStack() as stack:
        call = watch.call(IN_A_QUERY, stack)
        settle(call, WARM_UP * watch.plan.seconds)
        return Query(IN_A_QUERY, times(repeat(call, watch.plan.seconds)))


def _offline(watch: Stopwatch, batch: int) -> Throughput:
    with contextlib.ExitStack() as stack:
        call = watch.call(batch, stack)
        if batch > 1:
            timed(call)  # the first of a new shape
        spent = repeat(call, watch.plan.seconds)
        seconds = float(spent.sum()) / 1e3
        return Throughput(len(spent) * batch / seconds, batch, len(spent) * batch, seconds)


def _too_much(watch: Stopwatch, samples: int, usual_ms: float) -> str | None:
    """Why a query of so many samples is not measured; None where it is."""
    most = watch.runtime.largest_session
    if watch.mode == "step" and most is not None and most < samples:
        return f"a session takes {most} samples, a query has {samples}"
    seconds = samples * usual_ms / 1e3
    if seconds > SLOW * watch.plan.seconds:
        return f"a query of {samples} samples would take about {seconds:.1f} s: give more --latency-seconds"
    return None


def _offline_batch(watch: Stopwatch, usual_ms: float) -> int:
    """As asked for, but no more than a session takes, and than are done in the time that there is."""
    fitting = max(1, int(watch.plan.seconds * 1e3 / usual_ms)) if usual_ms > 0 else watch.plan.batch
    most = watch.runtime.largest_session if watch.mode == "step" else None
    return min(watch.plan.batch, fitting, most or watch.plan.batch)


def _parts(watch: Stopwatch) -> dict[str, Times]:
    """Where the time of single samples goes, of engines that can tell; one run each, by the device's own clock."""
    if watch.mode != "sequence":
        return {}
    found: dict[str, list[float]] = {name: [] for name in PARTS}
    until = time.perf_counter() + watch.plan.seconds
    for sample in itertools.cycle(watch.parts(1)):
        told = watch.runtime.timed_parts(sample, watch.timesteps)
        for name, value in told.items():
            found[name].append(value)
        if not told or time.perf_counter() > until:
            break
    return {name: times(np.array(values)) for name, values in found.items() if values}
