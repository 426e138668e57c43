"""What all benchmarks share.

Where and with what they ran, a table for people, JSON, and their section of docs/benchmarks.md.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DOCS = ROOT / "docs" / "benchmarks.md"


def command(module: str, *words: str) -> str:
    """One of our commands in a process of its own, such as "stdl_train.cli"; what it printed."""
    entry = f"import sys; from {module} import entry; sys.argv[0] = {module!r}; entry()"
    return subprocess.run([sys.executable, "-c", entry, *words], check=True, stdout=subprocess.PIPE, text=True).stdout


def environment(*packages: str) -> dict[str, Any]:
    """Date, machine and versions."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in ("stdl-toolchain", *packages)},
    }


def kept(name: str, resume: bool) -> list[dict[str, Any]]:
    """What an earlier run of a long benchmark has measured, to go on from; nothing unless `resume`."""
    path = RESULTS / f"{name}.part.json"
    if not resume or not path.is_file():
        return []
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return found


def keep(name: str, results: list[dict[str, Any]]) -> None:
    """Keep what has been measured so far, for `kept`; `report` removes it."""
    RESULTS.mkdir(exist_ok=True)
    part = RESULTS / f"{name}.part.json.new"
    part.write_text(json.dumps(results), encoding="utf-8")
    part.replace(RESULTS / f"{name}.part.json")


def report(name: str, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], data: dict[str, Any]) -> None:
    """Print the table, write benchmarks/results/NAME.json, and renew the table in docs/benchmarks.md."""
    table = Table(title=title)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*row)
    Console(width=160).print(table)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    (RESULTS / f"{name}.part.json").unlink(missing_ok=True)
    _renew_docs(name, columns, rows, data["environment"])
    print(f"written: {path.relative_to(ROOT)}, section '{name}' of {DOCS.relative_to(ROOT)}")


def _renew_docs(name: str, columns: Sequence[str], rows: Sequence[Sequence[str]], where: dict[str, Any]) -> None:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" + "---:|" * (len(columns) - 1)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    versions = ", ".join(f"{package} {found}" for package, found in where["versions"].items())
    lines += [
        "",
        f"{where['date']}, {where['processor']}, {where['cores']} cores, Python {where['python']}, {versions}.",
    ]
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    text = DOCS.read_text(encoding="utf-8")
    section = f"{begin}\n" + "\n".join(lines) + f"\n{end}"
    changed, count = re.subn(re.escape(begin) + ".*?" + re.escape(end), lambda _: section, text, flags=re.DOTALL)
    if count != 1:
        raise SystemExit(f"{DOCS} has no section '{name}'")
    DOCS.write_text(changed, encoding="utf-8")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    """The processor's name where Linux tells it."""
    try:
        names = re.findall(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
