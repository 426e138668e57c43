"""What Loihi 2 takes of a network's numbers: the mapping, and what rounding lost, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stdl_export.chips.base import Limit
from stdl_export.chips.loihi2_build import Built, Outcome
from stdl_export.chips.loihi2_integers import MOST_BIAS, MOST_THRESHOLD, Rounded
from stdl_export.chips.loihi2_model import SHIFT, Peaks
from stdl_export.chips.netx import MOST_DELAY, Conv, Dense, NeuronLayer
from stdl_export.chips.report import LayerUse, Mapping, Use
from stdl_export.golden_file import Golden
from stdl_export.graph import Decoding, NodeName

DOC = "Intel's documents"
CORES, NEURONS_A_CORE, NEURONS, SYNAPSES = 128, 8192, 1_000_000, 120_000_000
ENOUGH = 0.9  # of predictions that agree, as stdl-validate asks
WIDE = 32_767  # the accumulator of a core has 16 bits, by nengo-loihi
LIMITS = (
    Limit("weight, mixed signs", 254, "Lava's synapse: 8 bits, even from 128 on"),
    Limit("threshold (vThMant)", MOST_THRESHOLD, "Lava's LIF: 17 bits"),
    Limit("bias", MOST_BIAS, "Lava's LIF: 13 bits"),
    Limit("decay", 4096, "Lava's LIF: 12 bits, the part of 4096 that is lost in a step"),
    Limit("delay of a dense synapse, steps", MOST_DELAY, "lava-dl's reader"),
    Limit("accumulator, to be sure", WIDE, "nengo-loihi: 16 bits"),
    Limit("accumulator", MOST_THRESHOLD, "Lava's LIF: u has 24 bits, 6 of them behind the point"),
    Limit("cores of a chip", CORES, DOC),
    Limit("neurons of a core", NEURONS_A_CORE, DOC),
    Limit("neurons of a chip", NEURONS, DOC),
    Limit("synapses of a chip", SYNAPSES, DOC),
)


@dataclass(frozen=True)
class LayerLoss:
    """One layer. weight_error: root mean square, relative; decay_error: the largest; rates: spikes a neuron and step
    of the float network (None where golden does not say) and of the chip's model. accumulator: what could come up and
    what did; saturated: potentials that lay at the end of their 24 bits.
    """

    node: str
    scale: float
    threshold: int | None
    weight_error: float
    clipped_weights: int
    decay_error: float
    relays: int
    accumulator_bound: int
    accumulator_seen: int
    u_seen: int
    v_seen: int
    saturated: int
    rate_float: float | None
    rate_chip: float | None


@dataclass(frozen=True)
class Loss:
    """All layers, and the network as a whole on the samples that calibrated it. Spikes and synaptic operations are the
    chip's: relays are counted.
    """

    samples: int
    layers: tuple[LayerLoss, ...]
    input_levels: int
    agreement: float
    accuracy_float: float | None
    accuracy_chip: float | None
    spikes_per_inference: float
    synops_per_inference: float

    @property
    def data(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def mapping(built: Built) -> Mapping:
    """Cores and memory are decided by Intel's mapper, which is not public: the least that can be is counted."""
    layers = tuple(_use(each) for each in built.layers)
    neurons, synapses = sum(each.neurons for each in layers), sum(each.synapses for each in layers)
    cores = sum(-(-each.neurons // NEURONS_A_CORE) for each in layers)
    uses = (
        Use("cores, at least", cores, CORES, estimate=True),
        Use("neurons", neurons, NEURONS, estimate=True),
        Use("synapses", synapses, SYNAPSES, estimate=True),
    )
    remark = "cores are given by Intel's mapper, which is not public: limits of a chip are from documents, not checked"
    return Mapping("loihi2", layers, uses, (remark,))


def _use(each: Rounded) -> LayerUse:
    layer, neurons = each.layer, math.prod(each.layer.shape)
    used = (layer.weight != 0).reshape(len(layer.weight), -1).sum(axis=1)
    stored = int(used.sum())
    if isinstance(layer, Conv):
        height, width = layer.weight.shape[2:]
        what = f"conv {height}x{width}" + (f", stride {layer.stride[0]}" if max(layer.stride) > 1 else "")
        what += f", {layer.groups} groups" if layer.groups > 1 else ""
        synapses = stored * math.prod(layer.shape[1:])
    else:
        what, synapses = layer.kind, stored
    if isinstance(layer, Dense) and layer.recurrent is not None:
        back = (layer.recurrent != 0).sum(axis=1)
        used, stored, synapses = used + back, stored + int(back.sum()), synapses + int(back.sum())
    if each.link.hosts:
        what += f", {len(each.link.relays)} relays"
    return LayerUse(each.link.unit.path, what, neurons, synapses, 8 * stored, int(used.max(initial=0)))


def loss(built: Built, outcome: Outcome, golden: Golden, decoding: Decoding) -> Loss:
    """What was lost on the samples of an outcome."""
    count, steps = outcome.samples, len(outcome.outputs)
    assert isinstance(golden.output, np.ndarray)
    wanted, found = classes(golden.output[:, :count], decoding), classes(outcome.outputs, decoding)
    labels = None if golden.labels is None else golden.labels[:count]
    rates = _rates(built, outcome, golden, steps)
    layers = tuple(
        _layer(each, peaks, *rates.get(each.link.unit.path, (None, None)))
        for each, peaks in zip(built.layers, built.peaks, strict=True)
    )
    return Loss(
        samples=count,
        layers=layers,
        input_levels=built.levels.most,
        agreement=float(np.mean(wanted == found)),
        accuracy_float=None if labels is None else float(np.mean(wanted == labels)),
        accuracy_chip=None if labels is None else float(np.mean(found == labels)),
        spikes_per_inference=sum(float(each.sum()) for each in outcome.fired) / count,
        synops_per_inference=_synops(built, outcome.fired, count),
    )


def _rates(built: Built, outcome: Outcome, golden: Golden, steps: int) -> dict[NodeName, tuple[float | None, float]]:
    found: dict[NodeName, tuple[float | None, float]] = {}
    for path, counts in outcome.counts.items():
        said = golden.counts.get(path)
        before = None if said is None else float(said[: outcome.samples].mean() / steps)
        found[path] = before, float(counts.mean() / steps)
    return found


def _layer(each: Rounded, peaks: Peaks, rate_float: float | None, rate_chip: float | None) -> LayerLoss:
    numbers = each.link.unit.numbers
    spiking = numbers is not None and numbers.spikes
    return LayerLoss(
        node=each.link.unit.path,
        scale=each.scale,
        threshold=int(each.layer.neuron.v_threshold) if spiking else None,
        weight_error=each.error,
        clipped_weights=each.clipped,
        decay_error=each.off,
        relays=len(each.link.relays),
        accumulator_bound=each.bound,
        accumulator_seen=int(peaks.a),
        u_seen=int(peaks.u) >> SHIFT,
        v_seen=int(peaks.v) >> SHIFT,
        saturated=peaks.saturated,
        rate_float=rate_float,
        rate_chip=rate_chip,
    )


def _synops(built: Built, fired: Sequence[NDArray[np.int64]], samples: int) -> float:
    """Synapses that spikes reach, a sample: those of every layer, relays too, less the input's, which is not a layer's.

    A channel of an image counts what its places reach on average; at borders some reach less.
    """
    total = 0.0
    for before, after, spikes in zip(built.layers, built.layers[1:], fired, strict=False):
        total += float(spikes @ _fan_out(before.layer, after.layer))
    for each, spikes in zip(built.layers, fired, strict=True):
        if isinstance(each.layer, Dense) and each.layer.recurrent is not None:
            total += float(spikes @ (each.layer.recurrent != 0).sum(axis=0))
    return total / samples


def _fan_out(before: NeuronLayer, after: NeuronLayer) -> NDArray[np.float64]:
    """Of each output (channel of an image) of a layer, the synapses of the next that a spike of it reaches."""
    if isinstance(after, Dense):
        used = (after.weight != 0).sum(axis=0).astype(np.float64).reshape(before.shape[0], -1)
        mean: NDArray[np.float64] = used.mean(axis=1)
        return mean
    outputs, columns = after.weight.shape[:2]
    taps = (after.weight != 0).sum(axis=(2, 3)).reshape(after.groups, outputs // after.groups, columns).sum(axis=1)
    places = math.prod(after.shape[1:]) / math.prod(before.shape[1:])
    found: NDArray[np.float64] = taps.reshape(-1) * places
    return found


def classes(output: NDArray[Any], decoding: Decoding) -> NDArray[np.int64]:
    """[T, B, ...] -> the class [B] with the highest score."""
    flat = output.reshape(*output.shape[:2], -1)
    scores = flat[-1] if decoding == "last" else flat.sum(axis=0)
    found: NDArray[np.int64] = scores.argmax(axis=1)
    return found


def notes(found: Loss) -> Iterator[str]:
    """Lines for the summary."""
    accuracy = ""
    if found.accuracy_chip is not None and found.accuracy_float is not None:
        accuracy = f"accuracy {found.accuracy_chip:.2%} ({found.accuracy_float:.2%} in float), "
    yield (
        f"{accuracy}{found.agreement:.2%} of predictions agree on {found.samples} golden samples in the model of "
        f"Lava's CPU processes; {found.spikes_per_inference:.0f} spikes and {found.synops_per_inference:.0f} SynOps "
        "an inference"
    )
    worst = max(found.layers, key=lambda layer: layer.weight_error)
    clipped = sum(layer.clipped_weights for layer in found.layers)
    decay = max(layer.decay_error for layer in found.layers)
    yield (
        f"rounding changed weights by at most {worst.weight_error:.2%} ('{worst.node}') and decays by {decay:.1g}, and "
        f"clipped {clipped} weights; rates and accumulators of each layer are in report.json"
    )


def warnings(found: Loss, made: Mapping) -> Iterator[str]:
    """What may go wrong with other inputs, or lost much, or needs more than one chip."""
    over = [f"{use.name} {use.used:,.0f} of {use.limit:,.0f}" for use in made.uses if not use.fits]
    if over:
        chips = math.ceil(max(use.used / use.limit for use in made.uses))
        yield (
            f"it needs {chips} chips or more ({', '.join(over)}, by what documents say of one): for one chip, use "
            "fewer channels, smaller images, or fewer connections that jump over layers"
        )
    if found.agreement < ENOUGH:
        yield (
            f"only {found.agreement:.2%} of predictions agree: give more input levels (--set loihi2.levels), or "
            "fine-tune (stdl-train --quantize loihi2)"
        )
    for layer in found.layers:
        where = f"node '{layer.node}'"
        if layer.accumulator_bound > WIDE:
            yield (
                f"{where}: its accumulator could reach {layer.accumulator_bound}, {WIDE} is sure to fit; on "
                f"{found.samples} samples it came to {layer.accumulator_seen}"
            )
        if layer.saturated:
            yield f"{where}: its potential was cut off {layer.saturated} times; lower its weights against v_threshold"
        if layer.weight_error > 0.1:
            share = f"{layer.weight_error:.0%}"
            yield f"{where}: rounding changed its weights by {share}; try a fine-tune: stdl-train --quantize loihi2"
