"""Equal stateless nodes that read the same are one.

    a -> Conv1(W) -> b
    a -> Conv2(W) -> c         becomes        a -> Conv1(W) -> b, c

Every bit stays: equal means the same type, the same float32 parameters and the same sources in the same order, each now
or at the step before; of two, the order does not count (a + b = b + a). Neurons and Delays are never one: each has its
state. The first in the order of execution stays; what is read a step later stays as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nir
import numpy as np

from stdl_export.passes.edit import Edit
from stdl_export.primitives import conv_groups, conv_window, pool_window
from stdl_export.program import Node, Program, Source

Parameters = Callable[[Node], tuple[Any, ...]]


def run(made: Program) -> Program:
    """The program with each value computed once."""
    edit = Edit(made)
    first: dict[tuple[Any, ...], list[Node]] = {}
    for path in edit.paths:
        node = edit.nodes[path]
        if type(node.node) not in PARAMETERS:
            continue
        alike = first.setdefault((type(node.node), node.spike, _read(node)), [])
        same = next((other for other in alike if _equal(other, node)), None)
        if same is None or not edit.removable(path):
            alike.append(node)
        else:
            edit.bypass(path, (Source(same.path),))
    return edit.done()


def _read(node: Node) -> tuple[Source, ...]:
    """Its sources, two of them in one order."""
    sources = node.sources
    return sources if len(sources) != 2 else tuple(sorted(sources, key=lambda each: (each.path, each.previous)))


def _equal(a: Node, b: Node) -> bool:
    """Have they the same parameters? Compared one by one, since two nodes with the same sources are rare."""
    ours, theirs = (PARAMETERS[type(node.node)](node) for node in (a, b))
    return all(_same(x, y) for x, y in zip(ours, theirs, strict=True))


def _same(x: Any, y: Any) -> bool:
    if not isinstance(x, np.ndarray):
        return bool(x == y)
    return bool(x.shape == y.shape and x.tobytes() == y.tobytes())  # 0 and -0 are two numbers


def _arrays(*fields: str) -> Parameters:
    return lambda node: tuple(np.asarray(getattr(node.node, field), np.float32) for field in fields)


def _conv(node: Node) -> tuple[Any, ...]:
    return (*_arrays("weight", "bias")(node), conv_window(node.node), conv_groups(node.node))


def _pool(node: Node) -> tuple[Any, ...]:
    return (pool_window(node.node),)


PARAMETERS: dict[type, Parameters] = {
    nir.Linear: _arrays("weight"),
    nir.Affine: _arrays("weight", "bias"),
    nir.Conv1d: _conv,
    nir.Conv2d: _conv,
    nir.Scale: _arrays("scale"),
    nir.Threshold: _arrays("threshold"),
    nir.AvgPool2d: _pool,
    nir.SumPool2d: _pool,
    nir.Flatten: lambda node: (node.shape,),
}
