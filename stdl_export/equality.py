"""When two NIR graphs are the same graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import nir
import numpy as np

from stdl_export.nir_file import DERIVED, fields


def same(a: nir.NIRGraph, b: nir.NIRGraph) -> str | None:
    """None if the graphs are equal (nodes, types, parameters, edges, metadata), else the first difference in words.

    The order of nodes and edges does not count, nor does a shape that only one of them writes out (`input_shape` of a
    Conv2d, `input_type` of a Flatten): it follows from the rest.
    """
    if lone := set(a.nodes) ^ set(b.nodes):
        return f"node '{min(lone)}' is in one graph only"
    if lone_edges := set(map(tuple, a.edges)) ^ set(map(tuple, b.edges)):
        return f"edge {min(lone_edges)} is in one graph only"
    if difference := _metadata_difference(a.metadata, b.metadata):
        return f"the graph's metadata: {difference}"
    for name in sorted(a.nodes):
        if difference := _node_difference(a.nodes[name], b.nodes[name]):
            return f"node '{name}': {difference}"
    return None


def _node_difference(a: nir.NIRNode, b: nir.NIRNode) -> str | None:
    if type(a) is not type(b):
        return f"{type(a).__name__} in one graph, {type(b).__name__} in the other"
    if isinstance(a, nir.NIRGraph):
        return same(a, b)
    if difference := _metadata_difference(a.metadata, b.metadata):
        return f"metadata: {difference}"
    ours, theirs = fields(a), fields(b)
    for field in sorted(ours):
        x, y = ours[field], theirs[field]
        if field in DERIVED and (x is None or y is None):
            continue
        if not _equal(x, y):
            return f"{field} differs: {_short(x)} and {_short(y)}"
    return None


def _metadata_difference(a: Mapping[str, Any], b: Mapping[str, Any]) -> str | None:
    for key in sorted({*a, *b}):
        if key not in a or key not in b:
            return f"'{key}' is in one graph only"
        if not _equal(a[key], b[key]):
            return f"'{key}' is {a[key]!r} in one graph, {b[key]!r} in the other"
    return None


def _equal(x: object, y: object) -> bool:
    """Same shape, same values; real numbers in the same precision too. A tuple equals an array of the same numbers."""
    first, second = np.asarray(x), np.asarray(y)
    precise = first.dtype == second.dtype or first.dtype.kind == second.dtype.kind != "f"
    return precise and first.shape == second.shape and bool(np.array_equal(first, second))


def _short(value: object) -> str:
    array = np.asarray(value)
    return repr(value) if array.size <= 4 else f"{array.dtype} {array.shape}"
