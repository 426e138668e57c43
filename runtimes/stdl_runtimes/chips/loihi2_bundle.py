"""What a bundle holds for Loihi 2, run by the model of Lava's CPU processes: inputs go in as the side file says.

`run` is the chip's own time: every layer a step later than the one before it, cleared as its first input comes in. A
session has no such clock: it takes the same layers without their delays, and what it puts out belongs to the step of
its frame. Both give the same numbers, and `stdl-validate` compares them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stdl_export import graph as graphs
from stdl_export.arrays import Values
from stdl_export.bundle import Bundle
from stdl_export.chips import loihi2, loihi2_side, netx_read
from stdl_export.chips.loihi2_build import image_frame, read_out
from stdl_export.chips.loihi2_model import Aligned, Neurons, Simulation, Stage
from stdl_export.chips.loihi2_side import Side
from stdl_export.chips.maps import image
from stdl_export.chips.netx import Network
from stdl_export.common.errors import BadInput, Unavailable
from stdl_export.manifest import Tolerances
from stdl_runtimes import base, ends
from stdl_runtimes.base import Array, Recorded, Spikes
from stdl_runtimes.ends import Arrays, Ends

FOLDER = "chips/loihi2"
SAMPLES_AT_ONCE = 64

TOLERANCES = Tolerances(precision="int8", flips=1.0, agreement=0.9)
"""Weights of 8 bits are another network: it is judged by its predictions."""


class Loihi2(base.Runtime):
    """See the module. `session` and `run` are exact copies of each other in the outputs they give."""

    name = "loihi2"
    modes = ("sequence", "step")
    tolerances = TOLERANCES
    threads = True

    def __init__(self, network: Network, side: Side, network_ends: Ends) -> None:
        self.network, self.side, self.ends = network, side, network_ends

    def describe(self) -> Mapping[str, str]:
        """That this is a model, and what Lava's reader would be told."""
        told = {name: str(value) for name, value in self.side.reader.model_dump().items()}
        levels = f"{self.side.input.most + 1} levels" if self.side.input.most > 1 else "spikes"
        engine = "NumPy model, bit-exact with Lava's CPU processes"
        return {"engine": engine, "layers": str(self.side.depth), "input": levels, **told}

    def outputs(self, x: Arrays, timesteps: int) -> Arrays:
        """Outputs [T, B, ...]."""
        parts = [self._run(part, timesteps)[0] for part in self.ends.parts(x, SAMPLES_AT_ONCE)]
        return {self.side.output.node: np.concatenate(parts, axis=1)}

    def run_recorded(
        self, x: Values, timesteps: int | None = None, guess: Mapping[str, Spikes] | None = None
    ) -> Recorded:
        """And the spikes of every layer, less its delay and less what it carries for others."""
        arrays, steps = self.ends.sequence(x, timesteps)
        parts = [self._run(part, steps) for part in self.ends.parts(arrays, SAMPLES_AT_ONCE)]
        shown = np.concatenate([each[0] for each in parts], axis=1)
        spikes = {node: np.concatenate([each[1][node] for each in parts], axis=1) for node in parts[0][1]}
        return Recorded({self.side.output.node: shown}, spikes)

    def _run(self, x: Arrays, steps: int) -> tuple[Array, dict[str, Spikes]]:
        """A part of the samples: outputs [T, B, ...], and the spikes [T, B, ...] of layers that have any."""
        options = loihi2.reader_options(self.side, steps)
        shown = list(self._frames(x, steps))
        assert self.network.input_shape is not None, "it was checked"
        model = Simulation(self.network, len(shown[0]), options, self.network.input_shape)
        outputs: list[Array] = []
        fired: dict[str, list[Spikes]] = {node: [] for node, _ in self._spiking()}
        for t in range(steps + self.side.depth):
            model.step(shown[t] if t < steps else np.zeros_like(shown[0]))
            for node, k in self._spiking():
                if k < t <= k + steps:
                    fired[node].append(self._own(model.stages[k].neurons.spikes, k))
            if t >= self.side.depth:
                outputs.append(self.output(model.stages[-1].neurons))
        return np.stack(outputs), {node: np.stack(each) for node, each in fired.items()}

    def session(self, batch: int, states: Mapping[str, Array] | None = None) -> Loihi2Session:
        """A session of `batch` samples, without the chip's delays."""
        session = Loihi2Session(self, batch)
        if states is not None:
            session.write_state(states)
        return session

    def encoded(self, frame: Array) -> NDArray[np.int64]:
        """A frame [B, ...] of the network's input in whole numbers, as the chip takes it."""
        return image_frame(self.side.input.levels.encoded(frame))

    def output(self, neurons: Neurons) -> Array:
        """What the last layer shows, [B, ...] in the network's units."""
        said = self.side.output
        values = read_out(said.shown, neurons) * said.factor
        return values.reshape(len(values), *said.shape).astype(np.float32)

    def _frames(self, x: Arrays, steps: int) -> Iterator[NDArray[np.int64]]:
        (frames,) = x.values()
        if self.ends.repeated:
            yield from [self.encoded(frames)] * steps
        else:
            yield from map(self.encoded, frames)

    def _spiking(self) -> list[tuple[str, int]]:
        """Nodes that spike, and which layer each is; the last layer is none where it is read otherwise."""
        layers = list(enumerate(self.side.layers))
        layers = layers if self.side.output.shown == "spikes" else layers[:-1]
        return [(layer.node, k) for k, layer in layers]

    def _own(self, spikes: Spikes, k: int) -> Spikes:
        layer = self.side.layers[k]
        return spikes[:, : layer.own].reshape(len(spikes), *layer.shape)


class Loihi2Session(base.Session):
    """u, v and, of a layer that reads itself, the spikes of every layer between two steps."""

    def __init__(self, runtime: Loihi2, batch: int) -> None:
        self.ends, self.batch, self._runtime = runtime.ends, batch, runtime
        self._model = Aligned(runtime.network.neurons, batch, runtime.side.reader.options)
        self.initial = self._states()

    def advance(self, frames: Arrays) -> Arrays:
        """One step of the network."""
        (frame,) = frames.values()
        self._model.step(self._runtime.encoded(frame))
        return {self._runtime.side.output.node: self._runtime.output(self._model.stages[-1].neurons)}

    def _states(self) -> base.States:
        found: base.States = {}
        for holder, field, name in self._places():
            found[name] = getattr(holder, field)
        return found

    def _places(self) -> Iterator[tuple[Any, str, str]]:
        """Where each state is kept, and what it is called."""
        for layer, stage in zip(self._runtime.side.layers, self._model.stages, strict=True):
            yield stage.neurons, "u", f"state.{layer.node}.u"
            yield stage.neurons, "v", f"state.{layer.node}.v"
            if stage.recurrence is not None:
                yield stage.neurons, "spikes", f"state.{layer.node}.s"
            if _delayed(stage):
                yield stage.synapse, "past", f"state.{layer.node}.past"

    def _read(self, at: base.At) -> base.States:
        return {name: np.array(each[at]) for name, each in self._states().items()}

    def _write(self, states: Mapping[str, NDArray[Any]], at: base.At) -> None:
        for holder, field, name in self._places():
            changed = getattr(holder, field).copy()
            changed[at] = states[name]
            setattr(holder, field, changed)


def _delayed(stage: Stage) -> bool:
    return getattr(stage.synapse, "past", np.zeros((0, 0))).shape[1] > 0


def load(bundle: Bundle) -> Loihi2:
    """What `stdl-export --target loihi2` put into the bundle; Unavailable without it."""
    network_file, side_file = (f"{FOLDER}/{name}" for name in (loihi2.NETWORK, loihi2.SIDE))
    if not {network_file, side_file} <= bundle.manifest.files.keys():
        raise Unavailable(f"the bundle holds no {network_file}: stdl-export {bundle.path} --target loihi2")
    network, side = netx_read.read(bundle.file(network_file)), loihi2_side.read(bundle.file(side_file))
    network_ends = ends.of_manifest(bundle.manifest)
    shapes = graphs.shapes(bundle.graph())
    if reason := _misfit(network, side, network_ends) or _other_layers(side, shapes):
        raise BadInput(f"'{bundle.file(side_file)}' does not fit its network or its graph: {reason}: export it again")
    return Loihi2(network, side, network_ends)


def _misfit(network: Network, side: Side, known: Ends) -> str | None:
    """What of the side file does not fit the network or what the bundle says; None where all of it does."""
    if {side.input.node: side.input.shape} != known.inputs or {side.output.node: side.output.shape} != known.outputs:
        return "its input or output is another"
    if network.input_shape not in (image(side.input.shape), side.input.shape):
        return f"the file takes {network.input_shape}, inputs are {side.input.shape}"
    if len({len(side.input.low), len(side.input.step), side.input.shape[0]}) != 1:
        return f"it has levels for {len(side.input.low)} channels of {side.input.shape[0]}"
    if not side.depth == len(side.layers) == len(network.neurons):
        return f"it says {side.depth} layers, the file has {len(network.neurons)}"
    if side.input.repeat != known.repeated:
        return "it says that the input is repeated, or not, and the graph says otherwise"
    for said, layer in zip(side.layers, network.neurons, strict=True):
        rest = math.prod(layer.shape[1:])
        if said.own > layer.shape[0] or said.own * rest != math.prod(said.shape):
            return f"'{said.node}' has shape {said.shape}, its layer puts out {layer.shape}"
    if side.layers[-1].own != network.neurons[-1].shape[0] or side.layers[-1].shape != side.output.shape:
        return "its last layer is not its output"
    return None


def _other_layers(side: Side, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    for layer in side.layers:
        if shapes.get(layer.node) != layer.shape:
            return f"'{layer.node}' {layer.shape} is no node of the graph"
    return None
