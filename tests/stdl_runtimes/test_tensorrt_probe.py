"""Single layers of an engine: the probe engine on a fake of the API, against ONNX Runtime and the reference."""

from __future__ import annotations

import numpy as np
import pytest
from tensorrt_bundle import Gpu, T

from stdl_export.common.errors import Unavailable
from stdl_runtimes import base, reference
from stdl_runtimes.entries import entries_of
from stdl_runtimes.validate import Comparison

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


@pytest.fixture
def gpu(tmp_path, monkeypatch):
    return lambda **options: Gpu(tmp_path / "b", monkeypatch, probe=True, **options)


def turned(spikes):
    """Some spikes the other way round, which the layers behind are to see."""
    draw = np.random.default_rng(1)
    return {node: each ^ (draw.random(each.shape) < 0.2) for node, each in spikes.items()}


@pytest.mark.parametrize("mode", ["repeat", "sequence"])
@pytest.mark.parametrize("batch", [(1, 1, 4), (8, 8, 8)], ids=["in parts", "filled up"])
def test_each_layer_by_itself_on_the_given_spikes(gpu, mode, batch):
    made = gpu(mode=mode, batch=batch)
    given = turned(reference.run(made.graph, made.x).spikes)
    with made.load() as runtime, base.load(made.bundle, "onnxruntime") as judge:
        assert runtime.shows_spikes
        found, expected = runtime.layers(made.x, given), judge.layers(made.x, given)
        assert found.spikes.keys() == expected.spikes.keys() == given.keys()
        for node, each in expected.spikes.items():
            assert np.array_equal(found.spikes[node], each)
        assert any(not np.array_equal(found.spikes[node], given[node]) for node in given)
        np.testing.assert_allclose(found.output, expected.output, atol=1e-6)


@pytest.mark.parametrize("mode", ["repeat", "sequence"])
def test_the_spikes_of_the_whole_network_whatever_the_guess(gpu, mode):
    made = gpu(mode=mode)
    expected = reference.run(made.graph, made.x)
    with made.load() as runtime:
        for guess in (None, expected.spikes, turned(expected.spikes)):
            found = runtime.run_recorded(made.x, guess=guess)
            for node, each in expected.spikes.items():
                assert np.array_equal(found.spikes[node], each)
            np.testing.assert_allclose(found.output, expected.output, atol=1e-5)


def test_several_inputs_and_outputs(gpu):
    made = gpu(mode="sequence", several=True)
    expected = reference.run(made.graph, made.x)
    with made.load() as runtime:
        found = runtime.run_recorded(made.x)
        assert found.outputs.keys() == expected.outputs.keys()
        for name, output in expected.outputs.items():
            np.testing.assert_allclose(found.outputs[name], output, atol=1e-5)


def test_the_harness_counts_the_flips_of_each_layer(gpu):
    made = gpu(mode="sequence")
    comparison = Comparison(made.bundle)
    with made.load() as runtime:
        judge = reference.Reference(made.graph, made.bundle.manifest.states)
        rows = comparison.rows([*entries_of(judge), *entries_of(runtime)], lambda done: None)
        assert [row.entry.label for row in rows] == ["reference", "tensorrt", "tensorrt step"]
        assert set(rows[1].layers) == {"lif1", "if2"}
        assert all(check.passed for row in rows for check in comparison.checks(row))


def test_it_is_opened_when_it_is_asked_for_and_given_back(gpu):
    made = gpu()
    with made.load() as runtime:
        runtime.run(made.x)
        assert runtime.modes == ("sequence", "step")
        assert made.engines["probe"].contexts == []
        assert "probe engine" not in runtime.describe()
        runtime.run_recorded(made.x)
        assert [context.batch for context in made.engines["probe"].contexts] == [4, 2]
        assert runtime.describe()["probe cuda_graph"] == "on"
    assert not made.cuda.memory
    assert not made.cuda.pins


@pytest.mark.parametrize("changes", [{"version": "0.9"}, {"compute_capability": "9.0"}, {"graph_sha256": "0" * 64}])
def test_one_that_does_not_run_here_leaves_parity_to_the_outputs(gpu, changes, caplog):
    made = gpu()
    infos = [info.model_dump() for info in made.bundle.manifest.engines]
    infos[2] |= changes
    made.rehash(infos)
    with made.load() as runtime:
        assert not runtime.shows_spikes
        assert runtime.run(made.x).shape[:2] == (T, 6)
    assert "tensorrt does not show single layers: probe.engine: built " in caplog.text


def test_one_that_does_not_open_is_said(gpu):
    made = gpu()
    (made.bundle.path / "probe.engine").write_text("step")
    with made.load() as runtime, pytest.raises(Unavailable, match="it was changed since the bundle was opened"):
        runtime.layers(made.x, reference.run(made.graph, made.x).spikes)
