"""The methods that `--method` names. To add one: a file, and one line here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from stdl_models.network import SpikingNetwork
from stdl_train.auxiliary import build_head
from stdl_train.methods.base import Method, OptimizerOptions
from stdl_train.methods.bptt import Bptt
from stdl_train.methods.bptt_checkpoint import BpttCheckpoint
from stdl_train.methods.stdl import Stdl
from stdl_train.split import Subnetwork

MethodName = Literal["stdl", "bptt", "bptt-checkpoint", "online", "local"]


@dataclass(frozen=True)
class MethodEntry:
    """`splits`: into several subnetworks; `copies`: their heads hold copies of later units; `line`: for people."""

    splits: bool
    copies: bool
    line: str


METHODS: dict[MethodName, MethodEntry] = {
    "stdl": MethodEntry(True, True, "decoupled in space and time, auxiliary networks of later units"),
    "local": MethodEntry(True, False, "decoupled in space and time, plain linear classifiers as auxiliary networks"),
    "online": MethodEntry(False, False, "no gradient through time, full depth in space"),
    "bptt": MethodEntry(False, False, "backpropagation through time, the whole network"),
    "bptt-checkpoint": MethodEntry(False, False, "the same with activation checkpointing per unit"),
}


@dataclass(frozen=True)
class Part:
    """Units first..last of the network and the units behind them that its auxiliary network copies."""

    first: int
    last: int
    copies: tuple[int, ...] = ()


def build_method(
    name: MethodName, network: SpikingNetwork, parts: tuple[Part, ...], options: OptimizerOptions
) -> Method:
    """The method, with auxiliary networks built for `parts` (one part where a method does not split)."""
    if name == "bptt":
        return Bptt(network, options)
    if name == "bptt-checkpoint":
        return BpttCheckpoint(network, options)
    return Stdl(network, build_subnetworks(network, parts), options)


def build_subnetworks(network: SpikingNetwork, parts: tuple[Part, ...]) -> list[Subnetwork]:
    """Subnetworks over the network's own units; the last one's head is the network's readout."""
    units = network.chain[:-1]
    return [
        Subnetwork(
            units[part.first : part.last + 1],
            [network.readout] if part is parts[-1] else build_head(network, part.last, part.copies),
        )
        for part in parts
    ]
