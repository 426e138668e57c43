"""A netx file of anybody, run as Lava's CPU models run it: as a runtime, and as arrays of every neuron and step."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stdl_export.arrays import Values, read_arrays
from stdl_export.chips import netx_read
from stdl_export.chips.loihi2_model import Simulation
from stdl_export.chips.netx import Conv, Dense, Flatten, Network, ReaderOptions
from stdl_export.common.errors import BadInput, Unavailable
from stdl_export.primitives import Shape
from stdl_runtimes import base
from stdl_runtimes.base import Array, Recorded, Spikes
from stdl_runtimes.ends import Arrays, Ends

INPUT, OUTPUT = "input", "output"
SAMPLES_AT_ONCE = 64


class FileRuntime(base.Runtime):
    """The network of a file; what it puts out are the spikes of its last layer.

    The k-th layer with neurons is k + 1 steps late. `run` shows that many zeros behind the input, and its outputs are
    those that belong to each step of the input; a session is the chip's own time, and its outputs come as they come.
    """

    name = "loihi2"
    shows_spikes = True
    modes = ("sequence",)

    def __init__(self, network: Network, options: ReaderOptions) -> None:
        self.network, self.options = network, options
        self.sample = sample_shape(network)
        self.ends = Ends({INPUT: self.sample}, {OUTPUT: network.neurons[-1].shape}, repeated=False, timesteps=None)

    def describe(self) -> Mapping[str, str]:
        """What Lava's reader would be told, and that this is a model."""
        told = {name: str(value) for name, value in vars(self.options).items()}
        return {"engine": "model of Lava's fixed-point processes", "layers": str(len(self.network.neurons)), **told}

    def outputs(self, x: Arrays, timesteps: int) -> Arrays:
        """Spikes of the last layer [T, B, ...] as 0 and 1."""
        parts = [self._run(part[INPUT]) for part in self.ends.parts(x, SAMPLES_AT_ONCE)]
        return {OUTPUT: np.concatenate([part[-1] for part in parts], axis=1).astype(np.float32)}

    def run_recorded(
        self, x: Values, timesteps: int | None = None, guess: Mapping[str, Spikes] | None = None
    ) -> Recorded:
        """The spikes of every layer, each less its delay, by `layer{k}`."""
        arrays, _ = self.ends.sequence(x, timesteps)
        parts = [self._run(part[INPUT]) for part in self.ends.parts(arrays, SAMPLES_AT_ONCE)]
        layers = [np.concatenate(each, axis=1) for each in zip(*parts, strict=True)]
        spikes = {f"layer{k}": each for k, each in enumerate(layers)}
        return Recorded({OUTPUT: layers[-1].astype(np.float32)}, spikes)

    def _run(self, x: Array) -> list[Spikes]:
        """x [T, B, ...] -> the spikes [T, B, ...] of every layer at the steps that belong to the input's."""
        _check_whole(x, self.options, "the input")
        T, depth = len(x), len(self.network.neurons)
        simulation = Simulation(self.network, x.shape[1], self.options, self.sample)
        fired: list[list[Spikes]] = [[] for _ in range(depth)]
        for t in range(T + depth):
            simulation.step(x[t] if t < T else np.zeros_like(x[0]))
            for k, stage in enumerate(simulation.stages):
                if k < t <= k + T:
                    fired[k].append(stage.neurons.spikes)
        return [np.stack(each) for each in fired]

    def session(self, batch: int, states: Mapping[str, Array] | None = None) -> FileSession:
        """The chip step by step; Unavailable where it is reset by its own clock."""
        if self.options.reset_interval is not None:
            raise Unavailable("loihi2: a network with a reset_interval runs by its own clock: use run")
        session = FileSession(self.network, self.options, self.ends, batch)
        if states is not None:
            session.write_state(states)
        return session


class FileSession(base.Session):
    """All layers between two steps: the input and the spikes that are on their way, u and v of every layer."""

    def __init__(self, network: Network, options: ReaderOptions, ends: Ends, batch: int) -> None:
        self.ends, self.batch = ends, batch
        self._options = options
        self._simulation = Simulation(network, batch, options, ends.inputs[INPUT])
        self.initial = self._states()

    def advance(self, frames: Arrays) -> Arrays:
        """One step of the chip: the last layer's spikes of this step."""
        _check_whole(frames[INPUT], self._options, "a frame")
        self._simulation.step(frames[INPUT])
        return {OUTPUT: self._simulation.stages[-1].neurons.spikes.astype(np.float32)}

    def _states(self) -> base.States:
        found: base.States = {"state.input": self._simulation.sent}
        for k, stage in enumerate(self._simulation.stages):
            neurons = stage.neurons
            found |= {f"state.layer{k}.{name}": getattr(neurons, name) for name in ("u", "v", "spikes")}
            if hasattr(stage.synapse, "past"):
                found[f"state.layer{k}.past"] = stage.synapse.past
        return found

    def _read(self, at: base.At) -> base.States:
        return {name: np.array(each[at]) for name, each in self._states().items()}

    def _write(self, states: Mapping[str, NDArray[Any]], at: base.At) -> None:
        now = {name: each.copy() for name, each in self._states().items()}
        for name, each in now.items():
            each[at] = states[name]
        self._simulation.sent = now["state.input"]
        for k, stage in enumerate(self._simulation.stages):
            for name in ("u", "v", "spikes"):
                setattr(stage.neurons, name, now[f"state.layer{k}.{name}"])
            if hasattr(stage.synapse, "past"):
                stage.synapse.past = now[f"state.layer{k}.past"]


def sample_shape(network: Network) -> Shape:
    """What the network takes; BadInput where the file leaves it open."""
    if network.input_shape is not None:
        return network.input_shape
    first = network.layers[0]
    if isinstance(first, Dense):
        return (int(first.weight.shape[1]),)
    if isinstance(first, Flatten):
        return first.shape
    raise BadInput("the file has no input layer and begins with a convolution: give the shape by an input to run")


def simulate(
    network: Network, x: NDArray[np.generic], steps: int | None, options: ReaderOptions
) -> dict[str, NDArray[Any]]:
    """Every layer's spikes, u and v of one sample: x (features, T) or (C, H, W, T) -> `layer{k}_spikes` and so on.

    Time is the last axis. steps: 2 more than the last output takes to come, where None.
    """
    if x.ndim not in (2, 4) or x.dtype.kind not in "biuf" or not x.size:
        raise BadInput(f"the input has shape {x.shape}, {x.dtype}: accepted are numbers (features, T) or (C, H, W, T)")
    _check_whole(x, options, "the input")
    T, sample = x.shape[-1], x.shape[:-1]
    length = steps if steps is not None else T + lateness(network) + 2
    simulation = Simulation(network, 1, options, sample)
    kept: dict[str, list[NDArray[Any]]] = {}
    for t in range(length):
        simulation.step(x[None, ..., t] if t < T else np.zeros((1, *sample)))
        for k, stage in enumerate(simulation.stages):
            for name in ("spikes", "u", "v"):
                kept.setdefault(f"layer{k}_{name}", []).append(getattr(stage.neurons, name)[0])
    types = {"spikes": np.uint8, "u": np.int32, "v": np.int32}
    return {name: np.stack(each, axis=-1).astype(types[name.rpartition("_")[2]]) for name, each in kept.items()}


def lateness(network: Network) -> int:
    """How many steps the last thing that an input can do is late: one a layer, and its longest delay."""
    delays = [layer.delay for layer in network.neurons if isinstance(layer, Dense) and layer.delay is not None]
    return len(network.neurons) + sum(int(each.max()) for each in delays)


def read_input(path: Path) -> NDArray[np.generic]:
    """`spikes` of an .npz file, or its only array."""
    arrays = read_arrays(path)
    if "spikes" not in arrays and len(arrays) != 1:
        raise BadInput(f"'{path}' has no array 'spikes' (features, T) or (C, H, W, T): it has {', '.join(arrays)}")
    return arrays.get("spikes", next(iter(arrays.values())))


def _check_whole(x: NDArray[Any], options: ReaderOptions, what: str) -> None:
    """Graded inputs are whole numbers; spikes may be anything that is 0 or not."""
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        raise BadInput(f"{what} holds NaN or infinity")
    if options.input_message_bits and x.dtype.kind == "f" and not (x == np.rint(x)).all():
        raise BadInput(f"{what} holds fractions: with input_message_bits it takes whole numbers")


def load_file(path: Path, options: ReaderOptions | None = None) -> FileRuntime:
    """Open a netx file; options: what Lava's reader would be told."""
    network = netx_read.read(path)
    if isinstance(network.layers[0], Conv) and network.input_shape is None:
        raise BadInput(
            f"'{path}' has no input layer and begins with a convolution: write the input layer with its shape"
        )
    return FileRuntime(network, options or ReaderOptions())
