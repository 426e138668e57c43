"""The judge: a NIR graph run in NumPy, nothing but the graph needed; one short function per node type.

Everything is float32. A neuron computes exactly what `semantics` says; a Delay hands out what came in steps ago;
everything else acts on [B, ...] without memory (`reference_walk`, `reference_neurons`, `reference_nodes`). Clarity
comes before speed, but where one frame is repeated, what lies before the first neuron is computed once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import nir
import numpy as np

from stdl_export.arrays import Values
from stdl_export.bundle import Bundle
from stdl_export.common.errors import BadInput
from stdl_export.graph import NodeName
from stdl_export.manifest import StateInfo
from stdl_export.program import Program, program
from stdl_export.semantics import Discrete
from stdl_runtimes import base, ends
from stdl_runtimes import states as begun
from stdl_runtimes.base import Array, Device, Recorded, Spikes
from stdl_runtimes.ends import Arrays
from stdl_runtimes.reference_neurons import margin
from stdl_runtimes.reference_walk import Simulation, StateName, Watch

SAMPLES_AT_ONCE = 64  # bounds memory: a large batch is run in parts
MOST_SPIKES = 1 << 24  # of a neuron in a step: up to here every whole number is a float32


@dataclass(frozen=True)
class Result:
    """A run: what each Output gives [T, B, ...], and per spiking node its spikes and its margins, each [T, B, ...].

    Spikes are true and false, or counts (int32) of nodes that fire several times a step. A margin is |u - v_threshold|
    / max(1, |v_threshold|), how far a potential was from the other decision (of counts: from the nearest multiple of
    the threshold, relative to that); it and `potentials`, what each neuron stores at the end of each step, are empty
    unless asked for. states: of all nodes after the last step.
    """

    outputs: dict[NodeName, Array]
    spikes: dict[NodeName, Spikes] = field(default_factory=dict)
    margins: dict[NodeName, Array] = field(default_factory=dict)
    potentials: dict[NodeName, Array] = field(default_factory=dict)
    states: dict[StateName, Array] = field(default_factory=dict)

    @property
    def output(self) -> Array:
        """That of the one Output; BadInput where there are several."""
        return ends.only(self.outputs)


def run(
    network: nir.NIRGraph,
    x: Values,
    *,
    T: int | None = None,
    spikes: bool = True,
    margins: bool = False,
    potentials: bool = False,
    states: bool = False,
    watch: Watch | None = None,
) -> Result:
    """Run a checked graph from a fresh state.

    x: [B, ...] where `stdl.input` is "repeat" (T from the argument, else from `stdl.T`), otherwise [T, B, ...]; of
    several Inputs a dictionary. watch: sees what goes into every node without memory. BadInput where x does not fit the
    graph or T is not known.
    """
    record = _Record(spikes, margins, potentials, states, watch)
    return run_program(program(network), x, T=T, record=record)


def run_program(made: Program, x: Values, *, T: int | None = None, record: _Record | None = None) -> Result:
    """The same of a program, for callers that run one several times; spikes are kept where `record` says nothing."""
    record = record or _Record(spikes=True, margins=False, potentials=False, states=False)
    network_ends = ends.of_program(made)
    frames, length = network_ends.sequence(x, T)
    parts = network_ends.parts(frames, SAMPLES_AT_ONCE)
    return _joined([_run(made, part, network_ends.repeated, length, record) for part in parts])


class Session(base.Session):
    """The graph step by step, with the states kept in between; they are float32 whatever a bundle stores."""

    def __init__(self, network: nir.NIRGraph, batch: int, states: Mapping[StateName, Array] | None = None) -> None:
        made = program(network)
        self._simulation = Simulation(made, batch)
        self._names = {f"state.{path}.{var}": (path, var) for path, var in self._simulation.states}
        self.ends, self.batch = ends.of_program(made), batch
        self.initial = self._read(base.ALL)
        if states is not None:
            self._simulation.states |= states

    def advance(self, frames: Arrays) -> Arrays:
        """Copies: what a readout puts out may be its very state."""
        values = self._simulation.advance(frames)
        return {name: np.array(values[name]) for name in self.ends.outputs}

    def _read(self, at: base.At) -> base.States:
        states = self._simulation.states
        return {name: np.array(_turned(key[1], states[key])[at], order="C") for name, key in self._names.items()}

    def _write(self, states: Mapping[str, Array], at: base.At) -> None:
        """Into new arrays: the present ones may be shared with outputs and with each other."""
        for name, (path, var) in self._names.items():
            state = _turned(var, self._simulation.states[path, var]).copy()
            state[at] = states[name]
            self._simulation.states[path, var] = _turned(var, state)


class Reference(base.Runtime):
    """The reference as a runtime of a bundle."""

    name = "reference"
    shows_spikes = True
    threads = True
    modes = ("sequence",)  # a session takes the very same steps, so a second row would compare it with itself

    def __init__(self, network: nir.NIRGraph, infos: Sequence[StateInfo] = ()) -> None:
        self.network = network
        self.ends = ends.of_program(program(network))
        self._infos = infos  # what a bundle calls the states

    def describe(self) -> Mapping[str, str]:
        """NumPy's version: there is nothing to choose."""
        return {"engine": f"NumPy {np.__version__}", "device": "cpu"}

    def outputs(self, x: Arrays, timesteps: int) -> Arrays:
        """Outputs [T, B, ...] of a fresh sequence."""
        return run(self.network, x, T=timesteps, spikes=False).outputs

    def run_recorded(
        self, x: Values, timesteps: int | None = None, guess: Mapping[str, Spikes] | None = None
    ) -> Recorded:
        """Outputs and the spikes of every spiking node."""
        result = run(self.network, x, T=timesteps)
        return Recorded(result.outputs, result.spikes)

    def session(self, batch: int, states: Mapping[str, Array] | None = None) -> Session:
        """A session of `batch` samples."""
        if states is None:
            return Session(self.network, batch)
        given = begun.given(self._infos, states, batch)
        return Session(self.network, batch, {(i.node, i.var): _turned(i.var, given[i.input]) for i in self._infos})

    def run_to_states(self, x: Values, timesteps: int | None = None) -> tuple[ends.Result, dict[str, Array]]:
        """The states that the bundle names; it has none where it holds no step graph."""
        result = run(self.network, x, T=timesteps, spikes=False, states=True)
        last = {info.input: _turned(info.var, result.states[info.node, info.var]) for info in self._infos}
        return ends.plain(result.outputs), last


def _turned(var: str, state: Array) -> Array:
    """A Delay's queue is [steps, B, ...] here and [B, steps, ...] in bundles."""
    return state.swapaxes(0, 1) if var == "delay" else state


def load(bundle: Bundle, device: Device) -> Reference:
    """The reference needs the bundle's graph and nothing else; it always runs on the CPU."""
    return Reference(bundle.graph(), bundle.manifest.states)


# --- many steps, in parts of a batch ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Record:
    """What of a run is kept."""

    spikes: bool
    margins: bool
    potentials: bool
    states: bool
    watch: Watch | None = None


def _run(made: Program, x: Mapping[NodeName, Array], repeated: bool, length: int, record: _Record) -> Result:
    steps = Simulation(made, next(iter(x.values())).shape[0 if repeated else 1], record.watch)
    still = steps.still(x) if repeated else {}
    outputs: dict[NodeName, list[Array]] = {path: [] for path in made.outputs}
    fired: dict[NodeName, list[Spikes]] = {path: [] for path in steps.spiking if record.spikes}
    near: dict[NodeName, list[Array]] = {path: [] for path in steps.spiking if record.margins}
    stored: dict[NodeName, list[Array]] = {path: [] for path, name in steps.states if name == "v" and record.potentials}
    for t in range(length):
        values = steps.advance(still if repeated else {path: each[t] for path, each in x.items()})
        for path, kept in outputs.items():
            kept.append(values[path])
        for path, counts in fired.items():
            counts.append(_as_spikes(path, _numbers(made, path), steps.spikes[path]))
        for path, distances in near.items():
            distances.append(margin(_numbers(made, path), steps.decided[path]))
        for path, potentials in stored.items():
            potentials.append(steps.states[path, "v"])
    return Result(
        outputs={path: np.stack(kept) for path, kept in outputs.items()},
        spikes={path: np.stack(kept) for path, kept in fired.items()},
        margins={path: np.stack(kept) for path, kept in near.items()},
        potentials={path: np.stack(kept) for path, kept in stored.items()},
        states=steps.states if record.states else {},
    )


def _numbers(made: Program, path: NodeName) -> Discrete:
    numbers = made.nodes[path].numbers
    assert numbers is not None, "it spikes"
    return numbers


def _as_spikes(path: NodeName, k: Discrete, s: Array) -> Spikes:
    """Counts where a node can fire several times a step, else true and false."""
    if k.spike != "floor":
        return s > 0
    if not (s <= MOST_SPIKES).all():
        raise BadInput(
            f"node '{path}' fires more than {MOST_SPIKES} times in a step, which float32 cannot count: give smaller "
            "inputs, or a higher v_threshold"
        )
    return s.astype(np.int32)


def _joined(parts: list[Result]) -> Result:
    """Results of parts of a batch as the result of the whole."""
    if len(parts) == 1:
        return parts[0]

    def join(name: str) -> dict[NodeName, Any]:
        of = [getattr(part, name) for part in parts]
        return {key: np.concatenate([each[key] for each in of], axis=1) for key in of[0]}

    states = {
        key: np.concatenate([part.states[key] for part in parts], axis=1 if key[1] == "delay" else 0)
        for key in parts[0].states
    }
    return Result(join("outputs"), join("spikes"), join("margins"), join("potentials"), states)
