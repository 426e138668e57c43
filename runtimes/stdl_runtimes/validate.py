"""Runs a bundle's golden samples, and a data set where one is given, through every runtime and gathers what differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import nir
import numpy as np

from stdl_export import graph
from stdl_export.bundle import Bundle
from stdl_export.common.errors import BadInput, Unavailable
from stdl_export.manifest import Tolerances
from stdl_export.program import program
from stdl_runtimes import activity, checks, ends, hops, pictures, reference, trace
from stdl_runtimes.base import Recorded, Spikes
from stdl_runtimes.compare import (
    Flags,
    Flips,
    all_match,
    count_difference,
    deviation,
    differ_from_a_tie_on,
    golden_flips,
    layer_flips,
    loop_flips,
    loop_of,
)
from stdl_runtimes.data import Samples
from stdl_runtimes.efficiency import Meter
from stdl_runtimes.efficiency_result import Efficiency
from stdl_runtimes.ends import Arrays
from stdl_runtimes.entries import SAMPLES_AT_ONCE, Entry, Layer, Progress, Row, entries_of
from stdl_runtimes.golden_fit import misfit
from stdl_runtimes.metrics import Integers, predictions, spike_count
from stdl_runtimes.picture_data import Raster
from stdl_runtimes.results import Check

__all__ = ["Comparison", "Entry", "Part", "Progress", "Row", "entries_of", "spiking_before"]


@dataclass(frozen=True)
class Part:
    """A few golden samples: their inputs, the reference's result, golden's outputs and spike counts, each by node.

    clear [B]: no potential of any neuron came as near as the flip margin to its threshold. at: the first one's number.
    """

    at: int
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
        self._program = program(self.network)
        self._meter = Meter(self._program, self.timesteps, self.manifest.arithmetic)
        self.raster: Raster | None = None  # of the first golden sample, once there are rows
        if reason := misfit(self.golden, self.network, self.ends):
            raise BadInput(f"bundle '{bundle.path}': golden.npz does not fit its graph: {reason}: export it again")
        self.inputs = ends.by_node(self.golden.input, self.ends.inputs)
        self.outputs = ends.by_node(self.golden.output, self.ends.outputs)

    def rows(self, entries: Sequence[Entry], progress: Progress) -> list[Row]:
        """The golden samples through every entry."""
        rows = [Row(entry) for entry in entries]
        for part in self._parts():
            self._meter.add(part.samples, part.judged.spikes)
            self.raster = self.raster or pictures.raster(part.judged.spikes, 0, part.at)
            for row in rows:
                self._add(row, rows, part)
            progress(part.samples)
        for row in rows:
            self._trace(row)
        return rows

    def _trace(self, row: Row) -> None:
        """Single steps show no spikes, but states: which node's was wrong first, where outputs differ?"""
        if row.entry.mode != "step" or row.first_output is None or row.entry.is_another_network:
            return
        x = self.ends.taken(self.inputs, [row.first_output.sample])
        row.first = trace.first_state(
            self.network, row.entry.runtime, x, self.timesteps, self.manifest.states,
            self.tolerances(row.entry).outputs, row.first_output.sample,
        )  # fmt: skip

    def efficiency(self) -> Efficiency:
        """What the golden samples cost in the reference, once there are rows."""
        return self._meter.result()

    def checks(self, row: Row) -> list[Check]:
        """Every condition that a row has to meet."""
        return checks.checks(row, self.tolerances(row.entry), self.other(row))

    def tolerances(self, entry: Entry) -> Tolerances:
        """What an entry is judged by."""
        return entry.tolerances(self.manifest.tolerances)

    def other(self, row: Row) -> Flags:
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
        for part in samples.parts(SAMPLES_AT_ONCE):
            x, _ = self.ends.sequence(part, self.timesteps)
            for entry, classes in zip(entries, found, strict=True):
                predicted = self.predicted(entry.outputs(x, self.timesteps))
                assert predicted is not None, "no data is loaded without one"
                classes.append(predicted)
            progress(self.ends.samples(x))
        return [np.concatenate(classes) for classes in found]

    def _parts(self) -> Iterator[Part]:
        at = 0
        for x in self.ends.parts(self.inputs, SAMPLES_AT_ONCE):
            judged = reference.run(self.network, x, T=self.timesteps, margins=True, watch=self._meter.watch)
            here = slice(at, at + self.ends.samples(x))
            outputs = {name: y[:, here] for name, y in self.outputs.items()}
            counts = {node: self.golden.counts[node][here] for node in self.neurons}
            clear = np.ones(self.ends.samples(x), dtype=np.bool_)
            for margins in judged.margins.values():
                clear &= (margins > self._margin).all(axis=(0, *range(2, margins.ndim)))
            yield Part(at, x, judged, outputs, counts, clear)
            at = here.stop

    def _add(self, row: Row, rows: Sequence[Row], part: Part) -> None:
        entry = row.entry
        outputs = part.judged.outputs if entry.judges else entry.outputs(part.x, self.timesteps)
        row.parts.append(outputs)
        row.clear += int(part.clear.sum())
        expected = part.outputs if entry.judges else part.judged.outputs
        off, allowed = deviation(expected, outputs), np.float32(self.tolerances(entry).outputs)
        row.wrong += int((part.clear & ~(off <= allowed)).sum())
        row.clear_off = max(row.clear_off, float(off[part.clear].max(initial=0)))
        row.tied.append(np.zeros(part.samples, dtype=np.bool_))
        if entry.judges:
            self._against_golden(row, part)
            row.twin_name = "golden samples"
            row.twin.append(off)
        elif entry.mode == "step":
            expected = self._against_sequence(row, rows, part)
        elif entry.is_another_network:
            expected = part.outputs
            self._spikes_of_another_network(row, part)
        elif entry.runtime.shows_spikes:
            self._against_reference(row, rows[0], part)
        self._compare_outputs(row, part, expected)

    def _compare_outputs(self, row: Row, part: Part, expected: Arrays) -> None:
        """How far the outputs are from those of the hop before, and where first."""
        found, allowed = row.parts[-1], self.tolerances(row.entry).outputs
        row.off.append(deviation(expected, found))
        first = hops.first_output(expected, found, allowed, part.clear, part.at)
        row.first_output = hops.earliest([row.first_output, first], list(self.outputs))

    def _against_golden(self, row: Row, part: Part) -> None:
        """The reference itself: its spike counts and golden's."""
        counts, judged, margin = self._counts(part.judged.spikes), part.judged, self._margin
        batch = len(row.tied[-1])
        flips = golden_flips(counts, part.counts, judged.margins, margin, self._before, batch)
        row.tied[-1] |= flips.tied
        first = hops.first_count(part.counts, counts, judged.margins, margin, part.at)
        row.first = hops.earliest([row.first, first], self.neurons)
        for node, count in counts.items():
            self._add_layer(row, node, flips.layers[node], part.counts[node], count)

    def _against_reference(self, row: Row, judge: Row, part: Part) -> None:
        """Each layer by itself on the reference's spikes, then the spike counts of the network end to end."""
        judged, runtime = part.judged, row.entry.runtime
        single = runtime.layers(part.x, judged.spikes, self.timesteps)
        whole = runtime.run_recorded(part.x, self.timesteps, guess=judged.spikes)
        row.readout.append(deviation(judged.outputs, single.outputs))
        row.tied[-1] |= judge.tied[-1] | differ_from_a_tie_on(
            judged.spikes, whole.spikes, judged.margins, self._margin, self._before, batch=len(row.tied[-1])
        )
        self._against_twin(row, "probe graph", row.parts[-1], whole.outputs, part)
        first = hops.first_spike(judged.spikes, single.spikes, judged.margins, self._margin, part.at)
        row.first = hops.earliest([row.first, first], self.neurons)
        for node, flips in self._flips(judged, single.spikes).items():
            self._add_layer(row, node, flips, part.counts[node], spike_count(whole.spikes[node]))

    def _spikes_of_another_network(self, row: Row, part: Part) -> None:
        """What a chip's layers fire, where it shows that: of the nodes that it knows by their names in the graph."""
        whole = self._recorded(row.entry, part)
        if whole is None:
            return
        for node in self.neurons:
            if node in whole.spikes:
                self._add_layer(row, node, None, part.counts[node], spike_count(whole.spikes[node]))
        if whole.spikes.keys() == set(self.neurons):
            row.meter = row.meter or Meter(self._program, self.timesteps, self.manifest.arithmetic)
            activity.count(row.meter, self._program, self.ends, part.x, whole.spikes, self.timesteps)

    def _recorded(self, entry: Entry, part: Part) -> Recorded | None:
        try:
            return entry.runtime.run_recorded(part.x, self.timesteps)
        except Unavailable:
            return None

    def _add_layer(
        self, row: Row, node: graph.NodeName, flips: Flips | None, golden: Integers, found: Integers
    ) -> None:
        difference = count_difference(golden, found)
        slots = self.timesteps * golden.size
        row.layers.setdefault(node, Layer()).add(flips, difference, slots, int(found.sum(dtype=np.int64)))

    def _counts(self, spikes: Mapping[graph.NodeName, Spikes]) -> dict[graph.NodeName, Integers]:
        return {node: spike_count(spikes[node]) for node in self.neurons}

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

    def _against_sequence(self, row: Row, rows: Sequence[Row], part: Part) -> Arrays:
        """Single steps against the whole sequence in the same engine, which rounds alike, else the reference."""
        wanted, off, name = part.judged.outputs, self.tolerances(row.entry).outputs, "reference"
        for other in rows:
            if other.entry.runtime is row.entry.runtime and other.entry.mode == "sequence":
                wanted, name = other.parts[-1], "sequence"
                row.tied[-1] |= other.tied[-1] & all_match(wanted, row.parts[-1], off)
        self._against_twin(row, name, wanted, row.parts[-1], part)
        return wanted

    def _against_twin(self, row: Row, name: str, expected: Arrays, found: Arrays, part: Part) -> None:
        """Two forms of the same network in the same engine."""
        row.twin_name = name
        row.twin.append(deviation(expected, found))
        first = hops.first_output(expected, found, self.tolerances(row.entry).outputs, part.clear, part.at)
        row.first_twin = hops.earliest([row.first_twin, first], list(self.outputs))


def spiking_before(network: nir.NIRGraph) -> dict[graph.NodeName, set[graph.NodeName]]:
    """For each node the spiking nodes on any path that leads to it."""
    return program(network).before()
