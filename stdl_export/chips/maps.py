"""Linear maps between images and rows of numbers: what lies between two layers of neurons, as one thing, in float64.

    kernel      y[o, i, j] = sum w[o, c, a, b] x[c, s i + a - p, s j + b - p]     x is 0 outside of its image
    matrix      y = W x, x read in the order C, H, W

A map has a bias for every element that it puts out. Pools, scales and convolutions in a row become one kernel where
that is the same function at the borders, too; else a matrix, if it is not too large.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stdl_export.primitives import Shape

Float = NDArray[np.float64]
Pair = tuple[int, int]
Image = tuple[int, int, int]

MOST_WEIGHTS = 1 << 24  # of a matrix: a chip holds 120 million synapses


class TooLarge(Exception):
    """A map that would need a matrix of more than MOST_WEIGHTS weights."""


@dataclass(frozen=True, eq=False)
class Kernel:
    """weight [O, C, kh, kw], moved by `stride` over an image that begins with `begin` zeros, to an image of `size`;
    (y, x) each.
    """

    weight: Float
    stride: Pair
    begin: Pair
    size: Pair

    @property
    def out(self) -> Image:
        """(O, H, W)."""
        return (len(self.weight), *self.size)


@dataclass(frozen=True, eq=False)
class Map:
    """From `source` to `target` (shapes of images (C, H, W) or rows (N,)); what: None is the identity.

    bias has the shape of the target.
    """

    source: Shape
    target: Shape
    what: Kernel | Float | None
    bias: Float

    @property
    def matrix(self) -> Float:
        """As a matrix [target, source]; `TooLarge` where it is."""
        if isinstance(self.what, np.ndarray):
            return self.what
        rows, columns = math.prod(self.target), math.prod(self.source)
        _check_size(rows, columns)
        if self.what is None:
            return np.eye(rows)
        return _behind(np.eye(rows), self.what, image(self.source))

    @property
    def kernel(self) -> Kernel | None:
        """As a kernel from image to image; None where it is none."""
        if len(self.target) < 2 or len(self.source) < 2:
            return None
        if self.what is None and self.source == self.target:
            return Kernel(np.eye(self.source[0])[:, :, None, None], (1, 1), (0, 0), image(self.source)[1:])
        return self.what if isinstance(self.what, Kernel) and image(self.target) == self.what.out else None

    def applied(self, x: Float) -> Float:
        """x of the source's shape -> without the bias."""
        if self.what is None:
            return x.reshape(self.target)
        if isinstance(self.what, Kernel):
            return _convolved(self.what, x.reshape(image(self.source))).reshape(self.target)
        return (self.what @ x.reshape(-1)).reshape(self.target)

    def scaled(self, factor: Float) -> Map:
        """The map with each element of its target times a factor that broadcasts against it."""
        whole = np.broadcast_to(factor, self.target)
        if isinstance(self.what, np.ndarray):
            return replace(self, what=self.what * whole.reshape(-1, 1), bias=self.bias * whole)
        channels = whole.reshape(whole.shape[0], -1)
        kernel = self.kernel
        if kernel is None or (channels != channels[:, :1]).any():
            return replace(self, what=self.matrix * whole.reshape(-1, 1), bias=self.bias * whole)
        weight = kernel.weight * channels[:, :1, None, None]
        return replace(self, what=replace(kernel, weight=weight), bias=self.bias * whole)

    def then(self, after: Map) -> Map:
        """after(self(x)) as one map."""
        bias = after.applied(self.bias) + after.bias
        made = replace(self, target=after.target, bias=bias)
        if self.what is None:
            return replace(made, what=after.what)
        if after.what is None:
            return replace(made, what=self.what)
        if isinstance(after.what, Kernel) and isinstance(self.what, Kernel):
            joined = _in_a_row(self.what, after.what, image(self.source))
            if joined is not None:
                return replace(made, what=joined)
        if isinstance(self.what, Kernel):
            rows = after.matrix
            _check_size(len(rows), math.prod(self.source))
            return replace(made, what=_behind(rows, self.what, image(self.source)))
        return replace(made, what=after.matrix @ self.matrix)


def identity(shape: Shape) -> Map:
    """What goes in."""
    return Map(shape, shape, None, np.zeros(shape))


def added(maps: Sequence[Map]) -> Map:
    """The sum of maps of one source and one target."""
    total = maps[0]
    for each in maps[1:]:
        bias = total.bias + each.bias
        one, two = total.kernel, each.kernel
        if one is not None and two is not None and one.stride == two.stride and one.size == two.size:
            total = replace(total, what=_sum(one, two), bias=bias)
        else:
            total = replace(total, what=total.matrix + each.matrix, bias=bias)
    return total


def placed(kernel: Kernel, begin: Pair, size: Pair) -> Float:
    """A kernel's weights on a larger canvas that begins with more zeros."""
    top, left = begin[0] - kernel.begin[0], begin[1] - kernel.begin[1]
    height, width = kernel.weight.shape[2:]
    canvas = np.zeros((*kernel.weight.shape[:2], *size))
    canvas[:, :, top : top + height, left : left + width] = kernel.weight
    return canvas


def canvas_of(kernels: Sequence[Kernel]) -> tuple[Pair, Pair]:
    """The zeros in front and the size that hold all kernels."""
    begin = tuple(max(each.begin[axis] for each in kernels) for axis in (0, 1))
    size = tuple(
        max(each.weight.shape[2 + axis] + begin[axis] - each.begin[axis] for each in kernels) for axis in (0, 1)
    )
    return (begin[0], begin[1]), (size[0], size[1])


def dilated(weight: Float, dilation: Pair) -> Float:
    """The same kernel with zeros between its weights."""
    height, width = (d * (k - 1) + 1 for d, k in zip(dilation, weight.shape[2:], strict=True))
    found = np.zeros((*weight.shape[:2], height, width))
    found[:, :, :: dilation[0], :: dilation[1]] = weight
    return found


def ungrouped(weight: Float, groups: int) -> Float:
    """[O, I / groups, ...] -> [O, I, ...] with zeros where a group does not look."""
    outputs, inputs = weight.shape[:2]
    found = np.zeros((outputs, inputs * groups, *weight.shape[2:]))
    for group in range(groups):
        rows = slice(group * outputs // groups, (group + 1) * outputs // groups)
        found[rows, group * inputs : (group + 1) * inputs] = weight[rows]
    return found


def float64(values: Any) -> Float:
    """A parameter, float32 as it is computed with everywhere, in float64."""
    return np.asarray(values, np.float32).astype(np.float64)


def image(shape: Shape) -> tuple[int, int, int]:
    """(C, H, W) of an image, a line (C, L), or a row of numbers."""
    if len(shape) == 3:
        return (shape[0], shape[1], shape[2])
    return (shape[0], 1, shape[1]) if len(shape) == 2 else (math.prod(shape), 1, 1)


def _check_size(rows: int, columns: int) -> None:
    if rows * columns > MOST_WEIGHTS:
        raise TooLarge(f"a matrix of {rows} x {columns} weights")


def _sum(one: Kernel, two: Kernel) -> Kernel:
    begin, size = canvas_of([one, two])
    return Kernel(placed(one, begin, size) + placed(two, begin, size), one.stride, begin, one.size)


def _in_a_row(first: Kernel, second: Kernel, source: Image) -> Kernel | None:
    """One kernel for two; None where they differ at the borders: the second reads 0 where the first would look at x."""
    for axis in (0, 1):
        size, reach = source[1 + axis], first.weight.shape[2 + axis]
        last = second.stride[axis] * (second.size[axis] - 1) + second.weight.shape[2 + axis] - second.begin[axis]
        for m in (*range(-second.begin[axis], 0), *range(first.size[axis], last)):
            at = first.stride[axis] * m - first.begin[axis]
            if at < size and at + reach > 0:
                return None
    (sy, sx), (height, width) = first.stride, first.weight.shape[2:]
    rows, columns = second.weight.shape[2:]
    weight = np.zeros((len(second.weight), first.weight.shape[1], sy * (rows - 1) + height, sx * (columns - 1) + width))
    for a, b in np.ndindex(rows, columns):
        part = np.tensordot(second.weight[:, :, a, b], first.weight, (1, 0))
        weight[:, :, sy * a : sy * a + height, sx * b : sx * b + width] += part
    begin = (sy * second.begin[0] + first.begin[0], sx * second.begin[1] + first.begin[1])
    return Kernel(weight, (sy * second.stride[0], sx * second.stride[1]), begin, second.size)


def _convolved(kernel: Kernel, x: Float) -> Float:
    """One image through a kernel, tap by tap."""
    found = np.zeros(kernel.out)
    for a, b in np.ndindex(kernel.weight.shape[2:]):
        here, there = _overlap(kernel, (a, b), image(x.shape))
        part = x[:, there[0], there[1]]
        found[:, here[0], here[1]] += np.tensordot(kernel.weight[:, :, a, b], part, (1, 0))
    return found


def _behind(rows: Float, kernel: Kernel, source: Image) -> Float:
    """rows [N, what the kernel puts out] after a kernel: the matrix [N, source]."""
    images = rows.reshape(len(rows), *kernel.out)
    found = np.zeros((len(rows), *source))
    for a, b in np.ndindex(kernel.weight.shape[2:]):
        here, there = _overlap(kernel, (a, b), source)
        part = np.tensordot(images[:, :, here[0], here[1]], kernel.weight[:, :, a, b], (1, 0))
        found[:, :, there[0], there[1]] += part.transpose(0, 3, 1, 2)
    return found.reshape(len(rows), -1)


def _overlap(kernel: Kernel, tap: Pair, source: Image) -> tuple[list[slice], list[slice]]:
    """Where a tap of a kernel lies inside the image: places of what it puts out, and of the source they look at."""
    here, there = [], []
    for axis in (0, 1):
        stride, at = kernel.stride[axis], tap[axis] - kernel.begin[axis]
        first = max(0, -(at // stride)) if at < 0 else 0
        last = min(kernel.size[axis] - 1, (source[1 + axis] - 1 - at) // stride)
        count = max(0, last - first + 1)
        start = first * stride + at
        here.append(slice(first, first + count))
        there.append(slice(start, start + max(count - 1, 0) * stride + min(count, 1), stride))
    return here, there
