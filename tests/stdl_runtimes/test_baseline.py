"""What became worse since an earlier report, and files that are no report."""

import dataclasses
import json

import pytest
import reports

from stdl_export.common.errors import BadInput
from stdl_runtimes import baseline
from stdl_runtimes.gate import Rules
from stdl_runtimes.report import write_json
from stdl_runtimes.results import Check, Machine


@pytest.fixture
def old(tmp_path):
    """An earlier report as it was written and read again."""
    lines = reports.line("onnxruntime", 0.95, timed=reports.latency()), reports.line("tensorrt", 0.95)
    flips = Check("flips", "onnxruntime", True, "0 flipped", node="lif1")
    write_json(reports.report(*lines, checks=(flips,)), tmp_path / "old.json")
    return baseline.read(tmp_path / "old.json")


def new(accuracy=0.95, p50=1.0, p99=2.0, checks=(), **more):
    timed = reports.latency(p50, p99)
    return reports.report(
        reports.line("onnxruntime", accuracy, timed=timed), reports.line("tensorrt", 0.95), checks=checks, **more
    )


def failed(old, new, **rules):
    return [check.name for check in baseline.checks(old, new, Rules(**rules)) if not check.passed]


def test_nothing_worse(old):
    found = baseline.checks(old, new(), Rules())
    assert all(check.passed for check in found)
    assert [check.name for check in found if check.runtime == "onnxruntime"] == [
        "compare: accuracy", "compare: p50", "compare: p99"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "rules", "names"),
    [
        ({"accuracy": 0.94}, {}, ["compare: accuracy"]),
        ({"accuracy": 0.94}, {"accuracy_drop": 0.01}, []),
        ({"accuracy": 0.99}, {}, []),
        ({"p50": 1.21}, {}, ["compare: p50"]),
        ({"p50": 1.21}, {"slowdown": 1.3}, []),
        ({"p99": 2.5}, {}, ["compare: p99"]),
        ({"p50": 0.1, "p99": 0.2}, {}, []),
        ({"checks": (Check("flips", "onnxruntime", False, "5 flipped", node="lif1"),)}, {}, ["compare: checks"]),
        ({"checks": (Check("flips", "onnxruntime", False, "5 flipped", node="lif2"),)}, {}, []),  # it was not there
    ],
)
def test_what_became_worse(old, change, rules, names):
    assert failed(old, new(**change), **rules) == names


def test_the_factor_that_would_have_passed_passes(old):
    (check,) = [each for each in baseline.checks(old, new(p99=5.0), Rules()) if not each.passed]
    assert (check.tolerance, check.would_pass) == ("compare.slowdown", 2.5)
    assert "p99 is 5.000 ms, it was 2.000 ms; 1.2 times as long is allowed" in check.text
    assert failed(old, new(p99=5.0), slowdown=2.5) == []


def test_a_runtime_that_ran_before_and_does_not_now(old):
    only = reports.report(reports.line("onnxruntime", timed=reports.latency()), skipped={"tensorrt": "no driver"})
    (check,) = [each for each in baseline.checks(old, only, Rules()) if not each.passed]
    assert check.line == "tensorrt, compare: runs: it ran before: no driver"


def test_times_of_another_machine_are_not_compared(old):
    other = dataclasses.replace(new(p50=50, p99=60), machine=Machine("Linux", "another", 2, None, {}))
    found = baseline.checks(old, other, Rules())
    assert all(check.passed for check in found)
    assert "times are not compared: they were taken on a processor" in [check.text for check in found]


def test_times_that_nobody_took_are_said_to_be_missing(old):
    found = baseline.checks(old, reports.report(reports.line("onnxruntime"), reports.line("tensorrt")), Rules())
    assert ("compare: latency", True, "times are not compared: take them with --latency") in [
        (check.name, check.passed, check.text) for check in found
    ]


def test_another_network_is_refused(old):
    with pytest.raises(BadInput, match=r"^--compare is about 'small' at T=4, this is 'big' at T=4"):
        baseline.require_same(old, "big", 4)
    baseline.require_same(old, "small", 4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a JSON object: give a file that stdl-validate --json wrote"),
        ('{"schema_version": 1}', "has schema version 1, this version of stdl compares 2: write it again"),
        ('{"schema_version": 2, "schema_version": 2}', "stands twice"),
        ('{"schema_version": 2}', "'network' is missing"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_a_file_that_is_no_report_is_one_line(tmp_path, content, message):
    (tmp_path / "old.json").write_text(content)
    with pytest.raises(BadInput) as error:
        baseline.read(tmp_path / "old.json")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(BadInput, match="does not exist"):
        baseline.read(tmp_path / "none.json")


def test_numbers_that_cannot_be_are_refused(tmp_path):
    write_json(new(), tmp_path / "old.json")
    changed = json.loads((tmp_path / "old.json").read_text())
    changed["runtimes"][1]["accuracy"]["value"] = 7
    (tmp_path / "old.json").write_text(json.dumps(changed))
    with pytest.raises(BadInput, match=r"'runtimes\.1\.accuracy\.value' = 7"):
        baseline.read(tmp_path / "old.json")


ODD = [None, True, -1, 0, 1e308, 10**400, "", "x" * 300, "\ud800", "a\n\x1b[31mb", [], [None], {}, {"a": []}]


def test_any_change_of_a_file_is_refused_on_one_line_or_compared(tmp_path):
    """Every value of a report, in turn another thing, or gone: no traceback whatever it is."""
    write_json(new(), tmp_path / "old.json")
    whole = json.loads((tmp_path / "old.json").read_text())
    compared, refused = [], []
    for number, path in enumerate(_paths(whole)):
        changed = json.loads(json.dumps(whole))
        *front, last = path
        inner = changed
        for key in front:
            inner = inner[key]
        if number % 5:
            inner[last] = ODD[number % len(ODD)]
        else:
            del inner[last]
        (tmp_path / "odd.json").write_text(json.dumps(changed))
        try:
            checks = baseline.checks(baseline.read(tmp_path / "odd.json"), new(), Rules())
            compared += [check.line for check in checks]
        except BadInput as error:
            refused.append(str(error))
    assert min(len(compared), len(refused)) > 20
    assert all(line.isprintable() for line in (*compared, *refused))


def _paths(value, path=()):
    """Where each value in it is."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield (*path, key)
        yield from _paths(each, (*path, key))
