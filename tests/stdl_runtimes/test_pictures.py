"""One sample's spikes and the matrices of classes: which neurons, which steps, which samples."""

from __future__ import annotations

import numpy as np

from stdl_runtimes import pictures


def test_a_raster_has_the_spikes_of_one_sample():
    fired = np.random.default_rng(2).random((5, 3, 2, 4)) < 0.3  # [T, B, ...]
    found = pictures.raster({"lif": fired}, 1, at=7)
    (layer,) = found.layers
    assert (found.sample, found.steps, found.timesteps) == (7, 5, 5)
    assert layer.shown == list(range(8))
    drawn = np.zeros((5, 8), bool)
    for row, steps in enumerate(layer.spikes):
        drawn[steps, row] = True
    np.testing.assert_array_equal(drawn, fired[:, 1].reshape(5, 8))
    assert layer.active == fired[:, 1].reshape(5, 8).sum(axis=1).tolist()
    assert 0 < sum(layer.active) < 40


def test_a_large_layer_is_drawn_in_part_and_counted_whole():
    fired = np.zeros((1000, 1, 1000), np.int32)
    fired[3, 0, :] = 2  # counts of neurons that fire several times a step
    found = pictures.raster({"lif": fired}, 0, at=0)
    (layer,) = found.layers
    assert (found.steps, found.timesteps) == (pictures.MOST_STEPS, 1000)
    assert (len(layer.shown), layer.shown[0], layer.shown[-1]) == (pictures.MOST_NEURONS, 0, 999)
    assert len(set(layer.shown)) == pictures.MOST_NEURONS
    assert layer.spikes == [[3]] * pictures.MOST_NEURONS
    assert layer.active[3] == 1000
    assert sum(layer.active) == 1000
    assert len(layer.active) == pictures.MOST_STEPS


def test_a_network_without_spiking_nodes_has_no_raster():
    assert pictures.raster({}, 0, at=0) is None


def test_runtimes_that_predict_alike_share_a_matrix():
    labels = np.array([0, 0, 1, 3, 3])
    right, wrong = labels.copy(), np.array([0, 1, 1, 3, 0])
    found = pictures.confusions("golden samples", labels, {"a": right, "b": wrong, "c": right, "d": None}, ["zero"])
    assert [each.runtimes for each in found] == [["a", "c"], ["b"]]
    assert found[0].classes == ["zero", "1", "3"]
    assert found[0].cells == [(0, 0, 2), (1, 1, 1), (2, 2, 2)]
    assert found[1].cells == [(0, 0, 1), (0, 1, 1), (1, 1, 1), (2, 0, 1), (2, 2, 1)]
    assert sum(count for *_, count in found[1].cells) == 5


def test_labels_may_be_any_numbers():
    """They come from a file: names are for those that have one, and no list is as long as the largest label."""
    labels = np.array([-5, 2**60, 1])
    (found,) = pictures.confusions("x", labels, {"a": np.array([1, 1, 1])}, ["no", "yes"])
    assert found.classes == ["-5", "yes", str(2**60)]
    assert found.cells == [(0, 1, 1), (1, 1, 1), (2, 1, 1)]


def test_without_labels_there_is_no_matrix():
    assert pictures.confusions("x", None, {"a": np.array([1])}, None) == []
    assert pictures.confusions("x", np.array([1]), {"a": None}, None) == []
