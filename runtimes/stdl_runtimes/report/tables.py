"""A validation as tables of text, for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import rich.table
import rich.text

from stdl_runtimes.efficiency_result import LayerCost
from stdl_runtimes.latency_result import Latency
from stdl_runtimes.results import Change, Hop, Proportion, Report


@dataclass(frozen=True)
class Table:
    """A table of plain text; the first column is a name, all others are numbers, or words."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    words: bool = False


def tables(report: Report) -> list[Table]:
    """The tables that people read; the empty ones are left out."""
    return [table for table in named_tables(report).values() if table.rows]


def named_tables(report: Report) -> dict[str, Table]:
    """All tables in their order by what they are about; some may have no rows."""
    return {
        "runtimes": _runtimes(report),
        "layers": _layers(report),
        "hops": _hops(report),
        "latency": _latency(report),
        "notes": _notes(report),
        "activity": _activity(report),
        "efficiency": _efficiency(report),
        "skipped": _skipped(report),
    }


def _runtimes(report: Report) -> Table:
    title = f"{report.network}: {report.samples} golden samples, T={report.timesteps}"
    columns = ["runtime", "accuracy", "change", "agreement", "count difference", "flips", "ties", "rate drift"]
    if report.data:
        title += f"; {report.data_samples} samples of {report.data}"
        columns += [f"{report.data} accuracy", f"{report.data} agreement"]
    rows = []
    for line in report.runtimes:
        row = [line.runtime, _proportion(line.accuracy), _change(line.accuracy_change), _percent(line.agreement)]
        row += [_number(line.count_difference), _number(line.flips), _number(line.ties), _drift(line.rate_drift)]
        if report.data:
            row += [_proportion(line.data_accuracy), _percent(line.data_agreement)]
        rows.append(row)
    return Table(title, columns, rows)


def _layers(report: Report) -> Table:
    names = list(dict.fromkeys(name for layer in report.layers for name in layer.runtimes))
    columns = ["layer", "spikes", "firing rate", *names]
    rows = []
    for layer in report.layers:
        row = [layer.node, str(layer.spikes), f"{layer.firing_rate:.3%}"]
        for each in (layer.runtimes.get(name) for name in names):
            numbers = [each.count_difference, each.flips, each.ties] if each else [None] * 3
            row.append(" / ".join(map(_number, numbers)) + f" / {_drift(each.rate_drift if each else None)}")
        rows.append(row)
    return Table("by layer: count difference / flips / ties / rate drift", columns, rows)


def _hops(report: Report) -> Table:
    columns = ["hop", "same outputs", "first difference"]
    return Table("hop by hop: outputs equal up to rounding", columns, [_hop(hop) for hop in report.hops], words=True)


def _hop(hop: Hop) -> list[str]:
    first = hop.first.text if hop.first else "-"
    return [f"{hop.before} -> {hop.after}", f"{hop.same} of {hop.samples}", first]


def _latency(report: Report) -> Table:
    title = f"latency of one sample, T={report.timesteps}, in ms from call to result"
    columns = ["runtime", "p50", "p90", "p99", "p99.9", "n", "CV", "a step: p50", "p99", "8 at once: p99", "samples/s"]
    columns += ["cold start", *_part_names(report)]
    timed = [(line.runtime, line.latency) for line in report.runtimes if line.latency]
    return Table(title, columns, [[name, *_time_cells(found, _part_names(report))] for name, found in timed])


def _notes(report: Report) -> Table:
    """What makes times doubtful, and what was not measured."""
    timed = [(line.runtime, line.latency) for line in report.runtimes if line.latency]
    rows = [[name, note] for name, found in timed for note in found.notes]
    rows += [[name, f"no {what}: {why}"] for name, found in timed for what, why in found.skipped.items()]
    return Table("about the times", ["runtime", "reason"], rows, words=True)


def _part_names(report: Report) -> list[str]:
    """Parts that any runtime can tell."""
    return list(dict.fromkeys(name for line in report.runtimes if line.latency for name in line.latency.parts))


def _time_cells(found: Latency, parts: Sequence[str]) -> list[str]:
    sample, query, offline, start = found.sample, found.multi_stream, found.offline, found.cold_start
    cells = [f"{value:.3f}" for value in (sample.p50_ms, sample.p90_ms, sample.p99_ms)]
    cells += ["-" if sample.p999_ms is None else f"{sample.p999_ms:.3f}", str(sample.n), f"{sample.cv:.1%}"]
    cells += [f"{found.step.p50_ms:.4f}", f"{found.step.p99_ms:.4f}"]
    cells += [f"{query.times.p99_ms:.3f}" if query else "-", f"{offline.samples_per_second:.0f}" if offline else "-"]
    cells.append(f"{start.total_ms:.0f}" if start else "-")
    return cells + [f"{found.parts[name].p50_ms:.3f}" if name in found.parts else "-" for name in parts]


def _activity(report: Report) -> Table:
    """Of chips beside the reference: what each fires, and the operations that this sets off."""
    shown = [line for line in report.runtimes if line.synops is not None]
    rows = [[line.runtime, f"{line.spikes or 0:,.1f}", f"{line.synops or 0:,.1f}"] for line in shown]
    return Table("activity of a sample", ["runtime", "spikes", "SynOps"], rows if len(rows) > 1 else [])


def _efficiency(report: Report) -> Table:
    found = report.efficiency
    columns = ["node", "kind", "dense", "MACs", "ACs", "zeros out", "parameters B", "states B", "nJ"]
    if found is None:
        return Table("efficiency", columns, [])
    rows = [_cost(layer) for layer in (*found.layers, found.total)]
    return Table(f"efficiency: operations a sample of T={found.timesteps}; energy is arithmetic alone", columns, rows)


def _cost(layer: LayerCost) -> list[str]:
    """Of a node with weights its operations, of one that spikes its sparsity; energy of both."""
    weighs, sparsity = layer.weights > 0, "-" if layer.sparsity is None else f"{layer.sparsity:.2%}"
    operations = [f"{value:,.0f}" if weighs else "-" for value in (layer.dense, layer.macs, layer.acs)]
    numbers = [f"{layer.stored_bytes:,}", f"{layer.state_bytes:,}", f"{layer.synaptic_nj + layer.neuron_nj:,.1f}"]
    return [layer.node, layer.kind, *operations, sparsity, *numbers]


def _skipped(report: Report) -> Table:
    rows = [[name, reason] for name, reason in report.skipped.items()]
    return Table("skipped", ["runtime", "reason"], rows, words=True)


def _percent(value: Proportion | None) -> str:
    return "-" if value is None else f"{value.value:.2%}"


def _proportion(value: Proportion | None) -> str:
    return "-" if value is None else f"{value.value:.2%} ({100 * value.low:.1f}-{100 * value.high:.1f})"


def _change(value: Change | None) -> str:
    return "-" if value is None else f"{100 * value.value:+.2f} ({100 * value.low:+.1f} to {100 * value.high:+.1f})"


def _drift(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.3f}" if value else "0"


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)


def as_rich(table: Table) -> rich.table.Table:
    """A table for the terminal. Names come from files: as Text they cannot carry markup."""
    drawn = rich.table.Table(title=rich.text.Text(table.title), title_justify="left")
    for number, column in enumerate(table.columns):
        right = number > 0 and not table.words
        drawn.add_column(rich.text.Text(column), justify="right" if right else "left", no_wrap=number == 0)
    for row in table.rows:
        drawn.add_row(*map(rich.text.Text, row))
    return drawn
