"""Precision in the graph: what has weights computes in float32, float16 or on int8 weights, each node in its own way.

    fp32   y = W x + b
    fp16   y = float32(half(W) half(x) + half(b))
    int8   y = W' x + b       W' = int8 * scale per output channel (DequantizeLinear, axis 0); b float32
           x = QuantizeLinear, DequantizeLinear with zero point 0, where int8 holds every value that x can have

Strongly typed: every tensor says its type, so one graph serves every engine. Inputs and outputs are float32, and so is
all that has no weights: neurons, pools, sums. The states of neurons may be stored as float16 (`stored`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import nir
import numpy as np
import onnx
from numpy.typing import NDArray

from stdl_export.common.errors import BadInput
from stdl_export.common.names import unknown
from stdl_export.graph import NodeName
from stdl_export.manifest import Arithmetic
from stdl_export.onnx.cell import float32
from stdl_export.onnx.emitter import Emitter
from stdl_export.onnx.exactness import Grid, grids
from stdl_export.onnx.quantise import quantised
from stdl_export.passes import PASSES, applied
from stdl_export.program import Node, Program

FLOAT, FLOAT16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
WEIGHTED = (nir.Affine, nir.Linear, nir.Conv1d, nir.Conv2d)


class Kind(Protocol):
    """How one node computes. The row calls `taken`, `weight` and `bias`, computes under `inner(name)`, and `given`."""

    def taken(self, emit: Emitter, node: Node, x: str) -> str:
        """The input, float32 -> as it is computed with."""

    def weight(self, emit: Emitter, node: Node) -> str:
        """The weights, in their NIR shape."""

    def bias(self, emit: Emitter, node: Node) -> str:
        """The bias, in its NIR shape."""

    def inner(self, name: str) -> str:
        """What the result is called before `given`."""

    def given(self, emit: Emitter, y: str, name: str) -> str:
        """The result in float32, under its name."""


class Single:
    """float32."""

    def taken(self, emit: Emitter, node: Node, x: str) -> str:
        """As it is."""
        return x

    def weight(self, emit: Emitter, node: Node) -> str:
        """float32."""
        return emit.constant(float32(node.node.weight), f"{node.path}/weight")

    def bias(self, emit: Emitter, node: Node) -> str:
        """float32."""
        return emit.constant(float32(node.node.bias), f"{node.path}/bias")

    def inner(self, name: str) -> str:
        """The same."""
        return name

    def given(self, emit: Emitter, y: str, name: str) -> str:
        """As it is."""
        return y


class Half:
    """float16 between two Casts (ONNX Cast, opset 19)."""

    def taken(self, emit: Emitter, node: Node, x: str) -> str:
        """Rounded to float16; spikes are exact."""
        return emit.once(("half", x), lambda: emit.node("Cast", [x], f"{node.path}/half_x", to=FLOAT16))

    def weight(self, emit: Emitter, node: Node) -> str:
        """Rounded to float16."""
        return emit.constant(half(node.node.weight), f"{node.path}/weight")

    def bias(self, emit: Emitter, node: Node) -> str:
        """Rounded to float16."""
        return emit.constant(half(node.node.bias), f"{node.path}/bias")

    def inner(self, name: str) -> str:
        """Its own: the name is that of the float32."""
        return f"{name}/half"

    def given(self, emit: Emitter, y: str, name: str) -> str:
        """float16 -> float32."""
        return emit.node("Cast", [y], name, to=FLOAT)


@dataclass(frozen=True)
class Int8(Single):
    """int8 weights. grid: what the input can be, where int8 holds it; None: the input stays as it is."""

    grid: Grid | None

    def taken(self, emit: Emitter, node: Node, x: str) -> str:
        """Through int8 and back (ONNX QuantizeLinear and DequantizeLinear, opset 19), which changes no value."""
        if self.grid is None:
            return x
        scale = emit.constant(np.array(self.grid.scale, np.float32), f"{node.path}/scale_x")
        zero = emit.constant(np.zeros((), np.int8), "int8/zero")

        def through() -> str:
            small = emit.node("QuantizeLinear", [x, scale, zero], f"{node.path}/int8_x")
            return emit.node("DequantizeLinear", [small, scale, zero], f"{node.path}/exact_x")

        return emit.once(("int8", x, scale), through)

    def weight(self, emit: Emitter, node: Node) -> str:
        """ONNX DequantizeLinear (opset 19), axis 0: [outputs, ...], or [leading * outputs, inputs] and a Reshape."""
        weight = channels(node)
        small = quantised(weight)
        values = emit.constant(small.values, f"{node.path}/weight_int8")
        scales = emit.constant(small.scales, f"{node.path}/weight_scale")
        shape = np.shape(node.node.weight)

        def wide() -> str:
            real = emit.node("DequantizeLinear", [values, scales], f"{node.path}/weight", axis=0)
            if shape == weight.shape:
                return real
            return emit.node("Reshape", [real, emit.integers(shape, f"{node.path}/weight_shape")], f"{real}/shaped")

        return emit.once(("weight", values, scales, shape), wide)


SINGLE: Kind = Single()


@dataclass(frozen=True)
class Plan:
    """How each node with weights computes, and how neurons keep their states."""

    arithmetic: Arithmetic = field(default_factory=Arithmetic)
    kinds: Mapping[NodeName, Kind] = field(default_factory=dict)

    def kind(self, path: NodeName) -> Kind:
        """float32 where nothing else was planned."""
        return self.kinds.get(path, SINGLE)

    @property
    def half_states(self) -> bool:
        """Are potentials and synapses stored as float16?"""
        return self.arithmetic.membrane == "fp16"


def plan(made: Program, arithmetic: Arithmetic) -> Plan:
    """The plan for a program; BadInput for an exception that names no node with weights."""
    known = [node.path for node in weighted(made)]
    for path in arithmetic.fp32_nodes:
        if path not in known:
            raise unknown("node with weights", path, known)
    if arithmetic.precision == "fp32":
        _check_fp32(arithmetic)
        return Plan(arithmetic)
    arriving = grids(made) if arithmetic.precision == "int8" else {}
    kinds: dict[NodeName, Kind] = {}
    for path in sorted(set(known) - set(arithmetic.fp32_nodes)):
        grid = arriving.get(path)
        kinds[path] = Half() if arithmetic.precision == "fp16" else Int8(grid if grid and grid.fits_int8 else None)
    return Plan(arithmetic, kinds)


def check_exceptions(made: Program, arithmetic: Arithmetic) -> None:
    """BadInput for an exception that would have no effect, with why: as the user knows the graph, before all passes."""
    if not arithmetic.fp32_nodes:
        return
    folded: dict[NodeName, str] = {}
    says, last = {each.name: each.says for each in PASSES}, made
    for name, after in applied(made):
        folded |= dict.fromkeys(last.nodes.keys() - after.nodes.keys(), says[name])
        last = after
    known = [node.path for node in weighted(last)]
    for path in arithmetic.fp32_nodes:
        if path not in made.nodes:
            raise unknown("node with weights", path, known)
        if path not in known:
            kind = type(made.nodes[path].node).__name__
            why = f"a pass takes it away ({folded[path]})" if path in folded else "it has no weights"
            options = ", ".join(map(repr, known)) or "none"
            raise BadInput(f"precision.nodes: node '{path}' ({kind}) cannot be kept: {why}; those that can: {options}")
    if arithmetic.precision == "fp32":
        _check_fp32(arithmetic)


def weighted(made: Program) -> list[Node]:
    """The nodes that have weights, in the order of execution."""
    return [node for node in made.nodes.values() if isinstance(node.node, WEIGHTED)]


def channels(node: Node) -> NDArray[np.float32]:
    """The weights [output channels, ...]: those of a matrix for each leading index as one matrix."""
    weight = float32(node.node.weight)
    return weight.reshape(-1, weight.shape[-1]) if isinstance(node.node, (nir.Affine, nir.Linear)) else weight


def half(values: NDArray[np.generic]) -> NDArray[np.float16]:
    """float32, then float16; what does not fit was refused before (`ranges`)."""
    with np.errstate(over="ignore"):
        return float32(values).astype(np.float16)


def _check_fp32(arithmetic: Arithmetic) -> None:
    if arithmetic.fp32_nodes:
        path = arithmetic.fp32_nodes[0]
        raise BadInput(f"node '{path}' is fp32 anyway: precision.nodes needs --precision fp16 or int8")
    if arithmetic.membrane != "fp32":
        raise BadInput("precision.membrane=fp16 stores rounded potentials: give --precision fp16 or int8 with it")
