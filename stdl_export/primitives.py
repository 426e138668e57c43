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
Sizes = tuple[int, ...]  # one number for each spatial dimension: (length,) or (height, width)

MAX_ELEMENTS = 1 << 28  # of what one node puts out for one sample: 1 GiB; a shape in a file costs nothing to write
MAX_SIZE = (1 << 31) - 1  # of a kernel, stride, dilation or padding: engines compute sizes in 32 or 64 bits


class Refused(Exception):
    """Why a node is not accepted; becomes a `graph.Problem` that names the node."""


class Primitive(NamedTuple):
    """One row: every reason against a node's own fields, its output shape for an input shape (or `Refused`), and the
    input shape that its fields say it takes, None where they leave it open.
    """

    reasons: Callable[[Any], Iterator[str]]
    output_shape: Callable[[Any, Shape], Shape]
    input_shape: Callable[[Any], Shape | None] = lambda node: None


@dataclass(frozen=True)
class Window:
    """How a kernel moves over an image or a line; `begin`, `end`: zeros padded before and after."""

    kernel: Sizes
    stride: Sizes
    dilation: Sizes
    begin: Sizes
    end: Sizes

    @property
    def onnx_pads(self) -> list[int]:
        """[top, left, bottom, right] or [begin, end], as ONNX wants them."""
        return [*self.begin, *self.end]

    def output(self, image: Shape) -> Sizes:
        """Size of the output image, rounded down where the stride does not divide."""
        padded = [size + begin + end for size, begin, end in zip(image, self.begin, self.end, strict=True)]
        if math.prod(padded) > MAX_ELEMENTS:
            raise Refused(
                f"its image is {tuple(padded)} with its padding: accepted are at most {MAX_ELEMENTS} elements"
            )
        sizes = tuple(
            (size + begin + end - dilation * (kernel - 1) - 1) // stride + 1
            for size, kernel, stride, dilation, begin, end in zip(
                image, self.kernel, self.stride, self.dilation, self.begin, self.end, strict=True
            )
        )
        if min(sizes) < 1:
            raise Refused(f"its kernel {self.kernel} is larger than its padded input image {image}")
        return sizes


def conv_window(node: nir.Conv1d | nir.Conv2d) -> Window:
    """The window of a convolution. 'same' pads dilation*(kernel-1) in total, the odd one at the end, as in PyTorch."""
    kernel = tuple(node.weight.shape[2:])
    rank = len(kernel)
    stride, dilation = _sizes(node, "stride", 1, rank), _sizes(node, "dilation", 1, rank)
    if not isinstance(node.padding, str):
        begin = end = _sizes(node, "padding", 0, rank)
    elif node.padding == "valid":
        begin = end = (0,) * rank
    elif node.padding == "same":
        if stride != (1,) * rank:
            raise Refused(
                f"padding='same' with stride={stride}: 'same' takes stride 1 only, write the padding as numbers"
            )
        total = [step * (size - 1) for step, size in zip(dilation, kernel, strict=True)]
        begin = tuple(size // 2 for size in total)
        end = tuple(size - size // 2 for size in total)
    else:
        raise Refused(f"padding={node.padding!r}: accepted are 'same', 'valid' and numbers")
    return Window(kernel, stride, dilation, begin, end)


def pool_window(node: nir.AvgPool2d | nir.SumPool2d) -> Window:
    """The window of a pool. Padded zeros count as elements: AvgPool2d always divides by the size of its kernel."""
    kernel, padding = _sizes(node, "kernel_size", 1), _sizes(node, "padding", 0)
    if padding[0] >= kernel[0] or padding[1] >= kernel[1]:
        raise Refused(f"padding={padding} is not smaller than kernel_size={kernel}")
    return Window(kernel, _sizes(node, "stride", 1), (1, 1), padding, padding)


def flatten_dims(node: nir.Flatten, shape: Shape) -> tuple[int, int]:
    """First and last dimension that a Flatten joins, counted without batch, from 0."""
    first, last = (_dim(node, field, len(shape)) for field in ("start_dim", "end_dim"))
    if first > last:
        raise Refused(f"start_dim={node.start_dim} lies behind end_dim={node.end_dim}")
    return first, last


def shape_of(node: nir.Input | nir.Output) -> Shape:
    """The shape that an Input or Output declares."""
    declared = np.asarray((node.input_type if isinstance(node, nir.Input) else node.output_type).get(_direction(node)))
    if not _is_shape(declared):
        raise Refused(
            f"shape={declared.tolist()}: accepted are one or more sizes of at least 1, without batch and time"
        )
    return tuple(int(size) for size in declared)


def _is_shape(declared: Any) -> bool:
    sizes = declared.ndim == 1 and declared.size > 0 and declared.dtype.kind in "iu"
    return bool(sizes and (declared >= 1).all())


def _direction(node: nir.Input | nir.Output) -> str:
    return "input" if isinstance(node, nir.Input) else "output"


def _integers(node: Any, field: str) -> list[int]:
    value = np.asarray(getattr(node, field))
    if value.dtype.kind not in "iu":
        raise Refused(f"{field}={value.tolist()!r}: accepted are whole numbers")
    return [int(number) for number in value.reshape(-1)]


def _sizes(node: Any, field: str, smallest: int, rank: int = 2) -> Sizes:
    """A field that files hold as a number, one number in a list, or one for each of `rank` dimensions."""
    numbers = _integers(node, field)
    if len(numbers) not in (1, rank) or min(numbers) < smallest or max(numbers) > MAX_SIZE:
        many = "one or two whole numbers" if rank == 2 else "one whole number"
        least = f"at least {smallest}" if max(numbers, default=0) <= MAX_SIZE else f"at most {MAX_SIZE}"
        raise Refused(f"{field}={numbers}: accepted are {many} of {least}")
    return (numbers[0],) * (rank - 1) + (numbers[-1],)


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


def _weight_reasons(*fields: str) -> Callable[[Any], Iterator[str]]:
    def reasons(node: Any) -> Iterator[str]:
        yield from _numbers(node, *fields)
        weight = np.shape(node.weight)
        if len(weight) < 2:
            yield f"weight has shape {weight}: accepted is (outputs, inputs), or more with leading dimensions"
        elif "bias" in fields and np.shape(node.bias) not in (weight[-2:-1], weight[:-1]):
            yield f"bias has shape {np.shape(node.bias)}, weight has {weight}: bias must be {weight[:-1]}"

    return reasons


def _weight_input(node: nir.Affine | nir.Linear) -> Shape:
    """A weight (..., outputs, inputs) takes (..., inputs) to (..., outputs), with a matrix for each leading index."""
    return (*node.weight.shape[:-2], node.weight.shape[-1])


def _weight_shape(node: nir.Affine | nir.Linear, shape: Shape) -> Shape:
    if shape != _weight_input(node):
        raise Refused(f"its input has shape {shape}, its weight {node.weight.shape} takes {_weight_input(node)}")
    return tuple(node.weight.shape[:-1])


def _conv_reasons(node: nir.Conv1d | nir.Conv2d) -> Iterator[str]:
    yield from _numbers(node, "weight", "bias")
    weight, bias, sizes = np.shape(node.weight), np.shape(node.bias), SPATIAL[type(node)]
    if len(weight) != 2 + len(sizes):
        yield f"weight has shape {weight}: accepted is (outputs, inputs / groups, {', '.join(sizes)})"
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


def conv_groups(node: nir.Conv1d | nir.Conv2d) -> int:
    """The number of groups of a checked convolution."""
    return int(np.asarray(node.groups).item())


def _conv_input(node: nir.Conv1d | nir.Conv2d) -> Shape | None:
    if node.input_shape is None:
        return None
    image = np.asarray(node.input_shape).reshape(-1).tolist()
    return (node.weight.shape[1] * conv_groups(node), *map(int, image))


def _conv_shape(node: nir.Conv1d | nir.Conv2d, shape: Shape) -> Shape:
    channels, sizes = node.weight.shape[1] * conv_groups(node), SPATIAL[type(node)]
    if len(shape) != 1 + len(sizes) or shape[0] != channels:
        raise Refused(f"its input has shape {shape}, it takes ({channels}, {', '.join(sizes)})")
    if _conv_input(node) not in (None, shape):
        raise Refused(f"input_shape={np.asarray(node.input_shape).tolist()}, but its input image is {shape[1:]}")
    return (node.weight.shape[0], *conv_window(node).output(shape[1:]))


SPATIAL: dict[type, tuple[str, ...]] = {nir.Conv1d: ("length",), nir.Conv2d: ("height", "width")}


def _pool_reasons(node: nir.AvgPool2d | nir.SumPool2d) -> Iterator[str]:
    try:
        pool_window(node)
    except Refused as refusal:
        yield str(refusal)


def _pool_shape(node: nir.AvgPool2d | nir.SumPool2d, shape: Shape) -> Shape:
    if len(shape) != 3:
        raise Refused(f"its input has shape {shape}, it takes (channels, height, width)")
    return (shape[0], *pool_window(node).output(shape[1:]))


def _flatten_reasons(node: nir.Flatten) -> Iterator[str]:
    declared = (node.input_type or {}).get("input")
    if declared is not None and not _is_shape(np.asarray(declared)):
        yield f"input_type={np.asarray(declared).tolist()}: accepted are one or more sizes of at least 1"


def _flatten_shape(node: nir.Flatten, shape: Shape) -> Shape:
    declared = _flatten_input(node)
    if declared is not None and not is_junk(declared, shape):
        raise Refused(f"input_type={declared}, but its input has shape {shape}")
    first, last = flatten_dims(node, shape)
    return (*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :])


def _flatten_input(node: nir.Flatten) -> Shape | None:
    declared = (node.input_type or {}).get("input")
    return None if declared is None else tuple(int(size) for size in np.asarray(declared).reshape(-1))


def _elementwise(*fields: str) -> Primitive:
    """A primitive that acts on each element. Its parameters are one number for all, or have as many dimensions as its
    input, each of the input's size or 1: (C, 1, 1) is one number a channel.
    """

    def reasons(node: Any) -> Iterator[str]:
        yield from _numbers(node, *fields)
        for field in fields:
            value = np.asarray(getattr(node, field))
            if field.startswith("tau") and value.dtype.kind in "fiu" and not (value > 0).all():
                yield f"{field} is not positive everywhere"

    def output_shape(node: Any, shape: Shape) -> Shape:
        for field in fields:
            if not _broadcasts(np.shape(getattr(node, field)), shape):
                raise Refused(f"its input has shape {shape}, its {field} has {np.shape(getattr(node, field))}")
        return shape

    def input_shape(node: Any) -> Shape | None:
        shapes = [np.shape(getattr(node, field)) for field in fields]
        largest = max(shapes, key=math.prod)
        return largest if math.prod(largest) > 1 else None

    return Primitive(reasons, output_shape, input_shape)


def _broadcasts(parameter: Shape, shape: Shape) -> bool:
    if math.prod(parameter) == 1:
        return len(parameter) <= max(1, len(shape))
    return len(parameter) == len(shape) and all(
        size in (1, wanted) for size, wanted in zip(parameter, shape, strict=True)
    )


def _boundary_reasons(node: nir.Input | nir.Output) -> Iterator[str]:
    try:
        shape_of(node)
    except Refused as refusal:
        yield str(refusal)


def _boundary_shape(node: nir.Input | nir.Output, shape: Shape) -> Shape:
    if shape_of(node) != shape and not is_junk(shape_of(node), shape):
        raise Refused(f"it declares shape {shape_of(node)}, its input has {shape}")
    return shape


def is_junk(declared: Shape, shape: Shape) -> bool:
    """Is a declared shape what exporters write that forget to take batch and time off, (1, 1, 6) for (6,), or (1,)?"""
    while declared[:1] == (1,) and declared != shape:
        declared = declared[1:]
    return declared in ((), shape)


PRIMITIVES: dict[type, Primitive] = {
    nir.Input: Primitive(_boundary_reasons, _boundary_shape),
    nir.Output: Primitive(_boundary_reasons, _boundary_shape),
    nir.Affine: Primitive(_weight_reasons("weight", "bias"), _weight_shape, _weight_input),
    nir.Linear: Primitive(_weight_reasons("weight"), _weight_shape, _weight_input),
    nir.Conv1d: Primitive(_conv_reasons, _conv_shape, _conv_input),
    nir.Conv2d: Primitive(_conv_reasons, _conv_shape, _conv_input),
    nir.AvgPool2d: Primitive(_pool_reasons, _pool_shape),
    nir.SumPool2d: Primitive(_pool_reasons, _pool_shape),
    nir.Flatten: Primitive(_flatten_reasons, _flatten_shape, _flatten_input),
    nir.Scale: _elementwise("scale"),
    nir.Threshold: _elementwise("threshold"),
    nir.Delay: _elementwise("delay"),
    nir.I: _elementwise("r"),
    nir.IF: _elementwise("r", "v_threshold", "v_reset"),
    nir.LI: _elementwise("tau", "r", "v_leak"),
    nir.LIF: _elementwise("tau", "r", "v_leak", "v_threshold", "v_reset"),
    nir.CubaLI: _elementwise("tau_syn", "tau_mem", "r", "v_leak", "w_in"),
    nir.CubaLIF: _elementwise("tau_syn", "tau_mem", "r", "v_leak", "v_threshold", "v_reset", "w_in"),
}

ACCEPTED = ", ".join(sorted(kind.__name__ for kind in PRIMITIVES))
