"""A validation as Markdown: what CI systems show beside a change, and people paste into an issue."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from stdl_export.common.errors import one_line
from stdl_export.common.files import atomic_file
from stdl_runtimes.results import Change, Proportion, Report, RuntimeLine

# What Markdown or the HTML in it would read as more than text; "@" and "#" would call people and name issues.
SPECIAL = re.compile(r"([\\`*_{}\[\]()#+\-.!|~@:$])")
ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def write(report: Report, path: Path) -> None:
    """Write the file; whole or not at all."""
    with atomic_file(path) as part:
        part.write_text(document(report), encoding="utf-8", errors="replace")


def document(report: Report) -> str:
    """The verdict, what failed, a line for each runtime, what was skipped."""
    verdict = "PASS" if report.passed else f"FAIL: {len(report.failed)} of {len(report.checks)} checks"
    about = f"{report.samples} golden samples, T={report.timesteps}"
    if report.data:
        about += f", {report.data_samples} samples of {report.data}"
    parts = [f"## {'✅' if report.passed else '❌'} {text(report.network)}: {verdict}", text(about)]
    if report.failed:
        parts.append("\n".join(f"- {text(check.line)}" for check in report.failed))
    parts.append(_table(_columns(report), [_row(report, line) for line in report.runtimes]))
    if report.skipped:
        parts.append("\n".join(f"- skipped: {text(name)}, {text(why)}" for name, why in report.skipped.items()))
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    parts.append(f"<sub>{text(report.machine.text)}; {text(versions)}; {text(report.date)}</sub>")
    return "\n\n".join(parts) + "\n"


def text(value: str) -> str:
    """Text that stays text: names come from files of others."""
    plain = one_line("".join(c if c.isprintable() else "\ufffd" for c in value.replace("\n", " ")))
    escaped = SPECIAL.sub(r"\\\1", plain)
    return "".join(ENTITIES.get(c, c) for c in escaped)


def _columns(report: Report) -> list[str]:
    columns = ["runtime", "accuracy", "change, points", "agreement", "flips", "ties", "rate drift, points"]
    if report.data:
        columns += ["data: accuracy", "data: agreement"]
    if any(line.latency for line in report.runtimes):
        columns += ["p50 ms", "p90 ms", "p99 ms", "samples/s", "cold start ms"]
    return columns


def _row(report: Report, line: RuntimeLine) -> list[str]:
    row = [text(line.runtime), _interval(line.accuracy), _change(line.accuracy_change), _interval(line.agreement)]
    row += ["" if count is None else str(count) for count in (line.flips, line.ties)]
    row.append("" if line.rate_drift is None else f"{100 * line.rate_drift:+.3f}")
    if report.data:
        row += [_interval(line.data_accuracy), _interval(line.data_agreement)]
    if found := line.latency:
        row += [f"{value:.3f}" for value in (found.sample.p50_ms, found.sample.p90_ms, found.sample.p99_ms)]
        row.append(f"{found.offline.samples_per_second:.0f}" if found.offline else "")
        row.append(f"{found.cold_start.total_ms:.0f}" if found.cold_start else "")
    return row


def _interval(value: Proportion | None) -> str:
    return "" if value is None else f"{value.value:.2%} ({value.low:.1%} to {value.high:.1%})"


def _change(value: Change | None) -> str:
    return "" if value is None else f"{100 * value.value:+.2f} ({100 * value.low:+.1f} to {100 * value.high:+.1f})"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells that a row lacks at its end are empty."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join("| " + " | ".join([*line, *[""] * (len(columns) - len(line))]) + " |" for line in lines)
