"""Speck and DYNAP-CNN (SynSense): a graph of convolutions and IF neurons as a configuration of nine cores.

    chips/speck/configuration.json   the cores (`speck_file`); which layer is where; what was lost; the mapping
    chips/speck/mapping.svg          the mapping as a picture

A core's weights, biases and threshold share a scale: T = round(threshold s) units, s = T / threshold, w = round(w s) in
8 bits. The configuration was not validated by the chip's own validator, which is part of `samna`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nir
import numpy as np

from stdl_export import graph as graphs
from stdl_export.chips import quantise, speck_file, speck_limits, speck_map
from stdl_export.chips.base import ChipJob, ChipOptions, Limit, Refusal, Written, whole_inputs
from stdl_export.chips.quantise import Grid, Integers, best_scale, rounded
from stdl_export.chips.report import Mapping
from stdl_export.chips.speck_file import Configuration, CoreConfig, Destination
from stdl_export.chips.speck_map import Core, Network
from stdl_export.chips.speck_model import SAMPLES_AT_ONCE, Model
from stdl_export.common.files import atomic_file
from stdl_export.golden_file import Golden
from stdl_export.program import program

CONFIGURATION, PICTURE = "configuration.json", "mapping.svg"
GRID = Grid(step=1, high=127)
LOW, HIGH = -(1 << 15), (1 << 15) - 1
MOST_EVENTS = 1 << 20
"""Of an input in a step: a bound for reading files only."""

LIMITS: tuple[Limit, ...] = speck_limits.LIMITS


class Options(ChipOptions):
    """There are none."""


@dataclass(frozen=True, eq=False)
class Rounded:
    """A core in whole numbers, and its scale."""

    core: Core
    config: CoreConfig
    scale: float


@dataclass(frozen=True, eq=False)
class Measured:
    """The golden samples in the model: spikes by node and in all outputs, and the largest potentials."""

    counts: dict[str, Integers]
    output: Integers  # [B, classes], summed over T
    highest: int
    lowest: int


def refusals(graph: nir.NIRGraph, options: Options) -> list[Refusal]:
    """Every reason why the chip does not take a checked graph."""
    found, reasons = speck_map.network(program(graph))
    return reasons if found is None else [*speck_limits.refusals(found)]


def write(job: ChipJob, folder: Path) -> Written:
    """The files at the head of this module; BadInput where the golden inputs are no events."""
    found, _ = speck_map.network(program(job.graph))
    assert found is not None, "it was checked"
    frames = input_events(job.golden, graphs.settings(job.graph).input == "repeat", found.input)
    cores = [core_of(core) for core in found.cores]
    configuration = configured(found, cores)
    places = speck_limits.assigned(found)
    assert places is not None, "it was checked"
    ran = _measured(found, configuration, places, frames)
    mapping = speck_limits.mapping(found)
    lost = [_lost(each, job.golden, ran) for each in cores]
    about: dict[str, Any] = {
        "layers": [{"node": path, "core": k} for path, k in places.items()],
        "lost": lost, "measured": _agreement(job.golden, ran), "mapping": mapping.data,
        "validated": "not by the chip's own validator",
    }  # fmt: skip
    speck_file.write(configuration, folder / CONFIGURATION, about)
    with atomic_file(folder / PICTURE) as part:
        part.write_text(mapping.svg(), encoding="utf-8")
    return Written(mapping, _notes(mapping, lost, about["measured"]), _warnings(found, ran))


def input_events(golden: Golden, repeated: bool, shape: tuple[int, int, int]) -> Integers:
    """Golden inputs as events [T, B, C, H, W]; BadInput where they are none."""
    way_out = (
        "train with recordings, or an encoding that gives spikes, such as data.encoding.name = 'poisson', or give "
        "events in --inputs FILE.npz"
    )
    events = whole_inputs(golden, repeated, MOST_EVENTS, "speck", way_out)
    return events.reshape(*events.shape[:2], *shape)


def core_of(core: Core) -> Rounded:
    """A core in whole numbers, without its destinations."""
    values = np.concatenate([core.weight.reshape(-1), core.bias])
    scale = best_scale(values, GRID, HIGH / core.threshold)
    units = int(np.clip(np.rint(core.threshold * scale), 1, HIGH))
    scale = units / core.threshold
    low = LOW if core.v_low is None else max(int(np.rint(core.v_low * scale)), LOW)
    config = CoreConfig(
        kernel=rounded(core.weight, scale, GRID),
        bias=rounded(core.bias, scale, GRID),
        initial=np.clip(np.rint(core.initial * scale), LOW, HIGH).astype(np.int64),
        stride=core.stride,
        padding=core.padding,
        in_shape=core.in_shape,
        threshold_high=units,
        threshold_low=low,
        to_zero=core.to_zero,
        destinations=(),
    )
    return Rounded(core, config, scale)


def configured(found: Network, cores: list[Rounded]) -> Configuration:
    """All cores at their places, joined."""
    places = speck_limits.assigned(found)
    assert places is not None, "it was checked"

    def destinations(path: str | None) -> tuple[Destination, ...]:
        return tuple(Destination(layer=places[c.path], pooling=f.pool) for c, f in found.readers(path))  # type: ignore[arg-type]

    made = {
        places[each.core.path]: CoreConfig(**{**vars(each.config), "destinations": destinations(each.core.path)})
        for each in cores
    }
    return Configuration(made, destinations(None), places[found.output])


def _measured(found: Network, configuration: Configuration, places: dict[str, int], frames: Integers) -> Measured:
    model, kept, highest, lowest = Model(configuration), dict[str, list[Integers]](), 0, 0
    for at in range(0, frames.shape[1], SAMPLES_AT_ONCE):
        run = model.run(frames[:, at : at + SAMPLES_AT_ONCE])
        highest, lowest = max(highest, run.highest), min(lowest, run.lowest)
        for path, k in places.items():
            kept.setdefault(path, []).append(run.spikes[k].sum(axis=0))
    counts = {path: np.concatenate(each) for path, each in kept.items()}
    return Measured(counts, counts[found.output].reshape(frames.shape[1], -1), highest, lowest)


def _lost(each: Rounded, golden: Golden, ran: Measured) -> dict[str, Any]:
    """What one core lost; weight_error: root mean square, relative."""
    values = np.concatenate([each.core.weight.reshape(-1), each.core.bias])
    spikes, ours = (int(counts[each.core.path].sum()) for counts in (golden.counts, ran.counts))
    return {
        "node": each.core.path, "weight_error": quantise.error(values, each.scale, GRID),
        "clipped": quantise.clipped(values, each.scale, GRID), "weights": int((values != 0).sum()),
        "threshold": each.config.threshold_high, "spikes": spikes, "spikes_on_chip": ours,
        "drift": (ours - spikes) / max(spikes, 1),
    }  # fmt: skip


def _agreement(golden: Golden, ran: Measured) -> dict[str, Any]:
    output = golden.output
    assert isinstance(output, np.ndarray), "there is one Output"
    ours, theirs = ran.output.argmax(axis=1), output.sum(axis=0).reshape(output.shape[1], -1).argmax(axis=1)
    found: dict[str, Any] = {
        "samples": golden.samples, "agreement": float((ours == theirs).mean()), "highest": ran.highest,
        "lowest": ran.lowest,
    }  # fmt: skip
    if golden.labels is not None:
        accuracies = {"accuracy": ours, "accuracy_float": theirs}
        found |= {name: float((classes == golden.labels).mean()) for name, classes in accuracies.items()}
    return found


def _notes(mapping: Mapping, lost: list[dict[str, Any]], seen: dict[str, Any]) -> list[str]:
    """For the summary."""
    accuracy = f"accuracy {seen['accuracy']:.2%} (float {seen['accuracy_float']:.2%}), " if "accuracy" in seen else ""
    lines = [
        f"'{each['node']}': weights off by {each['weight_error']:.2%} (rms), {each['clipped']} of {each['weights']} "
        f"clipped, threshold {each['threshold']}, {each['spikes_on_chip']} spikes for {each['spikes']} "
        f"({each['drift']:+.2%})"
        for each in lost
    ]
    states = f"potentials {seen['lowest']} to {seen['highest']} of {LOW} to {HIGH}"
    agreed = f"{accuracy}{seen['agreement']:.2%} of {seen['samples']} predictions as golden's; {states}"
    return [*mapping.table, *lines, agreed]


def _warnings(found: Network, ran: Measured) -> list[str]:
    """What the chip does otherwise than the graph says, or may do."""
    lines = ["the model is one of steps; the chip is driven by events, whose order within a step can differ"]
    for core in found.cores:
        if core.spike != "floor":
            lines.append(
                f"'{core.path}' fires once a step, the chip as often as its threshold fits: train with spike = 'floor'"
            )
        if core.bias.any():
            lines.append(
                f"'{core.path}' has biases: they leak by a clock of the chip, which its vendor advises against"
            )
    if ran.highest > HIGH:
        lines.append(f"potentials up to {ran.highest} leave 16 bits on golden samples: give smaller inputs")
    if ran.lowest < LOW:
        lines.append(f"potentials would fall to {ran.lowest} on golden samples, and stop at {LOW}")
    return lines
