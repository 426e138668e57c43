import numpy as np
import pytest

from stdl_runtimes.metrics import change, decode, predictions, proportion, spike_count


@pytest.mark.parametrize(
    ("decoding", "scores", "classes"),
    [
        ("mean", [[2.0, 1.5], [0.0, 1.0]], [0, 1]),
        ("sum", [[4.0, 3.0], [0.0, 2.0]], [0, 1]),
        ("none", [[4.0, 3.0], [0.0, 2.0]], [0, 1]),
        ("last", [[1.0, 3.0], [0.0, 0.0]], [1, 0]),  # among equals the first
    ],
)
def test_decoding(decoding, scores, classes):
    output = np.array([[[3, 0], [0, 2]], [[1, 3], [0, 0]]], np.float32)  # [T=2, B=2, 2]
    assert decode(output, decoding).tolist() == scores
    assert predictions(output, decoding).tolist() == classes


def test_spikes_are_summed_over_time():
    assert spike_count(np.array([[[True, False]], [[True, True]]])).tolist() == [[2, 1]]


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(0, 20, 0.0, 0.1611), (20, 20, 0.8389, 1.0), (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605)],
)
def test_intervals_of_a_share_are_wilsons(hits, n, low, high):
    """The last two are Newcombe's (1998), "Two-sided confidence intervals for the single proportion", table I."""
    found = proportion(np.arange(n) < hits)
    assert (found.value, found.n) == (hits / n, n)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


def test_the_interval_of_a_change_is_that_of_paired_samples():
    before, after = np.zeros(100, bool), np.zeros(100, bool)
    before[:90] = after[5:92] = True  # 5 lost, 2 won
    found = change(before, after)
    assert (found.value, found.n) == (-0.03, 100)
    # by hand: (2.5 - 5.5) / 102 -+ 1.96 sqrt(8 - 9 / 102) / 102
    assert (found.low, found.high) == pytest.approx((-3 / 102 - 0.054049, -3 / 102 + 0.054049), abs=1e-5)


def test_the_interval_of_a_change_holds_as_often_as_it_says():
    """Of drawn pairs of runs the true change lies inside in about 95 of 100."""
    rng, inside = np.random.default_rng(0), 0
    for _ in range(600):
        u = rng.random(150)
        before, after = u < 0.9, (u > 0.04) & (u < 0.92)  # true change: -0.02
        found = change(before, after)
        inside += found.low <= -0.02 <= found.high
    assert 0.93 < inside / 600 <= 1
