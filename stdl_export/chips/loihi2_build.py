"""From a checked graph and golden samples to the layers that Loihi 2 runs, calibrated on these samples.

program -> units (`units`) -> chain with relays (`chain`) -> neurons (`loihi2_neurons`) -> whole numbers
(`loihi2_integers`) -> the samples through the model (`loihi2_model`): where an accumulator or a readout leaves its
bits, its layer gets a smaller scale, and all is done again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import nir
import numpy as np
from numpy.typing import NDArray

from stdl_export import graph as graphs
from stdl_export.chips import chain as chains
from stdl_export.chips import loihi2_integers, quantise
from stdl_export.chips.base import Refusal
from stdl_export.chips.links import Link
from stdl_export.chips.loihi2_integers import MOST_THRESHOLD, Rounded
from stdl_export.chips.loihi2_model import SHIFT, Aligned, Neurons, Peaks
from stdl_export.chips.loihi2_neurons import Parameters, parameters
from stdl_export.chips.loihi2_side import Shown
from stdl_export.chips.maps import image as image_of
from stdl_export.chips.netx import Dense, Flatten, Layer, Network, ReaderOptions
from stdl_export.chips.quantise import Levels
from stdl_export.chips.units import Unit, Units, units
from stdl_export.graph import NodeName
from stdl_export.primitives import Shape
from stdl_export.program import program

Float = NDArray[np.float64]
Flags = NDArray[np.bool_]

SAMPLES_AT_ONCE = 64
WORK = 4e11  # multiply-accumulates that calibration may take: a minute or so of one core
ROUNDS = 4
READOUT_ROOM = 2.0  # how many times what was measured a readout's potential may grow to
MOST_LEVELS = 63  # of analog inputs that lie on a grid; others get fewer, since weights share the bits with them
LEVELS = 31


@dataclass(frozen=True, eq=False)
class Structure:
    """A graph as a chain in floats: links and parameters one a layer."""

    found: Units
    links: tuple[Link, ...]
    parameters: tuple[Parameters, ...]
    repeat: bool
    timesteps: int | None


@dataclass(frozen=True, eq=False)
class Built:
    """A chain in whole numbers, how inputs go in, and what calibration saw."""

    structure: Structure
    levels: Levels
    layers: tuple[Rounded, ...]
    peaks: tuple[Peaks, ...] = ()
    samples: int = 0

    @property
    def options(self) -> ReaderOptions:
        """Of the model, which needs no resets when it runs without delays."""
        return ReaderOptions(message_bits(self.levels))

    @property
    def network(self) -> Network:
        """As netx has it: flat from the first dense layer on."""
        found = self.structure.found
        layers: list[Layer] = []
        image = len(found.input_shape) > 1
        shape: Shape = image_of(found.input_shape) if image else found.input_shape
        start = shape
        for each in self.layers:
            if isinstance(each.layer, Dense) and image:
                layers.append(Flatten((math.prod(shape),)))
                image = False
            layers.append(each.layer)
            shape = each.layer.shape
        return Network(tuple(layers), start)

    @property
    def shown(self) -> Shown:
        """What of the last layer is the output."""
        return shown(self.structure.links[-1].unit)

    @property
    def factor(self) -> float:
        """What the last layer shows is multiplied with."""
        if self.shown == "spikes":
            return self.structure.found.amplitude
        return 1 / (self.layers[-1].scale * (1 << SHIFT))


def shown(unit: Unit) -> Shown:
    """What an Output shows of the last unit."""
    if unit.numbers is None:
        return "current"
    return "spikes" if unit.numbers.spikes else "potential"


def message_bits(levels: Levels) -> int:
    """0 for spikes, else as many bits as whole numbers have."""
    return 0 if levels.most == 1 else levels.most.bit_length()


def structure(graph: nir.NIRGraph, refused: list[Refusal]) -> Structure | None:
    """The graph as a chain; everything that the chip cannot do is added to `refused`, and then None comes back."""
    found = units(program(graph), refused)
    if found is None:
        return None
    links = chains.chain(found, refused)
    made = [parameters(link.unit, refused) for link in links]
    for link, each in zip(links, made, strict=True):
        refused += [*_of_link(link, each)]
    if refused:
        return None
    settings = graphs.settings(graph)
    return Structure(found, tuple(links), tuple(made), settings.input == "repeat", settings.T)


def _of_link(link: Link, made: Parameters) -> Iterator[Refusal]:
    if loihi2_integers.varies(link, made):
        way_out = "give a channel one threshold and one r"
        yield Refusal(link.unit.path, "threshold or gain", "not the same within a channel", "one a channel", way_out)
    if link.recurrent is not None and link.delay is not None:
        way_out = "hold spikes behind it, or in front of the layer before"
        yield Refusal(link.unit.path, "its delay", "that of a layer that reads itself", "none there", way_out)
    if not link.unit.reads:
        yield Refusal(link.unit.path, "what it reads", "nothing that changes", "an input or spikes", "remove it")
    if link.recurrent is not None and len(link.unit.shape) != 1:
        yield Refusal(link.unit.path, "its recurrence", f"of shape {link.unit.shape}", "rows of neurons", "flatten it")


def levels(made: Structure, x: NDArray[np.float32], asked: int | None) -> Levels:
    """How real inputs [N, ...] or [T, N, ...] go in as whole numbers."""
    samples = x if made.repeat else x.reshape(-1, *x.shape[2:])
    if asked is not None:
        return quantise.levels_of(samples, asked, asked)
    exact = quantise.levels_of(samples, MOST_LEVELS)
    on_grid = np.abs((samples - _channels(exact.low, samples)) / _channels(exact.step, samples))
    if exact.most <= MOST_LEVELS and np.abs(on_grid - np.rint(on_grid)).max() < 0.05:
        return exact
    return quantise.levels_of(samples, LEVELS, LEVELS)


def _channels(values: Float, samples: NDArray[np.float32]) -> Float:
    return values.reshape(1, -1, *[1] * (samples.ndim - 2))


def build(made: Structure, x: NDArray[np.float32], steps: int, asked: int | None, most: int | None) -> Built:
    """The chain in whole numbers, its scales lowered until the samples fit. x: golden inputs; `Refused` is collected
    by the caller through `refusals`.
    """
    entry = levels(made, x, asked)
    chains.check_input(made.found, made.links, entry.spikes or entry.most == 1)
    links = [chains.with_input(made.links[0], entry.low, entry.step), *made.links[1:]]
    normal = [loihi2_integers.normalised(*pair) for pair in zip(links, made.parameters, strict=True)]
    ends = [math.inf] * len(normal)
    for _ in range(ROUNDS):
        layers = tuple(
            loihi2_integers.rounded(link, parameter, entry.most if not at else 1, ends[at])
            for at, (link, parameter) in enumerate(zip(normal, made.parameters, strict=True))
        )
        built = Built(made, entry, layers)
        if [*refusals(built)]:
            return built
        built = calibrated(built, x, steps, most)
        lower = [_lower(each, peaks) for each, peaks in zip(built.layers, built.peaks, strict=True)]
        if all(share >= 1 for share in lower):
            break
        ends = [each.scale * share if share < 1 else end for each, share, end in zip(layers, lower, ends, strict=True)]
    return built


def refusals(built: Built) -> list[Refusal]:
    """What of the whole numbers does not fit the chip."""
    return [reason for each in built.layers for reason in loihi2_integers.refusals(each)]


def _lower(each: Rounded, peaks: Peaks) -> float:
    """The share of its scale that a layer may keep; 1 and more where it fits."""
    room = (MOST_THRESHOLD * (1 << SHIFT)) / max(peaks.u, peaks.a * (1 << SHIFT), 1.0)
    if each.link.unit.numbers is None or not each.link.unit.numbers.spikes:
        room = min(room, MOST_THRESHOLD * (1 << SHIFT) / max(READOUT_ROOM * peaks.v, 1.0))
    return room if room >= 1 else room * 0.99


def calibrated(built: Built, x: NDArray[np.float32], steps: int, most: int | None) -> Built:
    """The samples through the model, as many as there is time for, and the largest numbers that came up."""
    repeat = built.structure.repeat
    samples = x.shape[0 if repeat else 1]
    count = most or int(WORK / max(_work(built) * steps, 1))
    count = max(1, min(samples, count))
    peaks = [Peaks() for _ in built.layers]
    for part in parts(x, repeat, count):
        model = Aligned([each.layer for each in built.layers], samples_of(part, repeat), built.options)
        model.peaks = peaks
        for frame in frames(built, part, steps):
            model.step(frame, watch=True)
    return Built(built.structure, built.levels, built.layers, tuple(peaks), count)


def _work(built: Built) -> int:
    """Multiply-accumulates of one sample and step."""
    return sum(each.layer.weight[0].size * math.prod(each.layer.shape) for each in built.layers)


def parts(x: NDArray[np.float32], repeat: bool, count: int) -> Iterator[NDArray[np.float32]]:
    """The first samples, a few at a time."""
    for at in range(0, count, SAMPLES_AT_ONCE):
        here = slice(at, min(at + SAMPLES_AT_ONCE, count))
        yield x[here] if repeat else x[:, here]


def samples_of(x: NDArray[np.float32], repeat: bool) -> int:
    """B."""
    return int(x.shape[0 if repeat else 1])


def frames(built: Built, x: NDArray[np.float32], steps: int) -> Iterator[NDArray[np.int64]]:
    """What is shown at each step, in whole numbers."""
    if built.structure.repeat:
        yield from [image_frame(built.levels.encoded(x))] * steps
    else:
        for frame in x:
            yield image_frame(built.levels.encoded(frame))


def image_frame(x: NDArray[np.int64]) -> NDArray[np.int64]:
    """[B, C, L] as images of height 1; others as they are."""
    return x[:, :, None] if x.ndim == 3 else x


@dataclass
class Outcome:
    """What the model made of the first samples: outputs [T, B, ...], and by node spikes a neuron over T, [B, ...].

    fired: of each layer but a readout the spikes of each of its outputs (channels of an image), relays too, over all
    samples and steps.
    """

    outputs: Float
    counts: dict[NodeName, NDArray[np.int64]]
    fired: list[NDArray[np.int64]]

    @property
    def samples(self) -> int:
        """B."""
        return int(self.outputs.shape[1])


def run(built: Built, x: NDArray[np.float32], steps: int, count: int) -> Outcome:
    """The first `count` samples through the model without delays."""
    outputs, counts = [], []
    total = [np.zeros(each.layer.shape[0], np.int64) for each in built.layers]
    for part in parts(x, built.structure.repeat, count):
        model = Aligned([each.layer for each in built.layers], samples_of(part, built.structure.repeat), built.options)
        shown: list[Float] = []
        fired: dict[NodeName, Any] = {}
        for frame in frames(built, part, steps):
            model.step(frame)
            shown.append(output(built, model))
            for at, (link, stage) in enumerate(zip(built.structure.links, model.stages, strict=True)):
                spikes = stage.neurons.spikes
                total[at] += spikes.reshape(*spikes.shape[:2], -1).sum(axis=(0, 2))
                if link.unit.numbers is not None and link.unit.numbers.spikes:
                    now = own_spikes(link, stage.neurons.spikes).astype(np.int64)
                    fired[link.unit.path] = fired.get(link.unit.path, 0) + now
        outputs.append(np.stack(shown))
        counts.append(fired)
    joined = {path: np.concatenate([each[path] for each in counts]) for path in counts[0]}
    return Outcome(np.concatenate(outputs, axis=1), joined, total)


def own_spikes(link: Link, spikes: Flags) -> Flags:
    """The spikes [B, ...] of a layer less its relays, in the node's shape."""
    return spikes[:, : len(link.main)].reshape(len(spikes), *link.unit.shape)


def output(built: Built, model: Aligned) -> Float:
    """What the Output shows of the last layer now, [B, ...]."""
    neurons, link = model.stages[-1].neurons, built.structure.links[-1]
    values = read_out(built.shown, neurons)
    return values.reshape(len(values), *link.unit.shape) * built.factor


def read_out(shown: Shown, neurons: Neurons) -> Float:
    """Of a layer what is read at it, before the factor: spikes, v, or what came in in this step."""
    if shown == "spikes":
        return neurons.spikes.astype(np.float64)
    return neurons.v if shown == "potential" else neurons.u + neurons.bias
