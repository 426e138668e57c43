"""Linear nodes that are added up become one, and so do two in a row where that is less work.

    parallel    (V x + a) + (W x + b) = (V + W) x + (a + b)         x -> V, W -> c           becomes   x -> V+W -> c
    in a row    W (V x + a) + b = (W V) x + (W a + b)               x -> V -> W -> c         becomes   x -> WV -> c

Parallel: Affine and Linear of one shape, convolutions of one geometry, Scales; the sum of one node with itself, too.
In a row: two matrices, where outputs x inputs of the product are fewer numbers than the two matrices have; so a
factorisation of low rank stays one. Sums and products in float64, rounded once: each new weight is off by at most 2^-24
of itself, and the products with x are added in another order.

Left as it is: a node that somebody else reads as well (it would be computed anyway), or that reads other sources, be it
the same one at the step before; what is read a step later; a diagonal matrix; sums that float32 cannot say.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import nir
import numpy as np

from stdl_export.graph import NodeName
from stdl_export.passes.edit import Edit
from stdl_export.passes.linear import LINEAR, Float64, Unsaid, bias, foldable, weight, with_parameters
from stdl_export.program import Node, Program, Source


def run(made: Program) -> Program:
    """The program with fewer weights."""
    edit = Edit(made)
    for path in edit.paths:
        if path in edit.nodes:
            for group in _parallel(edit, path):
                _add_up(edit, path, group)
            _in_a_row(edit, path)
    return edit.done()


def _parallel(edit: Edit, path: NodeName) -> list[list[Node]]:
    """Summands of a node that can be added up, a node as often as it is there."""
    found: dict[tuple[Any, ...], list[Node]] = {}
    for source in edit.nodes[path].sources:
        node = edit.nodes[source.path]
        alone = set(edit.readers(node.path)) == {path}
        if alone and foldable(node) and edit.removable(node.path):
            found.setdefault((node.sources, *LINEAR[type(node.node)].geometry(node)), []).append(node)
    return [group for group in found.values() if len(group) > 1]


def _add_up(edit: Edit, path: NodeName, group: list[Node]) -> None:
    """Put the sum of the group where its first is read."""
    kept = next((node for node in group if bias(node) is not None), group[0])
    biases = [added for node in group if (added := bias(node)) is not None]
    try:
        merged = with_parameters(kept, _sum([weight(node) for node in group]), _sum(biases) if biases else None)
    except Unsaid:
        return
    members, target = {Source(node.path) for node in group}, edit.nodes[path]
    place = next(at for at, source in enumerate(target.sources) if source in members)
    rest = [[each for each in part if each not in members] for part in (target.sources[:place], target.sources[place:])]
    edit.put(merged)
    edit.put(replace(target, sources=(*rest[0], Source(kept.path), *rest[1])))


def _in_a_row(edit: Edit, path: NodeName) -> None:
    """Put the product of a matrix and the one that it reads in the place of the latter."""
    second = edit.nodes[path]
    first = edit.nodes[second.sources[0].path] if second.sources else second
    alone = second.sources == (Source(first.path),) and edit.readers(first.path) == [path]
    if not alone or not _matrix(first) or not _matrix(second) or not edit.removable(path):
        return
    v, w = weight(first), weight(second)
    if w.shape[0] * v.shape[1] >= v.size + w.size:
        return
    a, b = bias(first), bias(second)
    added = [each for each in (None if a is None else w @ a, b) if each is not None]
    try:
        merged = with_parameters(first, w @ v, _sum(added) if added else None)
    except Unsaid:
        return
    edit.put(replace(merged, shape=second.shape))
    edit.bypass(path, second.sources)


def _matrix(node: Node) -> bool:
    return isinstance(node.node, nir.Affine | nir.Linear) and np.ndim(node.node.weight) == 2 and foldable(node)


def _sum(terms: list[Float64]) -> Float64:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
