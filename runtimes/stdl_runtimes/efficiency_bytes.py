"""The bytes of a node: its parameters, in float32 and as the bundle's graphs store them, and one sample's states."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import nir
import numpy as np
import numpy.typing as npt

from stdl_export.manifest import Arithmetic
from stdl_export.program import Node
from stdl_export.semantics import Discrete, Synapse
from stdl_runtimes.efficiency_fanout import SYNAPTIC

SINGLE, HALF = 4, 2
ROUNDED = ("v", "i")  # the states that a float16 membrane stores in 16 bits; see docs/precision.md


def parameters(node: Node) -> dict[str, npt.NDArray[Any]]:
    """Every array that a step of the node reads, by name: weights, biases, scales, the numbers of a neuron.

    Those of a neuron are collapsed, as `semantics` makes them: where all neurons of a layer are alike, one number each.
    """
    if node.numbers is not None:
        return _numbers(node.numbers)
    if node.steps is not None:
        return {"steps": node.steps.astype(np.int32)}
    names = [name for name in ("weight", "bias", "scale", "threshold") if hasattr(node.node, name)]
    return {name: np.asarray(getattr(node.node, name), np.float32) for name in names}


def parameter_bytes(node: Node) -> int:
    """In float32, a delay's steps in int32."""
    return sum(each.nbytes for each in parameters(node).values())


def stored_bytes(node: Node, arithmetic: Arithmetic) -> int:
    """In the graphs' precision: 2 bytes a number in fp16; in int8 one a weight, and a scale per output channel."""
    precision = "fp32" if node.path in arithmetic.fp32_nodes else arithmetic.precision
    if precision == "fp32" or not isinstance(node.node, SYNAPTIC):
        return parameter_bytes(node)
    if precision == "fp16":
        return parameter_bytes(node) // 2
    weights = int(np.size(node.node.weight))
    return parameter_bytes(node) - (SINGLE - 1) * weights + SINGLE * _channels(node.node)


def states(node: Node, fed_back: bool) -> dict[str, tuple[int, ...]]:
    """The shapes of a node's states for one sample, by name. fed_back: is its output of the step before kept, too?"""
    found = dict.fromkeys(node.numbers.initial, node.shape) if node.numbers is not None else {}
    if node.steps is not None and node.steps.max():
        found["delay"] = (int(node.steps.max()), *node.shape)
    return found | ({"feedback": node.shape} if fed_back else {})


def state_bytes(node: Node, fed_back: bool, arithmetic: Arithmetic) -> int:
    """Of one sample, as the bundle's step graph stores them."""
    return sum(_item(name, arithmetic) * math.prod(shape) for name, shape in states(node, fed_back).items())


def _item(name: str, arithmetic: Arithmetic) -> int:
    return HALF if arithmetic.membrane == "fp16" and name in ROUNDED else SINGLE


def _channels(node: nir.Affine | nir.Linear | nir.Conv1d | nir.Conv2d) -> int:
    """Scales of int8 weights: one for each row of a matrix, or each output channel of a convolution."""
    shape = node.weight.shape
    return math.prod(shape[:-1]) if isinstance(node, nir.Affine | nir.Linear) else int(shape[0])


def _numbers(k: Discrete | Synapse) -> dict[str, npt.NDArray[Any]]:
    found: dict[str, npt.NDArray[Any]] = {}
    for each in dataclasses.fields(k):
        value = getattr(k, each.name)
        if isinstance(value, np.ndarray):
            found[each.name] = value
        elif isinstance(value, Synapse):
            found |= {f"synapse_{name}": array for name, array in _numbers(value).items()}
    return found
