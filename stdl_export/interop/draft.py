"""A graph while it is rewritten: nodes by path, what each reads, and weights that can be given to one reader alone."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import nir
import numpy as np

from stdl_export import cycles
from stdl_export.primitives import Refused, Shape, conv_groups
from stdl_export.semantics import Float64
from stdl_export.structure import Structure

WEIGHTED = (nir.Affine, nir.Linear, nir.Conv1d, nir.Conv2d)
MAX_DIAGONAL = 4096  # neurons behind an inserted matrix: 64 MiB


class Draft:
    """`shapes` are of what each node puts out, without T and B; `sources` may hold a path twice."""

    def __init__(self, made: Structure, shapes: Mapping[str, Shape], groups: bool) -> None:
        self.nodes: dict[str, Any] = dict(made.nodes)
        self.sources = {path: [*names] for path, names in made.sources.items()}
        self.shapes = dict(shapes)
        self.groups = groups
        self.cyclic = cycles.on_cycles(made.sources)

    def readers(self, path: str) -> list[str]:
        """Who reads a node, as often as it does."""
        return [target for target, names in self.sources.items() for name in names if name == path]

    def in_shape(self, path: str) -> Shape:
        """The shape that a node takes."""
        return self.shapes[self.sources[path][0]]

    def scale(self, target: str, factor: Float64) -> None:
        """x' = factor * x, borne by the weights in front of `target`: w' = factor * w, b' = factor * b, row by row."""
        for at in range(len(self.sources[target])):
            self._alone(target, at)
        for source in self.sources[target]:
            self.nodes[source] = scaled(self.nodes[source], self._rows(factor, source))

    def add_bias(self, target: str, bias: Float64) -> None:
        """x' = x + bias, borne by one of the weights in front of `target` that is on no loop: b' = b + bias."""
        ahead = [at for at, source in enumerate(self.sources[target]) if source not in self.cyclic]
        if not ahead:
            raise Refused("a constant must be added to its input, and nothing but a loop leads to it")
        weighted = [at for at in ahead if isinstance(self.nodes[self.sources[target][at]], WEIGHTED)]
        source = self._alone(target, (weighted or ahead)[0])
        self.nodes[source] = biased(self.nodes[source], self._rows(bias, source))

    def separate_twins(self, target: str) -> None:
        """A source that is read twice gets a second node: edges are a set to most."""
        names = self.sources[target]
        for at, source in enumerate(names):
            if source in names[:at]:
                self._alone(target, at)

    def _alone(self, target: str, at: int) -> str:
        """The at-th source of `target`, as weights that nobody else reads: itself, a copy, or an identity put in."""
        source = self.sources[target][at]
        node = self.nodes[source]
        if isinstance(node, WEIGHTED) and self.readers(source) == [target]:
            return source
        if not isinstance(node, WEIGHTED):
            return self.put_in(target, at)
        return self._replaced(target, at, node, self.sources[source])

    def put_in(self, target: str, at: int) -> str:
        """Weights that change nothing between `target` and its at-th source."""
        source = self.sources[target][at]
        node = elementwise(np.ones(()), self.shapes[source], self.groups)
        return self._replaced(target, at, node, [source])

    def _replaced(self, target: str, at: int, node: Any, sources: list[str]) -> str:
        source = self.sources[target][at]
        name = self._free(f"{source}_{target}")
        self.nodes[name], self.sources[name], self.shapes[name] = node, [*sources], self.shapes[source]
        self.sources[target][at] = name
        if source in self.cyclic and target in self.cyclic:
            self.cyclic.add(name)
        return name

    def _free(self, name: str) -> str:
        while name in self.nodes:
            name += "_"
        return name

    def _rows(self, value: Float64, source: str) -> Float64:
        return rows(value, self.shapes[source])


def rows(value: Float64, shape: Shape) -> Float64:
    """One number for each row of weights that put out `shape`: (N,) of (N,), (C,) of (C, H, W)."""
    full = np.broadcast_to(value, shape)
    first = full.reshape(shape[0], -1)[:, :1]
    if not (full.reshape(shape[0], -1) == first).all():
        raise Refused(
            "what its weights would have to bear differs within a channel, and a convolution has one row a channel"
        )
    return np.asarray(first[:, 0], np.float64)


def scaled(node: Any, factor: Float64) -> Any:
    """Weights and bias with each row times its factor, in float32."""
    found = copy.copy(node)
    found.weight = (node.weight * factor.reshape(-1, *[1] * (node.weight.ndim - 1))).astype(np.float32)
    if hasattr(node, "bias"):
        found.bias = (node.bias * factor).astype(np.float32)
    return found


def biased(node: Any, bias: Float64) -> Any:
    """The same with a constant more; a Linear becomes an Affine."""
    if isinstance(node, nir.Linear):
        return nir.Affine(weight=node.weight, bias=bias.astype(np.float32))
    found = copy.copy(node)
    found.bias = (node.bias + bias).astype(np.float32)
    return found


def elementwise(factor: Float64, shape: Shape, groups: bool) -> Any:
    """x' = factor * x as weights: a diagonal matrix, or a 1x1 convolution of each channel by itself."""
    numbers = rows(factor, shape)
    if len(shape) == 3:
        weight = numbers.reshape(-1, 1, 1, 1)
        return depthwise(weight, (1, 1), (0, 0), groups)
    if len(shape) != 1 or shape[0] > MAX_DIAGONAL:
        raise Refused(f"numbers for shape {shape} can be written as weights up to ({MAX_DIAGONAL},) and for (C, H, W)")
    return nir.Affine(np.diag(numbers).astype(np.float32), np.zeros(shape, np.float32))


def depthwise(weight: Float64, stride: Shape, padding: Shape, groups: bool) -> nir.Conv2d:
    """A convolution of each channel by itself, weight (C, 1, h, w); without groups as a dense one full of zeros."""
    zeros = np.zeros(len(weight), np.float32)
    node = nir.Conv2d(None, weight.astype(np.float32), stride, padding, 1, len(weight), zeros)
    return groups_as_taken(node, groups)


def groups_as_taken(node: Any, taken: bool) -> Any:
    """A grouped convolution with the zeros written out, where a peer does not take it.

    Importers that take groups make torch's layer for weight.shape[1] input channels, which is already divided by the
    groups, and torch wants it to be divisible by them.
    """
    groups = conv_groups(node)
    if groups == 1 or (taken and node.weight.shape[1] % groups == 0):
        return node
    outputs, inputs = len(node.weight) // groups, node.weight.shape[1]
    weight = np.zeros((len(node.weight), inputs * groups, *node.weight.shape[2:]), np.float32)
    for group in range(groups):
        mine = slice(group * outputs, (group + 1) * outputs)
        weight[mine, group * inputs : (group + 1) * inputs] = node.weight[mine]
    found = copy.copy(node)
    found.weight, found.groups = weight, 1
    return found
