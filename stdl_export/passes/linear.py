"""Nodes that are linear in their input, as weights and biases in float64, and back: what several passes share.

y = W x + b: Linear and Affine with one matrix or a matrix for each leading index, Conv1d, Conv2d; Scale, which is one
number or one for each element.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import nir
import numpy as np
import numpy.typing as npt

from stdl_export.primitives import conv_groups, conv_window
from stdl_export.program import Node
from stdl_export.semantics import collapse

Float64 = npt.NDArray[np.float64]

SMALLEST = float(np.finfo(np.float32).tiny)  # the smallest number with all its digits


class Unsaid(Exception):
    """What a pass would write cannot be said: in this type of node, or in float32."""


class Row(NamedTuple):
    """One type of linear node. weight, bias: names of its fields, bias None where it has none.

    on_outputs: (node, factor for each element of its output) -> factor that its weight and its bias broadcast with;
    on_inputs: (node, factor for each element of its input) -> factor for its weight. `Unsaid` where they vary along
    what the weight is shared by. geometry: nodes that agree in it and in their sources can be added up.
    """

    weight: str
    bias: str | None
    on_outputs: Callable[[Node, Float64], tuple[Float64, Float64]]
    on_inputs: Callable[[Node, Float64], Float64]
    geometry: Callable[[Node], tuple[Any, ...]]


def weight(node: Node) -> Float64:
    """The weight that is computed with."""
    return float64(getattr(node.node, LINEAR[type(node.node)].weight))


def bias(node: Node) -> Float64 | None:
    """The bias; None where there is none."""
    field = LINEAR[type(node.node)].bias
    return None if field is None else float64(getattr(node.node, field))


def with_parameters(node: Node, weight: Float64, bias: Float64 | None) -> Node:
    """The node with other parameters, each rounded once; a Linear with a bias becomes an Affine."""
    row, found = LINEAR[type(node.node)], copy.copy(node.node)
    if isinstance(found, nir.Linear) and bias is not None:
        found = nir.Affine(rounded(weight), rounded(bias))
    else:
        setattr(found, row.weight, rounded(weight))
        if row.bias is not None and bias is not None:
            setattr(found, row.bias, rounded(bias))
    return replace(node, node=found)


def foldable(node: Node) -> bool:
    """Is it linear, and not a diagonal matrix? Whoever wrote elementwise weights as a matrix gets them as written."""
    return type(node.node) in LINEAR and not _diagonal(node.node)


def rounded(values: Float64) -> npt.NDArray[np.float32]:
    """Float32; `Unsaid` where a number overflows, or is not 0 and too small to keep its digits."""
    with np.errstate(over="ignore", under="ignore"):
        found = values.astype(np.float32)
    if not np.isfinite(found).all() or (np.abs(values[values != 0]) < SMALLEST).any():
        raise Unsaid("its parameters do not fit float32")
    return found


def float64(value: Any) -> Float64:
    """A parameter, float32 as it is computed with, in float64."""
    return np.asarray(value, np.float32).astype(np.float64)


def _diagonal(node: Any) -> bool:
    if not isinstance(node, nir.Affine | nir.Linear) or np.ndim(node.weight) != 2:
        return False
    found = np.asarray(node.weight)
    square = found.shape[0] == found.shape[1] > 1
    return bool(square and np.count_nonzero(found) == np.count_nonzero(found.diagonal()))


# --- the rows -------------------------------------------------------------------------------------------------------


def _matrix_outputs(node: Node, factor: Float64) -> tuple[Float64, Float64]:
    each = np.broadcast_to(factor, node.shape)  # (..., outputs), as the weight without its last dimension
    shared = each.ndim > 1 and not factor.ndim and np.ndim(getattr(node.node, "bias", 0)) == 1
    return each[..., None], factor if shared else each


def _matrix_inputs(node: Node, factor: Float64) -> Float64:
    return np.broadcast_to(factor, node.in_shape)[..., None, :]


def _conv_outputs(node: Node, factor: Float64) -> tuple[Float64, Float64]:
    channels = _by_channel(factor, node.shape[0])
    return channels.reshape(-1, *[1] * (len(node.shape))), channels


def _conv_inputs(node: Node, factor: Float64) -> Float64:
    groups, shape = conv_groups(node.node), node.node.weight.shape
    channels = _by_channel(factor, node.in_shape[0]).reshape(groups, shape[1])
    of_outputs = np.repeat(channels, shape[0] // groups, axis=0)  # output channels stand group by group
    return of_outputs.reshape(*of_outputs.shape, *[1] * (len(shape) - 2))


def _by_channel(factor: Float64, channels: int) -> Float64:
    if any(size > 1 for size in factor.shape[1:]):
        raise Unsaid("it varies within a channel")
    return np.broadcast_to(factor.reshape(-1), (channels,))


def _conv_geometry(node: Node) -> tuple[Any, ...]:
    return type(node.node), conv_window(node.node), conv_groups(node.node), node.node.weight.shape


_MATRIX = (_matrix_outputs, _matrix_inputs, lambda node: ("matrix", np.shape(node.node.weight)))
_CONV = (_conv_outputs, _conv_inputs, _conv_geometry)

LINEAR: dict[type, Row] = {
    nir.Linear: Row("weight", None, *_MATRIX),
    nir.Affine: Row("weight", "bias", *_MATRIX),
    nir.Conv1d: Row("weight", "bias", *_CONV),
    nir.Conv2d: Row("weight", "bias", *_CONV),
    nir.Scale: Row(
        "scale",
        None,
        lambda node, factor: (factor, factor),
        lambda node, factor: factor,
        lambda node: ("scale",),
    ),
}


def factor(scale: Node) -> Float64:
    """What a Scale multiplies with: one number (0-d), or size 1 on every axis along which it does not vary."""
    return collapse(weight(scale))
