"""Speck from a .nir file to the verdict, by the commands; and its runtime on what the bundle holds."""

from __future__ import annotations

import json

import numpy as np
import pytest
from speck_graphs import events, speck_graph

import stdl_runtimes
from stdl_export import bundle as bundles
from stdl_export import cli as export
from stdl_export import graph as graphs
from stdl_export.common.console import run
from stdl_export.common.errors import BadInput, Unavailable
from stdl_runtimes import cli as validate
from stdl_runtimes import reference

FILE = "chips/speck/configuration.json"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A bundle with 70 golden samples: more than the model takes at once."""
    folder, rng = tmp_path_factory.mktemp("speck"), np.random.default_rng(1)
    graphs.write(speck_graph(rng), folder / "net.nir")
    np.savez(folder / "x.npz", input=events(rng, samples=70))
    words = [str(folder / "net.nir"), "--target", "speck", "--inputs", str(folder / "x.npz")]
    assert run(export.command, [*words, "--out", str(folder / "bundle")]) == 0
    return folder


def test_the_whole_way_ends_in_a_verdict(made, capsys):
    capsys.readouterr()
    report = made / "report.json"
    words = [str(made / "bundle"), "--require", "speck", "--json", str(report)]
    assert run(validate.command, words) == 0
    line = next(line for line in json.loads(report.read_text())["runtimes"] if line["runtime"] == "speck")
    assert line["agreement"]["value"] == 1
    assert line["count_difference"] == 0
    assert "speck" in capsys.readouterr().out


def test_every_layer_of_every_sample_is_the_graphs(made):
    bundle = bundles.load(made / "bundle")
    x = bundle.golden().input
    expected = reference.run(bundle.graph(), x)
    with stdl_runtimes.load(bundle, runtime="speck") as runtime:
        recorded = runtime.run_recorded(x)
        np.testing.assert_array_equal(runtime.run(x), expected.output)
        assert "model" in runtime.describe()["engine"]
    assert set(recorded.spikes) == set(expected.spikes)
    for node, spikes in expected.spikes.items():
        np.testing.assert_array_equal(recorded.spikes[node], spikes)


def test_step_by_step_is_the_sequence_and_rows_can_begin_anew(made):
    bundle = bundles.load(made / "bundle")
    x = bundle.golden().input[:, :5]
    with stdl_runtimes.load(bundle, runtime="speck") as runtime, runtime.session(5) as session:
        whole = runtime.run(x)
        np.testing.assert_array_equal(np.stack([session.step(frame) for frame in x]), whole)
        session.reset([1, 3])
        state = session.state
        again = np.stack([session.step(frame) for frame in x])
        np.testing.assert_array_equal(again[:, [1, 3]], whole[:, [1, 3]])
        assert (again[:, [0, 2, 4]] != whole[:, [0, 2, 4]]).any()
        with runtime.session(5, state) as other:
            np.testing.assert_array_equal(np.stack([other.step(frame) for frame in x]), again)


def test_a_file_by_itself(made):
    x = bundles.load(made / "bundle").golden().input
    whole = stdl_runtimes.load(made / "bundle", runtime="speck").run(x)
    runtime = stdl_runtimes.load(made / "bundle" / FILE, runtime="speck")
    np.testing.assert_array_equal(runtime.run(x).reshape(whole.shape), whole)


def test_inputs_that_are_no_events(made):
    with (
        stdl_runtimes.load(made / "bundle", runtime="speck") as runtime,
        pytest.raises(BadInput, match="whole numbers"),
    ):
        runtime.run(np.full((6, 1, 2, 8, 8), 0.5, np.float32))


def test_a_bundle_without_it(made, tmp_path):
    words = [str(made / "net.nir"), "--target", "nir", "--inputs", str(made / "x.npz"), "--out", str(tmp_path / "b")]
    assert run(export.command, words) == 0
    with pytest.raises(Unavailable, match="--target speck"):
        stdl_runtimes.load(tmp_path / "b", runtime="speck")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda c: c["layers"][0].update(node="other"), "is not in both"),
        (lambda c: c["layers"][0].update(core=c["layers"][1]["core"]), "neurons, 'n1'"),
        (lambda c: c.update(output=c["layers"][0]["core"]), "its output is"),
    ],
)
def test_a_file_that_does_not_fit_the_graph(made, tmp_path, change, match):
    source = bundles.load(made / "bundle")
    content = json.loads(source.file(FILE).read_text())
    change(content)

    def fill(folder):
        for name in source.manifest.files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(source.file(name).read_bytes())
        (folder / FILE).write_text(json.dumps(content))
        return source.manifest.model_copy(update={"files": {}})

    with pytest.raises(BadInput, match=match):
        stdl_runtimes.load(bundles.create(tmp_path / "b", fill), runtime="speck")
