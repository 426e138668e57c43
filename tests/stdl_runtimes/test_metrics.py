import numpy as np
import pytest

from stdl_runtimes.ends import Ends
from stdl_runtimes.latency import measure
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


class Slow:
    """A runtime that counts its calls."""

    def __init__(self, repeated=True):
        self.calls = []
        self.ends = Ends({"x": (5,)}, {"y": (5,)}, repeated, None)

    def run(self, x, timesteps):
        self.calls.append(("run", x["x"].shape, timesteps))

    def session(self, batch):
        self.calls.append(("session", batch))
        return self

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.calls.append("closed")

    def reset(self):
        self.calls.append("reset")

    def step(self, frame):
        self.calls.append(("step", frame["x"].shape))


def test_latency_of_sequences_warms_up_and_counts():
    runtime = Slow()
    found = measure(runtime, "sequence", np.zeros((2, 5)), 4, runs=6, warm_up=3)
    assert runtime.calls == [("run", (2, 5), 4)] * 9
    assert (found.timesteps, found.sample.n, found.warm_up) == (4, 6, 3)
    assert 0 < found.sample.p50_ms <= found.sample.p90_ms <= found.sample.p99_ms


@pytest.mark.parametrize(("repeated", "shape"), [(True, (1, 5)), (False, (3, 1, 5))])
def test_latency_of_steps_is_that_of_whole_sequences(repeated, shape):
    runtime = Slow(repeated)
    measure(runtime, "step", np.zeros(shape), 3, runs=2, warm_up=1)
    assert runtime.calls == [("session", 1), *["reset", *[("step", (1, 5))] * 3] * 3, "closed"]
