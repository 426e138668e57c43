"""The judge: a NIR graph run in NumPy, one short function per node type, nothing but the graph needed.

Everything is float32. A neuron computes exactly what `semantics` says; a Delay hands out what came in steps ago;
everything else acts on [B, ...] without memory. Clarity comes before speed, but convolutions go through one matrix
product per few samples, and where one frame is repeated, what lies before the first neuron is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import nir
import numpy as np
import numpy.typing as npt

from stdl_export.arrays import Values
from stdl_export.bundle import Bundle
from stdl_export.graph import NodeName
from stdl_export.manifest import StateInfo
from stdl_export.primitives import Window, conv_groups, conv_window, flatten_dims, pool_window
from stdl_export.program import Component, Node, Program, program
from stdl_export.semantics import Discrete, Synapse
from stdl_runtimes import base, ends
from stdl_runtimes import states as begun
from stdl_runtimes.base import Array, Device, Recorded, Spikes
from stdl_runtimes.ends import Arrays

SAMPLES_AT_ONCE = 64  # bounds memory: a large batch is run in parts
PATCH_BYTES = 32 << 20  # convolution patches that are laid out at once; larger ones only leave the caches

StateName = tuple[NodeName, str]
"""A state: whose it is, and v, i, s (its spike of the step before), delay [steps, B, ...] or feedback."""


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
) -> Result:
    """Run a checked graph from a fresh state.

    x: [B, ...] where `stdl.input` is "repeat" (T from the argument, else from `stdl.T`), otherwise [T, B, ...]; of
    several Inputs a dictionary. BadInput where x does not fit the graph or T is not known.
    """
    record = _Record(spikes, margins, potentials, states)
    return run_program(program(network), x, T=T, record=record)


def run_program(made: Program, x: Values, *, T: int | None = None, record: _Record | None = None) -> Result:
    """The same of a program, for callers that run one several times; spikes are kept where `record` says nothing."""
    record = record or _Record(spikes=True, margins=False, potentials=False, states=False)
    network_ends = ends.of_program(made)
    frames, length = network_ends.sequence(x, T)
    parts = network_ends.parts(frames, SAMPLES_AT_ONCE)
    return _joined([_run(made, part, network_ends.repeated, length, record) for part in parts])


class Session(base.Session):
    """The graph step by step, with the states kept in between."""

    def __init__(self, network: nir.NIRGraph, batch: int, states: Mapping[StateName, Array] | None = None) -> None:
        self._program = program(network)
        self.ends = ends.of_program(self._program)
        self.batch = batch
        self.reset()
        if states is not None:
            self._simulation.states |= states

    def advance(self, frames: Arrays) -> Arrays:
        """Copies: what a readout puts out may be its very state."""
        values = self._simulation.advance(frames)
        return {name: np.array(values[name]) for name in self.ends.outputs}

    def reset(self) -> None:
        """All states back to what they are before the first step."""
        self._simulation = Simulation(self._program, self.batch)


class Reference(base.Runtime):
    """The reference as a runtime of a bundle."""

    name = "reference"
    shows_spikes = True
    modes = ("sequence",)  # a session takes the very same steps, so a second row would compare it with itself

    def __init__(self, network: nir.NIRGraph, infos: Sequence[StateInfo] = ()) -> None:
        self.network = network
        self.ends = ends.of_program(program(network))
        self._infos = infos  # what a bundle calls the states

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


# --- the walk over the graph ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Record:
    """What of a run is kept."""

    spikes: bool
    margins: bool
    potentials: bool
    states: bool


class Simulation:
    """A program with the states of a batch: `advance` takes it one step on."""

    def __init__(self, made: Program, batch: int) -> None:
        self.program = made
        self.spiking = made.spiking
        self.states: dict[StateName, Array] = {}
        self.spikes: dict[NodeName, Array] = {}  # of the last step, {0, 1} or counts
        self.decided: dict[NodeName, Array] = {}  # the potentials that the last step's spikes were read from
        for path, node in made.nodes.items():
            if node.numbers is not None:
                for name, value in node.numbers.initial.items():
                    self.states[path, name] = np.array(np.broadcast_to(value, (batch, *node.shape)))
            if node.steps is not None:
                self.states[path, "delay"] = np.zeros((int(node.steps.max()), batch, *node.shape), np.float32)
        for path in made.fed_back:
            self.states[path, "feedback"] = np.zeros((batch, *made.nodes[path].shape), np.float32)

    def still(self, frames: Mapping[NodeName, Array]) -> dict[NodeName, Array]:
        """The values that do not change while the frames are repeated."""
        values = dict(frames)
        for path in self.program.timeless:
            if path not in values:
                values[path] = self._stateless(self.program.nodes[path], values)
        return values

    def advance(self, known: Mapping[NodeName, Array]) -> dict[NodeName, Array]:
        """One step: the value [B, ...] of every node from the `known` ones, which are taken as given."""
        values = dict(known)
        for component in self.program.components:
            self._component(component, values)
        for path in self.program.fed_back:
            self.states[path, "feedback"] = values[path]
        return values

    def _component(self, component: Component, values: dict[NodeName, Array]) -> None:
        """Every node in order; a late one puts out first, and takes its input when all of the component is known."""
        for node in component.nodes:
            if node.path in values:
                continue
            if node.late:
                values[node.path] = self._put_out(node)
            elif node.numbers is not None:
                values[node.path] = self._neuron(node.path, node.numbers, self._sum(node, values))
            elif node.steps is not None:
                values[node.path] = self._delay(node, self._sum(node, values))
            else:
                values[node.path] = self._stateless(node, values)
        for node in component.nodes:
            if node.late and node.numbers is not None:
                self._neuron(node.path, node.numbers, self._sum(node, values))
            elif node.late:
                self._delay(node, self._sum(node, values))

    def _put_out(self, node: Node) -> Array:
        """What a late node puts out: no input changes it any more in this step."""
        if node.numbers is None:
            return self._delay(node, None)
        state = {name: value for (path, name), value in self.states.items() if path == node.path}
        anything = np.zeros_like(state["v"])
        return neuron_step(node.numbers, anything, state).output

    def _neuron(self, path: NodeName, k: Discrete, x: Array) -> Array:
        names = list(k.initial)
        step = neuron_step(k, x, {name: self.states[path, name] for name in names})
        for name in names:
            self.states[path, name] = step.state[name]
        if step.spikes is not None:
            assert step.decided is not None
            self.spikes[path], self.decided[path] = step.spikes, step.decided
        return step.output

    def _delay(self, node: Node, x: Array | None) -> Array:
        """What came in `steps` ago, element by element; x is stored as the newest (None: it is not known yet)."""
        assert node.steps is not None
        stored = self.states[node.path, "delay"]  # [steps, B, ...], the oldest first
        newest = np.zeros(stored.shape[1:], np.float32) if x is None else x
        line = np.concatenate([stored, newest[None]])
        if x is not None:
            self.states[node.path, "delay"] = line[1:]
        at = np.broadcast_to(len(stored) - node.steps, (1, *stored.shape[1:]))
        delayed: Array = np.take_along_axis(line, at, axis=0)[0]
        return delayed

    def _stateless(self, node: Node, values: Mapping[NodeName, Array]) -> Array:
        x = self._sum(node, values)
        if isinstance(node.node, nir.Threshold) and node.spike == ">=":
            return at_threshold(node.node, x)
        return STATELESS[type(node.node)](node.node, x)

    def _sum(self, node: Node, values: Mapping[NodeName, Array]) -> Array:
        """Fan-in is addition, in the order of the sources."""
        first, *others = (
            self.states[source.path, "feedback"] if source.previous else values[source.path] for source in node.sources
        )
        for other in others:
            first = first + other
        return first


def _run(made: Program, x: Mapping[NodeName, Array], repeated: bool, length: int, record: _Record) -> Result:
    steps = Simulation(made, next(iter(x.values())).shape[0 if repeated else 1])
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
            counts.append(_as_spikes(_numbers(made, path), steps.spikes[path]))
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


def _as_spikes(k: Discrete, s: Array) -> Spikes:
    """Counts where a node can fire several times a step, else true and false."""
    return s.astype(np.int32) if k.spike == "floor" else s > 0


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


# --- neurons --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NeuronStep:
    """What a neuron layer makes of one step, all [B, ...]: what it puts out and what it stores; where it spikes, its
    spikes {0, 1, ...} and the potential that they were read from.
    """

    output: Array
    state: dict[str, Array]
    spikes: Array | None = None
    decided: Array | None = None


def neuron_step(k: Discrete, x: Array, state: Mapping[str, Array]) -> NeuronStep:
    """One step of a neuron layer with input x [B, ...]: the equations at the head of `semantics`, in their order."""
    current, after = x, dict(state)
    if k.synapse is not None:
        current, after["i"] = synapse_step(k.synapse, x, state["i"])
    v = state["v"]
    if not k.spikes:
        after["v"] = _charged(k, v, current)
        return NeuronStep(v if k.output == "prev" else after["v"], after)
    if k.spike_from == "prev":
        s, decided = spikes_of(k, v), v
        after["v"] = (
            _charged(k, v, current) - k.v_threshold * s
            if k.reset_when == "next_sub"
            else _charged(k, reset(k, v, s), current)
        )
    else:
        decided = potential(k, _charged(k, v, current), state)
        s = spikes_of(k, decided)
        after["v"] = _settled(k, decided, s, v)
    if k.v_min is not None:
        after["v"] = np.maximum(after["v"], k.v_min)
    if "s" in after:
        after["s"] = s
    return NeuronStep(s * k.out_scale, after, s, decided)


def synapse_step(k: Synapse, x: Array, i: Array) -> tuple[Array, Array]:
    """The current c that the membrane gets, and the i that is stored."""
    if k.order == "jump_use_decay":
        current = i + k.gain * x
        return current, k.decay * current + k.leak
    if k.order == "jump_decay_use":
        current = k.decay * (i + k.gain * x)
        return current, current
    updated = (k.decay * i + k.gain * x) + k.leak
    return (i if k.order == "use_then_update" else updated), updated


def potential(k: Discrete, charged: Array, state: Mapping[str, Array]) -> Array:
    """u, what spikes are read from: the charged potential less what an earlier spike still takes off."""
    if k.reset_when == "next_sub":
        return charged - k.v_threshold * state["s"]
    if k.reset_when == "next_drop":
        return np.where(state["s"] > 0, np.float32(0), charged)
    if k.reset_when == "now_nodouble":
        return charged - spikes_of(k, state["v"]) * k.v_threshold
    return charged


def spikes_of(k: Discrete, u: Array) -> Array:
    """s, float32 {0, 1} or a count."""
    fired = u > k.v_threshold if k.spike == ">" else u >= k.v_threshold
    s: Array = fired.astype(np.float32)
    return s * np.floor(u / k.v_threshold) if k.spike == "floor" else s


def reset(k: Discrete, u: Array, s: Array) -> Array:
    """v after spikes s of the same step."""
    if k.reset == "v_reset":
        return np.where(s > 0, k.v_reset, u)
    return u - s * k.v_threshold if k.reset == "subtract" else u


def margin(k: Discrete, u: Array) -> Array:
    """How far potentials are from the other decision, relative to what they are compared with where that is above 1:
    the threshold, or the nearest of its multiples.
    """
    nearest = k.v_threshold
    if k.spike == "floor":
        nearest = nearest * np.maximum(np.float32(1), np.round(u / k.v_threshold))
    distance: Array = np.abs(u - nearest) / np.maximum(np.float32(1), np.abs(nearest))
    return distance


def _charged(k: Discrete, v: Array, current: Array) -> Array:
    return (k.decay * v + k.gain * current) + k.leak


def _settled(k: Discrete, u: Array, s: Array, before: Array) -> Array:
    """v, what is stored of u; before: the v that the step began with."""
    if k.reset_when == "now":
        return reset(k, u, s)
    return u - (s - spikes_of(k, before)) * k.v_threshold if k.reset_when == "now_nodouble" else u


# --- nodes without memory: x [B, ...] -> [B, ...] ---------------------------------------------------------------------


def affine(node: nir.Affine, x: Array) -> Array:
    """W x + b, weight (..., outputs, inputs)."""
    return linear(node, x) + _float32(node.bias)


def linear(node: nir.Linear | nir.Affine, x: Array) -> Array:
    """W x, weight (outputs, inputs); one with leading dimensions is a matrix for each of their indices."""
    weight = _float32(node.weight)
    product: Array = x @ weight.T if weight.ndim == 2 else (weight @ x[..., None])[..., 0]
    return product


def conv1d(node: nir.Conv1d, x: Array) -> Array:
    """As conv2d, with weight (outputs, inputs / groups, length): an image of height 1."""
    line, weight = conv_window(node), _float32(node.weight)
    window = Window((1, *line.kernel), (1, *line.stride), (1, *line.dilation), (0, *line.begin), (0, *line.end))
    convolved: Array = _convolved(window, weight[:, :, None], conv_groups(node), x[:, :, None])[:, :, 0]
    return convolved + _float32(node.bias)[:, None]


def conv2d(node: nir.Conv2d, x: Array) -> Array:
    """Cross-correlation with zero padding plus bias; weight (outputs, inputs / groups, height, width)."""
    convolved = _convolved(conv_window(node), _float32(node.weight), conv_groups(node), x)
    return convolved + _float32(node.bias)[:, None, None]


def _convolved(window: Window, weight: Array, groups: int, x: Array) -> Array:
    kernels = weight.reshape(groups, len(weight) // groups, -1)  # [G, O/G, I/G*kh*kw]
    height, width = window.output(x.shape[2:])
    maps = [kernels @ patches for patches in _patches(window, x, groups)]  # [G, O/G, n*H*W] each
    images = [each.reshape(len(weight), -1, height, width).swapaxes(0, 1) for each in maps]
    return np.concatenate(images)


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


def at_threshold(node: nir.Threshold, x: Array) -> Array:
    """As threshold, but 1 where x is at it as well: spike ">=" of a dialect."""
    reached: Spikes = x >= _float32(node.threshold)
    return reached.astype(np.float32)


def _unchanged(node: nir.NIRNode, x: Array) -> Array:
    return x


STATELESS: dict[type, Callable[[Any, Array], Array]] = {
    nir.Input: _unchanged,
    nir.Output: _unchanged,
    nir.Affine: affine,
    nir.Linear: linear,
    nir.Conv1d: conv1d,
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
