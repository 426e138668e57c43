"""Multi-layer perceptrons: linear-norm-neuron units and a linear readout."""

from __future__ import annotations

from typing import Annotated

from stdl_export.common.config import AtLeastOne, Count, Table
from stdl_models.neurons import NeuronSpec
from stdl_models.units.registry import UnitSpec
from stdl_models.units.simple import LinearSpec, ReadoutSpec


class MlpOptions(Table):
    """`hidden`: features of each hidden layer."""

    hidden: Annotated[tuple[Count, ...], AtLeastOne] = (256, 256, 256)


def mlp(options: MlpOptions, classes: int, neuron: NeuronSpec) -> tuple[tuple[UnitSpec, ...], ReadoutSpec]:
    """Hidden layers fc1, fc2, ... and the readout."""
    units = tuple(LinearSpec(name=f"fc{i}", features=n, neuron=neuron) for i, n in enumerate(options.hidden, start=1))
    return units, ReadoutSpec(classes=classes)
