"""What all chips share: why something is refused, what a chip is given to write, and what it says it wrote."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import nir
import numpy as np
import pydantic

from stdl_export.chips.quantise import Integers
from stdl_export.chips.report import Mapping
from stdl_export.common.errors import BadInput
from stdl_export.golden_file import Golden

FOLDER = "chips"
"""Where in a bundle the folders of chips lie, each by the chip's name."""


@dataclass(frozen=True)
class Refusal:
    """Why a chip does not take a node: the field and its value, what the chip takes, and what would make it fit."""

    node: str
    field: str
    value: str
    limit: str
    way_out: str

    def __str__(self) -> str:
        return f"node '{self.node}': {self.field} is {self.value}, the chip takes {self.limit}: {self.way_out}"


class Refused(Exception):
    """Raised inside a mapping with one refusal; the functions that collect them catch it."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal


@dataclass(frozen=True)
class Limit:
    """One limit of a chip, in words and as a number; `source` is who says it."""

    name: str
    most: int
    source: str


class ChipOptions(pydantic.BaseModel):
    """What `--set <chip>.key=value` may say; each chip adds its own."""

    model_config = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


@dataclass(frozen=True, eq=False)
class ChipJob:
    """What a chip is given: the checked graph, golden samples to calibrate with, and its own options."""

    graph: nir.NIRGraph
    golden: Golden
    options: Any


@dataclass(frozen=True)
class Written:
    """What a chip wrote: the mapping, and lines for the summary and for warnings."""

    mapping: Mapping
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def whole_inputs(golden: Golden, repeated: bool, most: int, chip: str, way_out: str) -> Integers:
    """Golden inputs as numbers of spikes [T, B, ...], at most `most` in a step; BadInput where they are none."""
    x = golden.input
    assert isinstance(x, np.ndarray), "there is one Input"
    whole = np.rint(x)
    if (np.abs(x - whole) > 1e-5).any() or whole.min(initial=0) < 0 or whole.max(initial=0) > most:
        found = f"not whole numbers of spikes 0..{most} (from {x.min():.4g} to {x.max():.4g})"
        raise BadInput(f"{chip}: golden inputs are {found}: {way_out}")
    frames = np.broadcast_to(whole, (golden.timesteps, *x.shape)) if repeated else whole
    return frames.astype(np.int64)


class Chip(Protocol):
    """The module of a chip."""

    LIMITS: tuple[Limit, ...]
    Options: type[ChipOptions]
    refusals: Callable[[nir.NIRGraph, Any], Sequence[Refusal]]
    write: Callable[[ChipJob, Path], Written]
