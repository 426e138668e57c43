"""Xylo (SynSense): a graph of CubaLIF layers as the specification that Rockpool and xylosim take.

    chips/xylo/specification.npz     the arrays by Rockpool's names (`xylo_file`)
    chips/xylo/specification.json    all else of them; which neurons are whose; what was lost; the mapping
    chips/xylo/mapping.svg           the mapping as a picture

What is read from golden samples: shifts of weights (`xylo_integers`), and what became of spikes and predictions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import nir
import numpy as np
import pydantic

from stdl_export import graph as graphs
from stdl_export.chips import quantise, xylo_file, xylo_limits, xylo_map
from stdl_export.chips.base import ChipJob, ChipOptions, Limit, Refusal, Written, whole_inputs
from stdl_export.chips.quantise import Integers
from stdl_export.chips.report import LayerUse, Mapping
from stdl_export.chips.xylo_file import MOST_SHIFT, Specification
from stdl_export.chips.xylo_integers import (
    CALIBRATED,
    FEWEST,
    GRID,
    MOST_WORK,
    Group,
    Seen,
    choose_shifts,
    columns,
    neurons_of,
    padded,
    specification,
)
from stdl_export.chips.xylo_limits import VARIANTS, Matrices, Variant
from stdl_export.chips.xylo_map import Layer, Network
from stdl_export.chips.xylo_model import HIGH, MOST_HIDDEN, MOST_IN, Model, Record
from stdl_export.common.files import atomic_file
from stdl_export.golden_file import Golden
from stdl_export.program import program

ARRAYS, REST, PICTURE = "specification.npz", "specification.json", "mapping.svg"

LIMITS: tuple[Limit, ...] = tuple(limit for each in VARIANTS.values() for limit in xylo_limits.limits(each))


class Options(ChipOptions):
    """`chip`: which of them; `weight_shift`: bits by which all weights are shifted left, chosen where not said."""

    chip: Literal["audio2", "audio3", "imu"] = "audio3"
    weight_shift: int | None = pydantic.Field(default=None, ge=0, le=MOST_SHIFT)


@dataclass(frozen=True)
class Loss:
    """What one layer lost. weight_error: root mean square, relative; decay_error: the largest, of a decay a step."""

    node: str
    weight_error: float
    clipped: int
    weights: int
    decay_error: float
    spikes: int
    spikes_on_chip: int

    @property
    def drift(self) -> float:
        """Of the firing rate, relative."""
        return (self.spikes_on_chip - self.spikes) / max(self.spikes, 1)


def refusals(graph: nir.NIRGraph, options: Options) -> list[Refusal]:
    """Every reason why the chip does not take a checked graph."""
    found, reasons = xylo_map.network(program(graph))
    if found is None:
        return reasons
    variant = VARIANTS[options.chip]
    return [*xylo_limits.refusals(found, xylo_limits.uses(found, xylo_limits.matrices(found), variant), variant)]


def write(job: ChipJob, folder: Path) -> Written:
    """The files at the head of this module; BadInput where the golden inputs are no spikes."""
    found, _ = xylo_map.network(program(job.graph))
    assert found is not None, "it was checked"
    variant, dt = VARIANTS[job.options.chip], graphs.settings(job.graph).dt
    on = xylo_limits.matrices(found)
    spikes = input_spikes(job.golden, graphs.settings(job.graph).input == "repeat")
    few = int(np.clip(MOST_WORK // len(on.between) ** 2, FEWEST, CALIBRATED))
    seen = _seen(job.golden, found, on, spikes[:, :few])
    shifts = choose_shifts(found, on, seen, dt, job.options.weight_shift)
    spec, hidden, out = specification(found, on, shifts, dt)
    ran = Model(spec).run(padded(spikes, found.latency))
    losses = [_loss(found, on, layer, hidden, out, ran, job.golden) for layer in found.layers]
    mapping = mapping_of(found, on, spec, variant)
    about = _about(found, on, variant, mapping, losses) | _measured(job, found, ran, shifts)
    xylo_file.write(spec, folder / ARRAYS, folder / REST, about)
    with atomic_file(folder / PICTURE) as part:
        part.write_text(mapping.svg(), encoding="utf-8")
    return Written(mapping, _notes(mapping, losses, about), _warnings(found, on, variant, ran))


def input_spikes(golden: Golden, repeated: bool) -> Integers:
    """Golden inputs as spikes [T, B, I]; BadInput where they are none."""
    way_out = (
        "train with an encoding that gives spikes, such as data.encoding.name = 'rows' or 'poisson', or give "
        "--inputs FILE.npz"
    )
    spikes = whole_inputs(golden, repeated, MOST_IN, "xylo", way_out)
    return spikes.reshape(*spikes.shape[:2], -1)


def mapping_of(found: Network, on: Matrices, spec: Specification, variant: Variant) -> Mapping:
    """Layer by layer, and all against what the chip has."""
    layers = []
    for layer in found.layers:
        weights = [*([] if layer.of_input is None else [layer.of_input]), *layer.of_layers.values()]
        fan_in = sum((weight != 0).sum(axis=0) for weight in weights)
        count = int(np.sum(fan_in))
        what = "outputs" if layer.path == found.output.path else f"hidden, {layer.late} steps late"
        layers.append(LayerUse(layer.path, what, layer.size, count, 8 * count, int(np.max(fan_in, initial=0)), "1"))
    remarks = [f"outputs come {found.latency} steps after the input that they belong to"]
    return Mapping(variant.name, tuple(layers), xylo_limits.uses(found, on, variant), tuple(remarks))


def chip_counts(found: Network, on: Matrices, layer: Layer, ran: Record, steps: int) -> Integers:
    """A layer's spikes [B, neurons] over the steps that belong to the input's."""
    spikes = ran.output if layer.path == found.output.path else ran.hidden[:, :, neurons_of(found, on)[layer.path]]
    counts: Integers = spikes[layer.late : layer.late + steps].sum(axis=0)
    return counts


def _seen(golden: Golden, found: Network, on: Matrices, spikes: Integers) -> Seen:
    few = spikes.shape[1]
    counts = [golden.counts[layer.path][:few].reshape(few, -1).astype(np.int64) for layer in found.layers]
    hidden = np.empty((few, len(on.order)), np.int64)
    hidden[:, on.order] = np.concatenate(counts[:-1], axis=1)
    return Seen(spikes, hidden, counts[-1])


def _loss(found: Network, on: Matrices, layer: Layer, hidden: Group, out: Group, ran: Record, golden: Golden) -> Loss:
    own = columns(found, on, layer, out if layer.path == found.output.path else hidden)
    return Loss(
        layer.path,
        quantise.error(own.weights, own.scale, GRID),
        quantise.clipped(own.weights, own.scale, GRID),
        int((own.weights != 0).sum()),
        layer.decay_error,
        int(golden.counts[layer.path].sum()),
        int(chip_counts(found, on, layer, ran, golden.timesteps).sum()),
    )


def _about(found: Network, on: Matrices, variant: Variant, mapping: Mapping, losses: list[Loss]) -> dict[str, Any]:
    """What the JSON says beside the specification."""
    places = neurons_of(found, on) | {found.output.path: [*range(found.output.size)]}
    layers = [
        {"node": layer.path, "output": layer is found.output, "late": layer.late, "neurons": places[layer.path]}
        for layer in found.layers
    ]
    lost = [vars(loss) | {"drift": loss.drift} for loss in losses]
    return {
        "chip": variant.name, "part": variant.part, "latency": found.latency, "layers": layers, "lost": lost,
        "mapping": mapping.data,
    }  # fmt: skip


def _measured(job: ChipJob, found: Network, ran: Record, shifts: tuple[int, int]) -> dict[str, Any]:
    """What the arithmetic of the chip made of the golden samples."""
    golden = job.golden
    output = golden.output
    assert isinstance(output, np.ndarray), "there is one Output"
    ours = ran.output[found.latency :].sum(axis=0).argmax(axis=1)
    theirs = output.reshape(*output.shape[:2], -1).sum(axis=0).argmax(axis=1)
    largest = max(int(np.abs(each).max(initial=0)) for each in (ran.i, ran.v, ran.i_out, ran.v_out))
    found_: dict[str, Any] = {
        "samples": golden.samples, "agreement": float((ours == theirs).mean()), "largest_state": largest,
        "weight_shifts": list(shifts),
    }  # fmt: skip
    if golden.labels is not None:
        found_ |= {
            "accuracy": float((ours == golden.labels).mean()),
            "accuracy_float": float((theirs == golden.labels).mean()),
        }
    return {"measured": found_}


def _notes(mapping: Mapping, losses: list[Loss], about: dict[str, Any]) -> list[str]:
    """For the summary."""
    seen = about["measured"]
    accuracy = f"accuracy {seen['accuracy']:.2%} (float {seen['accuracy_float']:.2%}), " if "accuracy" in seen else ""
    shifts = " and ".join(map(str, seen["weight_shifts"]))
    return [
        *mapping.table,
        *(_lost(loss) for loss in losses),
        f"{accuracy}{seen['agreement']:.2%} of {seen['samples']} predictions as golden's; largest state "
        f"{seen['largest_state']} of {HIGH}; weights shifted by {shifts} bits",
    ]


def _lost(loss: Loss) -> str:
    weights = f"weights off by {loss.weight_error:.2%} (rms), {loss.clipped} of {loss.weights} clipped"
    spikes = f"{loss.spikes_on_chip} spikes for {loss.spikes} ({loss.drift:+.2%})"
    return f"'{loss.node}': {weights}, decays by at most {loss.decay_error:.4g}, {spikes}"


def _warnings(found: Network, on: Matrices, variant: Variant, ran: Record) -> list[str]:
    """What the chip does otherwise than the graph says."""
    lines = []
    if ran.hidden.max(initial=0) >= MOST_HIDDEN:
        lines.append(f"a hidden neuron fired {MOST_HIDDEN} times in a step, the most that the chip can")
    states = (ran.i, ran.v, ran.i_out, ran.v_out)
    if any(each.size and (each.max() >= HIGH - 1 or each.min() <= -HIGH) for each in states):
        lines.append("states saturate at 16 bits on golden samples: take a smaller --set xylo.weight_shift")
    for layer in found.layers:
        last = layer.path == found.output.path
        if layer.spike == ">":
            lines.append(f"'{layer.path}' fires above its threshold, the chip's at it too: train with spike = 'floor'")
        if layer.spike != "floor" and not last:
            lines.append(f"'{layer.path}' fires once a step, the chip's neurons up to {MOST_HIDDEN} times")
        if layer.spike == "floor" and last:
            lines.append(
                f"'{layer.path}' fires several times a step, the chip's outputs once: train it with spike = '>='"
            )
        if layer.bias.any() and layer.late:
            lines.append(f"'{layer.path}' has a leak that is added {layer.late} steps before its first input arrives")
    if found.output.size > xylo_limits.WARNED_OUTPUTS and variant.part == "SYNS65302":
        lines.append(f"{found.output.size} outputs: Rockpool's mapper warns above {xylo_limits.WARNED_OUTPUTS}")
    return lines
