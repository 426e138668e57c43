"""A validation as people and programs read it: tables on the terminal, a page of HTML, JSON."""

from __future__ import annotations

import dataclasses
import html
import json
from dataclasses import dataclass
from pathlib import Path

import rich.table
import rich.text

from stdl_export.common.files import atomic_file
from stdl_runtimes.latency import Latency
from stdl_runtimes.summary import Report


@dataclass(frozen=True)
class Table:
    """A table of plain text; the first column is a name, all others are numbers."""

    title: str
    columns: list[str]
    rows: list[list[str]]


def tables(report: Report) -> list[Table]:
    """The tables that people read; the empty ones are left out."""
    found = [_runtimes(report), _layers(report), _skipped(report)]
    return [table for table in found if table.rows]


def _runtimes(report: Report) -> Table:
    title = f"{report.network}: {report.samples} golden samples, T={report.timesteps}"
    columns = ["runtime", "accuracy", "agreement", "count difference", "flips", "ties"]
    if report.data:
        title += f"; {report.data_samples} samples of {report.data}"
        columns += [f"{report.data} accuracy", f"{report.data} agreement"]
    timed = any(line.latency for line in report.runtimes)
    if timed:
        columns += ["p50 ms", "p90 ms", "p99 ms"]
    rows = []
    for line in report.runtimes:
        row = [line.runtime, _percent(line.accuracy), _percent(line.agreement), _number(line.count_difference)]
        row += [_number(line.flips), _number(line.ties)]
        if report.data:
            row += [_percent(line.data_accuracy), _percent(line.data_agreement)]
        rows.append(row + (_times(line.latency) if timed else []))
    return Table(title, columns, rows)


def _layers(report: Report) -> Table:
    names = list(dict.fromkeys(name for layer in report.layers for name in layer.runtimes))
    columns = ["layer", "spikes", "firing rate", *names]
    rows = []
    for layer in report.layers:
        row = [layer.node, str(layer.spikes), f"{layer.firing_rate:.3%}"]
        found = [layer.runtimes[name] for name in names]
        rows.append(row + [f"{each.count_difference} / {each.flips} / {each.ties}" for each in found])
    return Table("by layer: count difference / flips / ties", columns, rows)


def _skipped(report: Report) -> Table:
    return Table("skipped", ["runtime", "reason"], [[name, reason] for name, reason in report.skipped.items()])


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)


def _times(latency: Latency | None) -> list[str]:
    if latency is None:
        return ["-", "-", "-"]
    return [f"{value:.3f}" for value in (latency.p50_ms, latency.p90_ms, latency.p99_ms)]


def as_rich(table: Table) -> rich.table.Table:
    """A table for the terminal. Names come from files: as Text they cannot carry markup."""
    drawn = rich.table.Table(title=rich.text.Text(table.title), title_justify="left")
    for number, column in enumerate(table.columns):
        right = number > 0 and column != "reason"
        drawn.add_column(rich.text.Text(column), justify="right" if right else "left", no_wrap=number == 0)
    for row in table.rows:
        drawn.add_row(*map(rich.text.Text, row))
    return drawn


# --- files ----------------------------------------------------------------------------------------------------------

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; }
table { border-collapse: collapse; margin: 0 0 2rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .5rem 0; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid #8885; text-align: right; }
th:first-child, td:first-child, .skipped td, .skipped th { text-align: left; }
.verdict { padding: .6rem 1rem; border-left: .3rem solid; overflow-wrap: anywhere; }
.pass { border-color: #2a9d4a; background: #2a9d4a22; }
.fail { border-color: #d33a3a; background: #d33a3a22; }
.wide { overflow-x: auto; }
footer { opacity: .7; }
"""


def write_html(report: Report, path: Path) -> None:
    """The same tables as one page that needs nothing else; written whole or not at all."""
    drawn = "\n".join(_html_table(table) for table in tables(report))
    kind = "pass" if report.passed else "fail"
    about = f"{report.bundle}; {report.machine}; " + ", ".join(f"{name} {of}" for name, of in report.versions.items())
    title = html.escape(f"stdl-validate: {report.network}")
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>\n<body><h1>{title}</h1>\n'
        f'<p class="verdict {kind}">{html.escape(report.verdict)}</p>\n{drawn}\n'
        f"<footer>{html.escape(about)}</footer></body></html>\n"
    )
    with atomic_file(path) as part:
        part.write_text(page, encoding="utf-8")


def write_json(report: Report, path: Path) -> None:
    """Every number of the report; written whole or not at all."""
    content = {"schema_version": 1, "passed": report.passed, "verdict": report.verdict, **dataclasses.asdict(report)}
    with atomic_file(path) as part:
        part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _html_table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in table.columns)
    rows = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in table.rows)
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    kind = "skipped" if table.title == "skipped" else "numbers"
    caption = html.escape(table.title)
    return (
        f'<div class="wide"><table class="{kind}"><caption>{caption}</caption>'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )
