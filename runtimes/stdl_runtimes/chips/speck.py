"""Speck as a runtime: a NumPy model of its steps, by the equations of sinabs; neither the chip nor its simulator."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
from numpy.typing import NDArray

from stdl_export.arrays import Values
from stdl_export.bundle import Bundle
from stdl_export.chips import speck_file
from stdl_export.chips.speck_file import Configuration
from stdl_export.chips.speck_model import SAMPLES_AT_ONCE, Model
from stdl_export.common.config import validate
from stdl_export.common.errors import BadInput, Unavailable
from stdl_export.manifest import Tolerances
from stdl_runtimes import base, ends
from stdl_runtimes.base import Array, At, Device, Recorded, Session, Spikes, States
from stdl_runtimes.ends import Arrays, Ends

Integers = NDArray[np.int64]

FILE = "chips/speck/configuration.json"
MOST_EVENTS = 1 << 20

TOLERANCES = Tolerances(precision="int8", flips=1.0, agreement=0.9)
"""Weights of 8 bits are another network: it is judged by its predictions."""


class Place(pydantic.BaseModel):
    """In which core a layer of the graph is."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    node: str
    core: pydantic.NonNegativeInt


class About(pydantic.BaseModel):
    """What the file says of the graph."""

    model_config = pydantic.ConfigDict(extra="ignore", frozen=True)

    layers: tuple[Place, ...] = ()


class Speck(base.Runtime):
    """See the module. Inputs are whole numbers of events."""

    name = "speck"
    modes = ("sequence",)
    tolerances = TOLERANCES

    def __init__(
        self, configuration: Configuration, about: About, network_ends: Ends, shapes: Mapping[str, Any]
    ) -> None:
        """shapes: of the graph's spiking nodes, without T and B."""
        self.configuration, self.about, self.ends, self._shapes = configuration, about, network_ends, shapes
        self.model = Model(configuration)

    def describe(self) -> Mapping[str, str]:
        """That this is a model, and how much of the chip it takes."""
        return {
            "engine": "NumPy model of steps, by sinabs' equations",
            "cores": f"{len(self.configuration.cores)} of 9",
        }

    def outputs(self, x: Arrays, timesteps: int) -> Arrays:
        """Spikes of the output core, counts [T, B, ...]."""
        return self.named(self._run(x, timesteps)[self.configuration.output])

    def run_recorded(
        self, x: Values, timesteps: int | None = None, guess: Mapping[str, Spikes] | None = None
    ) -> Recorded:
        """And the spikes of every layer, as counts."""
        spikes = self._run(*self.ends.sequence(x, timesteps))
        layers: dict[str, Any] = {
            place.node: spikes[place.core].reshape(*spikes[place.core].shape[:2], *self._shapes[place.node])
            for place in self.about.layers
        }
        return Recorded(self.named(spikes[self.configuration.output]), layers)

    def session(self, batch: int, states: Mapping[str, Array] | None = None) -> SpeckSession:
        """Step by step; its states are the cores' potentials, whole numbers."""
        session = SpeckSession(self, batch)
        if states is not None:
            session.write_state(states)
        return session

    def named(self, fired: Integers) -> Arrays:
        """The output [..., B, F, H, W] as the graph's Output has it."""
        (name, shape), *_ = self.ends.outputs.items()
        return {name: fired.reshape(*fired.shape[:-3], *shape).astype(np.float32)}

    def events(self, x: Array) -> Integers:
        """Inputs [..., B, ...] as events [..., B, C, H, W]; BadInput where they are none."""
        whole = np.rint(x)
        if (np.abs(x - whole) > 1e-5).any() or whole.min(initial=0) < 0 or whole.max(initial=0) > MOST_EVENTS:
            raise BadInput(
                f"speck: inputs must be whole numbers of events, found {x.min():.4g} to {x.max():.4g}: encode them as "
                "spikes"
            )
        (sample,) = self.ends.inputs.values()
        first = self.configuration.cores[self.configuration.input[0].core].in_shape
        return whole.reshape(*whole.shape[: whole.ndim - len(sample)], *first).astype(np.int64)

    def _run(self, x: Arrays, timesteps: int) -> dict[int, Integers]:
        """Spikes [T, B, F, H, W] of each core."""
        parts = []
        for part in self.ends.parts(x, SAMPLES_AT_ONCE):
            events = self.events(next(iter(part.values())))
            frames = np.broadcast_to(events, (timesteps, *events.shape)) if self.ends.repeated else events
            parts.append(self.model.run(frames).spikes)
        return {k: np.concatenate([part[k] for part in parts], axis=1) for k in parts[0]}


class SpeckSession(Session):
    """The model between steps."""

    def __init__(self, runtime: Speck, batch: int) -> None:
        self._runtime, self.batch, self.ends = runtime, batch, runtime.ends
        self._state = runtime.model.rest(batch)
        self.initial = {_name(k): v.copy() for k, v in self._state.v.items()}

    def advance(self, frames: Arrays) -> Arrays:
        """Counts of the output core."""
        self._runtime.model.step(self._state, self._runtime.events(next(iter(frames.values()))))
        return self._runtime.named(self._state.fired[self._runtime.configuration.output])

    def _read(self, at: At) -> States:
        return {_name(k): v[at].copy() for k, v in self._state.v.items()}

    def _write(self, states: Mapping[str, NDArray[Any]], at: At) -> None:
        for k, v in self._state.v.items():
            v[at] = states[_name(k)]


def _name(core: int) -> str:
    return f"state.core{core}.v"


def load(bundle: Bundle, device: Device) -> Speck:
    """What `stdl-export --target speck` put into the bundle; Unavailable without it."""
    if FILE not in bundle.manifest.files:
        raise Unavailable(f"the bundle holds no {FILE}: stdl-export {bundle.path} --target speck")
    from stdl_export import graph as graphs

    path, graph = bundle.file(FILE), bundle.graph()
    configuration, content = speck_file.read(path)
    about = validate(About, content, f"'{path}'")
    shapes, own = graphs.shapes(graph), ends.of_manifest(bundle.manifest)
    if reason := _misfit(configuration, about, own, {node: shapes[node] for node in graphs.neurons(graph)}):
        raise BadInput(f"'{path}' does not fit the bundle's graph: {reason}: export it again")
    return Speck(configuration, about, own, shapes)


def load_file(path: Path) -> Speck:
    """A configuration by itself: events [T, B, C, H, W] in, counts [T, B, F, H, W] of the output core out."""
    configuration, content = speck_file.read(path)
    cores, about = configuration.cores, validate(About, content, f"'{path}'")
    places = tuple(place for place in about.layers if place.core in cores)
    shapes = {place.node: cores[place.core].shape for place in places}
    first, last = cores[configuration.input[0].core].in_shape, cores[configuration.output].shape
    own = Ends({"input": first}, {"output": last}, repeated=False, timesteps=None)
    return Speck(configuration, About(layers=places), own, shapes)


def _misfit(found: Configuration, about: About, network: Ends, neurons: Mapping[str, Any]) -> str | None:
    """What of the file does not fit the graph; None where all does."""
    if len(network.inputs) != 1 or len(network.outputs) != 1:
        return "it has one input and one output"
    maps = [found.cores[found.input[0].core].in_shape, found.cores[found.output].shape]
    for what, shape, ours in zip(
        ("input", "output"), (*network.inputs.values(), *network.outputs.values()), maps, strict=True
    ):
        if np.prod(shape) != np.prod(ours):
            return f"its {what} is {ours}, the graph's {shape}"
    for place in about.layers:
        if place.node not in neurons or place.core not in found.cores:
            return f"'{place.node}' in core {place.core} is not in both"
        if np.prod(neurons[place.node]) != np.prod(found.cores[place.core].shape):
            return (
                f"core {place.core} has {found.cores[place.core].shape} neurons, '{place.node}' {neurons[place.node]}"
            )
    return None
