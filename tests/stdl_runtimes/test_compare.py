import numpy as np
import pytest

from stdl_runtimes.compare import (
    Flips,
    all_match,
    count_difference,
    deviation,
    differ_from_a_tie_on,
    golden_flips,
    layer_flips,
    loop_flips,
    loop_of,
    matching,
)

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
    return golden_flips(expected, found, margins, 1e-5, {"a": set(), "b": {"a"}}, batch=3)


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
    assert (found.layers["a"].flips, found.layers["b"].flips) == flips
    assert (found.layers["a"].ties, found.layers["b"].ties) == ties


@pytest.mark.parametrize(
    ("first", "second", "near", "tied"),
    [
        ([0, 0, 0], [0, 0, 0], [("a", 0)], [False] * 3),  # nothing differs, so nothing needs a reason
        ([1, 0, 0], [3, 0, 0], [("a", 0)], [True, False, False]),
        ([1, 1, 0], [0, 0, 2], [("a", 0), ("b", 2)], [True, False, True]),  # the second sample has no reason
        ([0, 0, 0], [1, 0, 0], [("a", 1)], [False] * 3),
    ],
)
def test_samples_that_differ_from_golden_behind_a_tie(first, second, near, tied):
    assert golden_case(first, second, near).tied.tolist() == tied


@pytest.mark.parametrize(
    ("changed", "near", "tied"),
    [
        ([], [("a", 1, 0)], [False, False]),  # the same spikes
        ([("a", 1, 0)], [("a", 1, 0)], [True, False]),  # a tie
        ([("a", 1, 0)], [("a", 1, 1)], [False, False]),  # a tie in another sample is no reason
        ([("a", 1, 0), ("b", 1, 0), ("b", 2, 0)], [("a", 1, 0)], [True, False]),  # and what follows from it
        ([("a", 1, 0), ("b", 0, 1)], [("a", 1, 0)], [True, False]),  # a flip in the other sample
        ([("b", 2, 1)], [("b", 1, 1)], [False, False]),  # its first difference is no tie
        ([("b", 1, 1), ("b", 2, 1)], [("b", 1, 1)], [False, True]),
    ],
)
def test_samples_whose_spikes_differ_from_a_tie_on(changed, near, tied):
    expected = {name: np.zeros((3, 2, 1), bool) for name in ("a", "b")}  # [T, B, neurons]
    found = {name: spikes.copy() for name, spikes in expected.items()}
    margins = {name: np.full((3, 2, 1), FAR, np.float32) for name in expected}
    for name, step, sample in changed:
        found[name][step, sample] = True
    for name, step, sample in near:
        margins[name][step, sample] = NEAR
    assert differ_from_a_tie_on(expected, found, margins, 1e-5, {"a": set(), "b": {"a"}}, batch=2).tolist() == tied


LOOP = {"a": {"a", "b"}, "b": {"a", "b"}, "alone": {"a", "b"}}


def test_layers_of_a_loop_are_found():
    assert loop_of("a", LOOP) == loop_of("b", LOOP) == ["a", "b"]
    assert loop_of("alone", LOOP) == []


@pytest.mark.parametrize(
    ("changed", "near", "flips", "ties", "tied"),
    [
        ([], [("a", 0, 0)], (0, 0), (0, 0), [False, False]),
        ([("a", 0, 0), ("b", 1, 0), ("a", 2, 0)], [("a", 0, 0)], (0, 0), (1, 1), [True, False]),  # all of it follows
        ([("a", 0, 0), ("b", 1, 0), ("a", 2, 0)], [("b", 1, 0)], (2, 1), (0, 0), [False, False]),  # a tie too late
        ([("a", 1, 0), ("b", 1, 0)], [("b", 1, 0)], (0, 0), (1, 1), [True, False]),  # within a step they are one
        ([("a", 0, 0), ("b", 1, 1)], [("a", 0, 0)], (0, 1), (1, 0), [True, False]),  # the other sample has no tie
        ([("a", 1, 0)], [("b", 1, 0)], (1, 0), (0, 0), [False, False]),  # the tie did not change a spike
    ],
)
def test_a_loop_is_judged_by_its_first_difference(changed, near, flips, ties, tied):
    expected = {name: np.zeros((3, 2, 1), bool) for name in ("a", "b")}  # [T, B, neurons]
    found = {name: spikes.copy() for name, spikes in expected.items()}
    margins = {name: np.full((3, 2, 1), FAR, np.float32) for name in expected}
    for name, step, sample in changed:
        found[name][step, sample] = True
    for name, step, sample in near:
        margins[name][step, sample] = NEAR
    judged = loop_flips(expected, found, margins, 1e-5)
    assert (judged["a"].flips, judged["b"].flips) == flips
    assert (judged["a"].ties, judged["b"].ties) == ties
    sources = {"a": {"a", "b"}, "b": {"a", "b"}}
    assert differ_from_a_tie_on(expected, found, margins, 1e-5, sources, batch=2).tolist() == tied


def test_outputs_match_up_to_rounding_sample_by_sample():
    expected = np.array([[[100.0], [0.0], [1.0]], [[100.0], [2.0], [1.0]]], np.float32)  # [T=2, B=3, 1]
    found = expected + np.array([[[1e-3], [0.0], [0.0]], [[0.0], [0.1], [np.nan]]], np.float32)
    assert matching(expected, found, 1e-4).tolist() == [True, False, False]
    assert all_match({"y": expected}, {"y": found}, 1e-4).tolist() == [True, False, False]
    off = deviation({"y": expected, "z": expected}, {"y": found, "z": expected})
    assert off.tolist() == pytest.approx([1e-5, 1e-3, np.inf], rel=1e-2)  # relative to the largest output, 100


def test_count_difference_adds_what_is_missing_to_what_is_too_much():
    assert count_difference(np.array([[3, 0], [2, 2]], np.uint8), np.array([[1, 1], [2, 5]], np.int32)) == 2 + 1 + 3
