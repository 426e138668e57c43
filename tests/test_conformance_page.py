"""docs/conformance.md is what the code does: its table is computed again, and compared but for rounding."""

from __future__ import annotations

import conformance
import conformance_table
import pytest
from conformance_table import PAGE, STABLE

pytestmark = pytest.mark.skipif(not conformance.NAMES, reason=conformance.ABSENT)

RENEW = "docs/conformance.md is out of date: python benchmarks/conformance.py"


def test_the_page_has_every_case() -> None:
    assert [row[0] for row in conformance_table.written()] == conformance.NAMES, RENEW


@pytest.mark.parametrize("name", conformance.NAMES)
def test_its_table_is_what_comes_out(name: str) -> None:
    pytest.importorskip("onnxruntime")
    (written,) = [row for row in conformance_table.written() if row[0] == name]
    found = conformance_table.row(name)
    assert found[:STABLE] == written[:STABLE], RENEW
    assert max(float(found[STABLE]), float(written[STABLE])) <= 1e-5
    assert found[-1] == written[-1], RENEW


def test_every_spike_on_the_page_is_the_frameworks() -> None:
    """But for the exceptions, each of which the page names."""
    text = PAGE.read_text(encoding="utf-8")
    for row in conformance_table.written():
        for flow, cell in zip(conformance_table.FLOWS, row[3:STABLE], strict=True):
            same, _, every = cell.partition(" of ")
            if (row[0], flow) in conformance.EXCEPTIONS:
                assert conformance.EXCEPTIONS[row[0], flow] in text, RENEW
            else:
                assert same == every or cell == "no spikes recorded"
    assert conformance.EXCEPTIONS or "Exceptions: none." in text, RENEW
