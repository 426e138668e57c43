"""Where two runs differ first: earliest step, then node, then sample; what rounding explains comes last."""

import numpy as np
import pytest

from stdl_runtimes.hops import earliest, first_count, first_output, first_spike
from stdl_runtimes.results import Difference

FAR, NEAR = 0.5, 1e-6


def spikes(*changed):
    """Two layers [T=4, B=3, 2], silent but for (node, t, sample, neuron)."""
    found = {node: np.zeros((4, 3, 2), bool) for node in ("a", "b")}
    for node, *where in changed:
        found[node][tuple(where)] = True
    return found


def margins(*near):
    found = {node: np.full((4, 3, 2), FAR, np.float32) for node in ("a", "b")}
    for node, *where in near:
        found[node][tuple(where)] = NEAR
    return found


@pytest.mark.parametrize(
    ("changed", "near", "expected"),
    [
        ([], [], None),
        ([("b", 1, 2, 1), ("a", 2, 0, 0)], [], ("b", 1, 12, (1,), False)),  # the step decides
        ([("b", 1, 0, 0), ("a", 1, 2, 1)], [], ("a", 1, 12, (1,), False)),  # then the node
        ([("a", 1, 2, 1), ("a", 1, 1, 0)], [], ("a", 1, 11, (0,), False)),  # then the sample
        ([("a", 0, 0, 0), ("b", 3, 1, 1)], [("a", 0, 0, 0)], ("b", 3, 11, (1,), False)),  # a tie is no news
        ([("a", 2, 0, 0)], [("a", 2, 0, 0)], ("a", 2, 10, (0,), True)),  # unless there is nothing else
        ([("a", 0, 0, 0), ("a", 1, 0, 0)], [("a", 0, 0, 0)], ("a", 0, 10, (0,), True)),  # what follows a tie is none
    ],
)
def test_the_first_spike_that_differs(changed, near, expected):
    found = first_spike(spikes(), spikes(*changed), margins(*near), 1e-5, at=10)
    assert (found and (found.node, found.t, found.sample, found.index, found.tie)) == expected
    if found:
        assert (found.expected, found.found) == (0.0, 1.0)
        assert found.distance == pytest.approx(NEAR if found.tie else FAR)


def test_the_first_count_that_differs_has_no_step():
    expected = {node: np.full((3, 2), 2) for node in ("a", "b")}
    found = {node: count.copy() for node, count in expected.items()}
    found["a"][0, 1], found["b"][2, 0] = 5, 1
    first = first_count(expected, found, margins(("a", 3, 0, 1)), 1e-5, at=20)
    assert first == Difference("b", None, 22, (0,), 2.0, 1.0, FAR, False)
    assert "over all steps, node 'b', sample 22, index [0]: 1 for 2, 0.5 from the threshold" in first.text
    first = first_count(expected, found, margins(), 1e-5, at=20)
    assert (first.node, first.sample, first.found) == ("a", 20, 5.0)


def test_the_first_output_that_differs_is_of_a_sample_without_a_tie():
    y = np.zeros((3, 4, 2), np.float32)
    off = y.copy()
    off[0, 1, 0], off[2, 3, 1], off[1, 2, 0] = 0.1, np.nan, 1e-6
    clear = np.array([True, False, True, True])
    found = first_output({"y": y}, {"y": off}, 1e-4, clear, at=0)
    assert (found.t, found.sample, found.index, found.tie) == (2, 3, (1,), False)
    assert np.isnan(found.found)
    found = first_output({"y": y}, {"y": off}, 1e-4, clear & False, at=0)
    assert (found.t, found.sample, found.tie) == (0, 1, True)
    assert first_output({"y": y}, {"y": y}, 1e-4, clear, at=0) is None


def test_the_earliest_of_parts():
    tie, late, early = (Difference("a", t, 0, (0,), 0, 1, 0.1, tied) for t, tied in ((0, True), (3, False), (2, False)))
    assert earliest([None, tie, late, early], ["a"]) is early
    assert earliest([None, tie], ["a"]) is tie
    assert earliest([None], ["a"]) is None
