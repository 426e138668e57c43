"""Reads netx files (.net), untrusted as any: what Lava's reader would skip, cut off or bend without a word is refused.

A file is a group `layer` with children "0", "1", ... in the order of execution. Lava skips layers of an unknown type,
cuts off fractions of weights, ignores the delay of a convolution, and scales the weights of a recurrent layer with
delays wrongly; it stops at pools, sums and concatenations that its exporter writes. None of that is read here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stdl_export import hdf5
from stdl_export.chips.netx import MOST_DELAY, MOST_NEURONS, Conv, Dense, Flatten, Integers, Layer, Network, Neuron
from stdl_export.common.errors import BadInput
from stdl_export.primitives import Refused, Shape

UNREADABLE = ("pool", "average", "concat", "convT", "unpool", "dense_comp", "sdnn")
"""Types that lava-dl documents or writes and its own reader refuses, or that have other neurons."""

LARGEST = 1 << 31  # of any number in a file


def read(path: Path) -> Network:
    """The network of a file; BadInput on one line, with the layer and the field, for anything that cannot be run."""
    found = hdf5.read(path, "layer", what="netx file", suffix=".net")
    if sorted(found) != sorted(map(str, range(len(found)))) or not found:
        names = ", ".join(sorted(found)[:8]) or "nothing"
        raise BadInput(f"'{path}': its layers are numbered {names}: they must be 0, 1, 2 and so on without a gap")
    try:
        return _network([_Fields(found[str(at)], at) for at in range(len(found))])
    except (_Bad, Refused) as reason:
        raise BadInput(f"'{path}': {reason}") from None


class _Bad(Exception):
    """Why a layer is not accepted, with its number."""


class _Fields:
    """The data sets of one layer, each checked when it is taken."""

    def __init__(self, fields: Any, at: int) -> None:
        self.at = at
        if not isinstance(fields, dict):
            raise self.bad("it is a data set, a layer is a group")
        self.fields: Mapping[str, Any] = fields
        self.type = self.word("type", fields)
        self.where = f"layer {at} ({self.type})"

    def bad(self, reason: str) -> _Bad:
        return _Bad(f"{getattr(self, 'where', f'layer {self.at}')}: {reason}")

    def word(self, name: str, fields: Mapping[str, Any]) -> str:
        value = fields.get(name)
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if not isinstance(value, str) or not value.isprintable():
            raise self.bad(f"it has no '{name}' that is a word")
        return value.strip("\0")[:40]

    def whole(self, name: str, low: int = -LARGEST, high: int = LARGEST, fields: Any = None) -> Integers:
        """An array of whole numbers within limits, whatever its type in the file."""
        fields = self.fields if fields is None else fields
        if name not in fields:
            raise self.bad(f"it has no '{name}'")
        value = fields[name]
        if isinstance(value, dict | list | str):
            raise self.bad(f"its {name} is no array of numbers")
        array = np.asarray(value)
        if not array.size:
            raise self.bad(f"its {name} is empty")
        if array.dtype.kind == "f" and not (np.isfinite(array).all() and (array == np.rint(array)).all()):
            raise self.bad(f"its {name} holds fractions, which Lava's reader cuts off: store whole numbers")
        if array.max() > high or array.min() < low:
            raise self.bad(f"its {name} is {array.min():g} to {array.max():g}: accepted are {low} to {high}")
        return array.astype(np.int64)

    def number(self, name: str, low: int, high: int) -> int:
        array = self.whole(name, low, high)
        if array.size != 1:
            raise self.bad(f"its {name} has {array.size} numbers: accepted is one")
        return int(array.reshape(()))

    def pair(self, name: str, low: int) -> tuple[int, int]:
        """(y, x); one number counts for both."""
        array = self.whole(name, low).reshape(-1)
        if array.size > 2:
            raise self.bad(f"its {name} has {array.size} numbers: accepted are two, (y, x)")
        return int(array[0]), int(array[-1])

    def neuron(self, outputs: int, rank: int) -> Neuron:
        fields = self.fields.get("neuron")
        if not isinstance(fields, dict):
            raise self.bad("it has no group 'neuron'; Lava would give it neurons that never fire: write it")
        kind = self.word("type", fields)
        if kind not in ("CUBA", "LOIHI"):
            raise self.bad(f"its neurons are {kind}: accepted are CUBA and LOIHI, the leaky integrate-and-fire neuron")
        if "messageBits" in fields:
            raise self.bad("its neurons have 'messageBits', at which Lava's reader stops: remove it")
        if np.any(fields.get("gradedSpike", False)):
            raise self.bad("its neurons have gradedSpike, which Lava's reader ignores: accepted is False")

        def numbers(name: str, high: int) -> Integers:
            array = self.whole(name, 0, high, fields)
            if array.size == 1:
                return array.reshape(())
            if array.shape != (outputs,):
                raise self.bad(f"its {name} has shape {array.shape}: accepted are one number, or one an output channel")
            return array.reshape(-1, *[1] * (rank - 1))

        return Neuron(numbers("iDecay", 4096), numbers("vDecay", 4096), numbers("vThMant", LARGEST >> 7))


def _network(layers: list[_Fields]) -> Network:
    made: list[Layer] = []
    input_shape: Shape | None = None
    shape: Shape | None = None  # of what arrives; None: not said yet
    for each in layers:
        if each.type == "input":
            input_shape = shape = _input(each)
        elif each.type in READERS:
            layer = READERS[each.type](each, shape)
            made.append(layer)
            shape = layer.shape
        else:
            raise each.bad(f"layers of this type are {_why(each.type)}: accepted are {', '.join(['input', *READERS])}")
    if all(isinstance(layer, Flatten) for layer in made):
        raise _Bad("none of its layers has neurons")
    return Network(tuple(made), input_shape)


def _why(kind: str) -> str:
    return "refused by Lava's own reader" if kind in UNREADABLE else "skipped by Lava's reader without a word"


def _input(each: _Fields) -> Shape:
    if each.at:
        raise each.bad("an input layer stands first")
    if "neuron" in each.fields:
        raise each.bad("its input has neurons of its own, which are not modelled here: write an input without them")
    return _shape(each)


def _shape(each: _Fields) -> Shape:
    shape = tuple(int(size) for size in each.whole("shape", 1, MOST_NEURONS).reshape(-1))
    if int(np.prod(np.array(shape, float))) > MOST_NEURONS or len(shape) > 3:
        raise each.bad(f"its shape is {shape}: accepted are at most {MOST_NEURONS} elements in three dimensions")
    return shape


def _flatten(each: _Fields, shape: Shape | None) -> Flatten:
    if shape is None:
        return Flatten((int(np.prod(_shape(each))),))
    return Flatten((int(np.prod(shape)),))


def _dense(each: _Fields, shape: Shape | None) -> Dense:
    outputs = int(np.prod(_shape(each)))
    weight = each.whole("weight")
    if weight.ndim == 1 and weight.size % outputs == 0:
        weight = weight.reshape(outputs, -1)
    if weight.ndim != 2 or len(weight) != outputs:
        raise each.bad(f"its weight has shape {weight.shape}, its shape says {outputs} outputs")
    if shape is not None and shape != (weight.shape[1],):
        raise each.bad(
            f"its weight takes {weight.shape[1]} inputs, what arrives has shape {shape}: is a flatten missing?"
        )
    recurrent = None
    if each.type == "dense_rec":
        recurrent = each.whole("weight_rec")
        recurrent = recurrent.reshape(outputs, -1) if recurrent.size == outputs**2 else recurrent
        if recurrent.shape != (outputs, outputs):
            raise each.bad(f"its weight_rec has shape {recurrent.shape}: accepted is {(outputs, outputs)}")
        if "delay" in each.fields:
            raise each.bad(
                "it has a delay, with which Lava's reader scales the weights of dense_rec wrongly: remove it"
            )
    if not weight.any() and (recurrent is None or not recurrent.any()):
        raise each.bad("all its weights are 0, at which Lava's reader stops: remove the layer")
    return Dense(weight, each.neuron(outputs, 1), _bias(each, (outputs,)), _delay(each, weight), recurrent)


def _bias(each: _Fields, *shapes: Shape) -> Integers | None:
    if "bias" not in each.fields:
        return None
    bias = each.whole("bias")
    if bias.shape not in shapes and bias.size != 1:
        raise each.bad(f"its bias has shape {bias.shape}: accepted is {' or '.join(map(str, shapes))}")
    if bias.size == 1:
        bias = np.full(shapes[0], int(bias.reshape(())), np.int64)
    return bias


def _delay(each: _Fields, weight: Integers) -> Integers | None:
    if "delay" not in each.fields:
        return None
    delay: NDArray[np.int64] = each.whole("delay", 0, MOST_DELAY)
    if delay.ndim == 0:
        delay = np.broadcast_to(delay, weight.shape)
    elif delay.shape == weight.shape[:1]:
        delay = np.broadcast_to(delay[:, None], weight.shape)
    elif delay.shape == weight.shape[1:]:
        delay = np.broadcast_to(delay[None], weight.shape)
    elif delay.shape != weight.shape:
        raise each.bad(f"its delay has shape {delay.shape}, its weight {weight.shape}: write one a weight")
    return np.array(delay)


def _conv(each: _Fields, shape: Shape | None) -> Conv:
    weight = each.whole("weight")
    if weight.ndim == 5 and weight.shape[4] == 1:
        weight = weight[..., 0]
    if weight.ndim != 4:
        raise each.bad(f"its weight has shape {weight.shape}: accepted is (outputs, inputs / groups, height, width)")
    if "delay" in each.fields and np.any(each.whole("delay")):
        raise each.bad("it has a delay, which Lava's reader ignores on a convolution: use dense layers, or remove it")
    outputs, groups = len(weight), each.number("groups", 1, LARGEST)
    if outputs % groups:
        raise each.bad(f"its groups are {groups}, which does not divide its {outputs} outputs")
    stride, padding, dilation = each.pair("stride", 1), each.pair("padding", 0), each.pair("dilation", 1)
    said = _shape(each)
    channel = [said] if len(said) != 3 else [(outputs,), said[::-1]]
    bias = _bias(each, *channel)
    if bias is not None and bias.ndim == 3:
        bias = np.ascontiguousarray(bias.transpose(2, 1, 0))  # the file has (W, H, C)
    layer = Conv(weight, each.neuron(outputs, 3), said, bias, stride, padding, dilation, groups)
    if shape is not None:
        check_conv(layer, shape, each.where)
    return layer


def check_conv(layer: Conv, shape: Shape, where: str) -> None:
    """Does a convolution take what arrives, and put out the shape that it says? `Refused` where not."""
    if len(shape) != 3 or shape[0] != layer.channels:
        raise Refused(f"{where}: what arrives has shape {shape}, its weight and groups take {layer.channels} channels")
    padded = [size + 2 * zeros for size, zeros in zip(shape[1:], layer.padding, strict=True)]
    if shape[0] * padded[0] * padded[1] > MOST_NEURONS:
        raise Refused(
            f"{where}: what arrives is {shape[0]} x {padded} with its padding, more than {MOST_NEURONS} numbers"
        )
    real = (len(layer.weight), *layer.window.output(shape[1:]))
    if real != layer.shape:
        raise Refused(f"{where}: its shape says {layer.shape}, its weight, stride and padding make {real}")


READERS: dict[str, Callable[[_Fields, Shape | None], Layer]] = {
    "conv": _conv,
    "dense": _dense,
    "dense_rec": _dense,
    "flatten": _flatten,
}
