"""What each of Xylo's chips has, and why a network does not fit it.

Numbers as in Rockpool's documentation of the chips and its mappers (3.1.0). Hidden neurons that read the input, or
feed an output, must be among the first 128 of the two newer chips, so neurons are ordered: those first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stdl_export.chips.base import Limit, Refusal
from stdl_export.chips.report import Use
from stdl_export.chips.xylo_map import Network

SOURCE = "SynSense, Rockpool 3.1.0"


@dataclass(frozen=True)
class Variant:
    """One chip: neurons, and weights that are not 0.

    rim: hidden neurons that may read the input or feed outputs. fan_out: targets of a hidden neuron. in_weights,
    weights, out_weights: that the memories hold; 0: as many as there are pairs.
    """

    name: str
    part: str
    inputs: int
    hidden: int
    outputs: int
    synapses: int
    rim: int
    fan_out: int
    in_weights: int
    weights: int
    out_weights: int


VARIANTS = {
    "audio2": Variant("XyloAudio 2", "SYNS61201", 16, 1000, 8, 2, 1000, 64, 16000, 32000, 8000),
    "audio3": Variant("XyloAudio 3", "SYNS65302", 16, 992, 32, 2, 128, 1024, 2048, 31744, 4096),
    "imu": Variant("XyloIMU", "SYNS63300", 16, 496, 16, 1, 128, 512, 2048, 31744, 2048),
}
WARNED_OUTPUTS = 16
"""Rockpool's mapper for XyloAudio 3 warns above so many outputs."""


def limits(variant: Variant) -> tuple[Limit, ...]:
    """In words, for documentation."""
    return tuple(
        Limit(f"{variant.name}: {name}", most, SOURCE)
        for name, most in (
            ("inputs", variant.inputs), ("hidden neurons", variant.hidden), ("outputs", variant.outputs),
            ("hidden neurons that read the input or feed outputs", variant.rim),
            ("hidden neurons that a hidden neuron feeds", variant.fan_out),
            ("weights between hidden neurons", variant.weights), ("weights of inputs", variant.in_weights),
            ("weights of outputs", variant.out_weights),
        )
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Matrices:
    """A network's weights on the chip's neurons, float64 [source, target]; `order`: rim neurons first."""

    into: NDArray[np.float64]
    between: NDArray[np.float64]
    out: NDArray[np.float64]
    order: NDArray[np.int64]
    """Of the hidden neurons as the graph has them, layer by layer: the place of each on the chip."""


def matrices(found: Network) -> Matrices:
    """All layers as one hidden layer of the chip."""
    starts, total = _starts(found)
    into, between = np.zeros((found.inputs, total)), np.zeros((total, total))
    out = np.zeros((total, found.output.size))
    for layer in found.layers:
        hidden = layer.path != found.output.path
        columns = slice(starts[layer.path], starts[layer.path] + layer.size) if hidden else slice(None)
        if layer.of_input is not None:
            into[:, columns] = layer.of_input
        for other, weight in layer.of_layers.items():
            rows = slice(starts[other], starts[other] + weight.shape[0])
            (between if hidden else out)[rows, columns] = weight
    rim = into.any(axis=0) | out.any(axis=1)
    chosen = np.argsort(~rim, kind="stable")
    place = np.empty_like(chosen)
    place[chosen] = np.arange(total)
    return Matrices(into[:, chosen], between[np.ix_(chosen, chosen)], out[chosen], place)


def _starts(found: Network) -> tuple[dict[str, int], int]:
    ends = np.cumsum([0, *(layer.size for layer in found.hidden)])
    return {layer.path: int(at) for layer, at in zip(found.hidden, ends, strict=False)}, int(ends[-1])


def uses(found: Network, on: Matrices, variant: Variant) -> tuple[Use, ...]:
    """Every resource against what the chip has."""
    rim = int((on.into.any(axis=0) | on.out.any(axis=1)).sum())
    fan_out = int((on.between != 0).sum(axis=1).max(initial=0))
    return tuple(
        Use(name, used, limit)
        for name, used, limit in (
            ("inputs", found.inputs, variant.inputs), ("hidden neurons", len(on.between), variant.hidden),
            ("outputs", found.output.size, variant.outputs), ("neurons at inputs or outputs", rim, variant.rim),
            ("fan-out of a hidden neuron", fan_out, variant.fan_out),
            ("weights of inputs", int((on.into != 0).sum()), variant.in_weights),
            ("weights between hidden neurons", int((on.between != 0).sum()), variant.weights),
            ("weights of outputs", int((on.out != 0).sum()), variant.out_weights),
        )
    )  # fmt: skip


WAYS = {
    "inputs": "give fewer at a time: rows of a picture over time (data.encoding.name = 'rows')",
    "hidden neurons": "take fewer (model.options.hidden)",
    "outputs": "take a chip with more of them (--set xylo.chip=audio3), or fewer classes",
    "neurons at inputs or outputs": "take smaller first and last hidden layers",
    "fan-out of a hidden neuron": "take a smaller layer behind it, or weights that are 0",
    "weights of inputs": "take fewer neurons that read the input, or weights that are 0",
    "weights between hidden neurons": "take smaller hidden layers, or weights that are 0",
    "weights of outputs": "take fewer neurons that feed outputs",
}


def refusals(found: Network, taken: Sequence[Use], variant: Variant) -> Iterator[Refusal]:
    """What there is too much of."""
    where = {"inputs": found.hidden[0].path, "outputs": found.output.path, "weights of outputs": found.output.path}
    for use in taken:
        if not use.fits:
            node = where.get(use.name, found.hidden[-1].path)
            limit = f"{use.limit:g} on {variant.name}"
            yield Refusal(node, use.name, f"{use.used:g}", limit, WAYS[use.name] + fitting(use.name, use.used))


def fitting(name: str, used: float) -> str:
    """Which of the chips has enough of a resource; nothing where none has."""
    fields = {
        "inputs": "inputs", "hidden neurons": "hidden", "outputs": "outputs", "fan-out of a hidden neuron": "fan_out",
        "neurons at inputs or outputs": "rim",
    }  # fmt: skip
    field = fields.get(name)
    enough = [key for key, each in VARIANTS.items() if field and used <= getattr(each, field)]
    return f"; --set xylo.chip={enough[0]} has enough" if enough else ""
