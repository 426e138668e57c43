"""How many synapses an active input drives: the fan-out of every input element of the nodes that have weights.

An operation is one weight times one input. With `active` the inputs that are not zero, [B, ...], a node takes
sum(active * fan_out) operations; that is exact at the borders of a padded image and with any stride, and costs one
product per input, not a convolution. Zeros that padding adds are no inputs, and biases are no synapses: NeuroBench
counts neither (Yik et al. 2025, "The NeuroBench framework").
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import nir
import numpy as np
import numpy.typing as npt

from stdl_export.primitives import Shape, Window, conv_groups, conv_window

Counts = npt.NDArray[np.int64]

SYNAPTIC = (nir.Affine, nir.Linear, nir.Conv1d, nir.Conv2d)


@dataclass(frozen=True, eq=False)
class FanOut:
    """effective: operations per active input element, of the node's input shape, of weights that are not zero. dense:
    operations of one sample and step, were every input active and no weight zero.
    """

    effective: Counts
    dense: int


def of_node(node: Any, in_shape: Shape) -> FanOut:
    """The fan-out of an Affine, Linear, Conv1d or Conv2d whose input has that shape, without T and B."""
    used = np.asarray(node.weight) != 0
    if isinstance(node, nir.Affine | nir.Linear):  # weight (..., outputs, inputs)
        return FanOut(used.sum(axis=-2, dtype=np.int64), used.size)
    window, groups = conv_window(node), conv_groups(node)
    if isinstance(node, nir.Conv2d):
        return FanOut(_over_image(window, used, groups, in_shape), _dense(window, used.shape[:2], in_shape[1:]))
    line = Window((1, *window.kernel), (1, *window.stride), (1, *window.dilation), (0, *window.begin), (0, *window.end))
    shape = (in_shape[0], 1, in_shape[1])  # an image of height 1
    effective = _over_image(line, used[:, :, None], groups, shape)[:, 0]
    return FanOut(effective, _dense(line, used.shape[:2], shape[1:]))


def _over_image(window: Window, used: npt.NDArray[np.bool_], groups: int, shape: Shape) -> Counts:
    """Each kernel offset meets an image at the places that the stride visits: add its weights there, [I, H, W].

    used: (outputs, inputs / groups, height, width), which weights count.
    """
    outputs, inputs, *_ = used.shape
    weights = used.reshape(groups, outputs // groups, inputs, *window.kernel).sum(axis=1, dtype=np.int64)
    weights = weights.reshape(shape[0], *window.kernel)  # [I, kh, kw]
    padded = [size + begin + end for size, begin, end in zip(shape[1:], window.begin, window.end, strict=True)]
    found = np.zeros((shape[0], *padded), np.int64)
    height, width = window.output(shape[1:])
    for row in range(window.kernel[0]):
        for column in range(window.kernel[1]):
            rows = _visited(row * window.dilation[0], window.stride[0], height)
            columns = _visited(column * window.dilation[1], window.stride[1], width)
            found[:, rows, columns] += weights[:, row, column, None, None]
    top, left = window.begin
    return found[:, top : top + shape[1], left : left + shape[2]]


def _visited(first: int, stride: int, times: int) -> slice:
    return slice(first, first + stride * (times - 1) + 1, stride)


def _dense(window: Window, channels: Shape, image: Shape) -> int:
    """Pairs of channels (outputs, inputs / groups) times the places in the image that the weights of one meet."""
    places = 1
    for axis, size in enumerate(window.output(image)):
        begin = window.begin[axis]
        visited = np.arange(size) * window.stride[axis] - begin
        offsets = np.arange(window.kernel[axis]) * window.dilation[axis]
        inside = [(visited + offset >= 0) & (visited + offset < image[axis]) for offset in offsets]
        places *= sum(int(each.sum()) for each in inside)
    return math.prod(channels) * places
