"""NIR -> ONNX, one row per primitive without state. Values are float32 [N, ...] with N = T*B, or B.

Every field of a node is used here; what `graph.check` lets through, these rows say in ONNX without loss. Parameters
become float32, as everywhere right of NIR; what has weights computes as `precision` plans it.
"""

from __future__ import annotations

from collections.abc import Callable

import nir
import numpy as np
import onnx

from stdl_export.onnx.cell import float32
from stdl_export.onnx.emitter import Emitter
from stdl_export.onnx.neuron import COMPARISONS
from stdl_export.primitives import Window, conv_groups, conv_window, pool_window
from stdl_export.program import Node
from stdl_export.semantics import collapse

# (graph under construction, node, its input, name of its output) -> that name
Row = Callable[[Emitter, Node, str, str], str]


def _affine(emit: Emitter, node: Node, x: str, name: str) -> str:
    """y = W x + b. NIR Affine; ONNX Gemm (opset 13)."""
    kind = emit.plan.kind(node.path)
    x, weight, bias = kind.taken(emit, node, x), kind.weight(emit, node), kind.bias(emit, node)
    inner = kind.inner(name)
    if np.ndim(node.node.weight) > 2:
        product = _each(emit, weight, x, f"{inner}/product")
        return kind.given(emit, emit.node("Add", [product, bias], inner), name)
    return kind.given(emit, emit.node("Gemm", [x, weight, bias], inner, transB=1), name)


def _linear(emit: Emitter, node: Node, x: str, name: str) -> str:
    """y = W x. NIR Linear; ONNX Gemm (opset 13)."""
    kind = emit.plan.kind(node.path)
    x, weight, inner = kind.taken(emit, node, x), kind.weight(emit, node), kind.inner(name)
    if np.ndim(node.node.weight) > 2:
        return kind.given(emit, _each(emit, weight, x, inner), name)
    return kind.given(emit, emit.node("Gemm", [x, weight], inner, transB=1), name)


def _each(emit: Emitter, weight: str, x: str, name: str) -> str:
    """W x with a matrix for each leading index: weight [..., outputs, inputs], x [N, ..., inputs]. ONNX MatMul."""
    last = emit.integers([-1], "axis/last")
    columns = emit.node("Unsqueeze", [x, last], f"{name}/columns")
    return emit.node("Squeeze", [emit.node("MatMul", [weight, columns], f"{name}/products"), last], name)


def _conv(emit: Emitter, node: Node, x: str, name: str) -> str:
    """Cross-correlation with zero padding, [N, C, ...]. NIR Conv1d and Conv2d; ONNX Conv (opset 11)."""
    kind = emit.plan.kind(node.path)
    operands = [kind.taken(emit, node, x), kind.weight(emit, node), kind.bias(emit, node)]
    y = _convolved(emit, operands, conv_window(node.node), conv_groups(node.node), kind.inner(name))
    return kind.given(emit, y, name)


def _convolved(emit: Emitter, inputs: list[str], window: Window, groups: int, name: str) -> str:
    return emit.node(
        "Conv",
        inputs,
        name,
        kernel_shape=window.kernel,
        strides=window.stride,
        dilations=window.dilation,
        pads=window.onnx_pads,
        group=groups,
    )


def _avg_pool2d(emit: Emitter, node: Node, x: str, name: str) -> str:
    """Mean over each window, padded zeros included. NIR AvgPool2d; ONNX AveragePool (opset 19)."""
    window = pool_window(node.node)
    return emit.node(
        "AveragePool",
        [x],
        name,
        kernel_shape=window.kernel,
        strides=window.stride,
        pads=window.onnx_pads,
        count_include_pad=1,
    )


def _sum_pool2d(emit: Emitter, node: Node, x: str, name: str) -> str:
    """Sum over each window. NIR SumPool2d; a Conv with ones per channel, since a mean times the size rounds twice."""
    window, channels = pool_window(node.node), node.shape[0]
    ones = emit.constant(np.ones((channels, 1, *window.kernel), np.float32), f"{node.path}/ones")
    return _convolved(emit, [x, ones], window, channels, name)


def _flatten(emit: Emitter, node: Node, x: str, name: str) -> str:
    """NIR Flatten counts dimensions without batch; its output shape says it all. ONNX Reshape (opset 19)."""
    return emit.node("Reshape", [x, emit.integers([-1, *node.shape], f"{node.path}/shape")], name)


def _scale(emit: Emitter, node: Node, x: str, name: str) -> str:
    """y = s * x, elementwise. NIR Scale; ONNX Mul."""
    return emit.node("Mul", [x, emit.constant(collapse(float32(node.node.scale)), f"{node.path}/scale")], name)


def _threshold(emit: Emitter, node: Node, x: str, name: str) -> str:
    """1 where x > threshold (or >=, as the dialect says), else 0. NIR Threshold; ONNX Greater and Cast."""
    threshold = emit.constant(collapse(float32(node.node.threshold)), f"{node.path}/threshold")
    above = emit.node(COMPARISONS[node.spike], [x, threshold], f"{name}/above")
    return emit.node("Cast", [above], name, to=onnx.TensorProto.FLOAT)


ROWS: dict[type, Row] = {
    nir.Affine: _affine,
    nir.Linear: _linear,
    nir.Conv1d: _conv,
    nir.Conv2d: _conv,
    nir.AvgPool2d: _avg_pool2d,
    nir.SumPool2d: _sum_pool2d,
    nir.Flatten: _flatten,
    nir.Scale: _scale,
    nir.Threshold: _threshold,
}
