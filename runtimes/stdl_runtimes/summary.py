"""One validation as data: a line per runtime, a line per layer, every check, what was skipped and why."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stdl_export.manifest import Manifest
from stdl_runtimes.data import Samples
from stdl_runtimes.latency import Latency
from stdl_runtimes.metrics import Integers, share
from stdl_runtimes.validate import Check, Comparison, Layer, Row

ENGINES = ("numpy", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx")


@dataclass(frozen=True)
class RuntimeLine:
    """One runtime in one mode. None: not measured, or this runtime cannot show it."""

    runtime: str
    accuracy: float | None
    agreement: float | None
    count_difference: int | None
    flips: int | None
    ties: int | None
    data_accuracy: float | None = None
    data_agreement: float | None = None
    latency: Latency | None = None


@dataclass(frozen=True)
class LayerLine:
    """One spiking layer: golden's spikes over all samples, the same per neuron and step, what differs by runtime."""

    node: str
    spikes: int
    firing_rate: float
    runtimes: dict[str, Layer]


@dataclass(frozen=True)
class Report:
    """Everything that one run of `stdl-validate` found. The first line of `runtimes` is golden's own."""

    network: str
    bundle: str
    samples: int
    timesteps: int
    data: str | None
    data_samples: int
    runtimes: list[RuntimeLine]
    layers: list[LayerLine]
    skipped: dict[str, str]
    checks: list[Check]
    machine: str
    versions: dict[str, str]

    @property
    def passed(self) -> bool:
        """Did every check hold?"""
        return all(check.passed for check in self.checks)

    @property
    def verdict(self) -> str:
        """The last line: what held, or every check that did not."""
        failed = [f"{check.runtime}, {check.name}: {check.text}" for check in self.checks if not check.passed]
        if failed:
            return f"FAIL ({len(failed)} of {len(self.checks)} checks): {'; '.join(failed)}"
        names = ", ".join(dict.fromkeys(check.runtime for check in self.checks))
        return f"PASS: {len(self.checks)} checks on {self.samples} samples hold for {names}"


@dataclass(frozen=True)
class DataResult:
    """The classes that each row predicts for a data set, in the order of the rows; the first is the reference."""

    samples: Samples
    classes: Sequence[Integers]


def build(
    comparison: Comparison,
    rows: Sequence[Row],
    data: DataResult | None,
    times: Sequence[Latency | None],
    skipped: Mapping[str, str],
    availability: Sequence[Check],
) -> Report:
    """Put together what was measured. `availability`: checks about what could not be run at all."""
    golden, manifest = comparison.golden, comparison.manifest
    checks = [check for row in rows for check in comparison.checks(row)]
    return Report(
        network=manifest.network,
        bundle=comparison.name,
        samples=golden.samples,
        timesteps=comparison.timesteps,
        data=data.samples.name if data else None,
        data_samples=len(data.samples.labels) if data else 0,
        runtimes=[_golden_line(comparison), *_runtime_lines(comparison, rows, data, times)],
        layers=_layer_lines(comparison, rows),
        skipped=dict(skipped),
        checks=[*checks, *_data_checks(comparison, rows, data), *availability],
        machine=f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        versions=_versions(),
    )


def _golden_line(comparison: Comparison) -> RuntimeLine:
    accuracy = _accuracy(comparison.predicted(comparison.outputs), comparison.golden.labels)
    return RuntimeLine(golden_name(comparison.manifest), accuracy, None, None, None, None)


def golden_name(manifest: Manifest) -> str:
    """What the line of the golden samples is called, after who computed them."""
    return "trained (PyTorch)" if manifest.golden.origin == "trained" else "golden (reference)"


def _runtime_lines(
    comparison: Comparison, rows: Sequence[Row], data: DataResult | None, times: Sequence[Latency | None]
) -> list[RuntimeLine]:
    lines = []
    for number, (row, latency) in enumerate(zip(rows, times, strict=True)):
        layers = row.layers.values()
        line = RuntimeLine(
            runtime=row.entry.label,
            accuracy=_accuracy(comparison.predicted(row.outputs), comparison.golden.labels),
            agreement=comparison.agreement(row),
            count_difference=sum(layer.count_difference for layer in layers) if layers else None,
            flips=sum(layer.flips for layer in layers) if layers else None,
            ties=sum(layer.ties for layer in layers) if layers else None,
            data_accuracy=_accuracy(data.classes[number], data.samples.labels) if data else None,
            data_agreement=share(data.classes[number] == data.classes[0]) if data else None,
            latency=latency,
        )
        lines.append(line)
    return lines


def _layer_lines(comparison: Comparison, rows: Sequence[Row]) -> list[LayerLine]:
    lines = []
    for node in comparison.neurons:
        count = comparison.golden.counts[node]
        spikes = int(count.sum())
        found = {row.entry.label: row.layers[node] for row in rows if node in row.layers}
        lines.append(LayerLine(node, spikes, spikes / (count.size * comparison.timesteps), found))
    return lines


def _data_checks(comparison: Comparison, rows: Sequence[Row], data: DataResult | None) -> list[Check]:
    """On a data set there is no golden output, so predictions have to agree with the reference's."""
    if data is None:
        return []
    allowed = comparison.manifest.tolerances.agreement
    checks = []
    for row, classes in zip(rows[1:], data.classes[1:], strict=True):
        differ = int((classes != data.classes[0]).sum())
        may = max(1, len(classes) - math.ceil(allowed * len(classes) - 1e-9))
        text = f"{differ} of {len(classes)} predictions differ from the reference's, {may} may ({1 - allowed:.1%})"
        checks.append(Check(f"agreement on {data.samples.name}", row.entry.label, differ <= may, text))
    return checks


def _accuracy(classes: Integers | None, labels: Integers | None) -> float | None:
    return None if classes is None or labels is None else share(classes == labels)


def _versions() -> dict[str, str]:
    """Python, and the engines that are installed."""
    installed = {"python": platform.python_version()}
    for distribution in importlib.metadata.distributions():
        if distribution.metadata["Name"] in ENGINES:
            installed[distribution.metadata["Name"]] = distribution.version
    return installed
