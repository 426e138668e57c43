"""The kinds of units. To add one: spec and unit in a file of this folder, and their names in the two tables here.

All but modules can be said in NIR: `stdl_export.from_torch` has the row that says how. Tests compare the tables.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from stdl_export.common.config import Choice
from stdl_models.units.base import Spec, Unit
from stdl_models.units.residual import (
    BottleneckSpec,
    BottleneckUnit,
    ResidualSpec,
    ResidualUnit,
    SpikingResidualSpec,
    SpikingResidualUnit,
)
from stdl_models.units.shapes import Shape
from stdl_models.units.simple import (
    ConvSpec,
    ConvUnit,
    LinearSpec,
    LinearUnit,
    ModuleSpec,
    ModuleUnit,
    PoolSpec,
    PoolUnit,
    Readout,
    ReadoutSpec,
)

UNITS: dict[type[Spec], Callable[..., Unit]] = {
    ConvSpec: ConvUnit,
    LinearSpec: LinearUnit,
    ResidualSpec: ResidualUnit,
    BottleneckSpec: BottleneckUnit,
    SpikingResidualSpec: SpikingResidualUnit,
    PoolSpec: PoolUnit,
    ModuleSpec: ModuleUnit,
    ReadoutSpec: Readout,
}
"""Spec -> unit."""

UnitSpec = Annotated[
    ConvSpec | LinearSpec | ResidualSpec | BottleneckSpec | SpikingResidualSpec | PoolSpec | ModuleSpec, Choice("kind")
]
"""What may stand in front of the readout."""


def build_unit(spec: Spec, in_shape: Shape, dt: float) -> Unit:
    """A fresh unit with newly drawn weights for inputs of `in_shape`; dt in seconds."""
    return UNITS[type(spec)](spec, in_shape, dt)
