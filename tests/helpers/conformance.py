"""The conformance cases beside this checkout: graphs with what the frameworks themselves computed for them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest

from stdl_export import dialects
from stdl_export import graph as graphs
from stdl_export.dialects import Dialect

FOLDER = Path(__file__).parents[3] / "shared" / "conformance"
NAMES = sorted(path.parent.name for path in FOLDER.glob("*/case.json"))
ABSENT = "the conformance cases are not beside this checkout"

# The named dialect that says what the case's own table says; None where its layers differ in a way that the file lost.
NAMED: dict[str, str | None] = {
    "lava-paper-lif": "lava",
    "nengo-lif-li": "nengo",
    "norse-braille-nirtorch": "norse-import",
    "norse-import-cuba-subtract": "norse-import-subtract",
    "norse-mlp-vleak-readout": "norse",
    "norse-paper-two-lif": "norse-import",
    "rockpool-import-braille-subgraph": "rockpool-import",
    "rockpool-mlp-lifsyn": "rockpool",
    "sinabs-conv-iaf-sumpool": "sinabs",
    "sinabs-lif-li-readout": "sinabs",
    "snntorch-conv-avgpool": None,  # one layer subtracts, two zero
    "snntorch-mlp-subtract": "snntorch",
    "snntorch-mlp-subtract-now": "snntorch-subtract-now",
    "snntorch-mlp-zero-ties": "snntorch-zero",
    "snntorch-nirtorch-lif": "snntorch-import",
    "snntorch-rnn-rleaky": None,  # one layer subtracts, one zeroes
    "spikingjelly-conv-if-avgpool-lif": "spikingjelly",
    "spikingjelly-conv1d-plif-vreset": "spikingjelly",
    "spikingjelly-cuba-lif-ties": "spikingjelly",
    "spikingjelly-import-loops-skip": "spikingjelly",
    "spikingjelly-paper-cnn": "spikingjelly",
    "spyx-lif-cuba": "spyx",
    "spyx-psu-threshold-if": "spyx",
}

EXCEPTIONS: dict[tuple[str, str], str] = {}
"""(case, flow of tests/test_matrix.py): the reason why its output is not the framework's."""

# Calls that give the framework another dt than its own.
OTHER_DT = {"norse-braille-nirtorch", "spikingjelly-paper-cnn"}


@dataclass(frozen=True)
class Case:
    """One case. `graph` carries the case's own dialect; arrays are [T, B, ...]."""

    said: dict[str, Any]
    dialect: Dialect
    graph: nir.NIRGraph
    arrays: dict[str, np.ndarray]

    def under(self, dialect: str) -> nir.NIRGraph:
        """The graph under a named dialect, with the case's dt where the framework was given one."""
        dt = self.said["dt"] if self.said["name"] in OTHER_DT else dialects.choices(dialects.get(dialect)).dt
        return graphs.with_settings(self.graph, graphs.Settings(dt=dt, dialect=dialect))


def load(name: str) -> Case:
    """Read a case, or skip the test where there are none."""
    if not FOLDER.is_dir():
        pytest.skip(ABSENT)
    dialect = dialects.read(str(FOLDER / name / "case.json"))
    settings = graphs.Settings(dt=dialects.choices(dialect).dt, dialect=dialects.text(dialect))
    graph = graphs.with_settings(graphs.read(FOLDER / name / "graph.nir"), settings)
    with np.load(FOLDER / name / "case.npz") as arrays:
        return Case(json.loads((FOLDER / name / "case.json").read_text()), dialect, graph, dict(arrays))
