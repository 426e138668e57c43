"""A gate: limits that a validation has to keep, from a TOML file and from options. Each becomes a check of the report.

min_accuracy = 0.97         # for every runtime but the reference, which judges
max_p99 = 5.0               # milliseconds

[runtime.onnxruntime]       # for this one, over what stands above; as its line in the report is called
max_p99 = 2.0

[compare]                   # with --compare old.json
accuracy_drop = 0.005
slowdown = 1.2
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import pydantic

from stdl_export.common.config import NaturalFloat, Table, read_toml, validate
from stdl_runtimes.limits import LIMITS
from stdl_runtimes.results import Check, Report, RuntimeLine

REFERENCE = "reference"

Share = Annotated[float, pydantic.Field(ge=0, le=1)]


class Limits(Table):
    """Limits by the names in `LIMITS`: shares in [0, 1], times in milliseconds, memory in MiB."""

    min_accuracy: Share | None = None
    max_accuracy_drop: Share | None = None
    min_agreement: Share | None = None
    max_flips: Share | None = None
    max_rate_drift: Share | None = None
    max_spikes: NaturalFloat | None = None
    max_synops: NaturalFloat | None = None
    max_p50: NaturalFloat | None = None
    max_p90: NaturalFloat | None = None
    max_p99: NaturalFloat | None = None
    max_p999: NaturalFloat | None = None
    max_step_p99: NaturalFloat | None = None
    max_query_p99: NaturalFloat | None = None
    min_throughput: NaturalFloat | None = None
    max_cold_start: NaturalFloat | None = None
    max_host_memory: NaturalFloat | None = None
    max_device_memory: NaturalFloat | None = None

    @property
    def given(self) -> dict[str, float]:
        """Those that were set."""
        return {name: value for name in LIMITS if (value := getattr(self, name)) is not None}


class Rules(Table):
    """When `--compare` finds a regression: accuracy lost, as a share; times longer than the old ones by this factor."""

    accuracy_drop: Share = 0.005
    slowdown: float = pydantic.Field(1.2, ge=1, allow_inf_nan=False)


class Gate(Limits):
    """Limits for all runtimes, and for single ones by the names of their lines."""

    runtime: dict[str, Limits] = pydantic.Field(default_factory=dict)
    compare: Rules = Rules()

    @property
    def timed(self) -> list[str]:
        """The limits that need `--latency`."""
        names = [name for each in (self, *self.runtime.values()) for name in each.given]
        return list(dict.fromkeys(name for name in names if LIMITS[name].timed))


def read(path: Path | None, options: Mapping[str, float]) -> Gate:
    """The gate of a file, where one is given, with the options over its limits; BadInput with what does not hold."""
    table = read_toml(path) if path else {}
    return validate(Gate, table | dict(options), f"'{path}'" if path else "options")


def checks(gate: Gate, report: Report) -> list[Check]:
    """A check for each limit of each line it is about; one that fails where there is nothing to limit."""
    lines = {line.runtime: line for line in report.runtimes[1:]}
    found = []
    for label, line in lines.items():
        own = gate.runtime[label].given if label in gate.runtime else {}
        limits = own if label == REFERENCE else gate.given | own
        found += [_check(report, line, name, limit) for name, limit in limits.items()]
    for label in gate.runtime:
        if label not in lines:
            reason = report.skipped.get(label, f"there is no such line, but {', '.join(lines)}")
            found.append(Check("gate", label, passed=False, text=f"it has limits, but did not run: {reason}"))
    if gate.given and set(lines) <= {REFERENCE}:
        found.append(Check("gate", REFERENCE, passed=False, text="no runtime ran but the reference, which judges"))
    return found


def _check(report: Report, line: RuntimeLine, name: str, limit: float) -> Check:
    row = LIMITS[name]
    value, least = row.value(report, line), name.startswith("min_")
    said = f"{'at least' if least else 'at most'} {row.text(limit)}"
    if value is None:
        text = f"{row.about}: not measured, {said} is demanded"
        return Check(f"gate: {name}", line.runtime, passed=False, text=text)
    passed = value >= limit if least else value <= limit
    text = f"{row.about} is {row.text(value)}, {said} is demanded"
    return Check(f"gate: {name}", line.runtime, passed, text, name, None if passed else value)
