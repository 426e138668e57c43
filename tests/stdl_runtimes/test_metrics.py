import numpy as np
import pytest

from stdl_runtimes.ends import Ends
from stdl_runtimes.latency import measure
from stdl_runtimes.metrics import decode, predictions, spike_count


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
    assert (found.batch, found.timesteps, found.runs, found.warm_up) == (2, 4, 6, 3)
    assert 0 < found.p50_ms <= found.p90_ms <= found.p99_ms


@pytest.mark.parametrize(("repeated", "shape"), [(True, (1, 5)), (False, (3, 1, 5))])
def test_latency_of_steps_is_that_of_whole_sequences(repeated, shape):
    runtime = Slow(repeated)
    measure(runtime, "step", np.zeros(shape), 3, runs=2, warm_up=1)
    assert runtime.calls == [("session", 1), *["reset", *[("step", (1, 5))] * 3] * 3, "closed"]
