"""Collects ONNX nodes and constants under names that are unique and say which NIR node they come from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

if TYPE_CHECKING:
    from stdl_export.onnx.precision import Plan

Dims = Sequence[int | str | None]


class Emitter:
    """One ONNX graph under construction; `body` starts a nested one (of a Scan) that sees the names of this one.

    A name such as `lif1/t3/u` is made of a node's path; where two would meet, the later one gets a number. `reserved`
    are names that only inputs and outputs of the graph may carry. `plan` says in which precision nodes compute.
    """

    def __init__(self, plan: Plan, reserved: Sequence[str] = (), outer: Emitter | None = None) -> None:
        self.plan = plan
        self._made: dict[Hashable, str] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self._outer = outer
        self._taken: set[str] = outer._taken if outer else set(reserved)
        self._constants: dict[tuple[Any, ...], onnx.TensorProto] = outer._constants if outer else {}

    def body(self) -> Emitter:
        """An empty nested graph that shares names and constants with this one."""
        return Emitter(self.plan, outer=self)

    def node(self, op: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Add a node with one output, which carries the name, or the name and a number where that is taken."""
        return self.split(op, inputs, [name], **attributes)[0]

    def split(self, op: str, inputs: Sequence[str], names: Sequence[str], **attributes: Any) -> list[str]:
        """Add a node with several outputs; the node itself carries the name of the first."""
        outputs = [self._free(name) for name in names]
        self.nodes.append(onnx.helper.make_node(op, inputs, outputs, name=outputs[0], **attributes))
        return outputs

    def once(self, key: Hashable, make: Callable[[], str]) -> str:
        """A value that several nodes of this graph ask for: made for the first, and found again by its key."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def input(self, name: str, dims: Dims, dtype: int = onnx.TensorProto.FLOAT) -> str:
        """Declare an input of the graph, under exactly this name."""
        self.inputs.append(onnx.helper.make_tensor_value_info(name, dtype, dims))
        self._taken.add(name)
        return name

    def output(self, value: str, name: str, dims: Dims, dtype: int = onnx.TensorProto.FLOAT) -> None:
        """Make a value an output of the graph, under exactly this name."""
        self.nodes.append(onnx.helper.make_node("Identity", [value], [name], name=name))
        self.outputs.append(onnx.helper.make_tensor_value_info(name, dtype, dims))
        self._taken.add(name)

    def constant(self, array: NDArray[Any], name: str) -> str:
        """A constant, stored once for all nodes that use the same numbers."""
        array = np.ascontiguousarray(array).reshape(array.shape)  # the former makes [1] of a scalar
        key = (array.dtype.str, array.shape, hashlib.sha256(array.tobytes()).digest())
        if key not in self._constants:
            self._constants[key] = onnx.numpy_helper.from_array(array, self._free(name))
        return self._constants[key].name

    def integers(self, numbers: Sequence[int], name: str) -> str:
        """An int64 vector, as ONNX takes shapes."""
        return self.constant(np.array(numbers, dtype=np.int64), name)

    def graph(self, name: str) -> onnx.GraphProto:
        """The finished graph. All constants stand in the outermost one."""
        constants = [] if self._outer else list(self._constants.values())
        return onnx.helper.make_graph(self.nodes, name, self.inputs, self.outputs, constants)

    def _free(self, name: str) -> str:
        free, number = name, 1
        while free in self._taken:
            number += 1
            free = f"{name}/{number}"
        self._taken.add(free)
        return free
