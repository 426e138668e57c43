"""What `stdl-validate` is told: its options as one object, checked before anything is opened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from stdl_export import bundle as bundles
from stdl_export.common.errors import BadInput
from stdl_export.common.files import require_writable
from stdl_export.common.names import unknown
from stdl_runtimes import base, baseline, gate
from stdl_runtimes.baseline import Baseline
from stdl_runtimes.gate import Gate
from stdl_runtimes.latency import Plan
from stdl_runtimes.limits import LIMITS


@dataclass(frozen=True)
class Options:
    """As click gives them. limits: of the gate, by their names."""

    bundle: Path
    runtime: tuple[str, ...]
    data: str | None
    data_path: str | None
    data_limit: int | None
    latency: bool
    latency_seconds: float | None
    latency_batch: int | None
    set: tuple[str, ...]
    require: tuple[str, ...]
    gate: Path | None
    compare: Path | None
    report: Path | None
    json: Path | None
    junit: Path | None
    markdown: Path | None
    limits: dict[str, float]

    @classmethod
    def of(cls, given: dict[str, Any]) -> Options:
        """Gathers the limits, of which each is an option."""
        limits = {name: value for name in LIMITS if (value := given.pop(name)) is not None}
        return cls(**given, limits=limits)

    @property
    def plan(self) -> Plan | None:
        """How to take times, if at all."""
        if not self.latency:
            return None
        return Plan(self.latency_seconds or Plan.seconds, self.latency_batch or Plan.batch)

    def read_gate(self) -> Gate:
        """The gate of the file and the options; refuses limits on times that nobody takes."""
        found = gate.read(self.gate, self.limits)
        if found.timed and not self.latency:
            raise click.UsageError(f"{', '.join(found.timed)} of the gate: times are taken with --latency only")
        return found

    def read_baseline(self) -> Baseline | None:
        """The earlier validation to compare with."""
        return baseline.read(self.compare) if self.compare else None


def check(given: Options) -> None:
    """Refuse options that do not go together, and files that could not be written."""
    if given.data is None and (given.data_path or given.data_limit):
        raise click.UsageError("--data-path and --data-limit belong to --data NAME")
    if not given.latency and (given.latency_seconds or given.latency_batch):
        raise click.UsageError("--latency-seconds and --latency-batch belong to --latency")
    files = [file for file in (given.json, given.report, given.junit, given.markdown) if file]
    for file in files:
        bundles.require_outside(given.bundle, file)
        require_writable(file)
    if len({file.absolute() for file in files}) < len(files):
        raise click.UsageError("two of --json, --report, --junit and --markdown name the same file")


def names(values: Sequence[str]) -> list[str]:
    """Names of runtimes from an option that is repeated, comma-separated, or both; each once."""
    found = [name.strip() for value in values for name in value.split(",") if name.strip()]
    for name in found:
        if name not in base.REGISTRY:
            raise unknown("runtime", name, base.REGISTRY)
    return list(dict.fromkeys(found))


def of_runtimes(settings: Sequence[str]) -> dict[str, dict[str, str]]:
    """By runtime what `--set` says."""
    found: dict[str, dict[str, str]] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        runtime, dot, name = key.strip().partition(".")
        if not (equals and dot and name):
            raise BadInput(f"--set '{setting}': write runtime.key=value, for example --set onnxruntime.threads=2")
        if runtime not in base.REGISTRY:
            raise unknown("runtime", runtime, base.REGISTRY)
        found.setdefault(runtime, {})[name] = value.strip()
    return found


def limits(command: Callable[..., int]) -> Callable[..., int]:
    """One option for each limit of a gate."""
    for name, limit in reversed(list(LIMITS.items())):
        unit = "SHARE" if limit.share else limit.unit.strip() or "NUMBER"
        kind = click.FloatRange(min=0, max=1 if limit.share else None)
        option = click.option(f"--{name.replace('_', '-')}", type=kind, metavar=unit.upper(), help=_help(name))
        command = option(command)
    return command


def _help(name: str) -> str:
    limit = LIMITS[name]
    needs = ", with --latency" if limit.timed else ""
    return f"Fail where {limit.about} is {'below' if name.startswith('min_') else 'above'} this{needs}."
