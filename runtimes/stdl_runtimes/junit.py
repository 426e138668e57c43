"""A validation as JUnit XML, which CI systems show: a suite for each runtime, a case for each check."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

from stdl_export.common.files import atomic_file
from stdl_runtimes.results import Check, Report

# Characters that XML 1.0 cannot hold, not even escaped: names come from files of others.
NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write(report: Report, path: Path) -> None:
    """Write the file; whole or not at all."""
    with atomic_file(path) as part:
        part.write_bytes(document(report))


def document(report: Report) -> bytes:
    """testsuites > testsuite > testcase > failure | skipped, as the common XSD has them."""
    counts = _counts(report.checks, len(report.skipped))
    counts.pop("skipped", None)  # Jenkins' schema has it at suites only
    root = ET.Element("testsuites", counts | {"name": "stdl-validate"})
    by_runtime: dict[str, list[Check]] = {}
    for check in report.checks:
        by_runtime.setdefault(check.runtime, []).append(check)
    for name, checks in by_runtime.items():
        suite = ET.SubElement(root, "testsuite", _suite(report, name) | _counts(checks, 0))
        for called, check in zip(_names(checks), checks, strict=True):
            _case(suite, report, called, check)
    for name, reason in report.skipped.items():
        suite = ET.SubElement(root, "testsuite", _suite(report, name) | _counts([], 1))
        case = ET.SubElement(suite, "testcase", _called(report, name, "runs here"))
        ET.SubElement(case, "skipped", {"message": _clean(reason)})
    ET.indent(root)
    found: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return found + b"\n"


def _case(suite: ET.Element, report: Report, name: str, check: Check) -> None:
    case = ET.SubElement(suite, "testcase", _called(report, check.runtime, name))
    if not check.passed:
        failure = ET.SubElement(case, "failure", {"message": _clean(check.text), "type": _clean(check.name)})
        failure.text = _clean(check.line)


def _names(checks: Sequence[Check]) -> list[str]:
    """Those of a suite, with the layer where there is one; a number where two would be the same."""
    names: list[str] = []
    for check in checks:
        name = check.name if check.node is None else f"{check.name} '{check.node}'"
        again = names.count(name)
        names.append(f"{name} ({again + 1})" if again else name)
    return names


def _called(report: Report, runtime: str, name: str) -> dict[str, str]:
    return {"classname": _clean(f"stdl.{report.network}.{runtime}"), "name": _clean(name), "time": "0"}


def _suite(report: Report, runtime: str) -> dict[str, str]:
    when = report.date.split("+")[0]  # the common XSD has no time zones: UTC
    return {"name": _clean(f"{report.network} {runtime}"), "timestamp": when, "time": "0"}


def _counts(checks: Sequence[Check], skipped: int) -> dict[str, str]:
    failures = sum(not check.passed for check in checks)
    known = {"tests": len(checks) + skipped, "failures": failures, "errors": 0}
    return {name: str(count) for name, count in known.items()} | ({"skipped": str(skipped)} if skipped else {})


def _clean(text: str) -> str:
    return NOT_XML.sub("\ufffd", text)
