"""The table of docs/conformance.md: every case through every flow, each value beside what the framework recorded.

Where a spiking node's spikes were recorded, an Output is put behind it, so that hidden layers are compared in every
flow, and not only the last one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import conformance
import nir
import numpy as np
from conformance import Case
from run_onnx import run_sequence_outputs, run_steps_outputs

from stdl_export import graph as graphs
from stdl_export.program import program
from stdl_runtimes import reference

PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"
COLUMNS = (
    "case",
    "made with",
    "dialect",
    "reference",
    "sequence",
    "dynamic",
    "step",
    "largest error",
    "smallest margin",
)
STABLE = len(COLUMNS) - 2  # the others are rounding, which another machine may do otherwise
TAP = "tap "

Outputs = Mapping[str, np.ndarray]
Flow = Callable[[nir.NIRGraph, np.ndarray], Outputs]


def _reference(graph: nir.NIRGraph, x: np.ndarray) -> Outputs:
    return reference.run(graph, x).outputs


def _sequence(graph: nir.NIRGraph, x: np.ndarray) -> Outputs:
    fixed = replace(graphs.settings(graph), T=len(x))
    return run_sequence_outputs(graphs.with_settings(graph, fixed), x, len(x))


FLOWS: dict[str, Flow] = {
    "reference": _reference,
    "sequence": _sequence,
    "dynamic": lambda graph, x: run_sequence_outputs(graph, x, len(x)),
    "step": lambda graph, x: run_steps_outputs(graph, x, len(x)),
}


@dataclass(frozen=True)
class Compared:
    """One flow of one case: how many spikes (or their absence) are the recorded ones, and how far the output is off."""

    same: int
    all: int
    error: float

    def __str__(self) -> str:
        return f"{self.same:,} of {self.all:,}" if self.all else "no spikes recorded"


def table() -> list[list[str]]:
    """A row for each case, a text for each of COLUMNS."""
    return [row(name) for name in conformance.NAMES]


def row(name: str) -> list[str]:
    """One case through all flows."""
    case = conformance.load(name)
    tapped, expected = _tapped(case)
    found = {flow: _compared(case, run(tapped, case.arrays["input"]), expected) for flow, run in FLOWS.items()}
    versions = case.said["versions"]
    framework = case.said["framework"]
    ties = case.said["exact_threshold_ties"]
    return [
        name,
        f"{framework} {versions.get(framework, '')}".strip(),
        conformance.NAMED[name] or "its own table",
        *(str(found[flow]) for flow in FLOWS),
        f"{max(each.error for each in found.values()):.1e}",
        f"{case.said['min_threshold_margin']:.1e}" + (f", and {ties} exact ties" if ties else ""),
    ]


def written() -> list[list[str]]:
    """The rows that the page has."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if re.match(r"\| ", line)]
    return [found for found in cells if len(found) == len(COLUMNS) and found[0] != COLUMNS[0]]


def _tapped(case: Case) -> tuple[nir.NIRGraph, dict[str, np.ndarray]]:
    """The graph with Outputs behind what was recorded, and what each of them must put out where it is spikes."""
    made = program(case.graph)
    (end,) = made.outputs
    (source,) = made.nodes[end].sources
    nodes, edges = dict(case.graph.nodes), list(case.graph.edges)
    expected = {end: case.arrays["output"]} if made.nodes[source.path].spikes else {}
    for path in made.spiking:
        if f"spikes:{path}" in case.arrays and path != source.path:
            nodes[TAP + path] = nir.Output(np.array(made.nodes[path].shape))
            edges.append((path, TAP + path))
            expected[TAP + path] = case.arrays[f"spikes:{path}"]
    tapped = nir.NIRGraph(nodes=nodes, edges=edges, metadata=dict(case.graph.metadata), type_check=False)
    return tapped, expected


def _compared(case: Case, found: Outputs, expected: Outputs) -> Compared:
    (end,) = program(case.graph).outputs
    wanted = case.arrays["output"]
    off = float(np.abs(found[end] - wanted).max()) / max(1.0, float(np.abs(wanted).max()))
    same = sum(int((found[path] == values).sum()) for path, values in expected.items())
    return Compared(same, sum(values.size for values in expected.values()), off)
