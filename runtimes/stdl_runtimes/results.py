"""What one run of `stdl-validate` found, as plain data: reports, gates and comparisons read it.

`Report` is what the JSON file holds (schema 2), field by field; `None` is what was not measured, or cannot be shown.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from stdl_runtimes.efficiency_result import Efficiency
from stdl_runtimes.latency_result import Latency
from stdl_runtimes.picture_data import Confusion, Raster

SCHEMA_VERSION = 2  # 1: accuracy and agreement were bare numbers, latency three percentiles


@dataclass(frozen=True)
class Proportion:
    """A share of `n` samples, in [0, 1], with its 95 % confidence interval (Wilson's score interval)."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Change:
    """By how much a share changes on the same `n` samples, with its 95 % interval: negative where it became less.

    The interval is that of paired samples (Agresti and Min, 2005): the samples on which both agree hardly widen it.
    """

    value: float
    low: float
    high: float
    n: int


# --- parity -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Check:
    """One condition. `text` says what was found and what is allowed.

    tolerance: what of the bundle's tolerances decides, where one does; would_pass: the strictest value of it that a
    failed check would have passed with, None where it passed or no tolerance helps. node: of checks of single layers.
    """

    name: str
    runtime: str
    passed: bool
    text: str
    tolerance: str | None = None
    would_pass: float | None = None
    node: str | None = None

    @property
    def line(self) -> str:
        """As people read it, with the tolerance that would have passed."""
        hint = "" if self.would_pass is None else f" (it would pass with {self.tolerance} = {self.would_pass:.2g})"
        return f"{self.runtime}, {self.name}: {self.text}{hint}"


@dataclass(frozen=True)
class Difference:
    """The first place where two runs differ: the earliest step, in it the first node, in that the first sample.

    t: None where only counts over all steps are known. index: the neuron, or the output, within the sample. expected
    and found: spikes, counts, states or outputs. distance: how far the reference's potential was from its threshold,
    relative to max(1, |v_threshold|); tie: is that within the flip margin, so that rounding explains it?
    """

    node: str
    t: int | None
    sample: int
    index: tuple[int, ...]
    expected: float
    found: float
    distance: float | None = None
    tie: bool = False

    @property
    def text(self) -> str:
        """In words."""
        when = "over all steps" if self.t is None else f"t={self.t}"
        where = f"{when}, node '{self.node}', sample {self.sample}, index {list(self.index)}"
        near = "" if self.distance is None else f", {self.distance:.2g} from the threshold"
        return f"{where}: {self.found:.6g} for {self.expected:.6g}{near}{' (a tie)' if self.tie else ''}"


@dataclass(frozen=True)
class Hop:
    """Two neighbours on the way from the trained network to the device, and what differs between them.

    before, after: labels of lines of `Report.runtimes`, or "... probe". same: samples whose outputs are equal up to
    rounding; deviation: the largest difference of an output, relative to the largest output (None: not finite).
    first: where spikes differ first, else where outputs do; None where nothing does. passed: do the checks that judge
    this hop hold?
    """

    before: str
    after: str
    samples: int
    same: int
    deviation: float | None
    first: Difference | None
    passed: bool


@dataclass(frozen=True)
class LayerResult:
    """One spiking layer in one runtime, over all golden samples.

    spikes: of the whole network running by itself, and `rate`, the same per neuron and step; rate_drift: that less
    golden's. flips, ties: spikes that differ where the layer is fed with the reference's, None where it cannot be fed;
    slots: T x samples x neurons; budget: the share of slots that may flip. count_difference: spikes too many plus
    spikes too few, neuron by neuron, against golden's counts.
    """

    spikes: int
    rate: float
    rate_drift: float
    count_difference: int
    flips: int | None
    ties: int | None
    slots: int
    budget: float | None


@dataclass(frozen=True)
class LayerLine:
    """One spiking layer: golden's spikes over all samples, the same per neuron and step; the others by their labels."""

    node: str
    neurons: int
    spikes: int
    firing_rate: float
    runtimes: dict[str, LayerResult]


# --- all of it --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Machine:
    """Where it ran, as far as it can be read. power: governor, clocks and power modes by what tells them."""

    system: str
    processor: str
    cpus: int
    memory_bytes: int | None
    power: dict[str, str]

    @property
    def text(self) -> str:
        """One line."""
        return ", ".join(
            [self.system, self.processor, f"{self.cpus} CPUs", *(f"{k} {v}" for k, v in self.power.items())]
        )


@dataclass(frozen=True)
class RuntimeLine:
    """One runtime in one mode; the first line of a report is golden's own.

    accuracy, agreement: of the golden samples, agreement with golden's predictions; accuracy_change: against golden's
    accuracy. data_*: of the data set, there against the reference. rate, rate_drift: over all spiking neurons; spikes,
    synops: a sample, of all of them; synops of the reference and of chips that show all their spikes.
    budgets: the tolerances that this line is judged by. options: what the engine runs with.
    """

    runtime: str
    mode: str | None
    accuracy: Proportion | None
    accuracy_change: Change | None = None
    agreement: Proportion | None = None
    count_difference: int | None = None
    flips: int | None = None
    ties: int | None = None
    slots: int | None = None
    rate: float | None = None
    rate_drift: float | None = None
    spikes: float | None = None
    synops: float | None = None
    data_accuracy: Proportion | None = None
    data_accuracy_change: Change | None = None
    data_agreement: Proportion | None = None
    latency: Latency | None = None
    precision: str | None = None
    budgets: dict[str, float] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """Everything that one run of `stdl-validate` found. The first line of `runtimes` is golden's own.

    hashes: SHA-256 of the bundle's files by their names; date: when it ran, in UTC (ISO 8601). raster: one sample's
    spikes; confusions: of the golden samples, and of the data set.
    """

    network: str
    bundle: str
    samples: int
    timesteps: int
    data: str | None
    data_samples: int
    runtimes: list[RuntimeLine]
    layers: list[LayerLine]
    hops: list[Hop]
    skipped: dict[str, str]
    checks: list[Check]
    machine: Machine
    versions: dict[str, str]
    hashes: dict[str, str]
    date: str
    efficiency: Efficiency | None = None
    raster: Raster | None = None
    confusions: list[Confusion] = field(default_factory=list)

    def with_checks(self, more: list[Check]) -> Report:
        """The same, with these behind its own checks."""
        return dataclasses.replace(self, checks=[*self.checks, *more])

    @property
    def passed(self) -> bool:
        """Did every check hold?"""
        return all(check.passed for check in self.checks)

    @property
    def failed(self) -> list[Check]:
        """The checks that did not hold."""
        return [check for check in self.checks if not check.passed]

    @property
    def verdict(self) -> str:
        """The last line: what held, or every check that did not."""
        if failed := self.failed:
            return f"FAIL ({len(failed)} of {len(self.checks)} checks): {'; '.join(check.line for check in failed)}"
        names = ", ".join(dict.fromkeys(check.runtime for check in self.checks))
        return f"PASS: {len(self.checks)} checks on {self.samples} samples hold for {names}"


def content(report: Report) -> dict[str, Any]:
    """What the JSON file holds. JSON has no infinity and no NaN: such numbers are null."""
    known = {"schema_version": SCHEMA_VERSION, "passed": report.passed, "verdict": report.verdict}
    found: dict[str, Any] = _finite(known | dataclasses.asdict(report))
    return found


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
