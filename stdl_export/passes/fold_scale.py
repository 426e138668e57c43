"""A Scale (a BatchNorm, as NIR says it) goes into the weights in front of it or behind it.

    behind      s (W x + b) = (s W) x + s b         rows of W;  a -> W, b -> Scale(s) -> c   becomes   a -> sW, sb -> c
    in front    W (s x) + b = (W s) x + b           columns of W; of every reader, if all of them can take it
    chain       s (r x) = (s r) x                   Scale behind Scale

W: Affine, Linear, Conv1d, Conv2d, and Scale itself. In front of a padded convolution too, since s 0 = 0. Products in
float64, rounded once: each weight is off by at most 2^-24 of itself, and a rounding of each product s y falls away.

Left as it is where that is another function, or would cost more:
- a factor that varies within a channel of a convolution; in groups, each weight takes the factor of its own channel;
- behind weights that another node reads as well, or in front of a reader that adds something else to it;
- where the Scale, or what it reads, is read a step later: what is stored is that value, under that name;
- a diagonal matrix, which stays as it was written;
- a product that float32 cannot say.
A Scale between other nodes (in front of a neuron, behind a pool) stays.
"""

from __future__ import annotations

import nir

from stdl_export.passes.edit import Edit
from stdl_export.passes.linear import LINEAR, Float64, Unsaid, bias, factor, foldable, weight, with_parameters
from stdl_export.program import Node, Program, Source


def run(made: Program) -> Program:
    """The program with as few Scales as can be."""
    edit = Edit(made)
    for path in edit.paths:
        node = edit.nodes.get(path)
        if node is not None and isinstance(node.node, nir.Scale) and edit.removable(path):
            _ = _behind(edit, node) or _in_front(edit, node)
    return edit.done()


def _behind(edit: Edit, scale: Node) -> bool:
    """Fold a Scale into the node that it reads."""
    source = scale.sources[0]
    before = edit.nodes[source.path]
    if scale.sources != (Source(before.path),) or not foldable(before) or edit.readers(before.path) != [scale.path]:
        return False
    try:
        edit.put(scaled_outputs(before, factor(scale)))
    except Unsaid:
        return False
    edit.bypass(scale.path, scale.sources)
    return True


def _in_front(edit: Edit, scale: Node) -> bool:
    """Fold a Scale into all nodes that read it."""
    readers = [edit.nodes[path] for path in edit.readers(scale.path)]
    fits = all(reader.sources == (Source(scale.path),) and foldable(reader) for reader in readers)
    if not readers or not fits or not edit.sum_stays(scale.path):
        return False
    try:
        folded = [scaled_inputs(reader, factor(scale)) for reader in readers]
    except Unsaid:
        return False
    for reader in folded:
        edit.put(reader)
    edit.bypass(scale.path, scale.sources)
    return True


def scaled_outputs(node: Node, by: Float64) -> Node:
    """The node that puts out `by` times as much. `Unsaid` where that is no node of its type."""
    on_weight, on_bias = LINEAR[type(node.node)].on_outputs(node, by)
    added = bias(node)
    return with_parameters(node, weight(node) * on_weight, None if added is None else added * on_bias)


def scaled_inputs(node: Node, by: Float64) -> Node:
    """The node that puts out of x what this one puts out of `by` times x. `Unsaid` as above."""
    return with_parameters(node, weight(node) * LINEAR[type(node.node)].on_inputs(node, by), bias(node))
