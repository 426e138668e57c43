"""What is timed, how often, and the percentiles of it: on a runtime that counts its calls, by a clock of its own."""

import json
import re
import subprocess
import sys
import time

import numpy as np
import pytest

from stdl_export.common.errors import Unavailable
from stdl_runtimes import cold, latency, timing
from stdl_runtimes.ends import Ends
from stdl_runtimes.latency import Plan, measure

PLAN = Plan(seconds=0.0495, batch=16)  # 50 calls of a millisecond


class Clock:
    """As the module `time`; what takes time says how much. How busy this machine is has no say."""

    now = 1.0

    def perf_counter(self):
        return self.now

    def perf_counter_ns(self):
        return round(self.now * 1e9)

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr(timing, "time", found)
    monkeypatch.setattr(latency, "time", found)
    return found


class Counting:
    """A runtime that counts its calls, and how many samples each had; each takes so many seconds."""

    def __init__(self, clock, repeated=True, *, largest=None, seconds=0.001, parts=None):
        self.calls, self.largest_session, self.parts = [], largest, parts or {}
        self._clock, self._seconds = clock, seconds
        self.ends = Ends({"x": (5,)}, {"y": (5,)}, repeated, None)

    def run(self, x, timesteps):
        self._clock.sleep(self._seconds)
        self.calls.append(("run", self.ends.samples(x), timesteps, float(x["x"].flat[0])))

    def session(self, batch):
        self.calls.append(("session", batch))
        return self

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.calls.append("closed")

    def reset(self):
        self._clock.sleep(0.0001)
        self.calls.append("reset")

    def step(self, frame):
        self._clock.sleep(self._seconds)
        self.calls.append(("step", frame["x"].shape))

    def device_bytes(self):
        return 1 << 20

    def timed_parts(self, x, timesteps):
        self._clock.sleep(self._seconds)
        return self.parts


def samples(count, repeated=True):
    """Samples that are told apart by their first number."""
    x = np.arange(count, dtype=np.float32)[:, None] + np.zeros(5, np.float32)
    return {"x": x if repeated else np.broadcast_to(x, (3, count, 5))}


@pytest.mark.parametrize("repeated", [True, False])
def test_the_three_scenarios(clock, repeated):
    runtime = Counting(clock, repeated, parts={"h2d": 0.1, "compute": 0.5, "d2h": 0.2, "enqueue": 0.3})
    found = measure(runtime, "sequence", samples(20, repeated), 3, PLAN)
    sizes = [call[1] for call in runtime.calls]
    assert sorted(set(sizes)) == [1, 8, 16]
    assert sizes == sorted(sizes)  # one scenario after the other
    assert {call[3] for call in runtime.calls if call[1] == 1} == set(range(20))  # not the same sample all the time
    assert {call[3] for call in runtime.calls if call[1] == 8} == {0.0, 8.0}
    assert sizes.count(1) == found.warm_up + found.sample.n
    assert (found.multi_stream.samples, found.offline.batch) == (8, 16)
    assert found.offline.samples == 16 * (sizes.count(16) - 1)
    assert found.offline.samples_per_second == pytest.approx(16 / 0.001)
    assert (found.sample.n, found.offline.samples) == (50, 50 * 16)
    assert (found.sample.p50_ms, found.step.p50_ms) == pytest.approx((1, 1 / 3))
    assert sum(found.histogram.counts) == found.sample.n
    assert {name: part.p99_ms for name, part in found.parts.items()} == runtime.parts
    assert found.device_bytes == 1 << 20
    assert not any("CUDA graphs" in note for note in found.notes)
    assert found.skipped == {}


@pytest.mark.parametrize("repeated", [True, False])
def test_steps_are_timed_one_by_one(clock, repeated):
    runtime = Counting(clock, repeated)
    found = measure(runtime, "step", samples(1, repeated), 3, PLAN)
    assert runtime.calls[:6] == [("session", 1), "reset", *[("step", (1, 5))] * 3, "reset"]
    assert runtime.calls.count("closed") == 3
    assert found.step.n == 3 * found.sample.n
    assert (found.step.p99_ms, found.sample.p99_ms) == pytest.approx((1.0, 3.1))  # the reset is part of a sequence
    assert ("step", (8, 5)) in runtime.calls  # a query of eight though there is one sample: it is taken again
    assert found.parts == {}


def test_times_that_are_doubtful_say_so(clock):
    runtime = Counting(clock, parts={"compute": 0.5, "enqueue": 0.45}, seconds=0.02)
    found = measure(runtime, "sequence", samples(3), 3, PLAN)
    assert found.notes[0].startswith("times had not settled when the warm-up ended")
    assert "CUDA graphs" in found.notes[-1]
    steady, wild = (timing.times(np.array(each)) for each in ([1.0, 1.1, 0.9], [1.0, 1.0, 2.0]))
    assert latency._notes(True, steady, {}) == []
    assert latency._notes(True, wild, {})[0].startswith("times vary by 35%")


def test_what_a_session_cannot_take_is_skipped_by_name(clock):
    found = measure(Counting(clock, largest=4), "step", samples(20), 3, PLAN)
    assert found.multi_stream is None
    assert found.skipped == {"multi-stream": "a session takes 4 samples, a query has 8"}
    assert found.offline.batch == 4


def test_a_slow_runtime_takes_no_more_than_its_time(clock):
    found = measure(Counting(clock, seconds=0.03), "sequence", samples(20), 3, PLAN)
    assert clock.now - 1 < 3 * 0.5 * 0.05 + 3 * 5 * 0.05 + 5 * 0.03
    assert found.skipped["multi-stream"].startswith("a query of 8 samples would take about 0.2 s")
    assert (found.sample.n, found.sample.p50_ms) == (9, pytest.approx(30))  # five times its time is enough
    assert (found.offline.batch, found.stable) == (1, False)


def test_a_very_slow_runtime_is_called_a_few_times(clock):
    runtime = Counting(clock, seconds=0.3)
    found = measure(runtime, "sequence", samples(20), 3, PLAN)
    assert len(runtime.calls) == 3  # warm-up, the sample, Offline
    assert (found.sample.n, found.offline.samples) == (1, 1)


def test_the_warm_up_ends_when_times_settle(clock):
    pauses = iter([0.02] * 10 + [0.004] * 10 + [0.0041] * 1000)
    assert timing.settle(lambda: clock.sleep(next(pauses)), seconds=5) == (30, True)
    pauses = iter(1.2**i for i in range(100))  # ever slower
    calls, stable = timing.settle(lambda: clock.sleep(next(pauses)), seconds=100)
    assert (calls, stable) == (17, False)


def test_percentiles_are_numpys():
    drawn = np.random.default_rng(0).gamma(2, 3, 2000)
    found = timing.times(drawn)
    wanted = np.percentile(drawn, [50, 90, 99, 99.9])
    assert [found.p50_ms, found.p90_ms, found.p99_ms, found.p999_ms] == pytest.approx(wanted.tolist())
    assert found.cv == pytest.approx(drawn.std() / drawn.mean())
    assert (found.n, found.min_ms, found.max_ms) == (2000, drawn.min(), drawn.max())
    assert timing.times(drawn[:999]).p999_ms is None


def test_percentiles_are_mlperfs(tmp_path, monkeypatch):
    """The same queries, timed by MLCommons' load generator and by us: of 500 a few are slow, and a few very slow."""
    lg = pytest.importorskip("mlperf_loadgen", reason="mlcommons-loadgen is not installed")
    monkeypatch.chdir(tmp_path)
    pauses = np.random.default_rng(0).permutation([0.001] * 440 + [0.003] * 50 + [0.006] * 10)
    ours = []

    def issue(queries):
        for query in queries:
            ours.append(timing.timed(lambda: time.sleep(pauses[len(ours)])))
            lg.QuerySamplesComplete([lg.QuerySampleResponse(query.id, 0, 0)])

    settings = lg.TestSettings()
    settings.scenario, settings.mode = lg.TestScenario.SingleStream, lg.TestMode.PerformanceOnly
    settings.min_duration_ms, settings.min_query_count, settings.max_query_count = 100, 500, 500
    sut, library = lg.ConstructSUT(issue, lambda: None), lg.ConstructQSL(64, 64, lambda _: None, lambda _: None)
    lg.StartTest(sut, library, settings)
    lg.DestroyQSL(library)
    lg.DestroySUT(sut)
    said = (tmp_path / "mlperf_log_summary.txt").read_text()
    found = timing.times(np.array(ours))
    for name, value in (("90.00", found.p90_ms), ("99.00", found.p99_ms)):
        (nanoseconds,) = re.findall(rf"{name} percentile latency \(ns\)\s*: (\d+)", said)
        assert value == pytest.approx(int(nanoseconds) / 1e6, rel=0.2)  # it times the call of us, too


# --- cold start ----------------------------------------------------------------------------------------------------


def test_a_cold_start_is_that_of_a_fresh_process(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "run", answers(json.dumps(
        {"import_ms": 1.0, "load_ms": 2.0, "first_ms": 3.0, "host_bytes": 5, "device_bytes": None}
    )))  # fmt: skip
    found = cold.measure("b", "onnxruntime", "step", {"threads": "1"})
    assert found.total_ms == 6
    assert found.host_bytes == 5


def answers(out="", code=0, err=""):
    def run(command, **kwargs):
        assert command[:3] == [sys.executable, "-c", cold.PROGRAM]
        if code:
            raise subprocess.CalledProcessError(code, command, out, err)
        return subprocess.CompletedProcess(command, code, f"noise\n{out}\n", err)

    return run


def test_a_process_that_fails_says_why(monkeypatch):
    monkeypatch.setattr(subprocess, "run", answers(code=1, err="noise\nthe driver\n"))
    with pytest.raises(Unavailable, match=r"^the process failed: the driver$"):
        cold.measure("b", "onnxruntime", "sequence")
