"""How long a sample takes: a histogram for each runtime, with its percentiles."""

from __future__ import annotations

import math
from collections.abc import Iterator

from stdl_runtimes.latency_result import Latency
from stdl_runtimes.report import markup
from stdl_runtimes.report.markup import WIDTH, brief, label, line, rect
from stdl_runtimes.results import Report

LEFT, TOP, HEIGHT = 6, 32, 110


def histograms(report: Report) -> Iterator[str]:
    """One for each line that was timed. Each has its own axis: the reference takes a hundred times as long."""
    for each in report.runtimes:
        if each.latency is not None and len(each.latency.histogram.edges_ms) > 1:
            yield markup.card(
                f"latency {each.runtime}", each.runtime, _told(each.latency), TOP + HEIGHT + 38,
                _drawn(each.latency), note=_told(each.latency),
            )  # fmt: skip


def _told(found: Latency) -> str:
    sample = found.sample
    tail = "" if sample.p999_ms is None else f", p99.9 {brief(sample.p999_ms)}"
    said = f"p50 {brief(sample.p50_ms)}, p90 {brief(sample.p90_ms)}, p99 {brief(sample.p99_ms)}{tail} ms"
    settled = "" if found.stable else "; times had not settled when the warm-up ended"
    return (
        f"{said}; {sample.n:,} samples, spread {sample.cv:.0%} of the mean{settled}. The last bar holds all above p99."
    )


def _drawn(found: Latency) -> Iterator[str]:
    edges, counts = found.histogram.edges_ms, found.histogram.counts
    low = max(edges[0], 1e-6)
    high = max(edges[-1], low * 1.001)

    def x(milliseconds: float) -> float:
        """On a logarithmic axis: a tail of times ten times as long would else press all others into one bar."""
        return LEFT + (WIDTH - 2 * LEFT) * math.log(min(max(milliseconds, low), high) / low) / math.log(high / low)

    base, most = TOP + HEIGHT, max(counts, default=0) or 1
    for left, right, count in zip(edges, edges[1:], counts, strict=False):
        tall = HEIGHT * count / most
        yield rect(x(left), base - tall, x(right) - x(left) - 0.6, tall, "first")
    yield line(f"M{LEFT} {base}H{WIDTH - LEFT}", "axis")
    for tick in _ticks(low, high):
        align = "end" if x(tick) > WIDTH - 20 else "" if x(tick) < 20 else "middle"
        yield label(x(tick), base + 16, brief(tick), f"soft {align}")
    yield label(WIDTH - LEFT, base + 32, "ms, on a logarithmic axis", "soft end")
    yield from _percentiles(found, x(found.sample.p50_ms), x(found.sample.p90_ms), x(found.sample.p99_ms))


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers that stand apart on a logarithmic axis."""
    if high < 4 * low:
        return markup.ticks(low, high)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high < 60 * low else (1,)
    return [tick for decade in decades for step in steps if low <= (tick := step * 10.0**decade) <= high]


def _percentiles(found: Latency, *places: float) -> Iterator[str]:
    """A line at each; names that would touch stand on two lines."""
    before = -1e9
    for number, (name, x) in enumerate(zip(("p50", "p90", "p99"), places, strict=True)):
        low = x - before < 30
        before = x
        yield line(f"M{x:.1f} {TOP - (4 if low else 16)}V{TOP + HEIGHT}", "mark")
        align = "end" if x > WIDTH / 2 else ""
        yield label(x + (-3 if align else 3), TOP - (6 if low and number else 20), name, f"soft {align}")
