"""What no input reaches is computed here, and zeros are not added.

    0 x + b = b                               Affine and convolutions without weights, Scale by 0
    f(c1 + c2 + ...)                          Scale, Flatten, Linear, Affine of constants alone
    (W x + b) + c = W x + (b + c)             a constant beside weights that only their sum reads goes into the bias
    x + 0 = x

Computed in float64 and rounded once for each node. What takes part in no loop only: in a loop, a name may be a state,
and a node without effect may still be what carries the step of delay. The last two lines change the sum inside of a
loop as well, since what comes in from outside is no part of it. Whether a constant passes a threshold is left to the
engine, and a convolution or a pool of a constant as well; it is computed once and not for every step. Inputs stay,
read or not, and so does all that has a state. 0 x is 0 for every finite x.

The numbers of neurons are constants from the start: `semantics.discretise` computes them, and one number stays one
number (`semantics.collapse`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import nir
import numpy as np

from stdl_export.graph import NodeName
from stdl_export.passes.edit import Edit
from stdl_export.passes.linear import LINEAR, Float64, Unsaid, bias, float64, foldable, rounded, weight, with_parameters
from stdl_export.program import Constant, Node, Program, Source


def run(made: Program) -> Program:
    """The program with constants in the place of what is constant."""
    edit = Edit(made)
    for path in edit.paths:
        if path not in edit.nodes:
            continue
        value = _value(edit, edit.nodes[path])
        if value is not None:
            edit.put(replace(edit.nodes[path], node=Constant(value), sources=()))
        else:
            _without_zeros(edit, path)
            _into_bias(edit, path)
    return edit.done()


def _value(edit: Edit, node: Node) -> np.ndarray | None:
    """What a node puts out, [...], where that is known."""
    if node.path in edit.looped or (type(node.node) not in LINEAR and type(node.node) not in OF_CONSTANTS):
        return None
    read = [edit.nodes[source.path].node for source in node.sources]
    try:
        if type(node.node) in LINEAR and not weight(node).any():
            return rounded(_bias(node))
        if type(node.node) in OF_CONSTANTS and all(isinstance(each, Constant) for each in read):
            x = sum((float64(each.value) for each in read), np.zeros(node.in_shape))
            return rounded(OF_CONSTANTS[type(node.node)](node, x))
    except Unsaid:
        return None
    return None


def _bias(node: Node) -> Float64:
    """The bias for each element of what the node puts out; 0 where it has none."""
    added = bias(node)
    if added is None:
        return np.zeros(node.shape)
    if isinstance(node.node, nir.Conv1d | nir.Conv2d):
        added = added.reshape(-1, *[1] * (len(node.shape) - 1))
    return np.broadcast_to(added, node.shape)


def _product(node: Node, x: Float64) -> Float64:
    return (weight(node) @ x[..., None])[..., 0] + _bias(node)


OF_CONSTANTS: dict[type, Callable[[Node, Float64], Float64]] = {
    nir.Linear: _product,
    nir.Affine: _product,
    nir.Scale: lambda node, x: weight(node) * x,
    nir.Flatten: lambda node, x: x.reshape(node.shape),
}


def _without_zeros(edit: Edit, path: NodeName) -> None:
    """Take zeros out of a sum, but for the last summand."""
    node = edit.nodes[path]
    rest = tuple(source for source in node.sources if not _is_zero(edit.nodes[source.path]))
    rest = rest or node.sources[:1]
    if rest != node.sources:
        edit.put(replace(node, sources=rest))


def _is_zero(node: Node) -> bool:
    return isinstance(node.node, Constant) and not node.node.value.any()


def _into_bias(edit: Edit, path: NodeName) -> None:
    """Add the constants of a sum to the bias of one of its other summands."""
    node = edit.nodes[path]
    constant = [source for source in node.sources if isinstance(edit.nodes[source.path].node, Constant)]
    if not constant:
        return
    total = sum((float64(edit.nodes[source.path].node.value) for source in constant), np.zeros(node.in_shape))
    for source in node.sources:
        other = edit.nodes[source.path]
        alone = source == Source(other.path) and edit.readers(other.path) == [path] and edit.removable(other.path)
        if alone and foldable(other) and not isinstance(other.node, nir.Scale):
            try:
                edit.put(_with_more(other, total))
            except Unsaid:
                continue
            edit.put(replace(node, sources=tuple(each for each in node.sources if each not in constant)))
            return


def _with_more(node: Node, added: Float64) -> Node:
    """The node that puts out `added` more. `Unsaid` where that is no bias of it."""
    if not isinstance(node.node, nir.Conv1d | nir.Conv2d):
        return with_parameters(node, weight(node), _bias(node) + added)
    by_channel = added.reshape(len(added), -1)
    if (by_channel != by_channel[:, :1]).any():
        raise Unsaid("it varies within a channel")
    own = bias(node)
    return with_parameters(node, weight(node), by_channel[:, 0] if own is None else own + by_channel[:, 0])
