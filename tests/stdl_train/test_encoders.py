"""Encoders: what they put out, that they repeat themselves exactly, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
from registered import provide

from stdl_export.common.errors import BadInput
from stdl_train.data.encoders import direct, find, latency, poisson, rows, shape_of

PICTURES = np.linspace(0, 1, 2 * 3 * 5 * 5, dtype=np.float32).reshape(2, 3, 5, 5)
INDICES = np.array([7, 4])


def test_direct_shows_the_picture_in_every_step():
    x = direct(PICTURES, 3, INDICES, (0,))
    assert x.shape == (3, 2, 3, 5, 5)
    assert all(np.array_equal(step, PICTURES) for step in x)


def test_poisson_fires_as_often_as_a_pixel_is_bright():
    pictures = np.full((4, 1, 20, 20), 0.3, np.float32)
    pictures[:, :, 0], pictures[:, :, 1] = 0, 1
    x = poisson(pictures, 200, np.arange(4), (0,))
    assert set(np.unique(x)) == {0.0, 1.0}
    assert x[:, :, :, 0].max() == 0
    assert x[:, :, :, 1].min() == 1
    rates = x[:, :, :, 2:].mean(0)
    assert abs(rates.mean() - 0.3) < 0.005
    assert 0.02 < rates.std() < 0.045  # sqrt(0.3 * 0.7 / 200) = 0.032: pixels are drawn on their own
    assert abs(poisson(pictures, 200, np.arange(4), (0,), gain=2.0)[:, :, :, 2:].mean() - 0.6) < 0.01


def test_what_is_drawn_depends_on_seed_and_index_alone():
    both = poisson(PICTURES, 6, INDICES, (3, 1))
    alone = poisson(PICTURES[1:], 6, INDICES[1:], (3, 1))
    assert np.array_equal(both[:, 1:], alone)
    assert np.array_equal(both[:4, 1:], poisson(PICTURES[1:], 4, INDICES[1:], (3, 1)))  # a shorter run is its beginning
    for other in (poisson(PICTURES, 6, INDICES + 1, (3, 1)), poisson(PICTURES, 6, INDICES, (3, 2))):
        assert not np.array_equal(both, other)


def test_latency_fires_once_and_brighter_pixels_earlier():
    pixels = np.array([0.0, 0.04, 0.06, 0.5, 0.75, 1.0], np.float32).reshape(1, 1, 1, 6)
    x = latency(pixels, 5, np.array([0]), (0,))[:, 0, 0, 0]
    assert x.sum(0).tolist() == [0, 0, 1, 1, 1, 1]
    assert x.argmax(0).tolist()[2:] == [4, 2, 1, 0]
    assert latency(pixels, 5, np.array([0]), (0,), threshold=0.01).sum() == 5
    assert latency(pixels, 1, np.array([0]), (0,))[0].sum() == 4


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: poisson(PICTURES, 2, INDICES, (0,), gain=-1.0), "'poisson': gain = -1.0 must be a number above 0"),
        (lambda: poisson(PICTURES, 2, INDICES, (0,), gain="much"), "gain = 'much'"),
        (lambda: poisson(PICTURES, 2, INDICES, (0,), gain=True), "gain = True"),
        (lambda: latency(PICTURES, 2, INDICES, (0,), threshold=1.5), "threshold = 1.5 must be a number between"),
    ],
)
def test_bad_options_are_named(call, said):
    with pytest.raises(BadInput, match=said):
        call()


def test_an_unknown_encoding_is_named_with_the_nearest(monkeypatch):
    provide(monkeypatch)
    assert find("latency") is latency
    with pytest.raises(BadInput, match="unknown encoding 'poison': did you mean 'poisson'"):
        find("poison")


def test_rows_come_one_by_one_with_a_clock():
    pictures = np.arange(2 * 2 * 3 * 4, dtype=np.float32).reshape(2, 2, 3, 4) / 47
    x = rows(pictures, 5, INDICES, (0,), levels=10)
    assert x.shape == (5, 2, *shape_of(rows, (2, 3, 4), {})) == (5, 2, 1, 1, 11)
    for t in range(3):
        assert np.array_equal(x[t, :, 0, 0, :4], np.rint(pictures[:, 0, t] * 10))
        assert np.array_equal(x[t, :, 0, 0, 4:8], np.rint(pictures[:, 1, t] * 10))
        assert x[t, :, 0, 0, 8:].tolist() == [np.eye(3)[t].tolist()] * 2
    assert not x[3:].any()
    assert np.array_equal(rows(pictures, 5, INDICES, (0,), levels=10, clock=False), x[..., :8])


def test_rows_refuse_what_does_not_show_the_picture():
    with pytest.raises(BadInput, match="4 time steps do not show 5 rows"):
        rows(PICTURES, 4, INDICES, (0,))
    with pytest.raises(BadInput, match=r"levels = 1\.5"):
        rows(PICTURES, 5, INDICES, (0,), levels=1.5)
    assert shape_of(poisson, (3, 5, 5), {}) == (3, 5, 5)
