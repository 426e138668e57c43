"""What a node is, in a few words: its fields as NIR has them, and what the dialect makes of them in a step.

Fields are told from whatever a file holds, so that a node that is refused can be shown, too. Names and texts of files
are shown by `plain`: nothing in them reaches a terminal or a drawing as anything but letters.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import nir
import numpy as np

from stdl_export import nir_file
from stdl_export.primitives import Shape
from stdl_export.program import Node
from stdl_export.semantics import Discrete

HIDDEN = (*nir_file.DERIVED, "shape")  # what the column of shapes says
SILENT: dict[str, object] = {
    "stride": 1, "padding": 0, "dilation": 1, "groups": 1, "start_dim": 0, "end_dim": -1,
    "r": 1, "v_leak": 0, "v_reset": 0, "w_in": 1,
}  # fmt: skip
"""Values that need no word, where they hold everywhere."""


def plain(text: object) -> str:
    """A text of a file with everything that is no visible letter written as an escape: control characters, newlines,
    marks that turn the direction of writing, lone surrogates.
    """
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in str(text)
    )


def size(shape: Iterable[int]) -> str:
    """(4, 6, 6) as 4x6x6; of a single number 1."""
    return "x".join(map(str, shape)) or "1"


def extent(value: Any) -> str:
    """A number, or the smallest and the largest of an array: 0.9 or 0.9..0.95; what is none is told by its type."""
    array = np.asarray(value)
    if array.dtype.kind not in "fiu" or not array.size:
        return f"{size(array.shape)} of {array.dtype}"
    low, high = array.min(), array.max()
    return f"{low:.4g}" if low == high else f"{low:.4g}..{high:.4g}"


def fields(node: Any) -> list[str]:
    """The fields of a NIR node: weights by shape, type, range and share of zeros, all others by value."""
    found = nir_file.fields(node)
    return [
        text
        for name, value in found.items()
        if name not in HIDDEN and value is not None and (text := _field(name, value))
    ]


def _field(name: str, value: Any) -> str:
    if name in ("weight", "scale"):
        return _weight(name, np.asarray(value))
    if isinstance(value, str):
        return f"{name} {plain(value)}"
    array = np.asarray(value)
    if name in SILENT and array.dtype.kind in "fiu" and array.size and (array == SILENT[name]).all():
        return ""
    numbers = array.reshape(-1).tolist()
    if array.dtype.kind in "iu" and (name == "kernel_size" or len({*numbers}) > 1) and len(numbers) == 2:
        return f"{name} {size(numbers)}"
    return f"{name} {extent(array)}"


def _weight(name: str, array: np.ndarray[Any, Any]) -> str:
    if array.dtype.kind not in "fiu" or array.size < 2:
        return f"{name} {extent(array)}"
    zeros = 1 - np.count_nonzero(array) / array.size
    share = f", {zeros:.0%} zeros" if zeros >= 0.005 else ""
    return f"{name} {size(array.shape)} {array.dtype} {extent(array)}{share}"


def does(node: Node) -> list[str]:
    """Fields, and then what they become in a step: a threshold is told there, with the rule that it stands in."""
    told = [text for text in fields(node.node) if not (node.spikes and text.startswith("v_threshold "))]
    return [*told, *step(node)]


def step(node: Node) -> list[str]:
    """What a node of a program does in a step, where its fields alone do not say it."""
    return [*_step(node)]


def _step(node: Node) -> Iterator[str]:
    if node.numbers is not None:
        yield from _neuron(node.numbers)
    if node.steps is not None:
        steps = extent(node.steps)
        yield f"{steps} step late" if steps == "1" else f"{steps} steps late"
    if isinstance(node.node, nir.Threshold):
        yield f"1 where x {node.spike} threshold"
    if node.late:
        yield "puts out what is stored"


def _neuron(numbers: Discrete) -> Iterator[str]:
    """The equations are those of `semantics`."""
    synapse = numbers.synapse
    if synapse is not None:
        leak = _unless_zero("leak", synapse.leak)
        yield f"synapse: decay {extent(synapse.decay)}, gain {extent(synapse.gain)}{leak}, {synapse.order}"
    init = _unless_zero("begins at", numbers.v_init)
    yield f"decay {extent(numbers.decay)}, gain {extent(numbers.gain)}{_unless_zero('leak', numbers.leak)}{init}"
    if numbers.spikes:
        yield from _spike(numbers)


def _spike(numbers: Discrete) -> Iterator[str]:
    worth = "" if (numbers.out_scale == 1).all() else f", each worth {extent(numbers.out_scale)}"
    yield f"spikes {fires(numbers)}{worth}"
    after = {
        "v_reset": f"v = {extent(numbers.v_reset)}",
        "subtract": "v - threshold",
        "none": "none",
    }[numbers.reset]
    when = {"now": "", "next_sub": ", a step later", "next_drop": ", a step later", "now_nodouble": ", once"}
    yield f"reset {after}{when[numbers.reset_when]}"
    if numbers.v_min is not None:
        yield f"v at least {extent(numbers.v_min)}"


def fires(numbers: Discrete) -> str:
    """When a neuron spikes, or how often."""
    threshold = extent(numbers.v_threshold)
    return f"v {numbers.spike} {threshold}" if numbers.spike != "floor" else f"floor(v / {threshold})"


def _unless_zero(word: str, value: Any) -> str:
    return f", {word} {extent(value)}" if np.any(value) else ""


def weights(node: Any) -> int:
    """How many weights and biases a node has; the parameters of neurons are not counted."""
    return sum(int(np.size(getattr(node, name))) for name in ("weight", "bias", "scale") if hasattr(node, name))


def macs(node: Any, shape: Shape) -> int:
    """Multiplications by weights for one sample and one step; `shape` is what the node puts out."""
    if isinstance(node, nir.Conv1d | nir.Conv2d):
        return int(np.size(node.weight)) * math.prod(shape[1:])
    if isinstance(node, nir.Scale):
        return math.prod(shape)
    return int(np.size(node.weight)) if isinstance(node, nir.Affine | nir.Linear) else 0
