"""How long inference took, as plain data: `latency` and `cold` measure it, reports, gates and the JSON file hold it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Times:
    """`n` measured times in milliseconds. cv: their standard deviation over their mean.

    p999_ms: None below 1,000 times, of which fewer than one would lie beyond it.
    """

    n: int
    mean_ms: float
    min_ms: float
    max_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float | None
    cv: float


@dataclass(frozen=True)
class Histogram:
    """How many times lie in each of the bins; `edges_ms` has one more."""

    edges_ms: list[float]
    counts: list[int]


@dataclass(frozen=True)
class Query:
    """MLPerf's MultiStream: queries of `samples` samples, each answered before the next comes."""

    samples: int
    times: Times


@dataclass(frozen=True)
class Throughput:
    """MLPerf's Offline: all samples are there, in batches of `batch`."""

    samples_per_second: float
    batch: int
    samples: int
    seconds: float


@dataclass(frozen=True)
class ColdStart:
    """The first inference of a fresh process.

    import_ms: Python and packages; load_ms: bundle, hashes and engine; first_ms: the call with one sample. host_bytes:
    what the process holds in memory afterwards beyond Python and its packages; device_bytes: where the runtime can
    tell.
    """

    import_ms: float
    load_ms: float
    first_ms: float
    host_bytes: int | None
    device_bytes: int | None

    @property
    def total_ms(self) -> float:
        """From the start of Python to the first result."""
        return self.import_ms + self.load_ms + self.first_ms


@dataclass(frozen=True)
class Latency:
    """Times of one runtime in one mode, seen from the caller: copies, compute and state handling together.

    sample: MLPerf's SingleStream, one sample, all `timesteps` of it, one after the other. step: one time step, measured
    in mode "step", else `sample` divided by T. parts: "h2d", "compute", "d2h" and "enqueue" as trtexec reports them, of
    runtimes that can tell. stable: had the times settled when the warm-up ended? skipped: what was not measured, why.
    notes: what makes the times doubtful, or slower than they need be.
    """

    timesteps: int
    warm_up: int
    stable: bool
    sample: Times
    step: Times
    histogram: Histogram
    multi_stream: Query | None = None
    offline: Throughput | None = None
    parts: dict[str, Times] = field(default_factory=dict)
    cold_start: ColdStart | None = None
    device_bytes: int | None = None
    skipped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
