"""What the metadata (`stdl.*`) of a graph says about running it, and which values each key may hold."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import nir

from stdl_export import dialects
from stdl_export.dialects import Dialect
from stdl_export.inline import Flat

NodeName = str
Reset = Literal["v_reset", "subtract"]
InputMode = Literal["repeat", "sequence"]
Decoding = Literal["mean", "sum", "last", "none"]

SPIKING = (nir.IF, nir.LIF, nir.CubaLIF)
MAX_STEPS = 1 << 20  # T: a number in a file costs nothing, a sequence so long costs memory and hours
DT = 1e-4  # seconds, where neither the graph nor its dialect says one


@dataclass(frozen=True)
class Settings:
    """What a graph's metadata (`stdl.*`) says about running it. T is None where it is not fixed.

    dt in the unit of the graph's time constants, seconds but for a few frameworks. dialect: a name, or one as JSON
    (`dialects.get`). reset is None for graphs of any dialect but `nir`: those have resets of their own.
    """

    dt: float = DT
    T: int | None = None
    dialect: str = "nir"
    reset: Reset | None = "v_reset"
    input: InputMode = "sequence"
    output: Decoding = "none"


@dataclass(frozen=True)
class Setting:
    """A metadata key: the field of `Settings` it fills, what it may hold in words, and the test for it."""

    field: str
    accepted: str
    choices: tuple[str, ...] = ()

    def holds(self, value: object) -> bool:
        """Is it one of the accepted values?"""
        if self.choices:
            return value in self.choices
        if self.field == "dt":
            return isinstance(value, float) and math.isfinite(value) and value > 0
        if self.field == "T":
            return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_STEPS
        return isinstance(value, str)


def _choice(field: str, literal: Any) -> Setting:
    choices = get_args(literal)
    return Setting(field, " | ".join(choices), choices)


SETTINGS = {
    "stdl.dt": Setting("dt", "a positive number of seconds, as a float"),
    "stdl.T": Setting("T", f"a whole number of time steps, from 1 to {MAX_STEPS}"),
    "stdl.dialect": Setting("dialect", "the name of a dialect, or one as a JSON string"),
    "stdl.reset": _choice("reset", Reset),
    "stdl.input": _choice("input", InputMode),
    "stdl.output": _choice("output", Decoding),
}


def settings(graph: nir.NIRGraph) -> Settings:
    """Metadata `stdl.dt`, `stdl.T`, `stdl.dialect`, `stdl.reset`, `stdl.input`, `stdl.output` of a checked graph.

    A dt that the graph does not say is its dialect's, else 1e-4.
    """
    said = {SETTINGS[key].field: value for key, value in graph.metadata.items() if key in SETTINGS}
    own = dialects.choices(dialect(graph)).dt
    plain: dict[str, Any] = {} if own is None else {"dt": own}
    if dialects.base(dialect(graph)) != "nir":
        plain["reset"] = None
    return Settings(**plain | said)


def dialect(graph: nir.NIRGraph) -> Dialect:
    """The dialect of a checked graph; `nir` where it names none."""
    return dialects.get(graph.metadata.get("stdl.dialect", "nir"))


def with_settings(graph: nir.NIRGraph, wanted: Settings) -> nir.NIRGraph:
    """The same nodes and edges, with metadata that says `wanted`; all other metadata stays."""
    kept = {key: value for key, value in graph.metadata.items() if key not in SETTINGS}
    said = {key: getattr(wanted, row.field) for key, row in SETTINGS.items()}
    if dialects.base(dialects.get(wanted.dialect)) != "nir":
        del said["stdl.reset"]
    metadata = kept | {key: value for key, value in said.items() if value is not None}
    return nir.NIRGraph(nodes=graph.nodes, edges=graph.edges, metadata=metadata, type_check=False)


def resets(graph: nir.NIRGraph, flat: Flat) -> dict[NodeName, str | None]:
    """What `stdl.reset` says of each spiking node; None where neither it nor the graph says anything that is known."""
    said = graph.metadata.get("stdl.reset")
    found = {
        path: node.metadata.get("stdl.reset", said) for path, node in flat.nodes.items() if isinstance(node, SPIKING)
    }
    return {path: reset if SETTINGS["stdl.reset"].holds(reset) else None for path, reset in found.items()}


def key_reasons(metadata: Mapping[str, Any], known: Mapping[str, Setting]) -> Iterator[str]:
    """Only keys `stdl.*` are ours; one we do not know could change what the graph means, so it is refused."""
    for key, value in metadata.items():
        if not isinstance(
            value, str | int | float
        ):  # a bool is an int; nir cannot write None, and reads lists back as bytes
            yield f"{key}={value!r:.40}: accepted are str, int, float and bool (write anything else as a JSON string)"
        elif key in known and not known[key].holds(value):
            yield f"{key}={value!r}: accepted is {known[key].accepted}"
        elif key.startswith("stdl.") and key not in known:
            yield f"{key} is not known here: {'known are ' + ', '.join(known) if known else 'remove it'}"
