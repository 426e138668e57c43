"""Nodes that put out what they take in are left out: their readers take the sources instead.

    1 * x = x     a Flatten of one dimension     the mean or the sum of one element     x of 0 steps ago

    a -> Scale(1) -> b        becomes        a -> b

Every bit stays. Left as they are: what a runtime knows (a Delay of 0 steps has no state, nobody knows it), a value that
is read a step later among them; a node that hands the step before on to somebody outside of the loop; one that sums
several sources for a reader that adds more to it (another order would round in another way), or for several readers on
a loop, each of which would sum again.
"""

from __future__ import annotations

from collections.abc import Callable

import nir
import numpy as np

from stdl_export.passes.edit import Edit
from stdl_export.primitives import pool_window
from stdl_export.program import Node, Program


def run(made: Program) -> Program:
    """The program without identities."""
    edit = Edit(made)
    for path in edit.paths:
        if changes_nothing(edit.nodes[path]) and edit.removable(path) and edit.sum_stays(path):
            edit.bypass(path, edit.nodes[path].sources)
    return edit.done()


def changes_nothing(node: Node) -> bool:
    """Does it put out its input, bit for bit?"""
    identity = IDENTITIES.get(type(node.node))
    return identity is not None and identity(node)


def _pool(node: Node) -> bool:
    window = pool_window(node.node)
    return set(window.kernel + window.stride) == {1}  # a padding is smaller than the kernel


IDENTITIES: dict[type, Callable[[Node], bool]] = {
    nir.Scale: lambda node: bool(np.all(np.float32(node.node.scale) == 1)),
    nir.Flatten: lambda node: node.in_shape == node.shape,
    nir.AvgPool2d: _pool,
    nir.SumPool2d: _pool,
    nir.Delay: lambda node: node.steps is not None and not node.steps.any(),
}
