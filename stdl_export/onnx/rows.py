"""NIR -> ONNX, one row per primitive without state. Values are float32 [N, ...] with N = T*B, or B.

Every field of a node is used here; what `graph.check` lets through, these rows say in ONNX without loss. Parameters
become float32, as everywhere right of NIR.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nir
import numpy as np
import onnx
from numpy.typing import NDArray

from stdl_export.onnx.emitter import Emitter
from stdl_export.primitives import Shape, conv_window, pool_window
from stdl_export.semantics import collapse

# (graph under construction, name, node, its input, its output's shape) -> name of its output
Row = Callable[[Emitter, str, Any, str, Shape], str]


def float32(value: Any) -> NDArray[np.float32]:
    """A parameter as the float32 array that is computed with."""
    return np.asarray(value, dtype=np.float32)


def _affine(emit: Emitter, name: str, node: nir.Affine, x: str, shape: Shape) -> str:
    """y = W x + b. NIR Affine; ONNX Gemm (opset 13)."""
    weight = emit.constant(float32(node.weight), f"{name}/weight")
    bias = emit.constant(float32(node.bias), f"{name}/bias")
    return emit.node("Gemm", [x, weight, bias], name, transB=1)


def _linear(emit: Emitter, name: str, node: nir.Linear, x: str, shape: Shape) -> str:
    """y = W x. NIR Linear; ONNX Gemm (opset 13)."""
    return emit.node("Gemm", [x, emit.constant(float32(node.weight), f"{name}/weight")], name, transB=1)


def _conv2d(emit: Emitter, name: str, node: nir.Conv2d, x: str, shape: Shape) -> str:
    """Cross-correlation with zero padding, [N, C, H, W]. NIR Conv2d; ONNX Conv (opset 11)."""
    window = conv_window(node)
    weight = emit.constant(float32(node.weight), f"{name}/weight")
    bias = emit.constant(float32(node.bias), f"{name}/bias")
    return emit.node(
        "Conv",
        [x, weight, bias],
        name,
        kernel_shape=window.kernel,
        strides=window.stride,
        dilations=window.dilation,
        pads=window.onnx_pads,
        group=int(np.asarray(node.groups).item()),
    )


def _avg_pool2d(emit: Emitter, name: str, node: nir.AvgPool2d, x: str, shape: Shape) -> str:
    """Mean over each window, padded zeros included. NIR AvgPool2d; ONNX AveragePool (opset 19)."""
    window = pool_window(node)
    return emit.node(
        "AveragePool",
        [x],
        name,
        kernel_shape=window.kernel,
        strides=window.stride,
        pads=window.onnx_pads,
        count_include_pad=1,
    )


def _sum_pool2d(emit: Emitter, name: str, node: nir.SumPool2d, x: str, shape: Shape) -> str:
    """Sum over each window. NIR SumPool2d; a Conv with ones per channel, since a mean times the size rounds twice."""
    window, channels = pool_window(node), shape[0]
    ones = emit.constant(np.ones((channels, 1, *window.kernel), np.float32), f"{name}/ones")
    return emit.node(
        "Conv",
        [x, ones],
        name,
        kernel_shape=window.kernel,
        strides=window.stride,
        pads=window.onnx_pads,
        group=channels,
    )


def _flatten(emit: Emitter, name: str, node: nir.Flatten, x: str, shape: Shape) -> str:
    """NIR Flatten counts dimensions without batch; its output shape says it all. ONNX Reshape (opset 19)."""
    return emit.node("Reshape", [x, emit.integers([-1, *shape], f"{name}/shape")], name)


def _scale(emit: Emitter, name: str, node: nir.Scale, x: str, shape: Shape) -> str:
    """y = s * x, elementwise. NIR Scale; ONNX Mul."""
    return emit.node("Mul", [x, emit.constant(collapse(float32(node.scale)), f"{name}/scale")], name)


def _threshold(emit: Emitter, name: str, node: nir.Threshold, x: str, shape: Shape) -> str:
    """1 where x > threshold, strictly, else 0. NIR Threshold; ONNX Greater and Cast."""
    threshold = emit.constant(collapse(float32(node.threshold)), f"{name}/threshold")
    above = emit.node("Greater", [x, threshold], f"{name}/above")
    return emit.node("Cast", [above], name, to=onnx.TensorProto.FLOAT)


ROWS: dict[type, Row] = {
    nir.Affine: _affine,
    nir.Linear: _linear,
    nir.Conv2d: _conv2d,
    nir.AvgPool2d: _avg_pool2d,
    nir.SumPool2d: _sum_pool2d,
    nir.Flatten: _flatten,
    nir.Scale: _scale,
    nir.Threshold: _threshold,
}
