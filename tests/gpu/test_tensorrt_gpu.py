"""Engines on a real GPU: what the fake of the API cannot show. `pytest -m gpu`; skipped by name without one.

The judge is the NumPy reference; the readout integrates, so that one spike that flips shows in all outputs after it.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chains import small_network

from stdl_export import graph as graphs
from stdl_export.assemble import create
from stdl_export.bundle import Bundle
from stdl_export.common.errors import Unavailable
from stdl_export.golden import from_reference
from stdl_export.onnx.time import TimeForm
from stdl_export.source import Source
from stdl_export.targets import Job
from stdl_export.tensorrt import BuildOptions, Profile, doubts, flavour
from stdl_runtimes import Streams, base, cuda, reference
from stdl_runtimes.base import Runtime


def _missing() -> str | None:
    """Why no engine runs here."""
    try:
        cuda.open_device()
        found = doubts(flavour())
    except Unavailable as reason:
        return str(reason)
    return found[0] if found else None


MISSING = _missing()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(MISSING is not None, reason=f"no engine runs here: {MISSING}")]

T, B = 6, 5
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def frames(mode: str, batch: int = B) -> Any:
    """Few bits each, so that sums in any order are the same."""
    shape = (batch, 2, 6, 6) if mode == "repeat" else (T, batch, 2, 6, 6)
    return np.random.default_rng(0).integers(-8, 24, shape).astype(np.float32) / 16


def bundle_of(folder: Path, mode: str = "sequence", form: TimeForm = "auto", **job: Any) -> Bundle:
    graph = small_network(mode=mode, readout="li", T=T)
    profile = job.pop("profile", Profile(1, 4, 8))
    made = Job(graph, ("sequence", "step"), form, profile, "fp32", **job)
    bundle, _ = create(
        folder / "b",
        Source(graph, "small"),
        made,
        ["onnx", "tensorrt"],
        from_reference(graph, frames(mode), None),
        "reference",
    )
    return bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundle_of(tmp_path_factory.mktemp("gpu"), final_states=True)


@pytest.fixture(params=["true", "false"], ids=["CUDA graphs", "enqueued"])
def runtime(bundle: Bundle, request: pytest.FixtureRequest) -> Any:
    with base.load(bundle, "tensorrt", options={"cuda_graph": request.param}) as opened:
        yield opened


def expected(bundle: Bundle, x: Any) -> Any:
    return reference.run(bundle.graph(), x).output


def stepped(runtime: Runtime, x: Any) -> Any:
    with runtime.session(x.shape[1]) as session:
        return np.stack([session.step(frame) for frame in x])


@pytest.mark.parametrize("mode", ["repeat", "sequence"])
@pytest.mark.parametrize("form", ["unroll", "scan", "chunks"])
def test_every_time_form(tmp_path: Path, mode: str, form: TimeForm) -> None:
    made = bundle_of(tmp_path, mode, form)
    x = frames(mode)
    with base.load(made, "tensorrt") as opened:
        np.testing.assert_allclose(opened.run(x), expected(made, x), **CLOSE)


def test_graphs_are_captured_and_change_nothing(bundle: Bundle) -> None:
    x = frames("sequence")
    results = []
    for wanted in ("true", "false"):
        with base.load(bundle, "tensorrt", options={"cuda_graph": wanted}) as opened:
            results.append((opened.run(x), stepped(opened, x)))
            said = opened.describe()
            if wanted == "true":
                assert said["sequence cuda_graph"] == said["step cuda_graph"] == "on", said
    for one, other in zip(*results, strict=True):
        assert np.array_equal(one, other)


def test_single_steps_are_the_sequence(runtime: Runtime) -> None:
    x = frames("sequence")
    np.testing.assert_allclose(stepped(runtime, x), runtime.run(x), **CLOSE)


def test_every_layer_by_itself_and_the_network_as_a_whole(runtime: Runtime, bundle: Bundle) -> None:
    x = frames("sequence")
    judge = reference.run(bundle.graph(), x)
    assert runtime.shows_spikes
    for found in (
        runtime.layers(x, judge.spikes),
        runtime.run_recorded(x),
        runtime.run_recorded(x, guess=judge.spikes),
    ):
        for node, spikes in judge.spikes.items():
            assert np.array_equal(found.spikes[node], spikes)
        np.testing.assert_allclose(found.output, judge.output, **CLOSE)


def test_a_large_batch_runs_in_parts(runtime: Runtime, bundle: Bundle) -> None:
    x = frames("sequence", 19)
    np.testing.assert_allclose(runtime.run(x), expected(bundle, x), **CLOSE)


def test_a_small_batch_is_filled_up(tmp_path: Path) -> None:
    made = bundle_of(tmp_path, profile=Profile(4, 4, 8))
    x = frames("sequence", 2)
    with base.load(made, "tensorrt") as opened:
        np.testing.assert_allclose(opened.run(x), expected(made, x), **CLOSE)
        np.testing.assert_allclose(stepped(opened, x), expected(made, x), **CLOSE)


def test_rows_are_reset_held_read_and_written(runtime: Runtime, bundle: Bundle) -> None:
    x = frames("sequence")
    judge = reference.Reference(bundle.graph(), bundle.manifest.states).session(B)
    with runtime.session(B) as session:
        for t, rows in enumerate([None, [4, 1], None, [0, 2, 3], [2], None]):
            frame = x[t] if rows is None else x[t][: len(rows)]
            np.testing.assert_allclose(session.step(frame, rows), judge.step(frame, rows), **CLOSE)
            reset = [t % B, (t + 2) % B]
            session.reset(reset)
            judge.reset(reset)
            states = session.read_state([0, 3])
            session.write_state(states, [3, 0])
            judge.write_state(judge.read_state([0, 3]), [3, 0])
        for name, each in session.state.items():
            np.testing.assert_allclose(each, judge.state[name], **CLOSE)


def test_streams_that_come_and_go(runtime: Runtime, bundle: Bundle) -> None:
    x = frames("sequence")
    streams = Streams(runtime, 3)
    first, second = streams.open(), streams.open()
    found: dict[int, list[Any]] = {first: [], second: []}
    for t in range(T):
        some = {first: x[t, 0]} | ({second: x[t - 1, 1]} if t else {})
        for row, output in streams.step(some).items():
            found[row].append(output)
    streams.close()
    whole = expected(bundle, x)
    np.testing.assert_allclose(np.stack(found[first]), whole[:, 0], **CLOSE)
    np.testing.assert_allclose(np.stack(found[second]), whole[: T - 1, 1], **CLOSE)


def test_steps_go_on_from_a_sequences_states(runtime: Runtime, bundle: Bundle) -> None:
    x = frames("sequence")
    graph = bundle.graph()
    longer = graphs.with_settings(graph, replace(graphs.settings(graph), T=2 * T))
    twice = reference.run(longer, np.concatenate([x, x])).output
    _, states = runtime.run_to_states(x)
    with runtime.session(B, states) as session:
        again = np.stack([session.step(frame) for frame in x])
    np.testing.assert_allclose(again, twice[T:], **CLOSE)


def test_sessions_run_in_threads(runtime: Runtime, bundle: Bundle) -> None:
    x = frames("sequence")
    found: dict[int, Any] = {}

    def work(sample: int) -> None:
        found[sample] = stepped(runtime, x[:, sample : sample + 1])

    threads = [threading.Thread(target=work, args=(sample,)) for sample in range(B)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    whole = expected(bundle, x)
    for sample, outputs in found.items():
        np.testing.assert_allclose(outputs[:, 0], whole[:, sample], **CLOSE)


def test_times_and_memory_are_told(runtime: Runtime) -> None:
    x, length = runtime.ends.sequence(frames("sequence"))
    before = runtime.device_bytes()
    parts = runtime.timed_parts(x, length)
    assert parts.keys() == {"h2d", "compute", "d2h", "enqueue"}
    assert all(0 < each < 1000 for each in parts.values())
    after = runtime.device_bytes()
    assert before is not None
    assert after is not None
    assert before < after < 1 << 30


def test_tf32_is_judged_as_fp16_is(tmp_path: Path) -> None:
    made = bundle_of(tmp_path, engines=BuildOptions(tf32=True))
    with base.load(made, "tensorrt") as opened:
        assert opened.tolerances is not None
        assert "TF32 on" in opened.describe()["step engine"]
        assert opened.run(frames("sequence")).shape == (T, B, 3)


def test_everything_is_given_back(bundle: Bundle) -> None:
    """Opened and closed over and over; what the driver has left is as before, but for what it keeps for itself."""
    from cuda.bindings import runtime as bindings

    def free() -> int:
        error, left, _ = bindings.cudaMemGetInfo()
        assert int(error) == 0
        return int(left)

    def once() -> None:
        with base.load(bundle, "tensorrt") as opened, opened.session(2) as session:
            session.step(frames("sequence", 2)[0])
            opened.run(frames("sequence"))

    for _ in range(3):
        once()
    before = free()
    for _ in range(20):
        once()
    assert before - free() < 32 << 20
