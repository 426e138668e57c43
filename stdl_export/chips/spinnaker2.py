"""SpiNNaker2: py-spinnaker2 imports NIR by itself, so the graph is checked against what it documents, and written.

    chips/spinnaker2/network.nir     the graph
    chips/spinnaker2/options.json    the options of py-spinnaker2's importer that the graph's own settings mean

py-spinnaker2 comes from its own site and could not be had here: the file was not loaded there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nir
import numpy as np

from stdl_export import graph as graphs
from stdl_export.chips.base import ChipJob, ChipOptions, Limit, Refusal, Written
from stdl_export.chips.report import LayerUse, Mapping
from stdl_export.common.files import atomic_file
from stdl_export.program import Node, Program, program

NETWORK, OPTIONS = "network.nir", "options.json"

KINDS = (nir.Conv1d, nir.Conv2d, nir.Flatten, nir.Affine, nir.Linear, nir.IF, nir.LIF, nir.CubaLIF, nir.SumPool2d)
"""As its documentation lists them."""

LIMITS: tuple[Limit, ...] = ()
UNVERIFIED = "py-spinnaker2 is distributed by its own site: the file was not loaded there"


class Options(ChipOptions):
    """There are none."""


def refusals(graph: nir.NIRGraph, options: Options) -> list[Refusal]:
    """Nodes and rules that its importer does not know."""
    made = program(graph)
    found = [reason for node in made.nodes.values() for reason in _reasons(node)]
    resets = {_reset(node) for node in made.nodes.values() if node.spikes}
    if len(resets) > 1:
        first = next(node.path for node in made.nodes.values() if node.spikes)
        what, out = " and ".join(sorted(resets)), "train with one reset everywhere"
        found.append(Refusal(first, "reset", what, "one for the whole network", out))
    return found


def write(job: ChipJob, folder: Path) -> Written:
    """The graph, and the importer's options that it means."""
    made = program(job.graph)
    graphs.write(job.graph, folder / NETWORK)
    resets = [_reset(node) for node in made.nodes.values() if node.spikes]
    said = {
        "dt": graphs.settings(job.graph).dt, "reset": resets[0] if resets else "ZERO", "integrator": _integrator(made),
        "verified": False,
    }  # fmt: skip
    with atomic_file(folder / OPTIONS) as part:
        part.write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
    note = f"import with dt {said['dt']:g}, reset {said['reset']}, integrator {said['integrator']}"
    return Written(_mapping(made), [note], [UNVERIFIED])


def _reasons(node: Node) -> Iterator[Refusal]:
    """Why its importer does not take a node."""
    if not isinstance(node.node, (nir.Input, nir.Output, *KINDS)):
        limit = "Conv1d, Conv2d, Flatten, Affine, Linear, IF, LIF, CubaLIF and SumPool2d"
        ways = {
            nir.AvgPool2d: "take strides, or fold the average into the next weights",
            nir.LI: "let the readout fire",
        }
        out = ways.get(type(node.node), "leave it out")
        yield Refusal(node.path, "type", type(node.node).__name__, limit, out)
    k = node.numbers
    if k is None or not k.spikes:
        return
    wanted = (
        ("spike", k.spike, k.spike == ">", ">", "train with spike = '>'"),
        ("reset_when", k.reset_when, k.reset_when == "now", "now", "choose a dialect that resets in the same step"),
        ("v_reset", _one(k.v_reset), k.reset != "v_reset" or bool((k.v_reset == 0).all()), "0", "reset to 0"),
        ("reset", k.reset, k.reset != "none", "to 0, or subtract", "let it reset"),
    )
    for name, value, holds, limit, out in wanted:
        if not holds:
            yield Refusal(node.path, name, value, limit, out)


def _reset(node: Node) -> str:
    assert node.numbers is not None
    return "SUBTRACT" if node.numbers.reset == "subtract" else "ZERO"


def _integrator(made: Program) -> str:
    """Forward Euler where every decay is 1 - dt/tau, else exponential; IF has none."""
    dt = made.settings.dt
    for node in made.nodes.values():
        k = node.numbers
        if k is not None and k.kind in ("LIF", "CubaLIF"):
            tau = np.asarray(node.node.tau if k.kind == "LIF" else node.node.tau_mem, np.float64)
            if not np.allclose(np.broadcast_to(k.decay, tau.shape), 1 - dt / tau, atol=1e-6):
                return "EXPONENTIAL"
    return "FORWARD"


def _mapping(made: Program) -> Mapping:
    """Neurons and weights; which cores they go to, its own tools decide."""
    layers = []
    for node in made.nodes.values():
        if node.spikes:
            weights = [made.nodes[source.path].node for source in node.sources]
            count = sum(int(np.size(getattr(each, "weight", ()))) for each in weights)
            fan_in = sum(_fan_in(each) for each in weights)
            neurons = int(np.prod(node.shape))
            layers.append(LayerUse(node.path, type(node.node).__name__, neurons, neurons * fan_in, 8 * count, fan_in))
    return Mapping("SpiNNaker2", tuple(layers), (), (UNVERIFIED,))


def _fan_in(node: Any) -> int:
    weight = np.asarray(getattr(node, "weight", np.ones((1, 1))))
    return int(np.prod(weight.shape[1:]))


def _one(value: Any) -> str:
    return ", ".join(f"{each:.4g}" for each in np.unique(np.asarray(value))[:2])
