"""What is compared: each runtime in each of its modes, and what it made of the golden samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from stdl_export.graph import NodeName
from stdl_export.manifest import TOLERANCES, Tolerances
from stdl_runtimes import ends, reference
from stdl_runtimes.base import Array, Mode, Runtime
from stdl_runtimes.compare import Flags, Flips
from stdl_runtimes.efficiency import Meter
from stdl_runtimes.ends import Arrays
from stdl_runtimes.results import Difference

SAMPLES_AT_ONCE = 64  # spikes and potentials of all layers are held for this many samples

Progress = Callable[[int], None]  # is told how many samples were done since the last call


@dataclass(frozen=True)
class Entry:
    """A runtime in one mode; `label` is what people read."""

    label: str
    runtime: Runtime
    mode: Mode

    @property
    def judges(self) -> bool:
        """Is it the reference, with which all others are compared?"""
        return isinstance(self.runtime, reference.Reference)

    @property
    def is_another_network(self) -> bool:
        """Does it compute in an arithmetic of its own, as chips do? It brings the tolerances it is judged by then, and
        no layer of it can be fed with the reference's spikes. An engine with TF32 brings other tolerances, no more.
        """
        feeds_layers = type(self.runtime).layers is not Runtime.layers
        return own_tolerances(self.runtime) is not None and not feeds_layers

    def tolerances(self, said: Tolerances) -> Tolerances:
        """`said` by the bundle, or its own; the reference computes in float32 whatever the bundle's graphs do."""
        if self.judges and said.precision != "fp32":
            return TOLERANCES["fp32"]
        return own_tolerances(self.runtime) or said

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


def own_tolerances(runtime: Runtime) -> Tolerances | None:
    """Those that a runtime brings along, as chips do; None where the bundle's count."""
    found: Tolerances | None = getattr(runtime, "tolerances", None)
    return found


def entries_of(runtime: Runtime) -> list[Entry]:
    """One entry per mode, the sequence first: single steps are compared with it."""
    labels: Mapping[Mode, str] = {"sequence": runtime.name, "step": f"{runtime.name} step"}
    return [Entry(labels[mode], runtime, mode) for mode in ("sequence", "step") if mode in runtime.modes]


@dataclass
class Layer:
    """What differs in one spiking layer, over all samples so far. slots: T x samples x neurons; spikes: end to end.

    judged: was it fed with the reference's spikes, so that flips and ties say something?
    """

    count_difference: int = 0
    flips: int = 0
    ties: int = 0
    slots: int = 0
    spikes: int = 0
    judged: bool = True

    def add(self, flips: Flips | None, difference: int, slots: int, spikes: int) -> None:
        """Add a part of the samples; flips None: the layer could not be fed by itself."""
        self.count_difference += difference
        self.slots += slots
        self.spikes += spikes
        self.judged = flips is not None
        if flips is not None:
            self.flips += flips.flips
            self.ties += flips.ties


@dataclass
class Row:
    """What one entry made of the golden samples, part by part.

    layers: empty where the engine shows no spikes. clear: samples with no potential near its threshold, whose outputs
    rounding cannot change; wrong: those of them that have other outputs all the same. tied: for each sample, do its
    spikes differ from golden's, but from a tie on? Its prediction may then differ. readout: for each sample, how far
    are the outputs off, given the reference's spikes? twin: are they the same as from another form of the network here
    (`twin_name`)? off: for each sample, how far its outputs are from those of the hop before; clear_off: at most, of
    the samples that count as clear. first, first_output: where spikes and outputs differ first from the hop before;
    first_twin: where outputs differ first from the twin's. meter: counts operations, of a chip that shows all its
    spikes.
    """

    entry: Entry
    parts: list[Arrays] = field(default_factory=list)
    layers: dict[NodeName, Layer] = field(default_factory=dict)
    clear: int = 0
    wrong: int = 0
    clear_off: float = 0.0
    tied: list[Flags] = field(default_factory=list)
    readout: list[Array] = field(default_factory=list)
    off: list[Array] = field(default_factory=list)
    twin: list[Array] = field(default_factory=list)
    twin_name: str = ""
    first: Difference | None = None
    first_output: Difference | None = None
    first_twin: Difference | None = None
    meter: Meter | None = None

    @property
    def outputs(self) -> Arrays:
        """[T, B, ...] of all samples."""
        return ends.joined(self.parts)
