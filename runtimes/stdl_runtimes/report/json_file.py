"""A validation as JSON, schema 2: every field of `results.Report`."""

from __future__ import annotations

import json
from pathlib import Path

from stdl_export.common.files import atomic_file
from stdl_runtimes.results import Report, content


def write_json(report: Report, path: Path) -> None:
    """Every number of the report; written whole or not at all."""
    with atomic_file(path) as part:
        part.write_text(json.dumps(content(report), indent=2, allow_nan=False) + "\n", encoding="utf-8")
