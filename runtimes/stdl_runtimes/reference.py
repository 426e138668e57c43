"""The judge: a NIR graph run in NumPy, one short function per node type, nothing but the graph needed.

Everything is float32. A neuron computes exactly what `semantics` says; everything else acts on [B, ...] without memory.
Clarity comes before speed, but convolutions go through one matrix product per few samples, and where one frame is
repeated, what lies before the first neuron is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import nir
import numpy as np
import numpy.typing as npt

from stdl_export import dialects, graph
from stdl_export.bundle import Bundle
from stdl_export.graph import NodeName
from stdl_export.primitives import Shape, Window, conv_window, flatten_dims, pool_window
from stdl_export.semantics import Discrete, discretise
from stdl_runtimes import base
from stdl_runtimes.base import Array, Device, Recorded, Spikes

SAMPLES_AT_ONCE = 64  # bounds memory: a large batch is run in parts
PATCH_BYTES = 32 << 20  # convolution patches that are laid out at once; larger ones only leave the caches
STATEFUL = (nir.IF, nir.LIF, nir.LI)


@dataclass(frozen=True)
class Result:
    """A run: output [T, B, ...], and per spiking node its spikes and its margins, each [T, B, ...].

    A margin is |u - v_threshold| / max(1, |v_threshold|), how far a potential was from the other decision; empty unless
    asked for.
    """

    output: Array
    spikes: dict[NodeName, Spikes] = field(default_factory=dict)
    margins: dict[NodeName, Array] = field(default_factory=dict)


def run(network: nir.NIRGraph, x: Array, *, T: int | None = None, spikes: bool = True, margins: bool = False) -> Result:
    """Run a checked graph from a fresh state.

    x: [B, ...] where `stdl.input` is "repeat" (T from the argument, else from `stdl.T`), otherwise [T, B, ...].
    BadInput where x does not fit the graph or T is not known.
    """
    steps = _Steps(network)
    x = np.asarray(x, dtype=np.float32)
    repeated = graph.settings(network).input == "repeat"
    base.check_sample(x.shape[1:] if repeated else x.shape[2:], steps.shapes[steps.input])
    length = base.sequence_length(x, repeated, graph.settings(network).T, T)
    parts = base.parts(x, repeated, SAMPLES_AT_ONCE)
    return _joined([_run(steps, part, repeated, length, spikes, margins) for part in parts])


class Session(base.Session):
    """The graph step by step, with the potentials kept in between."""

    def __init__(self, network: nir.NIRGraph, batch: int) -> None:
        self._steps = _Steps(network)
        self._batch = batch
        self.reset()

    def step(self, frame: Array) -> Array:
        """frame [B, ...] -> output [B, ...], the caller's own: what a readout puts out may be its very state."""
        frame = base.checked_frame(frame, self._batch, self._steps.shapes[self._steps.input])
        return np.array(self._steps.advance({self._steps.input: frame}, self._state)[self._steps.output])

    def reset(self) -> None:
        """All potentials back to 0."""
        self._state = self._steps.start(self._batch)


class Reference(base.Runtime):
    """The reference as a runtime of a bundle."""

    name = "reference"
    shows_spikes = True
    modes = ("sequence",)  # a session takes the very same steps, so a second row would compare it with itself

    def __init__(self, network: nir.NIRGraph) -> None:
        self.network = network

    def run(self, x: Array, timesteps: int | None = None) -> Array:
        """Output [T, B, ...] of a fresh sequence."""
        return run(self.network, x, T=timesteps, spikes=False).output

    def run_recorded(
        self, x: Array, timesteps: int | None = None, guess: Mapping[str, Spikes] | None = None
    ) -> Recorded:
        """Output and the spikes of every spiking node."""
        result = run(self.network, x, T=timesteps)
        return Recorded(result.output, result.spikes)

    def session(self, batch: int) -> Session:
        """A session of `batch` samples."""
        return Session(self.network, batch)


def load(bundle: Bundle, device: Device) -> Reference:
    """The reference needs the bundle's graph and nothing else; it always runs on the CPU."""
    return Reference(bundle.graph())


# --- the walk over the graph ----------------------------------------------------------------------------------------


@dataclass
class _State:
    """Stored potentials v of all stateful nodes, and the potentials u of the last step, before its reset."""

    v: dict[NodeName, Array]
    u: dict[NodeName, Array]


class _Steps:
    """A graph made ready to be stepped: its order, its sums and the coefficients of its neurons."""

    def __init__(self, network: nir.NIRGraph) -> None:
        settings = graph.settings(network)
        dialect = dialects.get(settings.dialect)
        self.nodes: Mapping[NodeName, Any] = network.nodes
        self.order = graph.order(network)
        self.sources = graph.sources(network)
        self.shapes: Mapping[NodeName, Shape] = graph.shapes(network)
        self.input, self.output = graph.input_name(network), graph.output_name(network)
        self.neurons: dict[NodeName, Discrete] = {
            name: discretise(node, settings.dt, graph.reset_of(network, name), dialect)
            for name, node in network.nodes.items()
            if isinstance(node, STATEFUL)
        }
        self.spiking = graph.neurons(network)

    def start(self, batch: int) -> _State:
        """The state before the first step."""
        zeros = {name: np.zeros((batch, *self.shapes[name]), np.float32) for name in self.neurons}
        return _State(v=zeros, u={})

    def still(self, frame: Array) -> dict[NodeName, Array]:
        """The values that do not change while one frame is repeated: those of nodes with no neuron before them."""
        values = {self.input: frame}
        for name in self.order:
            if name not in values and name not in self.neurons and values.keys() >= set(self.sources[name]):
                values[name] = self._stateless(name, values)
        return values

    def advance(self, known: Mapping[NodeName, Array], state: _State) -> dict[NodeName, Array]:
        """One step: the value [B, ...] of every node from the `known` ones, which are taken as given."""
        values = dict(known)
        for name in self.order:
            if name in self.neurons:
                values[name], state.u[name], state.v[name] = neuron_step(
                    self.neurons[name], self._sum(name, values), state.v[name]
                )
            elif name not in values:
                values[name] = self._stateless(name, values)
        return values

    def _stateless(self, name: NodeName, values: Mapping[NodeName, Array]) -> Array:
        node = self.nodes[name]
        return STATELESS[type(node)](node, self._sum(name, values))

    def _sum(self, name: NodeName, values: Mapping[NodeName, Array]) -> Array:
        """Fan-in is addition, in the order of the sources' names."""
        first, *others = self.sources[name]
        total = values[first]
        for source in others:
            total = total + values[source]
        return total


def _run(steps: _Steps, x: Array, repeated: bool, length: int, spikes: bool, margins: bool) -> Result:
    batch = x.shape[0] if repeated else x.shape[1]
    state = steps.start(batch)
    still = steps.still(x) if repeated else {}
    outputs: list[Array] = []
    fired: dict[NodeName, list[Spikes]] = {name: [] for name in steps.spiking if spikes}
    near: dict[NodeName, list[Array]] = {name: [] for name in steps.spiking if margins}
    for t in range(length):
        values = steps.advance(still if repeated else {steps.input: x[t]}, state)
        outputs.append(values[steps.output])
        for name, kept in fired.items():
            kept.append(values[name] > 0)
        for name, distances in near.items():
            distances.append(margin(steps.neurons[name], state.u[name]))
    return Result(
        output=np.stack(outputs),
        spikes={name: np.stack(kept) for name, kept in fired.items()},
        margins={name: np.stack(distances) for name, distances in near.items()},
    )


def _joined(parts: list[Result]) -> Result:
    """Results of parts of a batch as the result of the whole."""
    if len(parts) == 1:
        return parts[0]
    return Result(
        output=np.concatenate([part.output for part in parts], axis=1),
        spikes={name: np.concatenate([part.spikes[name] for part in parts], axis=1) for name in parts[0].spikes},
        margins={name: np.concatenate([part.margins[name] for part in parts], axis=1) for name in parts[0].margins},
    )


# --- neurons --------------------------------------------------------------------------------------------------------


def neuron_step(k: Discrete, x: Array, v: Array) -> tuple[Array, Array, Array]:
    """One step of an IF, LIF or LI layer: (what it puts out, u before the reset, v after it), all [B, ...].

    u = (decay * v + gain * x) + leak;  z = u > v_threshold;  v = v_reset where z, or u - z * v_threshold.
    An LI puts out u and keeps it.
    """
    u = (k.decay * v + k.gain * x) + k.leak
    if k.kind == "LI":
        return u, u, u
    z = (u > k.v_threshold).astype(np.float32)
    v = np.where(z > 0, k.v_reset, u) if k.reset == "v_reset" else u - z * k.v_threshold
    return z, u, v


def margin(k: Discrete, u: Array) -> Array:
    """How far potentials are from the other decision, relative to the threshold where that is above 1."""
    distance: Array = np.abs(u - k.v_threshold) / np.maximum(np.float32(1), np.abs(k.v_threshold))
    return distance


# --- nodes without memory: x [B, ...] -> [B, ...] ---------------------------------------------------------------------


def affine(node: nir.Affine, x: Array) -> Array:
    """W x + b, weight (outputs, inputs)."""
    return linear(node, x) + _float32(node.bias)


def linear(node: nir.Linear | nir.Affine, x: Array) -> Array:
    """W x, weight (outputs, inputs)."""
    product: Array = x @ _float32(node.weight).T
    return product


def conv2d(node: nir.Conv2d, x: Array) -> Array:
    """Cross-correlation with zero padding plus bias; weight (outputs, inputs / groups, height, width)."""
    window, weight = conv_window(node), _float32(node.weight)
    groups = int(np.asarray(node.groups).item())
    kernels = weight.reshape(groups, len(weight) // groups, -1)  # [G, O/G, I/G*kh*kw]
    height, width = window.output(x.shape[2:])
    maps = [kernels @ patches for patches in _patches(window, x, groups)]  # [G, O/G, n*H*W] each
    images = [each.reshape(len(weight), -1, height, width).swapaxes(0, 1) for each in maps]
    return np.concatenate(images) + _float32(node.bias)[:, None, None]


def _patches(window: Window, x: Array, groups: int) -> Iterator[Array]:
    """The input under each kernel position as columns, [G, I/G*kh*kw, n*H*W], for a few samples at a time."""
    (stride_y, stride_x), (dilation_y, dilation_x) = window.stride, window.dilation
    reach = [dilation * (kernel - 1) + 1 for dilation, kernel in zip(window.dilation, window.kernel, strict=True)]
    views = np.lib.stride_tricks.sliding_window_view(_padded(window, x), reach, axis=(2, 3))
    views = views[:, :, ::stride_y, ::stride_x, ::dilation_y, ::dilation_x]  # [B, I, H, W, kh, kw]
    at_once = max(1, PATCH_BYTES // max(views[:1].nbytes, 1))
    for at in range(0, len(x), at_once):
        part = views[at : at + at_once].transpose(1, 4, 5, 0, 2, 3)  # [I, kh, kw, n, H, W]
        yield part.reshape(groups, len(part) // groups * part.shape[1] * part.shape[2], -1)


def sum_pool2d(node: nir.SumPool2d | nir.AvgPool2d, x: Array) -> Array:
    """The plain sum under the kernel."""
    window = pool_window(node)
    (height, width), (stride_y, stride_x) = window.output(x.shape[2:]), window.stride
    padded = _padded(window, x)
    total = np.zeros((*x.shape[:2], height, width), np.float32)
    for top in range(window.kernel[0]):
        for left in range(window.kernel[1]):
            rows = slice(top, top + stride_y * (height - 1) + 1, stride_y)
            columns = slice(left, left + stride_x * (width - 1) + 1, stride_x)
            total += padded[:, :, rows, columns]
    return total


def avg_pool2d(node: nir.AvgPool2d, x: Array) -> Array:
    """The sum divided by the size of the kernel; padded zeros count as elements."""
    rows, columns = pool_window(node).kernel
    mean: Array = sum_pool2d(node, x) / np.float32(rows * columns)
    return mean


def flatten(node: nir.Flatten, x: Array) -> Array:
    """Dimensions start_dim to end_dim as one; NIR counts them without the batch."""
    first, last = flatten_dims(node, x.shape[1:])
    flat: Array = x.reshape(*x.shape[: first + 1], -1, *x.shape[last + 2 :])
    return flat


def scale(node: nir.Scale, x: Array) -> Array:
    """x times scale, element by element."""
    scaled: Array = x * _float32(node.scale)
    return scaled


def threshold(node: nir.Threshold, x: Array) -> Array:
    """1 where x > threshold, else 0."""
    above: Spikes = x > _float32(node.threshold)
    return above.astype(np.float32)


def _unchanged(node: nir.NIRNode, x: Array) -> Array:
    return x


STATELESS: dict[type, Callable[[Any, Array], Array]] = {
    nir.Input: _unchanged,
    nir.Output: _unchanged,
    nir.Affine: affine,
    nir.Linear: linear,
    nir.Conv2d: conv2d,
    nir.AvgPool2d: avg_pool2d,
    nir.SumPool2d: sum_pool2d,
    nir.Flatten: flatten,
    nir.Scale: scale,
    nir.Threshold: threshold,
}


def _padded(window: Window, x: Array) -> Array:
    edges = zip(window.begin, window.end, strict=True)
    return np.pad(x, ((0, 0), (0, 0), *edges))


def _float32(value: npt.ArrayLike) -> Array:
    return np.asarray(value, dtype=np.float32)
