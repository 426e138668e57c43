"""A validation as one page of HTML that needs nothing else."""

from __future__ import annotations

import html
from pathlib import Path

from stdl_export.common.files import atomic_file
from stdl_runtimes.report.tables import Table, tables
from stdl_runtimes.results import Report

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
    about = f"{report.bundle}; {report.machine.text}; " + ", ".join(
        f"{name} {of}" for name, of in report.versions.items()
    )
    title = html.escape(f"stdl-validate: {report.network}")
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>\n<body><h1>{title}</h1>\n'
        f'<p class="verdict {kind}">{html.escape(report.verdict)}</p>\n{drawn}\n'
        f"<footer>{html.escape(about)}</footer></body></html>\n"
    )
    with atomic_file(path) as part:
        part.write_text(page, encoding="utf-8")


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
