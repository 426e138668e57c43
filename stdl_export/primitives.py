"""The NIR primitives we accept: one row each, with what its fields must hold and the shape it puts out.

Shapes are those of one sample at one time step, without T and B: `(C, H, W)` or `(N,)`. `PRIMITIVES` is also the answer
to "what is supported?".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import nir
import numpy as np

Shape = tuple[int, ...]
Pair = tuple[int, int]

MAX_ELEMENTS = 1 << 28  # of what one node puts out for one sample: 1 GiB; a shape in a file costs nothing to write


class Refused(Exception):
    """Why a node is not accepted; becomes a `graph.Problem` that names the node."""


class Primitive(NamedTuple):
    """One row: every reason against a node's own fields, then its output shape for an input shape (or `Refused`)."""

    reasons: Callable[[Any], Iterator[str]]
    output_shape: Callable[[Any, Shape], Shape]


@dataclass(frozen=True)
class Window:
    """How a kernel moves over an image. Pairs are (height, width); `begin`, `end`: zeros padded before and after."""

    kernel: Pair
    stride: Pair
    dilation: Pair
    begin: Pair
    end: Pair

    @property
    def onnx_pads(self) -> list[int]:
        """[top, left, bottom, right], as ONNX wants them."""
        return [*self.begin, *self.end]

    def output(self, image: Shape) -> Pair:
        """Size of the output image, rounded down where the stride does not divide."""
        height, width = (
            (size + begin + end - dilation * (kernel - 1) - 1) // stride + 1
            for size, kernel, stride, dilation, begin, end in zip(
                image, self.kernel, self.stride, self.dilation, self.begin, self.end, strict=True
            )
        )
        if height < 1 or width < 1:
            raise Refused(f"its kernel {self.kernel} is larger than its padded input image {image}")
        return height, width


def conv_window(node: nir.Conv2d) -> Window:
    """The window of a Conv2d. 'same' pads dilation*(kernel-1) in total, the odd one at the end (as PyTorch does)."""
    kernel = node.weight.shape[2], node.weight.shape[3]
    stride, dilation = _pair(node, "stride", 1), _pair(node, "dilation", 1)
    if not isinstance(node.padding, str):
        begin = end = _pair(node, "padding", 0)
    elif node.padding == "valid":
        begin = end = (0, 0)
    elif node.padding == "same":
        if stride != (1, 1):
            raise Refused(
                f"padding='same' with stride={stride}: 'same' takes stride 1 only, write the padding as numbers"
            )
        total = dilation[0] * (kernel[0] - 1), dilation[1] * (kernel[1] - 1)
        begin = total[0] // 2, total[1] // 2
        end = total[0] - begin[0], total[1] - begin[1]
    else:
        raise Refused(f"padding={node.padding!r}: accepted are 'same', 'valid' and numbers")
    return Window(kernel, stride, dilation, begin, end)


def pool_window(node: nir.AvgPool2d | nir.SumPool2d) -> Window:
    """The window of a pool. Padded zeros count as elements: AvgPool2d always divides by the size of its kernel."""
    kernel, padding = _pair(node, "kernel_size", 1), _pair(node, "padding", 0)
    if padding[0] >= kernel[0] or padding[1] >= kernel[1]:
        raise Refused(f"padding={padding} is not smaller than kernel_size={kernel}")
    return Window(kernel, _pair(node, "stride", 1), (1, 1), padding, padding)


def flatten_dims(node: nir.Flatten, shape: Shape) -> Pair:
    """First and last dimension that a Flatten joins, counted without batch, from 0."""
    first, last = (_dim(node, field, len(shape)) for field in ("start_dim", "end_dim"))
    if first > last:
        raise Refused(f"start_dim={node.start_dim} lies behind end_dim={node.end_dim}")
    return first, last


def shape_of(node: nir.Input | nir.Output) -> Shape:
    """The shape that an Input or Output declares."""
    declared = np.asarray((node.input_type if isinstance(node, nir.Input) else node.output_type).get(_direction(node)))
    if declared.ndim != 1 or not declared.size or declared.dtype.kind not in "iu" or (declared < 1).any():
        raise Refused(
            f"shape={declared.tolist()}: accepted are one or more sizes of at least 1, without batch and time"
        )
    return tuple(int(size) for size in declared)


def _direction(node: nir.Input | nir.Output) -> str:
    return "input" if isinstance(node, nir.Input) else "output"


def _integers(node: Any, field: str) -> list[int]:
    value = np.asarray(getattr(node, field))
    if value.dtype.kind not in "iu":
        raise Refused(f"{field}={value.tolist()!r}: accepted are whole numbers")
    return [int(number) for number in value.reshape(-1)]


def _pair(node: Any, field: str, smallest: int) -> Pair:
    """A field that files hold as a number, one number in a list, or two."""
    numbers = _integers(node, field)
    if len(numbers) not in (1, 2) or min(numbers) < smallest:
        raise Refused(f"{field}={numbers}: accepted are one or two whole numbers of at least {smallest}")
    return numbers[0], numbers[-1]


def _dim(node: nir.Flatten, field: str, rank: int) -> int:
    numbers = _integers(node, field)
    if len(numbers) != 1 or not -rank <= numbers[0] < rank:
        raise Refused(f"{field}={numbers}: its input has {rank} dimensions (without batch and time)")
    return numbers[0] % rank


def _numbers(node: Any, *fields: str) -> Iterator[str]:
    for field in fields:
        value = np.asarray(getattr(node, field))
        if value.dtype.kind not in "fiu":
            yield f"{field} has type {value.dtype}: accepted are real numbers"
            continue
        if not value.size:
            yield f"{field} is empty"
        with np.errstate(over="ignore"):
            finite = np.isfinite(value.astype(np.float32)).all()
        if not finite:
            yield f"{field} holds NaN, infinity or a number too large for float32"


def _nothing(node: Any) -> Iterator[str]:
    yield from ()


def _weight_reasons(*fields: str) -> Callable[[Any], Iterator[str]]:
    def reasons(node: Any) -> Iterator[str]:
        yield from _numbers(node, *fields)
        weight = np.shape(node.weight)
        if len(weight) != 2:
            yield f"weight has shape {weight}: accepted is (outputs, inputs)"
        elif "bias" in fields and np.shape(node.bias) != weight[:1]:
            yield f"bias has shape {np.shape(node.bias)}, weight has {weight}: bias must be {weight[:1]}"

    return reasons


def _weight_shape(node: nir.Affine | nir.Linear, shape: Shape) -> Shape:
    if shape != node.weight.shape[1:]:
        raise Refused(f"its input has shape {shape}, its weight {node.weight.shape} takes {node.weight.shape[1:]}")
    return (node.weight.shape[0],)


def _conv_reasons(node: nir.Conv2d) -> Iterator[str]:
    yield from _numbers(node, "weight", "bias")
    weight, bias = np.shape(node.weight), np.shape(node.bias)
    if len(weight) != 4:
        yield f"weight has shape {weight}: accepted is (outputs, inputs / groups, height, width)"
        return
    if bias != weight[:1]:
        yield f"bias has shape {bias}, weight has {weight}: bias must be {weight[:1]}"
    try:
        groups = _integers(node, "groups")
        conv_window(node)
    except Refused as refusal:
        yield str(refusal)
        return
    if len(groups) != 1 or groups[0] < 1 or weight[0] % groups[0]:
        yield f"groups={groups} does not divide its {weight[0]} output channels"


def _conv_shape(node: nir.Conv2d, shape: Shape) -> Shape:
    channels = node.weight.shape[1] * int(np.asarray(node.groups).item())
    if len(shape) != 3 or shape[0] != channels:
        raise Refused(f"its input has shape {shape}, it takes ({channels}, height, width)")
    if node.input_shape is not None and tuple(np.asarray(node.input_shape).reshape(-1).tolist()) != shape[1:]:
        raise Refused(f"input_shape={np.asarray(node.input_shape).tolist()}, but its input image is {shape[1:]}")
    return (node.weight.shape[0], *conv_window(node).output(shape[1:]))


def _pool_reasons(node: nir.AvgPool2d | nir.SumPool2d) -> Iterator[str]:
    try:
        pool_window(node)
    except Refused as refusal:
        yield str(refusal)


def _pool_shape(node: nir.AvgPool2d | nir.SumPool2d, shape: Shape) -> Shape:
    if len(shape) != 3:
        raise Refused(f"its input has shape {shape}, it takes (channels, height, width)")
    return (shape[0], *pool_window(node).output(shape[1:]))


def _flatten_shape(node: nir.Flatten, shape: Shape) -> Shape:
    first, last = flatten_dims(node, shape)
    return (*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :])


def _elementwise(*fields: str) -> Primitive:
    """A primitive that acts on each element, with parameters shaped like its input or one number for all."""

    def reasons(node: Any) -> Iterator[str]:
        yield from _numbers(node, *fields)
        if "tau" in fields and not (np.asarray(node.tau) > 0).all():
            yield "tau is not positive everywhere"

    def output_shape(node: Any, shape: Shape) -> Shape:
        for field in fields:
            if np.shape(getattr(node, field)) not in (shape, (), (1,)):
                raise Refused(f"its input has shape {shape}, its {field} has {np.shape(getattr(node, field))}")
        return shape

    return Primitive(reasons, output_shape)


def _boundary_reasons(node: nir.Input | nir.Output) -> Iterator[str]:
    try:
        shape_of(node)
    except Refused as refusal:
        yield str(refusal)


def _boundary_shape(node: nir.Input | nir.Output, shape: Shape) -> Shape:
    if shape_of(node) != shape:
        raise Refused(f"it declares shape {shape_of(node)}, its input has {shape}")
    return shape


PRIMITIVES: dict[type, Primitive] = {
    nir.Input: Primitive(_boundary_reasons, _boundary_shape),
    nir.Output: Primitive(_boundary_reasons, _boundary_shape),
    nir.Affine: Primitive(_weight_reasons("weight", "bias"), _weight_shape),
    nir.Linear: Primitive(_weight_reasons("weight"), _weight_shape),
    nir.Conv2d: Primitive(_conv_reasons, _conv_shape),
    nir.AvgPool2d: Primitive(_pool_reasons, _pool_shape),
    nir.SumPool2d: Primitive(_pool_reasons, _pool_shape),
    nir.Flatten: Primitive(_nothing, _flatten_shape),
    nir.Scale: _elementwise("scale"),
    nir.Threshold: _elementwise("threshold"),
    nir.IF: _elementwise("r", "v_threshold", "v_reset"),
    nir.LIF: _elementwise("tau", "r", "v_leak", "v_threshold", "v_reset"),
    nir.LI: _elementwise("tau", "r", "v_leak"),
}

ACCEPTED = ", ".join(sorted(kind.__name__ for kind in PRIMITIVES))
