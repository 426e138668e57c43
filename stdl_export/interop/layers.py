"""Nodes that do not spike, as a peer can take them: one function a NIR type, its algebra in its docstring."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import nir
import numpy as np

from stdl_export.interop.draft import Draft, depthwise, elementwise, groups_as_taken
from stdl_export.interop.peers import Peer
from stdl_export.primitives import Refused, conv_window, flatten_dims, pool_window

Rewrite = Callable[[Draft, str, Peer], Any]


def rewrite(draft: Draft, path: str, peer: Peer) -> None:
    """Replace a node that is no neuron by what the peer takes; Refused where there is nothing."""
    kind = type(draft.nodes[path]).__name__
    row = ROWS.get(kind)
    if kind in peer.own:
        return
    if row is None:
        raise Refused(f"{peer.title} reads no {kind}, and nothing else says the same")
    draft.nodes[path] = row(draft, path, peer)


def _weights(draft: Draft, path: str, peer: Peer) -> Any:
    """A matrix, with a bias of 0 where the peer takes no Linear. Leading dimensions would be more than one matrix."""
    node = draft.nodes[path]
    if node.weight.ndim != 2:
        raise Refused(f"its weight has shape {node.weight.shape}, peers take (outputs, inputs)")
    if isinstance(node, nir.Linear) and "Linear" not in peer.layers:
        return nir.Affine(node.weight, np.zeros(len(node.weight), np.float32))
    return node


def _conv(draft: Draft, path: str, peer: Peer) -> Any:
    """Padding in numbers, the same on both sides; without groups where the peer takes none.

    'same' in front of an even kernel pads one more behind: a row of zeros in front of the kernel makes it even again.
    """
    node = draft.nodes[path]
    if type(node).__name__ not in peer.layers:
        raise Refused(f"{peer.title} reads no {type(node).__name__}, and nothing else says the same")
    window = conv_window(node)
    found = copy.copy(node)
    uneven = [end != begin for begin, end in zip(window.begin, window.end, strict=True)]
    if any(more and step != 1 for more, step in zip(uneven, window.dilation, strict=True)):
        raise Refused("padding='same' with an even kernel and a dilation pads unevenly, which peers cannot say")
    found.weight = np.pad(node.weight, [(0, 0), (0, 0), *[(int(more), 0) for more in uneven]])
    padding = window.end
    if isinstance(node, nir.Conv1d):
        found.stride, found.padding, found.dilation = window.stride[0], padding[0], window.dilation[0]
    else:
        found.stride, found.padding, found.dilation = window.stride, padding, window.dilation
    found.groups = int(np.asarray(node.groups).item())
    return groups_as_taken(found, peer.groups)


def _pool(draft: Draft, path: str, peer: Peer) -> Any:
    """A pool is a convolution of each channel by itself, with weights 1 or 1 / (height * width).

    Importers drop the padding of a SumPool2d, so one that pads is always written so.
    """
    node = draft.nodes[path]
    window = pool_window(node)
    average = isinstance(node, nir.AvgPool2d)
    if type(node).__name__ in peer.layers and (average or not any(window.begin)):
        return type(node)(*map(np.array, (window.kernel, window.stride, window.begin)))
    one = 1 / float(np.prod(window.kernel)) if average else 1.0
    weight = np.full((draft.in_shape(path)[0], 1, *window.kernel), one)
    return depthwise(weight, window.stride, window.begin, draft.groups)


def _flatten(draft: Draft, path: str, peer: Peer) -> Any:
    """Dimensions counted from the end are the same with and without a batch in front."""
    shape = draft.in_shape(path)
    first, last = flatten_dims(draft.nodes[path], shape)
    return nir.Flatten({"input": np.array(shape)}, first - len(shape), last - len(shape))


def _scale(draft: Draft, path: str, peer: Peer) -> Any:
    """A diagonal matrix, or a 1x1 convolution of each channel by itself."""
    return elementwise(np.asarray(draft.nodes[path].scale, np.float64), draft.in_shape(path), draft.groups)


def _unchanged(draft: Draft, path: str, peer: Peer) -> Any:
    return draft.nodes[path]


ROWS: Mapping[str, Rewrite] = {
    "Input": _unchanged,
    "Output": _unchanged,
    "Affine": _weights,
    "Linear": _weights,
    "Conv1d": _conv,
    "Conv2d": _conv,
    "AvgPool2d": _pool,
    "SumPool2d": _pool,
    "Flatten": _flatten,
    "Scale": _scale,
}
