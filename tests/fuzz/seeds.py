"""The sound files that mutants start from: a few graphs of our own, and the conformance cases where they are here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import conformance
import nir
import numpy as np
import small_graphs
from small_graphs import DT

from stdl_export import graph as graphs


@dataclass(frozen=True)
class Seed:
    """A .nir file, and the dialect it is exported under where it does not say one itself."""

    name: str
    graph: Path
    dialect: Path | None = None


def seeds(folder: Path, own: bool) -> list[Seed]:
    """Write our own graphs into the folder; add the conformance cases unless only ours are wanted."""
    folder.mkdir(parents=True)
    made = {"conv": small_graphs.conv_net(), "sequence": small_graphs.conv_net(input="sequence"), "loop": looped()}
    for name, graph in made.items():
        graphs.write(graph, folder / f"{name}.nir")
    found = [Seed(name, folder / f"{name}.nir") for name in made]
    if not own:
        cases = [conformance.FOLDER / name for name in conformance.NAMES]
        found += [Seed(case.name, case / "graph.nir", case / "case.json") for case in cases]
    return found


def looped() -> nir.NIRGraph:
    """A loop, a sub-graph with another loop, a delay, synapses, and parameters that differ by neuron."""
    rng = np.random.default_rng(5)

    def eighths(*shape: int) -> np.ndarray:
        return (rng.integers(-3, 7, size=shape) / 8).astype(np.float32)

    cuba = nir.CubaLIF(
        tau_syn=np.float32([1, 2, 4]) * np.float32(DT), tau_mem=np.float32([2, 4, 2]) * np.float32(DT),
        r=small_graphs.full(2, 3), v_leak=small_graphs.full(0, 3), v_threshold=np.float32([0.25, 0.5, 1]),
        v_reset=np.float32([0, -0.125, 0]), w_in=np.float32([1, 2, 1]),
    )  # fmt: skip
    inner = small_graphs.assemble(
        {
            "input": nir.Input(np.array([3])), "lif": small_graphs.lif(3, threshold=0.5),
            "back": nir.Linear(eighths(3, 3)), "output": nir.Output(np.array([3])),
        },
        [("input", "lif"), ("lif", "back"), ("back", "lif"), ("lif", "output")],
    )  # fmt: skip
    inner.metadata.clear()
    nodes = {
        "input": nir.Input(np.array([4])), "in": nir.Affine(eighths(3, 4), eighths(3)), "cuba": cuba,
        "back": nir.Affine(eighths(3, 3), eighths(3)), "late": nir.Delay(np.float32([0, 1, 2]) * np.float32(DT)),
        "part": inner, "li": nir.LI(small_graphs.full(2 * DT, 3), small_graphs.full(1, 3), small_graphs.full(0, 3)),
        "output": nir.Output(np.array([3])),
    }  # fmt: skip
    edges = [("input", "in"), ("in", "cuba"), ("cuba", "back"), ("back", "cuba"), ("cuba", "late"), ("late", "part")]
    return small_graphs.assemble(nodes, [*edges, ("part", "li"), ("li", "output")], T=5)
