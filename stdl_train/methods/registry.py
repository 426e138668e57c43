"""The methods that `--method` names. To add one: a file, and one line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from stdl_models.network import SpikingNetwork
from stdl_train.auxiliary import build_head
from stdl_train.methods.base import Layout, Method, MethodOptions, Part
from stdl_train.methods.bptt import Bptt
from stdl_train.methods.bptt_checkpoint import BpttCheckpoint
from stdl_train.methods.online_checkpoint import OnlineCheckpoint
from stdl_train.methods.stdl import Stdl
from stdl_train.split import Subnetwork

MethodName = Literal["stdl", "auglocal", "local", "online", "online-checkpoint", "bptt", "bptt-checkpoint"]


def _decoupled(network: SpikingNetwork, layout: Layout, options: MethodOptions) -> Method:
    return Stdl(network, build_subnetworks(network, layout), layout, options)


@dataclass(frozen=True)
class MethodEntry:
    """`splits`: into several subnetworks; `copies`: how later units are chosen for auxiliary networks.

    `chunks`: has time chunks, so no gradient crosses a step; `line`: for people; `traces`: can take them;
    `checkpoints`: computes activations again rather than keep them.
    """

    build: Callable[[SpikingNetwork, Layout, MethodOptions], Method]
    splits: bool
    copies: Literal["largest", "uniform", "none"]
    chunks: bool
    line: str
    traces: bool = True
    checkpoints: bool = False


METHODS: dict[MethodName, MethodEntry] = {
    "stdl": MethodEntry(
        _decoupled, True, "largest", True, "decoupled in space and time, auxiliary networks of later units"
    ),
    "auglocal": MethodEntry(
        _decoupled, True, "uniform", True, "the same with uniformly spaced auxiliary units, as in AugLocal"
    ),
    "local": MethodEntry(
        _decoupled, True, "none", True, "the same with plain linear classifiers as auxiliary networks"
    ),
    "online": MethodEntry(_decoupled, False, "none", True, "no gradient through time, full depth in space"),
    "online-checkpoint": MethodEntry(
        OnlineCheckpoint,
        False,
        "none",
        True,
        "the same with activation checkpointing per unit",
        traces=False,
        checkpoints=True,
    ),
    "bptt": MethodEntry(Bptt, False, "none", False, "backpropagation through time, the whole network", traces=False),
    "bptt-checkpoint": MethodEntry(
        BpttCheckpoint,
        False,
        "none",
        False,
        "the same with activation checkpointing per unit",
        traces=False,
        checkpoints=True,
    ),
}


def build_method(name: MethodName, network: SpikingNetwork, layout: Layout, options: MethodOptions) -> Method:
    """The method, with auxiliary networks built for the layout's parts (one part where a method does not split)."""
    return METHODS[name].build(network, layout, options)


def build_subnetworks(network: SpikingNetwork, layout: Layout) -> list[Subnetwork]:
    """Subnetworks over the network's own units; the last one's head is the network's readout."""
    last = len(layout.parts) - 1
    return [build_subnetwork(network, part, layout.width, index == last) for index, part in enumerate(layout.parts)]


def build_subnetwork(network: SpikingNetwork, part: Part, width: float, last: bool) -> Subnetwork:
    """One subnetwork, with a fresh auxiliary network or, in the last, the network's readout."""
    units = network.chain[part.first : part.last + 1]
    return Subnetwork(units, [network.readout] if last else build_head(network, part.last, part.copies, width))
