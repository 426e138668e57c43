"""The nodes without memory in NumPy, for the reference: x [B, ...] -> [B, ...] in float32, one function per node type.

Clarity comes before speed, but convolutions go through one matrix product per few samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import nir
import numpy as np
import numpy.typing as npt

from stdl_export.primitives import Window, conv_groups, conv_window, flatten_dims, pool_window
from stdl_runtimes.base import Array, Spikes

PATCH_BYTES = 32 << 20  # convolution patches that are laid out at once; larger ones only leave the caches


def affine(node: nir.Affine, x: Array) -> Array:
    """W x + b, weight (..., outputs, inputs)."""
    return linear(node, x) + _float32(node.bias)


def linear(node: nir.Linear | nir.Affine, x: Array) -> Array:
    """W x, weight (outputs, inputs); one with leading dimensions is a matrix for each of their indices."""
    weight = _float32(node.weight)
    product: Array = x @ weight.T if weight.ndim == 2 else (weight @ x[..., None])[..., 0]
    return product


def conv1d(node: nir.Conv1d, x: Array) -> Array:
    """As conv2d, with weight (outputs, inputs / groups, length): an image of height 1."""
    line, weight = conv_window(node), _float32(node.weight)
    window = Window((1, *line.kernel), (1, *line.stride), (1, *line.dilation), (0, *line.begin), (0, *line.end))
    convolved: Array = _convolved(window, weight[:, :, None], conv_groups(node), x[:, :, None])[:, :, 0]
    return convolved + _float32(node.bias)[:, None]


def conv2d(node: nir.Conv2d, x: Array) -> Array:
    """Cross-correlation with zero padding plus bias; weight (outputs, inputs / groups, height, width)."""
    convolved = _convolved(conv_window(node), _float32(node.weight), conv_groups(node), x)
    return convolved + _float32(node.bias)[:, None, None]


def _convolved(window: Window, weight: Array, groups: int, x: Array) -> Array:
    kernels = weight.reshape(groups, len(weight) // groups, -1)  # [G, O/G, I/G*kh*kw]
    height, width = window.output(x.shape[2:])
    maps = [kernels @ patches for patches in _patches(window, x, groups)]  # [G, O/G, n*H*W] each
    images = [each.reshape(len(weight), -1, height, width).swapaxes(0, 1) for each in maps]
    return np.concatenate(images)


def _patches(window: Window, x: Array, groups: int) -> Iterator[Array]:
    """The input under each kernel position as columns, [G, I/G*kh*kw, n*H*W], for a few samples at a time."""
    (stride_y, stride_x), (dilation_y, dilation_x) = window.stride, window.dilation
    reach = [dilation * (kernel - 1) + 1 for dilation, kernel in zip(window.dilation, window.kernel, strict=True)]
    views = np.lib.stride_tricks.sliding_window_view(_padded(window, x), reach, axis=(2, 3))
    views = views[:, :, ::stride_y, ::stride_x, ::dilation_y, ::dilation_x]  # [B, I, H, W, kh, kw]
    at_once = max(1, PATCH_BYTES // max(views[:1].nbytes, 1))
    for at in range(0, len(x), at_once):
        part = views[at : at + at_once].transpose(1, 4, 5, 0, 2, 3)  # [I, kh, kw, n, H, W]
        yield part.reshape(groups, len(part) // groups * part.shape[1] * part.shape[2], -1)


def sum_pool2d(node: nir.SumPool2d | nir.AvgPool2d, x: Array) -> Array:
    """The plain sum under the kernel."""
    window = pool_window(node)
    (height, width), (stride_y, stride_x) = window.output(x.shape[2:]), window.stride
    padded = _padded(window, x)
    total = np.zeros((*x.shape[:2], height, width), np.float32)
    for top in range(window.kernel[0]):
        for left in range(window.kernel[1]):
            rows = slice(top, top + stride_y * (height - 1) + 1, stride_y)
            columns = slice(left, left + stride_x * (width - 1) + 1, stride_x)
            total += padded[:, :, rows, columns]
    return total


def avg_pool2d(node: nir.AvgPool2d, x: Array) -> Array:
    """The sum divided by the size of the kernel; padded zeros count as elements."""
    rows, columns = pool_window(node).kernel
    mean: Array = sum_pool2d(node, x) / np.float32(rows * columns)
    return mean


def flatten(node: nir.Flatten, x: Array) -> Array:
    """Dimensions start_dim to end_dim as one; NIR counts them without the batch."""
    first, last = flatten_dims(node, x.shape[1:])
    flat: Array = x.reshape(*x.shape[: first + 1], -1, *x.shape[last + 2 :])
    return flat


def scale(node: nir.Scale, x: Array) -> Array:
    """x times scale, element by element."""
    scaled: Array = x * _float32(node.scale)
    return scaled


def threshold(node: nir.Threshold, x: Array) -> Array:
    """1 where x > threshold, else 0."""
    above: Spikes = x > _float32(node.threshold)
    return above.astype(np.float32)


def at_threshold(node: nir.Threshold, x: Array) -> Array:
    """As threshold, but 1 where x is at it as well: spike ">=" of a dialect."""
    reached: Spikes = x >= _float32(node.threshold)
    return reached.astype(np.float32)


def _unchanged(node: nir.NIRNode, x: Array) -> Array:
    return x


STATELESS: dict[type, Callable[[Any, Array], Array]] = {
    nir.Input: _unchanged,
    nir.Output: _unchanged,
    nir.Affine: affine,
    nir.Linear: linear,
    nir.Conv1d: conv1d,
    nir.Conv2d: conv2d,
    nir.AvgPool2d: avg_pool2d,
    nir.SumPool2d: sum_pool2d,
    nir.Flatten: flatten,
    nir.Scale: scale,
    nir.Threshold: threshold,
}


def _padded(window: Window, x: Array) -> Array:
    edges = zip(window.begin, window.end, strict=True)
    return np.pad(x, ((0, 0), (0, 0), *edges))


def _float32(value: npt.ArrayLike) -> Array:
    return np.asarray(value, dtype=np.float32)
