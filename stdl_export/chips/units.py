"""A program as layers of neurons, each fed by linear maps from the layers before it: what lies between is gone.

    program   Input -> Conv2d -> LIF a -> AvgPool2d -> Flatten -> Affine -> LIF b -> Affine -> Output
    units     a: {input: conv},  b: {a: matrix of pool and affine},  output: {b: matrix}, with no neurons of its own

A chip that knows neurons and synapses takes it from here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import nir
import numpy as np

from stdl_export.chips.base import Refusal, Refused
from stdl_export.chips.maps import Float, Kernel, Map, TooLarge, added, dilated, float64, identity, image, ungrouped
from stdl_export.chips.netx import MOST_DELAY
from stdl_export.graph import NodeName
from stdl_export.primitives import Shape, Window, conv_groups, conv_window, pool_window
from stdl_export.program import Node, Program, Source
from stdl_export.semantics import Discrete


@dataclass(frozen=True, eq=False)
class Unit:
    """A layer of neurons, or an Output that reads a linear map: then numbers is None.

    sources: by the path of an Input or of a layer that spikes, what of its values arrives. delayed: the same of what
    arrives later, by how many steps. recurrent: what of its own spikes of the step before. bias has the unit's shape.
    """

    path: NodeName
    shape: Shape
    numbers: Discrete | None
    sources: Mapping[NodeName, Map]
    recurrent: Map | None
    bias: Float
    delayed: Mapping[NodeName, Mapping[int, Map]] = field(default_factory=dict)

    @property
    def reads(self) -> list[NodeName]:
        """All whose values arrive, sooner or later."""
        return [*dict.fromkeys([*self.sources, *self.delayed])]

    def arriving(self, path: NodeName) -> dict[int, Map]:
        """What arrives of a source, by its delay."""
        now = {0: self.sources[path]} if path in self.sources else {}
        return {**now, **self.delayed.get(path, {})}


@dataclass(frozen=True, eq=False)
class Units:
    """All units that lead to the one Output, each behind those that it reads, and what the Output shows.

    shown: the path of the unit that the Output reads; amplitude: of its spikes (1 where it shows a potential).
    """

    input: NodeName
    input_shape: Shape
    output: NodeName
    units: tuple[Unit, ...]
    shown: NodeName
    amplitude: float


@dataclass(frozen=True)
class _Read:
    """Whose values, are they those of the step before (a loop), and by how many steps did a Delay hold them?"""

    path: NodeName
    previous: bool
    delay: int = 0


@dataclass(frozen=True, eq=False)
class _Sum:
    """A linear combination of values: maps by who is read, and a bias of its own."""

    maps: Mapping[_Read, Map]
    bias: Float


def units(made: Program, refused: list[Refusal]) -> Units | None:
    """The units of a program; what cannot be one is added to `refused`, and then None comes back."""
    walk = _Walk(made)
    refused += [*_ends(made)]
    for node in made.nodes.values():
        if (reason := walk.tried(node)) is not None:
            refused.append(reason)
            walk.sums[node.path] = _Sum({}, np.zeros(node.shape))
    if refused:
        return None
    return walk.found()


SMALLER = "use convolutions with padding 0 behind pools that divide the image, or smaller layers"
RECURRENT = "recurrence is a Linear or Affine from a layer of neurons to itself"


def _ends(made: Program) -> Iterator[Refusal]:
    """The chip has one input and one layer that is read."""
    for kind, paths in (("Inputs", made.inputs), ("Outputs", made.outputs)):
        if len(paths) != 1:
            names = ", ".join(paths)
            yield Refusal(names, f"the number of {kind}", str(len(paths)), "one", "join them in the network")


class _Walk:
    """One walk over the nodes in their order of execution."""

    def __init__(self, made: Program) -> None:
        self.made = made
        self.sums: dict[NodeName, _Sum] = {}
        self.units: dict[NodeName, Unit] = {}
        self.potentials: set[NodeName] = set()

    def tried(self, node: Node) -> Refusal | None:
        """Why a node is refused."""
        try:
            self.node(node)
        except Refused as reason:
            return reason.refusal
        except TooLarge as reason:
            return _refusal(node, "what it computes", str(reason), "at most 2^24 weights", SMALLER)
        return None

    def node(self, node: Node) -> None:
        """What a node puts out, as a sum over neurons; a layer of neurons becomes a unit."""
        if isinstance(node.node, nir.Input):
            self.sums[node.path] = _alone(_Read(node.path, False), node.shape)
        elif node.numbers is not None:
            self._neurons(node, node.numbers)
        elif isinstance(node.node, nir.Output):
            self._output(node)
        else:
            self.sums[node.path] = _through(node, self._arriving(node))

    def found(self) -> Units:
        """What leads to the Output, in order."""
        output = self.made.nodes[self.made.outputs[0]]
        shown, amplitude = output.path, 1.0
        if output.sources[0].path in self.potentials:
            shown = output.sources[0].path
        elif output.path not in self.units:
            shown = next(iter(self.sums[output.path].maps)).path
            amplitude = self._amplitude(shown, self.sums[output.path])
        needed = [shown]
        for path in needed:
            needed += [each for each in self.units[path].reads if each in self.units and each not in needed]
        kept = tuple(unit for path, unit in self.units.items() if path in needed)
        entry = self.made.inputs[0]
        return Units(entry, self.made.nodes[entry].shape, output.path, kept, shown, amplitude)

    def _amplitude(self, shown: NodeName, total: _Sum) -> float:
        return float(np.max(total.maps[_Read(shown, False)].applied(np.ones(self.units[shown].shape))))

    def _neurons(self, node: Node, numbers: Discrete) -> None:
        total = self._arriving(node)
        own = {read: each for read, each in total.maps.items() if read.previous}
        for read in own:
            if read.path != node.path:
                raise Refused(_refusal(node, "its recurrence", f"from '{read.path}'", "its own spikes", RECURRENT))
        back = next(iter(own.values()), None)
        self.units[node.path] = Unit(node.path, node.shape, numbers, *_by_delay(total, back))
        if numbers.spikes:
            scale = float64(numbers.out_scale)
            spikes = _alone(_Read(node.path, False), node.shape)
            scaled = (
                {read: each.scaled(scale) for read, each in spikes.maps.items()} if (scale != 1).any() else spikes.maps
            )
            self.sums[node.path] = _Sum(scaled, spikes.bias)
        else:
            self.potentials.add(node.path)

    def _output(self, node: Node) -> None:
        if len(node.sources) == 1 and node.sources[0].path in self.potentials:
            return
        total = self._arriving(node)
        self.sums[node.path] = total
        if not _plain_spikes(total, self.made):
            self.units[node.path] = Unit(node.path, node.shape, None, *_by_delay(total, None))

    def _arriving(self, node: Node) -> _Sum:
        """The sum of what a node reads."""
        return _total([self._read(node, source) for source in node.sources], node.in_shape)

    def _read(self, node: Node, source: Source) -> _Sum:
        read = self.made.nodes[source.path]
        if source.path in self.potentials:
            way_out = "let the Output read it, or give it a threshold"
            raise Refused(_refusal(node, "what it reads", f"the potential of '{source.path}'", "spikes", way_out))
        if not source.previous and source.path in self.sums:
            return self.sums[source.path]
        if not source.previous:  # a loop that stored states close: what it reads comes later in the order
            way_out = "let the loop be closed at the neurons, as dialect nir does"
            raise Refused(_refusal(node, "what it reads", f"'{source.path}', before it has run", "spikes", way_out))
        if not read.spikes:
            way_out = "let the loop be closed at the neurons, as dialect nir does"
            raise Refused(_refusal(node, "what it reads of the step before", f"'{source.path}'", "spikes", way_out))
        scale = read.numbers.out_scale if read.numbers is not None else 1
        before = _alone(_Read(source.path, True), read.shape)
        return _Sum({key: each.scaled(float64(scale)) for key, each in before.maps.items()}, before.bias)


def _refusal(node: Node, field: str, value: str, limit: str, way_out: str) -> Refusal:
    return Refusal(node.path, field, value, limit, way_out)


def _alone(read: _Read, shape: Shape) -> _Sum:
    return _Sum({read: identity(shape)}, np.zeros(shape))


def _total(sums: list[_Sum], shape: Shape) -> _Sum:
    maps: dict[_Read, list[Map]] = {}
    for each in sums:
        for read, arriving in each.maps.items():
            maps.setdefault(read, []).append(arriving)
    bias = sum((each.bias.reshape(shape) for each in sums), np.zeros(shape))
    return _Sum({read: added(each) for read, each in maps.items()}, bias)


def _by_delay(
    total: _Sum, back: Map | None
) -> tuple[dict[NodeName, Map], Map | None, Float, dict[NodeName, dict[int, Map]]]:
    """The last fields of a Unit."""
    now = {read.path: each for read, each in total.maps.items() if not read.previous and not read.delay}
    late: dict[NodeName, dict[int, Map]] = {}
    for read, each in total.maps.items():
        if read.delay:
            late.setdefault(read.path, {})[read.delay] = each
    return now, back, total.bias, late


def _delayed(node: Node, total: _Sum) -> _Sum:
    """A sum that a Delay holds for some steps, each element for its own."""
    assert node.steps is not None
    steps = np.broadcast_to(node.steps, node.shape)
    way_out = "hold spikes of neurons outside of loops, before they are weighted"
    if total.bias.any() and steps.any():
        raise Refused(_refusal(node, "what it holds", "more than spikes: a bias", "spikes", way_out))
    found: dict[_Read, list[Map]] = {}
    for read, each in total.maps.items():
        if read.previous and steps.any():
            raise Refused(_refusal(node, "what it holds", "spikes within a loop", "spikes outside of loops", way_out))
        for count in map(int, np.unique(steps)):
            late = read.delay + count
            if late > MOST_DELAY:
                limit = f"at most {MOST_DELAY}"
                raise Refused(_refusal(node, "its delay", f"{late} steps", limit, "shorten it, or raise dt"))
            here = (steps == count).astype(np.float64)
            part = each if here.all() else each.scaled(here)
            found.setdefault(_Read(read.path, read.previous, late), []).append(part)
    return _Sum({read: added(each) for read, each in found.items()}, total.bias)


def _through(node: Node, total: _Sum) -> _Sum:
    """A sum after a node without memory, or after a Delay."""
    if isinstance(node.node, nir.Delay):
        return _delayed(node, total)
    row = STATELESS.get(type(node.node))
    if row is None:
        limit = f"neurons, {', '.join(kind.__name__ for kind in STATELESS)}, Delay"
        raise Refused(_refusal(node, "its type", type(node.node).__name__, limit, "write the network without it"))
    after = row(node)
    maps = {read: each.then(Map(after.source, after.target, after.what, np.zeros(after.target)))
            for read, each in total.maps.items()}  # fmt: skip
    return _Sum(maps, after.applied(total.bias) + after.bias)


def _plain_spikes(total: _Sum, made: Program) -> bool:
    """Does an Output show the spikes of one layer, and nothing else?"""
    if len(total.maps) != 1 or total.bias.any():
        return False
    read, only = next(iter(total.maps.items()))
    if not made.nodes[read.path].spikes or read.delay:
        return False
    if only.what is None:
        return True
    kernel = only.kernel
    weight = kernel.weight[:, :, 0, 0] if kernel is not None and kernel.weight.shape[2:] == (1, 1) else only.what
    if not isinstance(weight, np.ndarray) or (kernel is not None and kernel.stride != (1, 1)):
        return False
    return weight.shape[0] == weight.shape[1] and bool((weight == np.eye(len(weight)) * weight[0, 0]).all())


# --- nodes without memory as maps -------------------------------------------------------------------------------------


def _wired(node: Node) -> Map:
    return Map(node.in_shape, node.shape, None, np.zeros(node.shape))


def _matrix(node: Node) -> Map:
    weight = float64(node.node.weight)
    if weight.ndim != 2:
        limit = "one matrix (outputs, inputs)"
        way_out = "write the network with one matrix for all inputs"
        raise Refused(_refusal(node, "its weight", f"of shape {weight.shape}", limit, way_out))
    bias = float64(node.node.bias) if isinstance(node.node, nir.Affine) else np.zeros(node.shape)
    return Map(node.in_shape, node.shape, weight, bias.reshape(node.shape))


def _conv(node: Node) -> Map:
    weight = ungrouped(float64(node.node.weight), conv_groups(node.node))
    window = _flat_window(conv_window(node.node))
    weight = weight if weight.ndim == 4 else weight[:, :, None]
    bias = np.broadcast_to(float64(node.node.bias).reshape(-1, *[1] * (len(node.shape) - 1)), node.shape)
    return Map(node.in_shape, node.shape, _kernel(node, dilated(weight, _pair(window.dilation)), window), bias)


def _pool(node: Node) -> Map:
    window = pool_window(node.node)
    value = 1.0 / math.prod(window.kernel) if isinstance(node.node, nir.AvgPool2d) else 1.0
    weight = np.eye(node.in_shape[0])[:, :, None, None] * np.full(window.kernel, value)
    return Map(node.in_shape, node.shape, _kernel(node, weight, window), np.zeros(node.shape))


def _scale(node: Node) -> Map:
    made = identity(node.in_shape).scaled(float64(node.node.scale))
    return Map(node.in_shape, node.shape, made.what, made.bias)


def _kernel(node: Node, weight: Float, window: Window) -> Kernel:
    return Kernel(weight, _pair(window.stride), _pair(window.begin), image(node.shape)[1:])


def _flat_window(window: Window) -> Window:
    """That of a line as that of an image of height 1."""
    if len(window.kernel) == 2:
        return window
    (k,), (s,), (d,), (b,), (e,) = window.kernel, window.stride, window.dilation, window.begin, window.end
    return Window((1, k), (1, s), (1, d), (0, b), (0, e))


def _pair(sizes: tuple[int, ...]) -> tuple[int, int]:
    return (sizes[0], sizes[1])


STATELESS: dict[type, Callable[[Node], Map]] = {
    nir.Affine: _matrix,
    nir.Linear: _matrix,
    nir.Conv1d: _conv,
    nir.Conv2d: _conv,
    nir.AvgPool2d: _pool,
    nir.SumPool2d: _pool,
    nir.Flatten: _wired,
    nir.Scale: _scale,
}
