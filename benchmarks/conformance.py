"""Renew docs/conformance.md: every conformance case through every flow, beside what the framework itself recorded.

    python benchmarks/conformance.py

Takes seconds. It needs ONNX Runtime, and the cases beside the checkout (../shared/conformance). The table is made by
tests/helpers/conformance_table.py; tests/test_conformance_page.py says when the page is out of date.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))
import common
import conformance
import conformance_table

PAGE = """\
# Conformance: what other frameworks computed, computed here

Each row is a graph that a framework exported or imported, with an input and the output that the framework itself gave
for it. The graph is run under its dialect (see [dialects.md](dialects.md)) by the NumPy reference and, lowered to ONNX,
by ONNX Runtime: as a sequence graph with T fixed, as one with T left open, and as a step graph called T times. The file
is written by `python benchmarks/conformance.py`.

- Under a flow: how many spikes, or their absence, are those that the framework recorded, over all steps, samples and
  neurons of every layer that was recorded.
- dialect: the name of the dialect that says what the case's own table says.
- largest error: of the output in any flow, relative to the largest value (to 1 where that is less). 0 is bit for bit.
- smallest margin: how near any potential came to its threshold, as the case says it: a rounding error of that size
  could have flipped a spike. In an exact tie the two are equal, and the rule of the framework decides.

{table}

Exceptions: {exceptions}

{where}
"""


def main() -> None:
    """Compute the table and write the page."""
    if not conformance.NAMES:
        sys.exit(f"{conformance.ABSENT}: {conformance.FOLDER}")
    columns = conformance_table.COLUMNS
    head = ["| " + " | ".join(columns) + " |", "|" + "---|" * 3 + "---:|" * (len(columns) - 3)]
    rows = ["| " + " | ".join(row) + " |" for row in conformance_table.table()]
    text = PAGE.format(table="\n".join([*head, *rows]), exceptions=exceptions(), where=where())
    conformance_table.PAGE.write_text(text, encoding="utf-8")
    print(f"written: {conformance_table.PAGE.relative_to(common.ROOT)}, {len(rows)} cases")


def exceptions() -> str:
    """The cells that may differ, and why."""
    found = [f"{case}, {flow}: {reason}" for (case, flow), reason in sorted(conformance.EXCEPTIONS.items())]
    return "; ".join(found) + "." if found else "none."


def where() -> str:
    """Date, machine and versions."""
    here = common.environment("numpy", "onnx", "onnxruntime", "nir")
    versions = ", ".join(f"{package} {version}" for package, version in here["versions"].items())
    return f"{here['date']}, {here['processor']}, Python {here['python']}, {versions}."


if __name__ == "__main__":
    main()
