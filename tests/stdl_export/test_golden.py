from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import nir
import numpy as np
import pytest
import random_graphs
from hypothesis import given, settings
from small_graphs import chain, conv_net, frames, if_

from stdl_export import golden
from stdl_export import graph as graphs
from stdl_export.common.errors import BadInput
from stdl_export.source import Recorded

X = frames(6, 2, 6, 6)


def recorded(origin="trained") -> Recorded:
    return Recorded(golden.from_reference(conv_net(), X, np.arange(6)), origin, graphs.settings(conv_net()))


def test_counts_are_spikes_over_time() -> None:
    """IF, gain 1, threshold 1: 1.5 spikes at every step, 0.5 at the third and sixth, -1 never."""
    graph = chain(if_(1), shape=(1,), T=6, input="repeat")
    samples = golden.from_reference(graph, np.array([[1.5], [0.5], [-1]], np.float32))
    assert samples.counts["n0"].ravel().tolist() == [6, 2, 0]
    assert samples.output.shape == (6, 3, 1)


def test_recorded_samples_are_kept_and_cut() -> None:
    samples, origin = golden.choose(conv_net(), recorded(), None, 4)
    assert origin == "trained"
    assert samples.samples == 4
    np.testing.assert_array_equal(samples.output, recorded().golden.output[:, :4])


def test_a_dynamic_t_and_another_decoding_keep_recorded_outputs() -> None:
    said = graphs.settings(conv_net())
    for other in (replace(said, T=None), replace(said, output="sum")):
        samples, origin = golden.choose(graphs.with_settings(conv_net(), other), recorded(), None, None)
        assert origin == "trained"
        assert samples.samples == 6


@pytest.mark.parametrize("change", [{"dt": 2.0**-11}, {"T": 7}, {"reset": "subtract"}])
def test_other_settings_let_the_reference_speak(change: dict, caplog: pytest.LogCaptureFixture) -> None:
    graph = graphs.with_settings(conv_net(), replace(graphs.settings(conv_net()), **change))
    logging.getLogger("stdl").propagate = True
    with caplog.at_level(logging.WARNING, logger="stdl"):
        samples, origin = golden.choose(graph, recorded(), None, None)
    assert origin == "reference"
    assert "recorded outputs do not hold" in caplog.text
    assert len(samples.output) == graphs.settings(graph).T
    assert samples.labels is not None
    np.testing.assert_array_equal(samples.output, golden.from_reference(graph, X).output)


def test_inputs_of_the_user(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", input=X.astype(np.float64), labels=np.arange(6))
    samples, origin = golden.choose(conv_net(), None, tmp_path / "x.npz", 2)
    assert origin == "reference"
    np.testing.assert_array_equal(samples.input, X[:2])
    np.testing.assert_array_equal(samples.labels, [0, 1])


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": X}, "has no array 'input'"),
        ({"input": X[:, :, :3]}, "shape"),
        ({"input": X * np.nan}, "hold NaN or infinity"),
        ({"input": X, "labels": np.arange(5)}, "labels"),
    ],
)
def test_inputs_that_do_not_fit(tmp_path: Path, arrays: dict[str, np.ndarray], said: str) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(BadInput, match=said):
        golden.choose(conv_net(), None, tmp_path / "x.npz", None)


@settings(max_examples=15)
@given(random_graphs.graphs())
def test_seeded_input_has_the_right_shape(graph) -> None:
    samples, _ = golden.choose(graph, None, None, 3)
    samples.check("golden")
    assert samples.samples == 3


@pytest.mark.parametrize("scale", [1e-3, 1, 200])
def test_seeded_input_makes_every_layer_spike(scale: float) -> None:
    """Whatever the size of the weights of the first layer."""
    graph = conv_net()
    graph.nodes["conv1"].weight = (graph.nodes["conv1"].weight * scale).astype(np.float32)
    graph.nodes["conv1"].bias[:] = 0
    samples, _ = golden.choose(graph, None, None, None)
    rates = [count.mean() / 4 for count in samples.counts.values()]
    assert all(0.02 < rate < 0.98 for rate in rates)
    again, _ = golden.choose(graph, None, None, None)
    np.testing.assert_array_equal(samples.input, again.input)


def test_layers_that_count_are_not_made_to_fire_a_thousand_times_a_step() -> None:
    graph = conv_net()
    graph.metadata["stdl.dialect"] = json.dumps({"base": "nir", "types": {"LIF": {"spike": "floor"}}})
    samples, _ = golden.choose(graph, None, None, None)
    assert all(0.02 < count.mean() / 4 < 0.98 for count in samples.counts.values())


def test_a_scale_at_which_spikes_cannot_be_counted_is_not_taken() -> None:
    graph = chain(if_(4, threshold=2.0**-22), shape=(4,), T=2)
    graph.metadata["stdl.dialect"] = json.dumps({"base": "nir", "types": {"IF": {"spike": "floor"}}})
    samples, _ = golden.choose(graph, None, None, 4)
    assert 0 < samples.counts["n0"].mean() < 2**24


def test_a_layer_that_cannot_spike_is_told(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("stdl").propagate = True
    with caplog.at_level(logging.WARNING, logger="stdl"):
        golden.choose(chain(if_(1, threshold=1e9), shape=(1,), T=2), None, None, 2)
    assert "never spikes" in caplog.text


def test_one_silent_layer_does_not_silence_the_others() -> None:
    graph = chain(if_(1, threshold=100), if_(1, threshold=1e9), shape=(1,), T=4)
    samples, _ = golden.choose(graph, None, None, 8)
    assert samples.counts["n0"].any()


def test_outputs_beyond_float32_are_refused():
    """Infinity equals nothing: no runtime could be held against it."""
    net = chain(if_(3), nir.Linear(np.full((2, 3), 3e38, np.float32)), shape=(3,), output=(2,), T=4)
    with np.errstate(over="ignore"), pytest.raises(BadInput, match="puts out infinity or NaN on the golden inputs"):
        golden.from_reference(net, np.full((4, 2, 3), 5, np.float32))
