"""Multi-layer perceptrons: linear-norm-neuron units and a linear readout."""

from __future__ import annotations

from typing import Annotated

from stdl_export.common.config import AtLeastOne, Count, Table
from stdl_models.neurons import NeuronSpec
from stdl_models.units.registry import UnitSpec
from stdl_models.units.simple import LinearSpec, ReadoutSpec


class MlpOptions(Table):
    """`hidden`: features of each hidden layer; `norm`, `bias`: of those, as in LinearSpec; `bias`: of the readout too.

    `readout`: the readout's neurons, if it is to have any (ReadoutSpec).
    """

    hidden: Annotated[tuple[Count, ...], AtLeastOne] = (256, 256, 256)
    norm: bool = True
    bias: bool = True
    readout: NeuronSpec | None = None


def mlp(options: MlpOptions, classes: int, neuron: NeuronSpec) -> tuple[tuple[UnitSpec, ...], ReadoutSpec]:
    """Hidden layers fc1, fc2, ... and the readout."""
    rest = {"norm": options.norm, "bias": options.bias, "neuron": neuron}
    units = tuple(LinearSpec(name=f"fc{i}", features=n, **rest) for i, n in enumerate(options.hidden, start=1))
    return units, ReadoutSpec(classes=classes, bias=options.bias, neuron=options.readout)
