"""The tables of a whole validation, and what the JSON file holds of it."""

from __future__ import annotations

import json

import bundles
import numpy as np
import pytest
from small_graphs import conv_net, frames

from stdl_export.common.console import run
from stdl_runtimes import efficiency
from stdl_runtimes.cli import command


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("validation")
    x = frames(5, 2, 6, 6)
    bundle = bundles.make(folder / "bundle", conv_net(), x, labels=np.array([0, 1, 2, 3, 4]))
    assert run(command, [str(bundle.path), "--runtime", "onnxruntime", "--json", str(folder / "found.json")]) == 0
    return json.loads((folder / "found.json").read_text()), efficiency.measure(bundle.graph(), x)


def test_the_json_file_holds_what_the_network_costs(found):
    said, measured = found
    total = said["efficiency"]["total"]
    assert total["macs"] == pytest.approx(measured.total.macs)
    assert total["acs"] == pytest.approx(measured.total.acs)
    assert total["sparsity"] == pytest.approx(measured.activation_sparsity)
    assert said["efficiency"]["footprint"] == measured.footprint
    assert "ISSCC 2014" in said["efficiency"]["energy"]["source"]
    assert [layer["node"] for layer in said["efficiency"]["layers"]] == [layer.node for layer in measured.layers]


def test_the_json_file_holds_a_raster_and_a_matrix(found):
    said, _ = found
    assert [layer["node"] for layer in said["raster"]["layers"]] == ["lif1", "lif2"]
    (matrix,) = said["confusions"]
    assert matrix["runtimes"] == ["golden (reference)", "reference", "onnxruntime", "onnxruntime step"]
    assert sum(count for *_, count in matrix["cells"]) == 5


def test_the_terminal_shows_the_costs(tmp_path, capsys):
    bundle = bundles.make(tmp_path / "bundle", conv_net(), frames(3, 2, 6, 6), targets=("nir",))
    assert run(command, [str(bundle.path), "--runtime", "reference"]) == 0
    rows = [line.split("│") for line in capsys.readouterr().out.splitlines() if "│" in line]
    cells = {row[1].strip(): [cell.strip() for cell in row[2:-1]] for row in rows}
    found = efficiency.measure(bundle.graph(), bundle.golden().input)
    dense, macs, acs = (f"{getattr(found.total, name):,.0f}" for name in ("dense", "macs", "acs"))
    assert cells["total"][1:5] == [dense, macs, acs, f"{found.activation_sparsity:.2%}"]
    assert cells["conv1"][0] == "Conv2d"
    assert cells["lif1"][1:4] == ["-", "-", "-"]
