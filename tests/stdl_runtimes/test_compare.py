import numpy as np
import pytest

from stdl_runtimes.compare import Flips, count_difference, golden_flips, layer_flips, matching

NEAR, FAR = 1e-6, 0.5


def over_time(*steps):
    """[T, 1, 1]: one sample, one neuron."""
    return np.array(steps).reshape(-1, 1, 1)


@pytest.mark.parametrize(
    ("expected", "found", "margins", "result"),
    [
        ([0, 1, 0, 1], [0, 1, 0, 1], [FAR, FAR, FAR, FAR], Flips(0, 0)),
        ([0, 1, 0, 1], [0, 0, 0, 1], [FAR, FAR, FAR, FAR], Flips(1, 0)),  # one flip
        ([0, 1, 0, 1], [0, 0, 0, 1], [FAR, NEAR, FAR, FAR], Flips(0, 1)),  # a tie
        ([0, 1, 0, 1], [0, 0, 1, 0], [FAR, NEAR, FAR, FAR], Flips(0, 1)),  # a tie, and what follows from it
        ([0, 1, 0, 1], [1, 0, 0, 1], [FAR, NEAR, FAR, FAR], Flips(2, 0)),  # a tie cannot excuse what came before it
        ([0, 1, 0, 1], [0, 1, 0, 1], [NEAR, NEAR, FAR, FAR], Flips(0, 0)),  # near its threshold, but the same
    ],
)
def test_a_neuron_is_judged_by_its_first_difference(expected, found, margins, result):
    spikes = over_time(*expected).astype(bool), over_time(*found).astype(bool)
    assert layer_flips(*spikes, over_time(*margins).astype(np.float32), flip_margin=1e-5) == result


def test_neurons_and_samples_are_judged_by_themselves():
    expected = np.zeros((3, 2, 2), bool)
    found, margins = expected.copy(), np.full(expected.shape, FAR, np.float32)
    found[1, 0, 0] = found[2, 1, 1] = found[0, 1, 0] = True
    margins[1, 0, 0] = NEAR
    margins[0, 0, 1] = NEAR  # of another neuron
    assert layer_flips(expected, found, margins, 1e-5) == Flips(flips=2, ties=1)


def golden_case(first, second, near):
    """Two layers of one neuron, three samples; counts that golden has on top of 2, and where a potential came near."""
    margins = {name: np.full((4, 3, 1), FAR, np.float32) for name in ("a", "b")}
    for name, sample in near:
        margins[name][1, sample, 0] = NEAR
    expected = {name: np.full((3, 1), 2) for name in ("a", "b")}
    found = {name: 2 + np.array(more).reshape(3, 1) for name, more in (("a", first), ("b", second))}
    return golden_flips(expected, found, margins, 1e-5, {"a": set(), "b": {"a"}})


@pytest.mark.parametrize(
    ("first", "second", "near", "flips", "ties"),
    [
        ([0, 0, 0], [0, 0, 0], [], (0, 0), (0, 0)),
        ([1, 0, 0], [0, 0, 0], [], (1, 0), (0, 0)),  # without a reason
        ([1, 0, 0], [3, 0, 0], [], (1, 0), (0, 0)),  # and the second layer follows the first
        ([1, 0, 0], [3, 0, 0], [("a", 0)], (0, 0), (1, 0)),  # explained by a tie
        ([0, 0, 0], [1, 0, 0], [("a", 0)], (0, 0), (0, 0)),  # a tie before it may have moved a spike in time
        ([0, 0, 0], [1, 0, 0], [("a", 1)], (0, 1), (0, 0)),  # but not one of another sample
        ([0, 0, 0], [0, -1, 1], [("b", 1)], (0, 1), (0, 1)),
    ],
)
def test_golden_counts_differ_with_a_reason_or_without(first, second, near, flips, ties):
    found = golden_case(first, second, near)
    assert (found["a"].flips, found["b"].flips) == flips
    assert (found["a"].ties, found["b"].ties) == ties


def test_outputs_match_up_to_rounding_sample_by_sample():
    expected = np.array([[[100.0], [0.0], [1.0]], [[100.0], [2.0], [1.0]]], np.float32)  # [T=2, B=3, 1]
    found = expected + np.array([[[1e-3], [0.0], [0.0]], [[0.0], [0.1], [np.nan]]], np.float32)
    assert matching(expected, found).tolist() == [True, False, False]


def test_count_difference_adds_what_is_missing_to_what_is_too_much():
    assert count_difference(np.array([[3, 0], [2, 2]], np.uint8), np.array([[1, 1], [2, 5]], np.int32)) == 2 + 1 + 3
