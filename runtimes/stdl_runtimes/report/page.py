"""A validation as one page of HTML that needs nothing else: no script, no network, light and dark, a phone's width."""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stdl_export.common.files import atomic_file
from stdl_runtimes.efficiency_result import Efficiency
from stdl_runtimes.picture_data import Raster
from stdl_runtimes.report import confusion, costs, hops, parity, raster, times
from stdl_runtimes.report.markup import cards, slug, text
from stdl_runtimes.report.tables import Table, named_tables
from stdl_runtimes.results import Check, Report

# The page may load nothing at all, whatever a name in a file may have smuggled in; the icon is an empty one.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading that links lead to; `inside` is HTML, empty where there is nothing to show."""

    name: str
    title: str
    inside: str

    @classmethod
    def of(cls, name: str, title: str, *parts: str) -> Section:
        """Of some parts, of which any may be empty."""
        return cls(name, title, "\n".join(part for part in parts if part))

    @property
    def drawn(self) -> str:
        """As HTML."""
        return f'<section id="{self.name}"><h2>{text(self.title)}</h2>\n{self.inside}\n</section>'


def write_html(report: Report, path: Path) -> None:
    """Write the page; whole or not at all. A name that is no text (half a character) is written with '?'."""
    with atomic_file(path) as part:
        part.write_text(page(report), encoding="utf-8", errors="replace")


def page(report: Report) -> str:
    """The page: what failed first, then pictures and tables."""
    title = text(f"stdl-validate: {report.network}")
    style = importlib.resources.files(__package__).joinpath("style.css").read_text(encoding="utf-8")
    sections = [each for each in _sections(report) if each.inside]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">\n'
        f"<style>\n{style}</style></head>\n<body>\n<header><h1>{title}</h1>\n{_about(report)}</header>\n<main>\n"
        f"{_verdict(report)}\n{_contents(sections)}\n"
        + "\n".join(each.drawn for each in sections)
        + "\n</main></body></html>\n"
    )


def _sections(report: Report) -> list[Section]:
    tables = named_tables(report)
    drawn = {name: _table(table) if table.rows else "" for name, table in tables.items()}
    words = _paragraph(LAYERS) if report.layers else ""
    return [
        Section.of("runtimes", "Runtimes", drawn["runtimes"], cards(parity.accuracy(report))),
        Section.of("layers", "Layer by layer", words, cards(parity.layers(report)), _folded(drawn["layers"])),
        Section.of("hops", "Hop by hop", cards(hops.way(report.hops)), drawn["hops"].replace(" -&gt; ", " → ")),
        Section.of("confusion", "Confusion", cards(confusion.matrices(report.confusions))),
        Section.of("spikes", "Spikes of one sample", *(_sample(report.raster) if report.raster else ())),
        Section.of("latency", "Latency", cards(times.histograms(report)), drawn["latency"], drawn["notes"]),
        Section.of(
            "efficiency",
            "Efficiency of a sample",
            *_efficiency(report.efficiency, drawn["efficiency"]),
            drawn["activity"],
        ),
        Section.of("skipped", "Skipped", drawn["skipped"]),
        Section.of("checks", "Checks", _folded(_checks(report.checks), f"All {len(report.checks)} checks")),
        Section.of("versions", "Versions and hashes", *_versions(report)),
    ]


def _about(report: Report) -> str:
    samples = f"{report.samples:,} golden samples, T={report.timesteps}"
    data = f", {report.data_samples:,} samples of {report.data}" if report.data else ""
    return f'<p class="about">{text(f"{report.bundle} · {samples}{data} · {report.date}")}</p>'


def _verdict(report: Report) -> str:
    """PASS or FAIL, and every check that failed with the tolerance that would have passed."""
    if report.passed:
        return f'<div class="verdict pass"><strong>✓ {text(report.verdict)}</strong></div>'
    failed, of = report.failed, len(report.checks)
    lines = "".join(f"<li>{text(check.line)}</li>" for check in failed)
    head = f"<strong>✗ FAIL: {len(failed)} of {of} checks</strong>"
    return f'<div class="verdict fail" role="alert">{head}<ul>{lines}</ul></div>'


def _contents(sections: Sequence[Section]) -> str:
    """Links to the sections that there are."""
    links = "".join(f'<li><a href="#{each.name}">{text(each.title)}</a></li>' for each in sections)
    return f'<nav aria-label="Contents"><ul>{links}</ul></nav>'


LAYERS = """
Every layer is fed with the reference's spikes, so each bar is that layer's own doing. The left axis is logarithmic, and
a vertical mark on it is what may flip; the mark on the right is golden's firing rate.
"""


def _sample(found: Raster) -> list[str]:
    cut = f", the first {found.steps} of {found.timesteps} steps" if found.steps < found.timesteps else ""
    said = f"Golden sample {found.sample} in the reference{cut}: neurons from top to bottom, time from left to right."
    return [_paragraph(said), cards(raster.layers(found))]


def _efficiency(found: Efficiency | None, table: str) -> list[str]:
    if found is None:
        return []
    energy = found.energy
    said = f"Energy is an estimate: {energy.mac_pj:g} pJ a MAC, {energy.ac_pj:g} pJ an AC, {energy.source}."
    pictures = cards(costs.operations(found))
    return [_pairs(costs.sums(found)), _paragraph(said, "note"), pictures, _folded(table)]


def _versions(report: Report) -> list[str]:
    options = [
        [each.runtime, ", ".join(f"{name}={value}" for name, value in each.options.items())]
        for each in report.runtimes
        if each.options
    ]
    installed = [[*each] for each in report.versions.items()]
    hashes = [[*each] for each in report.hashes.items()]
    return [
        _pairs([("machine", report.machine.text), ("date", report.date)]),
        _table(Table("Installed", ["package", "version"], installed, words=True)),
        _table(Table("Engines run with", ["runtime", "options"], options, words=True)) if options else "",
        _table(Table("SHA-256 of the bundle's files", ["file", "hash"], hashes, words=True), cell="hash"),
    ]


def _checks(checks: Sequence[Check]) -> str:
    rows = [[f"{check.runtime}, {check.name}", "held" if check.passed else "failed", check.text] for check in checks]
    kinds = ["held" if check.passed else "missed" for check in checks]
    return _table(Table("Checks", ["check", "result", "what was found"], rows, words=True), rows=kinds)


# --- pieces -----------------------------------------------------------------------------------------------------------


def _table(table: Table, cell: str = "", rows: Sequence[str] | None = None) -> str:
    """A table that scrolls within itself where it is wider than the page; its first column heads the rows.

    cell, rows: classes of all its cells, and of each row.
    """
    name, kind = slug(f"table {table.title}"), "words" if table.words else "numbers"
    head = "".join(f'<th scope="col">{text(column)}</th>' for column in table.columns)
    body = "\n".join(_row(row, cell, rows[number] if rows else "") for number, row in enumerate(table.rows))
    return (
        f'<div class="wide" tabindex="0" role="region" aria-labelledby="{name}"><table class="{kind}">'
        f'<caption id="{name}"><span>{text(table.title)}</span></caption><thead><tr>{head}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>"
    )


def _row(row: Sequence[str], cell: str, kind: str) -> str:
    first, *others = row
    cells = "".join(f'<td class="{cell}">{text(each)}</td>' if cell else f"<td>{text(each)}</td>" for each in others)
    return f'<tr class="{kind}"><th scope="row">{text(first)}</th>{cells}</tr>'


def _paragraph(value: str, kind: str = "") -> str:
    return f'<p class="{kind}">{text(value.strip())}</p>'


def _folded(inside: str, name: str = "As a table") -> str:
    return f"<details><summary>{text(name)}</summary>{inside}</details>" if inside else ""


def _pairs(rows: Iterable[tuple[str, str]]) -> str:
    return "<dl>" + "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in rows) + "</dl>"
