"""Chips that take NIR by themselves, and those that cannot be exported to."""

import json

import nir
import numpy as np
import pytest
from speck_graphs import events, speck_graph
from xylo_graphs import inputs, xylo_graph

from stdl_export import cli, graph
from stdl_export.chips import refused, spinnaker2
from stdl_export.chips.registry import CHIPS, chip
from stdl_export.common.console import run


@pytest.mark.parametrize("name", [*refused.REFUSED, *refused.ALSO])
def test_what_cannot_be_exported_to_is_refused_on_one_line(name, tmp_path, capsys):
    graph.write(xylo_graph(np.random.default_rng(0)), tmp_path / "net.nir")
    assert run(cli.command, [str(tmp_path / "net.nir"), "--target", name, "--out", str(tmp_path / "b")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"--target {name} is refused: " in said
    assert len(said) > 90  # a reason, and a way out
    assert not (tmp_path / "b").exists()


def test_no_name_is_both_a_target_and_refused():
    assert not set(CHIPS) & {*refused.REFUSED, *refused.ALSO}
    assert set(refused.ALSO.values()) <= set(refused.REFUSED)


@pytest.mark.parametrize("name", CHIPS)
def test_every_chip_is_what_the_folder_says(name):
    module = chip(name)
    assert isinstance(module.LIMITS, tuple)
    assert module.Options()
    assert all(limit.most > 0 and limit.source for limit in module.LIMITS)


def _plain():
    made = xylo_graph(np.random.default_rng(0))
    made.metadata["stdl.dialect"] = "nir"
    return made


def test_a_graph_for_spinnaker2(tmp_path, capsys):
    made = _plain()
    graph.write(made, tmp_path / "net.nir")
    np.savez(tmp_path / "x.npz", input=inputs(np.random.default_rng(1), made))
    words = [str(tmp_path / "net.nir"), "--target", "spinnaker2", "--inputs", str(tmp_path / "x.npz")]
    assert run(cli.command, [*words, "--out", str(tmp_path / "b")]) == 0
    said = capsys.readouterr()
    assert "not loaded there" in said.err
    folder = tmp_path / "b" / "chips" / "spinnaker2"
    options = json.loads((folder / "options.json").read_text())
    assert options == {"dt": 1e-3, "reset": "SUBTRACT", "integrator": "FORWARD", "verified": False}
    assert graph.neurons(graph.read(folder / "network.nir")) == ["l1", "l2", "l3"]


def test_what_spinnaker2_does_not_know_is_refused():
    def reasons(made):
        graph.check(made, "test")
        return [str(each) for each in spinnaker2.refusals(made, spinnaker2.Options())]

    assert not reasons(_plain())
    assert any("'l1': spike is floor" in each for each in reasons(xylo_graph(np.random.default_rng(0))))
    assert any("'p3': type is AvgPool2d" in each for each in reasons(speck_graph(np.random.default_rng(0))))
    made = _plain()
    made.metadata["stdl.dialect"] = json.dumps({"base": "nir", "nodes": {"l1": {"reset": "zero"}}})
    assert any("reset is SUBTRACT and ZERO" in each for each in reasons(made))
    assert isinstance(made.nodes["l1"], nir.CubaLIF)
    assert events(np.random.default_rng(0)).ndim == 5


def test_exponential_decays_are_told_to_spinnaker2(tmp_path):
    made = _plain()
    made.metadata["stdl.dialect"] = "rockpool"
    from stdl_export.program import program

    assert spinnaker2._integrator(program(made)) == "EXPONENTIAL"
