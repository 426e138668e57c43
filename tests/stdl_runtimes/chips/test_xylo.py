"""Xylo from a .nir file to the verdict, by the commands; and its runtime on what the bundle holds."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from xylo_graphs import inputs, xylo_graph

import stdl_runtimes
from stdl_export import bundle as bundles
from stdl_export import cli as export
from stdl_export import graph as graphs
from stdl_export.chips import xylo_file
from stdl_export.chips.xylo_integers import padded
from stdl_export.chips.xylo_model import Model
from stdl_export.common.console import run
from stdl_export.common.errors import BadInput, Unavailable
from stdl_runtimes import cli as validate

FOLDER = "chips/xylo"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A bundle with 40 golden samples."""
    pytest.importorskip("xylosim.v2")
    folder = tmp_path_factory.mktemp("xylo")
    rng = np.random.default_rng(11)
    graph = xylo_graph(rng, feedback=True)
    graphs.write(graph, folder / "net.nir")
    np.savez(folder / "x.npz", input=inputs(rng, graph, 40))
    words = [str(folder / "net.nir"), "--target", "xylo,onnx", "--inputs", str(folder / "x.npz"), "--mode", "sequence"]
    assert run(export.command, [*words, "--set", "xylo.chip=audio2", "--out", str(folder / "bundle")]) == 0
    return folder


def test_the_whole_way_ends_in_a_verdict(made, capsys):
    capsys.readouterr()
    report = made / "report.json"
    assert (
        run(validate.command, [str(made / "bundle"), "--runtime", "xylo", "--require", "xylo", "--json", str(report)])
        == 0
    )
    said = json.loads(report.read_text())
    line = next(line for line in said["runtimes"] if line["runtime"] == "xylo")
    assert line["agreement"]["value"] >= 0.9
    assert "xylo" in capsys.readouterr().out


def test_every_sample_is_what_our_model_says(made):
    bundle = bundles.load(made / "bundle")
    x = bundle.golden().input
    spec, about = xylo_file.read(
        made / "bundle" / FOLDER / "specification.npz", made / "bundle" / FOLDER / "specification.json"
    )
    ours = Model(spec).run(padded(x.astype(np.int64), about["latency"]))
    with stdl_runtimes.load(bundle, runtime="xylo") as runtime:
        recorded = runtime.run_recorded(x)
        np.testing.assert_array_equal(recorded.output, ours.output[about["latency"] :])
        np.testing.assert_array_equal(runtime.run(x), recorded.output)
    for layer in about["layers"]:
        if not layer["output"]:
            mine = ours.hidden[layer["late"] :][: len(x)][:, :, layer["neurons"]]
            np.testing.assert_array_equal(recorded.spikes[layer["node"]], mine)
    assert set(recorded.spikes) == {"l1", "l2", "l3"}
    assert recorded.spikes["l1"].max() > 1
    assert 0.02 < recorded.output.mean() < 0.9


def test_a_file_by_itself(made):
    with stdl_runtimes.load(made / "bundle" / FOLDER / "specification.json", runtime="xylo") as runtime:
        bundle = bundles.load(made / "bundle")
        x = bundle.golden().input
        with stdl_runtimes.load(bundle, runtime="xylo") as whole:
            np.testing.assert_array_equal(runtime.run(x), whole.run(x))


@pytest.mark.parametrize("late", ["x", 0, None, 1 << 30, 1.5])
def test_a_file_of_nonsense(made, tmp_path, late):
    for suffix in ("npz", "json"):
        name = f"specification.{suffix}"
        (tmp_path / name).write_bytes((made / "bundle" / FOLDER / name).read_bytes())
    path = tmp_path / "specification.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"latency": late}))
    with pytest.raises(BadInput, match="latency is"):
        stdl_runtimes.load(tmp_path / "specification.npz", runtime="xylo")


def test_inputs_that_are_no_spikes(made):
    with stdl_runtimes.load(made / "bundle", runtime="xylo") as runtime, pytest.raises(BadInput, match="whole numbers"):
        runtime.run(np.full((12, 1, 5), 0.5, np.float32))


def test_without_xylosim_it_is_skipped_by_name(made, monkeypatch):
    monkeypatch.setitem(sys.modules, "xylosim.v2", None)
    with pytest.raises(Unavailable, match="xylosim cannot be imported"):
        stdl_runtimes.load(made / "bundle", runtime="xylo")


def test_a_bundle_without_it(made, tmp_path):
    words = [str(made / "net.nir"), "--target", "nir", "--inputs", str(made / "x.npz"), "--out", str(tmp_path / "b")]
    assert run(export.command, words) == 0
    with pytest.raises(Unavailable, match="--target xylo"):
        stdl_runtimes.load(tmp_path / "b", runtime="xylo")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda c: c["layers"][0].update(node="other"), "is no spiking node"),
        (lambda c: c["layers"][0].update(neurons=[0]), "are not the node's neurons"),
        (lambda c: c["layers"][0].update(late=9), "later than the outputs"),
        (lambda c: c.pop("latency"), "'latency' is missing"),
        (lambda c: c.update(latency=1 << 40), "latency"),
    ],
)
def test_files_that_do_not_fit_the_graph(made, tmp_path, change, match):
    """Hashes and all: somebody's bundle."""
    source = bundles.load(made / "bundle")
    content = json.loads(source.file(f"{FOLDER}/specification.json").read_text())
    change(content)

    def fill(folder):
        (folder / FOLDER).mkdir(parents=True)
        for name in source.manifest.files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(source.file(name).read_bytes())
        (folder / FOLDER / "specification.json").write_text(json.dumps(content))
        return source.manifest.model_copy(update={"files": {}})

    foreign = bundles.create(tmp_path / "b", fill)
    with pytest.raises(BadInput, match=match) as error:
        stdl_runtimes.load(foreign, runtime="xylo")
    assert "\n" not in str(error.value)


def test_what_does_not_fit_leaves_nothing_behind(tmp_path, capsys):
    rng = np.random.default_rng(0)
    graph = xylo_graph(rng, (20, 8, 4))
    graphs.write(graph, tmp_path / "net.nir")
    assert run(export.command, [str(tmp_path / "net.nir"), "--target", "xylo", "--out", str(tmp_path / "b")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "inputs is 20" in said
    assert not (tmp_path / "b").exists()
