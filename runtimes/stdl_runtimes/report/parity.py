"""Parity as pictures: for each runtime its layers, how many spikes flipped and how often they fire; accuracy."""

from __future__ import annotations

import math
from collections.abc import Iterator

from stdl_runtimes.report import markup
from stdl_runtimes.report.markup import CHARACTER, WIDTH, label, line, rect
from stdl_runtimes.results import LayerLine, LayerResult, Proportion, Report

NAME, FLIPS, RATE = 0, 112, 236  # where the columns of a layer's row begin
TRACK, ROW, HEAD = 96, 34, 34
ACROSS = 34  # between two rows of accuracies
DECADES = 6  # the axis of flips: from one in a million to all


def layers(report: Report) -> Iterator[str]:
    """A picture for each runtime that shows its layers."""
    for name in dict.fromkeys(name for layer in report.layers for name in layer.runtimes):
        mine = [(layer, layer.runtimes[name]) for layer in report.layers if name in layer.runtimes]
        fed = any(result.flips is not None for _, result in mine)
        yield markup.card(
            f"layers {name}", name, _told(mine), HEAD + ROW * len(mine), _layer_rows(mine),
            note="" if fed else "Its layers cannot be fed one by one: only how often they fire is compared.",
        )  # fmt: skip


def _told(mine: list[tuple[LayerLine, LayerResult]]) -> str:
    """The picture in words."""
    said = [f"{layer.node}: {_flips(result)}, fires {_rates(layer, result)}" for layer, result in mine]
    return "; ".join(said)


def _flips(result: LayerResult) -> str:
    if result.flips is None:
        return "flips not shown"
    ties = f", {result.ties:,} ties" if result.ties else ""
    return f"{result.flips:,} of {result.slots:,} flipped{ties}"


def _rates(layer: LayerLine, result: LayerResult) -> str:
    return f"{result.rate:.2%} (golden {layer.firing_rate:.2%})"


def _layer_rows(mine: list[tuple[LayerLine, LayerResult]]) -> Iterator[str]:
    yield label(FLIPS, 12, "spikes flipped", "soft")
    yield label(RATE, 12, "firing rate", "soft")
    top = max((max(layer.firing_rate, result.rate) for layer, result in mine), default=0.0) or 1.0
    for x, value in ((FLIPS, "1e-6"), (RATE, "0")):
        yield label(x, 26, value, "soft")
    yield label(FLIPS + TRACK, 26, "all", "soft end")
    yield label(RATE + TRACK, 26, f"{top:.3g}", "soft end")
    for number, (layer, result) in enumerate(mine):
        y = HEAD + ROW * number
        yield label(NAME, y + 20, layer.node, most=FLIPS - 8)
        yield from _flip_bar(result, y)
        yield from _rate_bar(layer, result, y, top)


def _flip_bar(result: LayerResult, y: float) -> Iterator[str]:
    """The share that flipped, on a logarithmic axis, and what is allowed."""
    yield rect(FLIPS, y + 6, TRACK, 8, "track")
    if result.flips is None:
        yield label(FLIPS, y + 27, "not shown", "soft")
        return
    share, budget = result.flips / max(result.slots, 1), result.budget or 0.0
    kind = "good" if not share else "warn" if share <= budget else "bad"
    if share:
        yield rect(FLIPS, y + 6, max(_logarithmic(share), 2), 8, kind)
    if budget:
        yield line(f"M{FLIPS + _logarithmic(budget):.1f} {y + 3}v14", "mark")
    sign = {"good": "✓", "warn": "!", "bad": "✗"}[kind]
    ties = f", {markup.compact(result.ties)} ties" if result.ties else ""
    yield label(FLIPS, y + 27, f"{sign} {markup.compact(result.flips)}{ties}", f"{kind}-ink")


def _logarithmic(share: float) -> float:
    return TRACK * min(max(1 + math.log10(share) / DECADES, 0), 1)


def _rate_bar(layer: LayerLine, result: LayerResult, y: float, top: float) -> Iterator[str]:
    """A bar as long as the runtime's rate, and a mark at golden's."""
    yield rect(RATE, y + 6, TRACK, 8, "track")
    yield rect(RATE, y + 6, TRACK * result.rate / top, 8, "first")
    yield line(f"M{RATE + TRACK * layer.firing_rate / top:.1f} {y + 3}v14", "mark")
    drift = "as golden" if not result.rate_drift else f"{100 * result.rate_drift:+.2g} points"
    yield label(RATE, y + 27, drift, "soft")


# --- accuracy ---------------------------------------------------------------------------------------------------------


def accuracy(report: Report) -> Iterator[str]:
    """A picture of the golden samples' accuracies with their intervals, and one of the data set's."""
    golden = [(each.runtime, each.accuracy) for each in report.runtimes if each.accuracy]
    on_data = [(each.runtime, each.data_accuracy) for each in report.runtimes if each.data_accuracy]
    for name, found in (
        (f"{report.samples} golden samples", golden),
        (f"{report.data_samples} of {report.data}", on_data),
    ):
        if found:
            told = "; ".join(f"{runtime} {_interval(value)}" for runtime, value in found)
            title, height = f"Accuracy on {name}", 24 + ACROSS * len(found)
            yield markup.card(f"accuracy {name}", title, told, height, _intervals(found))


def _interval(value: Proportion) -> str:
    return f"{value.value:.2%} ({value.low:.1%} to {value.high:.1%})"


def _intervals(found: list[tuple[str, Proportion]]) -> Iterator[str]:
    low = min(value.low for _, value in found)
    low = max(0.0, low - 0.1 * (1 - low) - 0.002)

    def x(share: float) -> float:
        return 6 + (WIDTH - 12) * (share - low) / (1 - low)

    bottom = ACROSS * len(found) + 4
    for tick in markup.ticks(low, 1.0):
        yield line(f"M{x(tick):.1f} 0V{bottom}", "grid")
        align = "end" if x(tick) > WIDTH - 30 else "" if x(tick) < 30 else "middle"
        yield label(x(tick), bottom + 14, f"{100 * tick:.4g} %", f"soft {align}")
    for number, (runtime, value) in enumerate(found):
        y = ACROSS * number + 24
        said = _interval(value)
        yield label(6, y - 10, runtime, most=WIDTH - 20 - CHARACTER * len(said))
        yield label(WIDTH - 6, y - 10, said, "end")
        yield line(
            f"M{x(value.low):.1f} {y}H{x(value.high):.1f}M{x(value.low):.1f} {y - 4}v8M{x(value.high):.1f} {y - 4}v8",
            "whisker",
        )
        yield f'<circle cx="{x(value.value):.1f}" cy="{y}" r="4" class="first"/>'
