"""From a graph to Speck's cores: convolution, integrate-and-fire neurons, and a sum over squares on the way out.

    graph   ... -> Conv2d or Affine -> IF -> (SumPool2d, AvgPool2d) -> Conv2d or Affine -> IF -> ...
    Speck   core: kernel, neurons                destination: pooling    core

A matrix is a convolution as large as the map it reads. An average over k x k is a sum and weights divided by k^2. What
reads several layers adds their spikes. There is no delay between cores: within a step all of them work.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import nir
import numpy as np
from numpy.typing import NDArray

from stdl_export.chips.base import Refusal, Refused
from stdl_export.graph import NodeName
from stdl_export.primitives import conv_groups, conv_window, pool_window
from stdl_export.program import Node, Program
from stdl_export.semantics import Discrete

Float = NDArray[np.float64]
Map = tuple[int, int, int]

POOLS = (nir.SumPool2d, nir.AvgPool2d)
WEIGHTED = (nir.Conv2d, nir.Affine, nir.Linear)


@dataclass(frozen=True)
class Feed:
    """What a core reads: another one's node, or None for the input; summed over squares of `pool`."""

    source: NodeName | None
    pool: int = 1
    average: bool = False


@dataclass(frozen=True, eq=False)
class Core:
    """One IF node with the convolution in front of it, in float. weight: [F, C, kernel, kernel], bias [F], gains and
    averages included; v_low: None where the graph has no lower bound.
    """

    path: NodeName
    weights_of: NodeName
    weight: Float
    bias: Float
    stride: int
    padding: int
    in_shape: Map
    shape: Map
    threshold: float
    to_zero: bool
    v_low: float | None
    initial: Float
    spike: str
    feeds: tuple[Feed, ...]

    @property
    def kernel(self) -> int:
        """Height and width."""
        return int(self.weight.shape[2])


@dataclass(frozen=True, eq=False)
class Network:
    """Cores in order of execution; the output is what `output` fires."""

    input: Map
    cores: tuple[Core, ...]
    output: NodeName

    def readers(self, path: NodeName | None) -> list[tuple[Core, Feed]]:
        """The cores that read one (None: the input), and how."""
        return [(core, feed) for core in self.cores for feed in core.feeds if feed.source == path]


def network(made: Program) -> tuple[Network | None, list[Refusal]]:
    """The cores of a program; None with every reason where Speck cannot have them."""
    found = [*_end_reasons(made), *(reason for node in made.nodes.values() for reason in _node_reasons(node))]
    found += [reason for node in made.nodes.values() for reason in _feedback(node)]
    if found:
        return None, found
    cores = []
    for node in made.nodes.values():
        if node.spikes:
            try:
                cores.append(_core(made, node))
            except Refused as refused:
                found.append(refused.refusal)
    if found:
        return None, found
    output = _seen_through(made, made.nodes[made.outputs[0]])[0].path
    return Network(_map(made.nodes[made.inputs[0]].shape), tuple(cores), output), []


def _core(made: Program, node: Node) -> Core:
    """One IF node; `Refused` where what is in front of it is no convolution."""
    k = node.numbers
    assert k is not None
    if len(node.sources) != 1 or not isinstance(made.nodes[node.sources[0].path].node, WEIGHTED):
        what = ", ".join(f"'{source.path}'" for source in node.sources)
        raise Refused(Refusal(node.path, "sources", what, "one Conv2d or Affine", "put one in front of it"))
    weighted = made.nodes[node.sources[0].path]
    feeds, in_shape = _feeds(made, weighted)
    weight, stride, padding = _kernel(weighted, in_shape)
    averages = {feed.pool**2 if feed.average else 1 for feed in feeds}
    if len(averages) > 1:
        limit = "one way to pool for all that is added"
        raise Refused(Refusal(weighted.path, "sources", "averages beside sums", limit, "pool them alike"))
    gain = _by_channel(node, k.gain, "r")[:, None, None, None]
    bias = getattr(weighted.node, "bias", None)
    shape = _map(node.shape)
    return Core(
        path=node.path,
        weights_of=weighted.path,
        weight=weight * gain / averages.pop(),
        bias=(np.zeros(shape[0]) if bias is None else np.asarray(bias, np.float64)) * gain[:, 0, 0, 0],
        stride=stride,
        padding=padding,
        in_shape=in_shape,
        shape=shape,
        threshold=_one(node, k.v_threshold, "v_threshold"),
        to_zero=k.reset == "v_reset",
        v_low=None if k.v_min is None else _one(node, k.v_min, "v_min"),
        initial=np.broadcast_to(k.v_init.astype(np.float64), node.shape).reshape(shape),
        spike=k.spike,
        feeds=feeds,
    )


def _feeds(made: Program, weighted: Node) -> tuple[tuple[Feed, ...], Map]:
    """What a convolution or matrix reads, and the map [C, H, W] that it reads it as."""
    feeds, shapes = [], set()
    for source in weighted.sources:
        of, pool, average = made.nodes[source.path], 1, False
        shapes.add(_map(of.shape) if not isinstance(of.node, nir.Flatten) else _map(of.in_shape))
        while not (of.spikes or isinstance(of.node, nir.Input)):
            if isinstance(of.node, POOLS):
                if pool > 1:
                    raise Refused(Refusal(of.path, "readers", "another pool", "one pool", "pool once, by both"))
                pool, average = _pool(of), isinstance(of.node, nir.AvgPool2d)
            elif not isinstance(of.node, nir.Flatten):
                limit = "neurons between convolutions"
                raise Refused(Refusal(of.path, "readers", f"'{weighted.path}'", limit, "merge the two"))
            if len(of.sources) != 1:
                what = f"{len(of.sources)} of them"
                raise Refused(Refusal(of.path, "sources", what, "one layer", "add behind the pool"))
            of = made.nodes[of.sources[0].path]
        if isinstance(of.node, nir.Input) and pool > 1:
            raise Refused(Refusal(of.path, "readers", "a pool", "a convolution", "pool the input beforehand"))
        feeds.append(Feed(of.path if of.spikes else None, pool, average))
    if len(shapes) != 1:
        what = " and ".join(map(str, sorted(shapes)))
        raise Refused(Refusal(weighted.path, "sources", what, "maps of one shape", "flatten behind the addition"))
    return tuple(feeds), shapes.pop()


def _kernel(weighted: Node, in_shape: Map) -> tuple[Float, int, int]:
    """Weights [F, C, k, k], stride and padding; a matrix as a convolution over the whole map."""
    node = weighted.node
    if not isinstance(node, nir.Conv2d):
        matrix = np.asarray(node.weight, np.float64)
        if matrix.ndim != 2 or matrix.shape[1] != np.prod(in_shape):
            what = f"of shape {matrix.shape} on a map {in_shape}"
            raise Refused(Refusal(weighted.path, "weight", what, "one matrix on all of it", "flatten its input"))
        if in_shape[1] != in_shape[2]:
            what = f"on a map of {in_shape[1]}x{in_shape[2]}"
            raise Refused(Refusal(weighted.path, "weight", what, "square maps", "choose strides that give a square"))
        return matrix.reshape(len(matrix), *in_shape), 1, 0
    window = conv_window(node)
    wanted = (
        ("kernel", window.kernel, len(set(window.kernel)) == 1, "square ones"),
        ("stride", window.stride, len(set(window.stride)) == 1, "one for both directions"),
        ("padding", (window.begin, window.end), len({*window.begin, *window.end}) == 1, "one for all sides"),
        ("dilation", window.dilation, set(window.dilation) == {1}, "1"),
        ("groups", conv_groups(node), conv_groups(node) == 1, "1"),
    )
    for name, value, holds, limit in wanted:
        if not holds:
            raise Refused(Refusal(weighted.path, name, str(value), limit, "change the convolution"))
    return np.asarray(node.weight, np.float64), window.stride[0], window.begin[0]


def _pool(node: Node) -> int:
    window = pool_window(node.node)
    square = len({*window.kernel, *window.stride}) == 1 and not any(window.begin)
    if not square or window.kernel[0] not in (1, 2, 4):
        what = f"kernel {window.kernel}, stride {window.stride}, padding {window.begin}"
        limit = "1, 2 or 4, square, stride as large, no padding"
        raise Refused(Refusal(node.path, "pool", what, limit, "take a pool of 2 or 4, or strides"))
    return window.kernel[0]


def _by_channel(node: Node, value: Any, name: str) -> Float:
    """One number for each channel."""
    full = np.broadcast_to(np.asarray(value, np.float64), node.shape).reshape(_map(node.shape))
    if (full != full[:, :1, :1]).any():
        raise Refused(Refusal(node.path, name, "another for each neuron", "one for each channel", "make it one"))
    found: Float = full[:, 0, 0]
    return found


def _one(node: Node, value: Any, name: str) -> float:
    flat = np.unique(np.asarray(value))
    if flat.size > 1:
        what = f"{flat[0]:.4g} to {flat[-1]:.4g}"
        raise Refused(Refusal(node.path, name, what, "one for all neurons of a layer", "make it one"))
    return float(flat[0])


def _node_reasons(node: Node) -> Iterator[Refusal]:
    """Why Speck cannot have a node, whatever is around it."""
    kind = type(node.node).__name__
    if node.numbers is not None:
        yield from _neuron_reasons(node, node.numbers)
    elif not isinstance(node.node, (nir.Input, nir.Output, nir.Flatten, *POOLS, *WEIGHTED)):
        limit = "Conv2d, Affine, Linear, IF, SumPool2d, AvgPool2d and Flatten"
        yield Refusal(node.path, "type", kind, limit, "leave it out")
    if len(node.shape) not in (1, 3):
        yield Refusal(node.path, "shape", str(node.shape), "(C, H, W) or (N,)", "reshape it")


def _neuron_reasons(node: Node, k: Discrete) -> Iterator[Refusal]:
    path = node.path
    if k.kind != "IF":
        what = "its potential leaks" if k.kind in ("LIF", "CubaLIF") else "it puts out a potential"
        out = "train with model.neuron.kind = 'IF', and a readout that fires"
        yield Refusal(path, "type", f"{k.kind} ({what})", "IF", out)
        return
    wanted = (
        ("decay", k.decay, bool((k.decay == 1).all()), "1", "choose a dialect without a leak"),
        ("leak", k.leak, bool((k.leak == 0).all()), "0", "choose a dialect without a leak"),
        ("reset", k.reset, k.reset != "none", "subtract or to 0", "let it reset"),
        ("v_reset", k.v_reset, k.reset != "v_reset" or bool((k.v_reset == 0).all()), "0", "reset to 0, or subtract"),
        ("reset_when", k.reset_when, k.reset_when == "now", "now", "choose a dialect that resets in the same step"),
        ("spike_from", k.spike_from, k.spike_from == "new", "new", "choose a dialect that reads the new potential"),
        ("out_scale", k.out_scale, bool((k.out_scale == 1).all()), "1", "put the factor into the next weights"),
        ("v_threshold", k.v_threshold, bool((k.v_threshold > 0).all()), "positive ones", "raise it"),
        ("v_min", k.v_min, k.v_min is None or bool((k.v_min <= 0).all()), "0 or less", "lower it"),
    )
    for name, value, holds, limit, out in wanted:
        if not holds:
            yield Refusal(path, name, _said(value), limit, out)


def _feedback(node: Node) -> Iterator[Refusal]:
    for source in node.sources:
        if source.previous:
            what, out = f"'{source.path}' of the step before", "leave the feedback out"
            yield Refusal(node.path, "sources", what, "layers without feedback, since cores have no clock", out)


def _end_reasons(made: Program) -> Iterator[Refusal]:
    for what, paths in (("Inputs", made.inputs), ("Outputs", made.outputs)):
        if len(paths) != 1:
            yield Refusal(paths[0], what, f"{len(paths)} of them", "one", "export a graph of one")
    if len(made.outputs) == 1:
        read = _seen_through(made, made.nodes[made.outputs[0]])
        if len(read) != 1 or not read[0].spikes:
            what = ", ".join(f"'{node.path}' ({type(node.node).__name__})" for node in read)
            out = "let the readout fire (model.options.readout = { kind = 'IF', ... }), and count its spikes"
            yield Refusal(made.outputs[0], "sources", what, "one layer of spiking neurons", out)


def _seen_through(made: Program, node: Node) -> list[Node]:
    """What a node reads, looked at through Flatten."""
    found = []
    for source in node.sources:
        of = made.nodes[source.path]
        found += _seen_through(made, of) if isinstance(of.node, nir.Flatten) else [of]
    return found


def _map(shape: tuple[int, ...]) -> Map:
    """[C, H, W]; N numbers are N channels of one place."""
    return (shape[0], 1, 1) if len(shape) == 1 else (shape[0], shape[1], shape[2])


def _said(value: Any) -> str:
    if isinstance(value, str):
        return value
    flat = np.unique(np.asarray(value))
    return f"{flat[0]:.4g}" if flat.size == 1 else f"{flat[0]:.4g} to {flat[-1]:.4g}"
