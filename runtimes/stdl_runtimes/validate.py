"""Runs a bundle's golden samples, and a data set where one is given, through every runtime and gathers what differs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import nir
import numpy as np

from stdl_export import graph
from stdl_export.bundle import Bundle
from stdl_export.common.errors import BadInput
from stdl_export.golden_file import INPUT, OUTPUT, Golden
from stdl_export.manifest import TOLERANCES, Tolerances
from stdl_export.program import program
from stdl_runtimes import ends, reference
from stdl_runtimes.base import Mode, Runtime, Spikes
from stdl_runtimes.compare import (
    Flags,
    Flips,
    all_match,
    count_difference,
    differ_from_a_tie_on,
    golden_flips,
    layer_flips,
    loop_flips,
    loop_of,
)
from stdl_runtimes.data import Samples
from stdl_runtimes.ends import Arrays, Ends
from stdl_runtimes.metrics import Integers, predictions, share, spike_count

SAMPLES_AT_ONCE = 64  # spikes and potentials of all layers are held for this many samples
EXCUSED = 0.05  # share of samples whose predictions ties may explain: more than that is not rounding
SAME_NETWORK = 0.5  # share of samples: a tie upsets one sample, another network upsets them all

Progress = Callable[[int], None]  # is told how many samples were done since the last call


@dataclass(frozen=True)
class Entry:
    """A runtime in one mode; `label` is what people read."""

    label: str
    runtime: Runtime
    mode: Mode

    def outputs(self, x: Arrays, timesteps: int) -> Arrays:
        """Outputs [T, B, ...] of a whole sequence, however this mode gets there."""
        if self.mode == "sequence":
            return self.runtime.outputs(x, timesteps)
        parts = self.runtime.ends.parts(x, self.runtime.largest_session or SAMPLES_AT_ONCE)
        return ends.joined([self._steps(part, timesteps) for part in parts])

    def _steps(self, x: Arrays, timesteps: int) -> Arrays:
        network_ends = self.runtime.ends
        with self.runtime.session(network_ends.samples(x)) as session:
            return ends.stacked([session.advance(frames) for frames in network_ends.steps(x, timesteps)])


def entries_of(runtime: Runtime) -> list[Entry]:
    """One entry per mode, the sequence first: single steps are compared with it."""
    labels: Mapping[Mode, str] = {"sequence": runtime.name, "step": f"{runtime.name} step"}
    return [Entry(labels[mode], runtime, mode) for mode in ("sequence", "step") if mode in runtime.modes]


@dataclass
class Layer:
    """What differs in one spiking layer, over all samples so far. slots: T x samples x neurons."""

    count_difference: int = 0
    flips: int = 0
    ties: int = 0
    slots: int = 0

    def add(self, flips: Flips, difference: int, slots: int) -> None:
        """Add a part of the samples."""
        self.count_difference += difference
        self.flips += flips.flips
        self.ties += flips.ties
        self.slots += slots


@dataclass
class Row:
    """What one entry made of the golden samples, part by part.

    layers: empty where the engine shows no spikes. clear: samples with no potential near its threshold, whose outputs
    rounding cannot change; wrong: those of them that have other outputs all the same. tied: for each sample, do its
    spikes differ from golden's, but from a tie on? Its prediction may then differ. readout: for each sample, are the
    outputs right, given the reference's spikes? twin: are they the same as from another form of the network here
    (`twin_name`)?
    """

    entry: Entry
    parts: list[Arrays] = field(default_factory=list)
    layers: dict[graph.NodeName, Layer] = field(default_factory=dict)
    clear: int = 0
    wrong: int = 0
    tied: list[Flags] = field(default_factory=list)
    readout: list[Flags] = field(default_factory=list)
    twin: list[Flags] = field(default_factory=list)
    twin_name: str = ""

    @property
    def outputs(self) -> Arrays:
        """[T, B, ...] of all samples."""
        return ends.joined(self.parts)


@dataclass(frozen=True)
class Check:
    """One condition. `text` says what was found and what is allowed."""

    name: str
    runtime: str
    passed: bool
    text: str


@dataclass(frozen=True)
class Part:
    """A few golden samples: their inputs, the reference's result, golden's outputs and spike counts, each by node.

    clear [B]: no potential of any neuron came as near as the flip margin to its threshold.
    """

    x: Arrays
    judged: reference.Result
    outputs: Arrays
    counts: dict[graph.NodeName, Integers]
    clear: Flags

    @property
    def samples(self) -> int:
        """B."""
        return int(self.clear.size)


class Comparison:
    """The golden samples of a bundle and the reference, which judges every layer."""

    def __init__(self, bundle: Bundle) -> None:
        self.name = str(bundle.path)
        self.manifest = bundle.manifest
        self.network = bundle.graph()
        self.golden = bundle.golden()
        self.neurons = graph.neurons(self.network)
        self.timesteps = self.golden.timesteps
        self.ends = ends.of_manifest(self.manifest)
        self._margin = self.manifest.tolerances.flip_margin
        self._before = spiking_before(self.network)
        if reason := _golden_misfit(self.golden, self.network, self.ends):
            raise BadInput(f"bundle '{bundle.path}': golden.npz does not fit its graph: {reason}: export it again")
        self.inputs = ends.by_node(self.golden.input, self.ends.inputs)
        self.outputs = ends.by_node(self.golden.output, self.ends.outputs)

    def rows(self, entries: Sequence[Entry], progress: Progress) -> list[Row]:
        """The golden samples through every entry."""
        rows = [Row(entry) for entry in entries]
        for part in self._parts():
            for row in rows:
                self._add(row, rows, part)
            progress(part.samples)
        return rows

    def checks(self, row: Row) -> list[Check]:
        """Every condition that a row has to meet."""
        label, allowed = row.entry.label, self._tolerances(row.entry)
        found = [self._agreement_check(row)]
        if allowed.precision == "fp32":  # in any other, a potential far from its threshold may get to the other side
            text = f"{row.wrong} of {row.clear} samples without a tie have other outputs, none may"
            found.append(Check("outputs", label, row.wrong == 0, text))
        for node, layer in row.layers.items():
            text = f"{layer.flips} of {layer.slots} spikes of '{node}' flipped, {allowed.flips:.3%} may"
            found.append(Check("flips", label, layer.flips <= allowed.flips * layer.slots, text))
        if row.readout:
            right = share(np.concatenate(row.readout))
            text = f"{right:.2%} of outputs are right given the reference's spikes, all must be"
            found.append(Check("readout", label, right == 1, text))
        if row.twin:
            same = share(np.concatenate(row.twin))
            text = f"{same:.2%} of outputs equal those of the {row.twin_name}, at least {SAME_NETWORK:.0%} must"
            found.append(Check("same network", label, same >= SAME_NETWORK, text))
        return found

    def agreement(self, row: Row) -> float:
        """The share of samples for which every Output of a row says what golden's says."""
        return share(~self._other(row))

    def _agreement_check(self, row: Row) -> Check:
        """Golden's predictions, except where a tie sent a sample another way; engines without spikes have no excuse."""
        allowed = self._tolerances(row.entry).agreement
        other = self._other(row)
        excused = other & np.concatenate(row.tied)
        passed = bool(share(~(other & ~excused)) >= allowed and excused.sum() <= max(1, EXCUSED * other.size))
        text = (
            f"{other.sum()} of {other.size} predictions differ from golden's, {excused.sum()} of them from a tie on; "
            f"ties apart (at most {EXCUSED:.0%}), at least {allowed:.2%} must agree"
        )
        return Check("agreement", row.entry.label, passed, text)

    def _tolerances(self, entry: Entry) -> Tolerances:
        """The bundle's; the reference computes in float32 whatever the bundle's graphs do."""
        said = self.manifest.tolerances
        judge = isinstance(entry.runtime, reference.Reference)
        return TOLERANCES["fp32"] if judge and said.precision != "fp32" else said

    def _other(self, row: Row) -> Flags:
        """Samples [B] of which some Output, decoded, has another class on top than golden's."""
        decoding, found = self.manifest.output.decoding, row.outputs
        differ = [predictions(found[name], decoding) != predictions(y, decoding) for name, y in self.outputs.items()]
        return np.asarray(np.any(differ, axis=0))

    def predicted(self, outputs: Arrays) -> Integers | None:
        """Classes [B] of outputs [T, B, ...]; None where several Outputs are none of them the prediction."""
        name = self.manifest.output.prediction
        return None if name is None else predictions(outputs[name], self.manifest.output.decoding)

    def on_data(self, entries: Sequence[Entry], samples: Samples, progress: Progress) -> list[Integers]:
        """The classes [B] that each entry predicts for the samples of a data set."""
        found: list[list[Integers]] = [[] for _ in entries]
        arrays, _ = self.ends.sequence(samples.input, self.timesteps)
        for x in self.ends.parts(arrays, SAMPLES_AT_ONCE):
            for entry, classes in zip(entries, found, strict=True):
                predicted = self.predicted(entry.outputs(x, self.timesteps))
                assert predicted is not None, "no data is loaded without one"
                classes.append(predicted)
            progress(self.ends.samples(x))
        return [np.concatenate(classes) for classes in found]

    def _parts(self) -> Iterator[Part]:
        at = 0
        for x in self.ends.parts(self.inputs, SAMPLES_AT_ONCE):
            judged = reference.run(self.network, x, T=self.timesteps, margins=True)
            here = slice(at, at + self.ends.samples(x))
            outputs = {name: y[:, here] for name, y in self.outputs.items()}
            counts = {node: self.golden.counts[node][here] for node in self.neurons}
            clear = np.ones(self.ends.samples(x), dtype=np.bool_)
            for margins in judged.margins.values():
                clear &= (margins > self._margin).all(axis=(0, *range(2, margins.ndim)))
            yield Part(x, judged, outputs, counts, clear)
            at = here.stop

    def _add(self, row: Row, rows: Sequence[Row], part: Part) -> None:
        runtime = row.entry.runtime
        judge = isinstance(runtime, reference.Reference)
        outputs = part.judged.outputs if judge else row.entry.outputs(part.x, self.timesteps)
        row.parts.append(outputs)
        row.clear += int(part.clear.sum())
        off = self._tolerances(row.entry).outputs
        row.wrong += int((part.clear & ~all_match(part.outputs if judge else part.judged.outputs, outputs, off)).sum())
        row.tied.append(np.zeros(part.samples, dtype=np.bool_))
        if judge:
            self._against_golden(row, part)
            row.twin_name = "golden samples"
            row.twin.append(all_match(part.outputs, outputs, off))
        elif row.entry.mode == "step":
            self._against_sequence(row, rows, part)
        elif runtime.shows_spikes:
            self._against_reference(row, rows[0], part)

    def _against_golden(self, row: Row, part: Part) -> None:
        """The reference itself: its spike counts and golden's."""
        counts = {node: spike_count(part.judged.spikes[node]) for node in self.neurons}
        batch = len(row.tied[-1])
        flips = golden_flips(counts, part.counts, part.judged.margins, self._margin, self._before, batch)
        row.tied[-1] |= flips.tied
        for node, count in counts.items():
            difference = count_difference(part.counts[node], count)
            row.layers.setdefault(node, Layer()).add(flips.layers[node], difference, part.judged.spikes[node].size)

    def _against_reference(self, row: Row, judge: Row, part: Part) -> None:
        """Each layer by itself on the reference's spikes, then the spike counts of the network end to end."""
        judged, runtime = part.judged, row.entry.runtime
        single = runtime.layers(part.x, judged.spikes, self.timesteps)
        whole = runtime.run_recorded(part.x, self.timesteps, guess=judged.spikes)
        off = self.manifest.tolerances.outputs
        row.readout.append(all_match(judged.outputs, single.outputs, off))
        row.tied[-1] |= judge.tied[-1] | differ_from_a_tie_on(
            judged.spikes, whole.spikes, judged.margins, self._margin, self._before, batch=len(row.tied[-1])
        )
        row.twin_name = "probe graph"
        row.twin.append(all_match(row.parts[-1], whole.outputs, off))
        for node, flips in self._flips(judged, single.spikes).items():
            difference = count_difference(part.counts[node], spike_count(whole.spikes[node]))
            row.layers.setdefault(node, Layer()).add(flips, difference, judged.spikes[node].size)

    def _flips(self, judged: reference.Result, found: Mapping[graph.NodeName, Spikes]) -> dict[graph.NodeName, Flips]:
        """What differs in each layer on the reference's spikes. The layers of a loop cannot be fed one by one: they ran
        whole and are judged together.
        """
        flips: dict[graph.NodeName, Flips] = {}
        for node in self.neurons:
            loop = loop_of(node, self._before)
            if not loop:
                flips[node] = layer_flips(judged.spikes[node], found[node], judged.margins[node], self._margin)
            elif node not in flips:
                mine = {name: judged.spikes[name] for name in loop}
                flips |= loop_flips(mine, found, judged.margins, self._margin)
        return {node: flips[node] for node in self.neurons}

    def _against_sequence(self, row: Row, rows: Sequence[Row], part: Part) -> None:
        """Single steps against the whole sequence in the same engine, which rounds alike, else the reference."""
        wanted, off = part.judged.outputs, self.manifest.tolerances.outputs
        row.twin_name = "reference"
        for other in rows:
            if other.entry.runtime is row.entry.runtime and other.entry.mode == "sequence":
                wanted, row.twin_name = other.parts[-1], "sequence"
                row.tied[-1] |= other.tied[-1] & all_match(wanted, row.parts[-1], off)
        row.twin.append(all_match(wanted, row.parts[-1], off))


def spiking_before(network: nir.NIRGraph) -> dict[graph.NodeName, set[graph.NodeName]]:
    """For each node the spiking nodes on any path that leads to it."""
    return program(network).before()


def _golden_misfit(golden: Golden, network: nir.NIRGraph, expected: Ends) -> str | None:
    """What of the golden samples does not fit the graph, in words; None where all of it does."""
    timesteps, batch, shapes = golden.timesteps, golden.samples, graph.shapes(network)
    front = (batch,) if expected.repeated else (timesteps, batch)
    for kind, values, known, axes in (
        (INPUT, golden.input, expected.inputs, front),
        (OUTPUT, golden.output, expected.outputs, (timesteps, batch)),
    ):
        found = ends.by_node(values, known)
        if found.keys() != known.keys():
            return f"it has {kind}s of {sorted(found) or 'one node'}, the graph of {sorted(known)}"
        for name, array in found.items():
            if array.shape != (*axes, *known[name]) or (kind == OUTPUT and expected.timesteps not in (None, timesteps)):
                return f"its {kind if len(known) == 1 else f'{kind} {name!r}'} has shape {array.shape}"
    if golden.labels is not None and golden.labels.shape != (batch,):
        return f"its labels have shape {golden.labels.shape}"
    for node in graph.neurons(network):
        if node not in golden.counts or golden.counts[node].shape != (batch, *shapes[node]):
            return f"it has no spike counts of shape {(batch, *shapes[node])} for node '{node}'"
    return None
