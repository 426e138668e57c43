"""One validation put together: a line per runtime, a line per layer, every hop and check, what was skipped and why."""

from __future__ import annotations

import datetime
import importlib.metadata
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from stdl_export.manifest import Manifest, Tolerances
from stdl_runtimes import pictures
from stdl_runtimes.data import Samples
from stdl_runtimes.entries import Layer, Row
from stdl_runtimes.latency_result import Latency
from stdl_runtimes.machine import machine
from stdl_runtimes.metrics import Integers, change, proportion
from stdl_runtimes.picture_data import Confusion
from stdl_runtimes.results import (
    Change,
    Check,
    Difference,
    Hop,
    LayerLine,
    LayerResult,
    Proportion,
    Report,
    RuntimeLine,
)
from stdl_runtimes.validate import Comparison

ENGINES = (
    "numpy", "onnxruntime", "onnxruntime-gpu", "onnxruntime-ep-nv-tensorrt-rtx", "tensorrt", "tensorrt-rtx",
    "cuda-bindings", "xylosim", "stdl-toolchain",
)  # fmt: skip
TWIN = "same network"  # the check that compares two forms of a network in one engine


@dataclass(frozen=True)
class DataResult:
    """The classes that each row predicts for a data set, in the order of the rows; the first is the reference."""

    samples: Samples
    classes: Sequence[Integers]


@dataclass(frozen=True)
class Findings:
    """All that was measured. times: by row; availability: checks about what could not be run at all."""

    rows: Sequence[Row]
    times: Sequence[Latency | None]
    data: DataResult | None = None
    skipped: Mapping[str, str] = field(default_factory=dict)
    availability: Sequence[Check] = ()


def build(comparison: Comparison, found: Findings) -> Report:
    """Put together what was measured."""
    golden, manifest, data = comparison.golden, comparison.manifest, found.data
    checks = {row.entry.label: comparison.checks(row) for row in found.rows}
    return Report(
        network=manifest.network,
        bundle=comparison.name,
        samples=golden.samples,
        timesteps=comparison.timesteps,
        data=data.samples.name if data else None,
        data_samples=len(data.samples.labels) if data else 0,
        runtimes=[_golden_line(comparison), *_runtime_lines(comparison, found)],
        layers=_layer_lines(comparison, found.rows),
        hops=[hop for row in found.rows for hop in _hops(comparison, row, checks[row.entry.label])],
        skipped=dict(found.skipped),
        checks=[
            *(each for of in checks.values() for each in of),
            *_data_checks(comparison, found),
            *found.availability,
        ],
        machine=machine(),
        versions=_versions(),
        hashes=dict(manifest.files),
        date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        efficiency=comparison.efficiency(),
        raster=comparison.raster,
        confusions=_confusions(comparison, found),
    )


def _confusions(comparison: Comparison, found: Findings) -> list[Confusion]:
    """Of the golden samples with golden's own predictions, and of the data set."""
    golden, names = comparison.golden, comparison.manifest.classes
    predicted = {golden_name(comparison.manifest): comparison.predicted(comparison.outputs)}
    predicted |= {row.entry.label: comparison.predicted(row.outputs) for row in found.rows}
    matrices = pictures.confusions("golden samples", golden.labels, predicted, names)
    if found.data is not None:
        classes = zip(found.rows, found.data.classes, strict=True)
        on_data = {row.entry.label: each for row, each in classes}
        matrices += pictures.confusions(found.data.samples.name, found.data.samples.labels, on_data, names)
    return matrices


def golden_name(manifest: Manifest) -> str:
    """What the line of the golden samples is called, after who computed them."""
    return "trained (PyTorch)" if manifest.golden.origin == "trained" else "golden (reference)"


# --- lines ------------------------------------------------------------------------------------------------------------


def _golden_line(comparison: Comparison) -> RuntimeLine:
    return RuntimeLine(
        runtime=golden_name(comparison.manifest),
        mode=None,
        accuracy=_accuracy(comparison.predicted(comparison.outputs), comparison.golden.labels),
        rate=_golden_rate(comparison, comparison.neurons),
    )


def _runtime_lines(comparison: Comparison, found: Findings) -> list[RuntimeLine]:
    return [
        _runtime_line(comparison, row, latency, found.data, number)
        for number, (row, latency) in enumerate(zip(found.rows, found.times, strict=True))
    ]


def _runtime_line(
    comparison: Comparison, row: Row, latency: Latency | None, data: DataResult | None, number: int
) -> RuntimeLine:
    classes, labels = comparison.predicted(row.outputs), comparison.golden.labels
    layers, allowed = row.layers, comparison.tolerances(row.entry)
    judged = bool(layers) and all(layer.judged for layer in layers.values())
    rate = _rate(layers.values()) if layers else None
    golden_rate = _golden_rate(comparison, layers)
    return RuntimeLine(
        runtime=row.entry.label,
        mode=row.entry.mode,
        accuracy=_accuracy(classes, labels),
        accuracy_change=_change(comparison.predicted(comparison.outputs), classes, labels),
        agreement=proportion(~comparison.other(row)),
        count_difference=sum(layer.count_difference for layer in layers.values()) if layers else None,
        flips=sum(layer.flips for layer in layers.values()) if judged else None,
        ties=sum(layer.ties for layer in layers.values()) if judged else None,
        slots=sum(layer.slots for layer in layers.values()) if judged else None,
        rate=rate,
        rate_drift=None if rate is None or golden_rate is None else rate - golden_rate,
        spikes=_spikes(comparison, row),
        synops=_synops(comparison, row),
        data_accuracy=_accuracy(data.classes[number], data.samples.labels) if data else None,
        data_accuracy_change=_change(data.classes[0], data.classes[number], data.samples.labels) if data else None,
        data_agreement=proportion(data.classes[number] == data.classes[0]) if data else None,
        latency=latency,
        precision=allowed.precision,
        budgets=_budgets(allowed),
        options=_options(row),
    )


def _spikes(comparison: Comparison, row: Row) -> float | None:
    """A sample, where every layer shows them."""
    if row.layers.keys() != set(comparison.neurons):
        return None
    return sum(layer.spikes for layer in row.layers.values()) / comparison.golden.samples


def _synops(comparison: Comparison, row: Row) -> float | None:
    """A sample: the reference's, and those of a chip with its own spikes."""
    if row.entry.judges:
        return comparison.efficiency().total.synops
    return row.meter.result().total.synops if row.meter else None


def _budgets(allowed: Tolerances) -> dict[str, float]:
    return {name: float(getattr(allowed, name)) for name in ("flip_margin", "flips", "agreement", "outputs")}


def _options(row: Row) -> dict[str, str]:
    """What the engine runs with, of runtimes that tell."""
    describe = getattr(row.entry.runtime, "describe", None)
    return {} if describe is None else dict(describe())


def _layer_lines(comparison: Comparison, rows: Sequence[Row]) -> list[LayerLine]:
    lines = []
    for node in comparison.neurons:
        count = comparison.golden.counts[node]
        spikes, slots = int(count.sum(dtype=np.int64)), count.size * comparison.timesteps
        found = {row.entry.label: _layer(comparison, row, node, spikes / slots) for row in rows if node in row.layers}
        lines.append(LayerLine(node, count[0].size, spikes, spikes / slots, found))
    return lines


def _layer(comparison: Comparison, row: Row, node: str, golden_rate: float) -> LayerResult:
    layer = row.layers[node]
    rate = layer.spikes / layer.slots
    judged = layer.judged
    return LayerResult(
        spikes=layer.spikes,
        rate=rate,
        rate_drift=rate - golden_rate,
        count_difference=layer.count_difference,
        flips=layer.flips if judged else None,
        ties=layer.ties if judged else None,
        slots=layer.slots,
        budget=comparison.tolerances(row.entry).flips if judged else None,
    )


def _rate(layers: Iterable[Layer]) -> float:
    each = list(layers)
    return sum(layer.spikes for layer in each) / sum(layer.slots for layer in each)


def _golden_rate(comparison: Comparison, nodes: Iterable[str]) -> float | None:
    """Of these layers together, per neuron and step."""
    counts = [comparison.golden.counts[node] for node in nodes]
    slots = comparison.timesteps * sum(count.size for count in counts)
    return sum(int(count.sum(dtype=np.int64)) for count in counts) / slots if counts else None


def _accuracy(classes: Integers | None, labels: Integers | None) -> Proportion | None:
    return None if classes is None or labels is None else proportion(classes == labels)


def _change(before: Integers | None, after: Integers | None, labels: Integers | None) -> Change | None:
    return None if before is None or after is None or labels is None else change(before == labels, after == labels)


# --- hops and checks --------------------------------------------------------------------------------------------------


def _hops(comparison: Comparison, row: Row, checks: Sequence[Check]) -> list[Hop]:
    """The hop that leads to a row; of an engine that shows its layers, the one to its probe graph too."""
    label, off = row.entry.label, np.concatenate(row.off)
    allowed = comparison.tolerances(row.entry).outputs
    step = row.entry.mode == "step"
    if not step and row.twin and not row.entry.judges:
        others, twin = [check for check in checks if check.name != TWIN], [c for c in checks if c.name == TWIN]
        first = row.first or row.first_output
        probe = _hop(label, f"{label} probe", np.concatenate(row.twin), allowed, row.first_twin, twin)
        return [_hop("reference", label, off, allowed, first, others), probe]
    golden = row.entry.judges or (row.entry.is_another_network and not step)
    before = golden_name(comparison.manifest) if golden else "reference"
    if step and row.twin_name == "sequence":
        before = row.entry.runtime.name
    return [_hop(before, label, off, allowed, row.first or row.first_output, checks)]


def _hop(
    before: str, after: str, off: np.ndarray, allowed: float, first: Difference | None, checks: Sequence[Check]
) -> Hop:
    worst = float(off.max())
    same = int((off <= np.float32(allowed)).sum())
    passed = all(check.passed for check in checks)
    return Hop(before, after, int(off.size), same, worst if math.isfinite(worst) else None, first, passed)


def _data_checks(comparison: Comparison, found: Findings) -> list[Check]:
    """On a data set there is no golden output, so predictions have to agree with the reference's."""
    if found.data is None:
        return []
    data, checks = found.data, []
    for row, classes in zip(found.rows[1:], data.classes[1:], strict=True):
        allowed = comparison.tolerances(row.entry).agreement
        differ = int((classes != data.classes[0]).sum())
        may = max(1, len(classes) - math.ceil(allowed * len(classes) - 1e-9))
        text = f"{differ} of {len(classes)} predictions differ from the reference's, {may} may ({1 - allowed:.1%})"
        name = f"agreement on {data.samples.name}"
        would = None if differ <= may else math.floor((1 - differ / len(classes)) * 1000) / 1000
        checks.append(Check(name, row.entry.label, differ <= may, text, "agreement", would))
    return checks


def _versions() -> dict[str, str]:
    """Python, and the engines that are installed."""
    installed = {"python": platform.python_version()}
    for distribution in importlib.metadata.distributions():
        if distribution.metadata["Name"] in ENGINES:
            installed[distribution.metadata["Name"]] = distribution.version
    return installed
