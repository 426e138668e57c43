"""`--compare old.json`: what became worse since an earlier validation, as checks of the new one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pydantic

from stdl_export.common.config import read_json_object, validate
from stdl_export.common.errors import BadInput, one_line
from stdl_runtimes.gate import Rules
from stdl_runtimes.latency_result import Latency
from stdl_runtimes.results import SCHEMA_VERSION, Check, Report, RuntimeLine

MAX_BYTES = 64 << 20


class _Old(pydantic.BaseModel):
    """What is read of an earlier report; everything else in it is left alone."""

    model_config = pydantic.ConfigDict(frozen=True, extra="ignore")


def _plain(text: str) -> str:
    """On one line, nothing that a terminal would act on: a report may come from anywhere."""
    return one_line("".join(c if c.isprintable() or c.isspace() else "?" for c in text))


Text = Annotated[str, pydantic.AfterValidator(_plain)]


class Share(_Old):
    """Of accuracy."""

    value: float = pydantic.Field(ge=0, le=1)


class Percentiles(_Old):
    """In milliseconds."""

    p50_ms: pydantic.NonNegativeFloat
    p99_ms: pydantic.NonNegativeFloat


class Timing(_Old):
    """Times of one sample."""

    sample: Percentiles


class Line(_Old):
    """A runtime in one mode."""

    runtime: Text
    accuracy: Share | None = None
    data_accuracy: Share | None = None
    latency: Timing | None = None


class Condition(_Old):
    """A check."""

    name: Text
    runtime: Text
    passed: bool
    node: Text | None = None


class Where(_Old):
    """The machine."""

    processor: Text
    power: dict[str, Text] = {}


class Baseline(_Old):
    """An earlier report. runtimes: golden's own line is the first."""

    network: Text
    samples: int
    timesteps: int
    data: Text | None
    data_samples: int
    runtimes: tuple[Line, ...] = pydantic.Field(min_length=1)
    checks: tuple[Condition, ...]
    machine: Where
    date: Text


def read(path: Path) -> Baseline:
    """Read a file that `--json` wrote; BadInput on one line where it is none, or of another schema."""
    found = read_json_object(path, MAX_BYTES, "give a file that stdl-validate --json wrote")
    version = found.get("schema_version")
    if version != SCHEMA_VERSION:
        raise BadInput(
            f"'{path}' has schema version {version!r:.40}, this version of stdl compares {SCHEMA_VERSION}: write it "
            "again with stdl-validate --json"
        )
    return validate(Baseline, found, f"'{path}'")


def require_same(old: Baseline, network: str, timesteps: int) -> None:
    """Refuse an earlier report of another network, before anything runs."""
    if (old.network, old.timesteps) != (network, timesteps):
        was, is_ = f"'{old.network}' at T={old.timesteps}", f"'{network}' at T={timesteps}"
        raise BadInput(f"--compare is about {was}, this is {is_}: compare validations of the same network")


def checks(old: Baseline, new: Report, rules: Rules) -> list[Check]:
    """A check for each runtime that ran before, and for each check that held before and does not now."""
    lines = {line.runtime: line for line in new.runtimes[1:]}
    found = []
    for before in old.runtimes[1:]:
        if before.runtime not in lines:
            reason = new.skipped.get(before.runtime.removesuffix(" step"), "it was not asked for")
            found.append(Check("compare: runs", before.runtime, passed=False, text=f"it ran before: {reason}"))
            continue
        after = lines[before.runtime]
        found += _accuracy(old, before, new, after, rules)
        if before.latency and not after.latency:
            text = "times are not compared: take them with --latency"
            found.append(Check("compare: latency", after.runtime, passed=True, text=text))
        if before.latency and after.latency:
            found += _times(old, before.latency, new, after.runtime, after.latency, rules)
    return found + _failed_since(old, new)


def _accuracy(old: Baseline, before: Line, new: Report, after: RuntimeLine, rules: Rules) -> list[Check]:
    """Of the golden samples, and of the data set where both ran the same one."""
    pairs = [("accuracy", before.accuracy, after.accuracy)] if old.samples == new.samples else []
    if (old.data, old.data_samples) == (new.data, new.data_samples):
        pairs.append((f"accuracy on {new.data}", before.data_accuracy, after.data_accuracy))
    found = []
    for name, was, is_ in pairs:
        if was is not None and is_ is not None:
            lost = was.value - is_.value
            text = f"{name} is {is_.value:.2%}, it was {was.value:.2%}; {rules.accuracy_drop:.2%} may be lost"
            passed = lost <= rules.accuracy_drop + 1e-12
            would = None if passed else lost
            found.append(Check("compare: accuracy", after.runtime, passed, text, "compare.accuracy_drop", would))
    return found


def _times(old: Baseline, was: Timing, new: Report, runtime: str, is_: Latency, rules: Rules) -> list[Check]:
    """Times say something on the same processor only."""
    if old.machine.processor != new.machine.processor:
        text = f"times are not compared: they were taken on {old.machine.processor}"
        return [Check("compare: latency", runtime, passed=True, text=text)]
    found = []
    for name, before, after in (
        ("p50", was.sample.p50_ms, is_.sample.p50_ms),
        ("p99", was.sample.p99_ms, is_.sample.p99_ms),
    ):
        passed = after <= rules.slowdown * before
        text = f"{name} is {after:.3f} ms, it was {before:.3f} ms; {rules.slowdown:g} times as long is allowed"
        would = None if passed or not before else after / before
        found.append(Check(f"compare: {name}", runtime, passed, text, "compare.slowdown", would))
    return found


def _failed_since(old: Baseline, new: Report) -> list[Check]:
    """Checks that fail now, and held in the old report."""
    held = {(check.name, check.runtime, check.node) for check in old.checks if check.passed}
    return [
        Check("compare: checks", check.runtime, False, f"'{check.name}' fails, it held on {old.date}", node=check.node)
        for check in new.failed
        if (check.name, check.runtime, check.node) in held
    ]
