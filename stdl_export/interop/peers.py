"""What each peer can take and how it reads it: `peers.toml`, checked."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import resources
from types import MappingProxyType
from typing import Any, Literal

import pydantic

from stdl_export.common.config import Table, validate
from stdl_export.common.names import unknown

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class NeuronRow(Table):
    """How a reading computes one NIR type: u = decay * v + gain * x, from `starts` on, back to `reset` at a spike."""

    reset: Literal["zero", "subtract", "none"]
    gain: Literal["1", "1-decay"] = "1"
    starts: Literal["0", "v_leak"] = "0"
    """`v_leak`: leak (1-decay) * v_leak comes along."""
    least_decay: float = 0.0


class Reading(Table):
    """One way to read a file. No `dialect`: the reader's own functions are taken to compute what the graph says."""

    code: tuple[str, ...]
    dialect: dict[str, Any] | None = None
    neurons: dict[str, NeuronRow] = pydantic.Field(default_factory=dict)


class Peer(Table):
    """A framework that reads NIR; the fields are explained in `peers.toml`."""

    title: str
    dt: Literal["graph"] | pydantic.PositiveFloat
    layers: tuple[str, ...]
    readings: tuple[Reading, ...]
    own: tuple[str, ...] = ()
    groups: bool = True
    uniform: tuple[Literal["decay", "threshold"], ...] = ()
    feedback: bool = False
    per_channel: bool = False
    float64: bool = False
    decay: Literal["euler", "exp"] = "euler"


def get(name: str) -> Peer:
    """The peer of `--for`; BadInput where there is none of that name."""
    if name not in PEERS:
        raise unknown("peer", name, PEERS)
    return PEERS[name]


def _load() -> dict[str, Peer]:
    text = resources.files("stdl_export.interop").joinpath("peers.toml").read_text(encoding="utf-8")
    return {name: validate(Peer, table, f"peer {name}") for name, table in tomllib.loads(text).items()}


PEERS: Mapping[str, Peer] = MappingProxyType(_load())
