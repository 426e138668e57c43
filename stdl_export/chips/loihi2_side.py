"""`network.json` beside a `network.net`: what the netx format has no place for, and a reader of it has to be told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pydantic

from stdl_export.chips.netx import ReaderOptions
from stdl_export.chips.quantise import Levels
from stdl_export.common.config import read_json_object, validate
from stdl_export.common.files import atomic_file

MOST_BYTES = 64 << 20

Shown = Literal["spikes", "potential", "current"]
Positive = Annotated[int, pydantic.Field(ge=1, le=1 << 30)]
Usual = Annotated[float, pydantic.Field(ge=-1e20, le=1e20)]
"""A number with which nothing overflows."""

Small = Annotated[float, pydantic.Field(ge=1e-20, le=1e20)]
"""The same, above 0."""


class _Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class InputSide(_Model):
    """A value x of channel c goes in as round((x - low[c]) / step[c]), at least 0 and at most `most`.

    Where `repeat` is true one frame is shown at every step.
    """

    node: str
    shape: tuple[Positive, ...]
    repeat: bool
    most: Positive
    low: tuple[Usual, ...]
    step: tuple[Small, ...]

    @property
    def levels(self) -> Levels:
        """For encoding."""
        return Levels(self.most, np.array(self.low), np.array(self.step))


class LayerSide(_Model):
    """A layer with neurons: which node it is, the node's shape, how many of its outputs (channels) are the node's own,
    and whose spikes the others repeat. scale: whole numbers per unit of v, thresholds being 1 unit.
    """

    node: str
    shape: tuple[Positive, ...]
    own: Positive
    carries: tuple[str, ...]
    scale: Small


class OutputSide(_Model):
    """How an output is read at the last layer, at the steps `depth` to `depth` + T - 1 (from 0).

    spikes: spikes * factor; potential: v * factor; current: (u + 64 * bias) * factor, of which v is the sum over time.
    """

    node: str
    shape: tuple[Positive, ...]
    shown: Shown
    factor: Usual


class ReaderSide(_Model):
    """Arguments of Lava's reader, `netx.hdf5.Network`."""

    input_message_bits: Annotated[int, pydantic.Field(ge=0, le=32)]
    reset_interval: Positive | None
    reset_offset: Annotated[int, pydantic.Field(ge=0, le=1 << 30)]

    @property
    def options(self) -> ReaderOptions:
        """For the model."""
        return ReaderOptions(self.input_message_bits, self.reset_interval, self.reset_offset)


class Side(_Model):
    """depth: by how many steps the last layer is late, the number of layers with neurons."""

    schema_version: Literal[1] = 1
    network: str = "network.net"
    timesteps: Positive | None
    depth: Positive
    reader: ReaderSide
    input: InputSide
    layers: tuple[LayerSide, ...]
    output: OutputSide


def write(side: Side, path: Path) -> None:
    """The file is whole or absent."""
    with atomic_file(path) as part:
        part.write_text(json.dumps(side.model_dump(mode="json"), indent=2) + "\n", encoding="utf-8")


def read(path: Path) -> Side:
    """BadInput on one line for anything that is none."""
    content = read_json_object(path, MOST_BYTES, "export the network again")
    return validate(Side, content, f"'{path}'")
