"""A small report made by hand, for tests of what reads reports."""

from __future__ import annotations

import dataclasses

from stdl_runtimes.latency_result import ColdStart, Histogram, Latency, Query, Throughput, Times
from stdl_runtimes.results import Change, Check, LayerLine, LayerResult, Machine, Proportion, Report, RuntimeLine


def times(p50: float, p99: float, n: int = 2000) -> Times:
    return Times(n, p50, p50 / 2, 2 * p99, p50, (p50 + p99) / 2, p99, 1.5 * p99 if n >= 1000 else None, 0.1)


def latency(p50: float = 1.0, p99: float = 2.0) -> Latency:
    return Latency(
        4, 20, True, times(p50, p99), times(p50 / 4, p99 / 4), Histogram([0.0, 1.0], [5]),
        Query(8, times(4 * p50, 4 * p99)), Throughput(5000.0, 64, 640, 0.128),
        cold_start=ColdStart(300.0, 100.0, 50.0, 30 << 20, None),
    )  # fmt: skip


def line(runtime: str, accuracy: float = 0.95, *, timed: Latency | None = None, **more: object) -> RuntimeLine:
    share = Proportion(accuracy, accuracy - 0.03, min(1.0, accuracy + 0.03), 200)
    known = RuntimeLine(
        runtime, "sequence", share, Change(accuracy - 0.95, -0.02, 0.02, 200), Proportion(0.995, 0.97, 0.999, 200),
        0, 2, 1, 1000, 0.2, 0.001, latency=timed, precision="fp32",
    )  # fmt: skip
    return dataclasses.replace(known, **more)


def report(*lines: RuntimeLine, checks: tuple[Check, ...] = (), **more: object) -> Report:
    """Golden's own line comes first by itself."""
    found = {each.runtime: LayerResult(400, 0.2, 0.001, 3, 2, 1, 1000, 0.0) for each in lines}
    known = Report(
        network="small", bundle="b", samples=200, timesteps=4, data=None, data_samples=0,
        runtimes=[RuntimeLine("trained (PyTorch)", None, Proportion(0.95, 0.91, 0.97, 200)), *lines],
        layers=[LayerLine("lif1", 20, 398, 0.199, found)], hops=[], skipped={},
        checks=[*checks, *(Check("agreement", each.runtime, True, "all agree") for each in lines)],
        machine=Machine("Linux x86_64", "a processor", 2, None, {}), versions={"python": "3"}, hashes={},
        date="2026-01-02T03:04:05+00:00",
    )  # fmt: skip
    return dataclasses.replace(known, **more)
