"""What a gate can demand: one row for each limit, with where its number stands in a report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from stdl_runtimes.latency_result import Latency
from stdl_runtimes.results import Change, Proportion, Report, RuntimeLine

MIB = 1 << 20

Value = Callable[[Report, RuntimeLine], float | None]
"""The number of a line that is limited; None where it was not measured."""


@dataclass(frozen=True)
class Limit:
    """`about`: what is limited, in words. timed: is it known only with --latency? share: is it shown in percent?"""

    about: str
    value: Value
    timed: bool = False
    share: bool = False
    unit: str = ""

    def text(self, value: float) -> str:
        """A value as people read it."""
        return f"{value:.2%}" if self.share else f"{value:,.6g}{self.unit}"


def _accuracy(report: Report, line: RuntimeLine) -> float | None:
    return _share(line.data_accuracy if report.data else line.accuracy)


def _agreement(report: Report, line: RuntimeLine) -> float | None:
    return _share(line.data_agreement if report.data else line.agreement)


def _accuracy_drop(report: Report, line: RuntimeLine) -> float | None:
    change: Change | None = line.data_accuracy_change if report.data else line.accuracy_change
    return None if change is None else -change.value


def _flips(report: Report, line: RuntimeLine) -> float | None:
    layers = [layer.runtimes[line.runtime] for layer in report.layers if line.runtime in layer.runtimes]
    return max((each.flips / each.slots for each in layers if each.flips is not None), default=None)


def _rate_drift(report: Report, line: RuntimeLine) -> float | None:
    layers = [layer.runtimes[line.runtime] for layer in report.layers if line.runtime in layer.runtimes]
    return max((abs(each.rate_drift) for each in layers), default=None)


def _share(found: Proportion | None) -> float | None:
    return None if found is None else found.value


def _timed(value: Callable[[Latency], float | None]) -> Value:
    return lambda report, line: None if line.latency is None else value(line.latency)


def _milliseconds(about: str, value: Callable[[Latency], float | None]) -> Limit:
    return Limit(about, _timed(value), timed=True, unit=" ms")


def _mib(about: str, value: Callable[[Latency], float | None]) -> Limit:
    return Limit(about, _timed(value), timed=True, unit=" MiB")


def _query_p99(found: Latency) -> float | None:
    return None if found.multi_stream is None else found.multi_stream.times.p99_ms


def _throughput(found: Latency) -> float | None:
    return None if found.offline is None else found.offline.samples_per_second


def _cold_start(found: Latency) -> float | None:
    return None if found.cold_start is None else found.cold_start.total_ms


def _device(found: Latency) -> float | None:
    return None if found.device_bytes is None else found.device_bytes / MIB


def _host(found: Latency) -> float | None:
    start = found.cold_start
    return None if start is None or start.host_bytes is None else start.host_bytes / MIB


# Option and key of a gate file -> what it limits; "min_" is a floor, "max_" a ceiling.
LIMITS: Mapping[str, Limit] = MappingProxyType(
    {
        "min_accuracy": Limit("accuracy", _accuracy, share=True),
        "max_accuracy_drop": Limit("accuracy lost", _accuracy_drop, share=True),
        "min_agreement": Limit("agreement", _agreement, share=True),
        "max_flips": Limit("flipped spikes of a layer", _flips, share=True),
        "max_rate_drift": Limit("drift of a layer's firing rate", _rate_drift, share=True),
        "max_spikes": Limit("spikes a sample", lambda report, line: line.spikes),
        "max_synops": Limit("synaptic operations a sample", lambda report, line: line.synops),
        "max_p50": _milliseconds("p50 of a sample", lambda found: found.sample.p50_ms),
        "max_p90": _milliseconds("p90 of a sample", lambda found: found.sample.p90_ms),
        "max_p99": _milliseconds("p99 of a sample", lambda found: found.sample.p99_ms),
        "max_p999": _milliseconds("p99.9 of a sample", lambda found: found.sample.p999_ms),
        "max_step_p99": _milliseconds("p99 of a time step", lambda found: found.step.p99_ms),
        "max_query_p99": _milliseconds("p99 of a query of 8 samples", _query_p99),
        "min_throughput": Limit("samples a second", _timed(_throughput), timed=True),
        "max_cold_start": _milliseconds("cold start", _cold_start),
        "max_host_memory": _mib("memory of the host", _host),
        "max_device_memory": _mib("memory of the device", _device),
    }
)
