"""What the TensorRT runtime does with the device: graphs, streams, rows, memory, times; on a fake of the API.

The bundle with fake engines is that of test_tensorrt; here it is looked at what was asked of the device.
"""

from __future__ import annotations

import threading

import numpy as np
import pytest
from fake_gpu import FakeCuda, FakeRtxEngine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensorrt_bundle import Gpu, T

from stdl_export.common.errors import BadInput, Unavailable
from stdl_runtimes import base, reference
from stdl_runtimes.streams import Streams
from stdl_runtimes.tensorrt_engine import KERNELS


@pytest.fixture
def gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("STDL_CACHE", str(tmp_path / "cache"))
    return lambda **options: Gpu(tmp_path / "b", monkeypatch, **options)


def stepped(runtime, x, batch):
    with runtime.session(batch) as session:
        return np.stack([session.step(frame) for frame in x[:, :batch]])


def test_a_step_is_one_launch_of_the_graph_of_its_direction(gpu):
    made = gpu(mode="sequence")
    with made.load() as runtime, runtime.session(2) as session:
        (stream,) = made.cuda.streams
        assert len(stream.graphs) == 2
        (context,) = made.engines["step"].contexts
        assert len(context.calls) == 2  # one before each capture
        del stream.log[:]
        outputs = np.stack([session.step(frame) for frame in made.x[:, :2]])
        assert stream.log == ["up", "launch", "down"] * T
        assert runtime.describe()["step cuda_graph"] == "on"
    assert np.array_equal(outputs, reference.run(made.graph, made.x[:, :2]).output)


def test_a_sequence_is_one_launch_for_each_batch_size(gpu):
    made = gpu()
    with made.load() as runtime:
        runtime.run(made.x)  # 6 samples: 4 and 2
        for stream in made.cuda.streams:
            del stream.log[:]
        runtime.run(made.x)
        assert [stream.log for stream in made.cuda.streams] == [["up", "launch", "down"]] * 2
        assert runtime.describe()["sequence cuda_graph"] == "on"


@pytest.mark.parametrize(
    ("device", "options", "reason"),
    [
        (FakeCuda(captures=False), {}, "off: CUDA: operation not permitted when stream is capturing"),
        (None, {"cuda_graph": "false"}, "off, as asked for"),
    ],
)
def test_without_graphs_the_engine_is_enqueued_and_it_is_said_why(gpu, device, options, reason):
    made = gpu(mode="sequence", device=device)
    with made.load(**options) as runtime:
        assert np.array_equal(stepped(runtime, made.x, 3), reference.run(made.graph, made.x[:, :3]).output)
        assert np.array_equal(runtime.run(made.x), reference.run(made.graph, made.x).output)
        said = runtime.describe()
        assert said["step cuda_graph"].startswith(reason)
        assert said["sequence cuda_graph"].startswith(reason)
    assert all(stream.closed for stream in made.cuda.streams)


def test_an_engine_that_says_that_it_cannot_be_captured_is_not(gpu):
    made = gpu(mode="sequence")
    made.engines["step"].capturable = False
    with made.load() as runtime:
        assert np.array_equal(stepped(runtime, made.x, 3), reference.run(made.graph, made.x[:, :3]).output)
        assert runtime.describe()["step cuda_graph"] == "off: TensorRT says that the engine cannot be captured"


@pytest.mark.parametrize(
    ("options", "said"),
    [({"cuda_graf": "true"}, "has no option 'cuda_graf': it takes cuda_graph"), ({"cuda_graph": "1"}, "give true or")],
)
def test_options_are_checked(gpu, options, said):
    with pytest.raises(BadInput, match=said):
        gpu().load(**options)


def test_what_is_in_force_is_described(gpu):
    made = gpu(tf32=True)
    with made.load() as runtime:
        assert runtime.describe() == {
            "engine": "tensorrt_rtx 1.0",
            "gpu": "Fake GPU, SM 8.7",
            "driver": "CUDA 12.6",
            "sequence engine": "batch 1:1:4, TF32 on",
            "sequence cuda_graph": "asked for",
            "step engine": "batch 1:1:4, TF32 on",
            "step cuda_graph": "asked for",
        }
        assert runtime.tolerances is not None
        assert runtime.tolerances.precision == "fp16"  # products are rounded as there
    with gpu_again(made).load() as runtime:
        assert runtime.tolerances is None


def gpu_again(made):
    infos = [info.model_dump() | {"tf32": False} for info in made.bundle.manifest.engines]
    made.rehash(infos)
    return made


def test_rows_are_reset_and_held_on_the_device(gpu):
    """No state travels: resets and held rows are copies there, one for each run of neighbours."""
    made = gpu(mode="sequence", batch=(1, 1, 8))
    states = len(made.bundle.manifest.states)
    with made.load() as runtime, runtime.session(6) as session:
        (stream,) = made.cuda.streams
        session.step(made.x[0])
        del stream.log[:]
        session.reset([4, 1, 2])
        assert stream.log == ["copy"] * (2 + 1) * states  # rows 1 and 2: one, then doubled; row 4: one
        del stream.log[:]
        session.step(made.x[0][:2], rows=[0, 5])
        assert stream.log == ["up", "launch", "down"] + ["copy"] * states  # rows 1 to 4 in one piece
        del stream.log[:]
        session.reset()
        assert stream.log == ["copy"] * 4 * states  # 1, 1, 2 and 2 rows


def test_a_state_that_is_read_or_written_travels_by_its_rows_only(gpu):
    made = gpu(mode="sequence", batch=(1, 1, 8))
    with made.load() as runtime, runtime.session(6) as session:
        (stream,) = made.cuda.streams
        session.step(made.x[0])
        states = len(made.bundle.manifest.states)
        del stream.log[:]
        found = session.read_state([3, 4])
        assert stream.log == ["down"] * states
        del stream.log[:]
        session.write_state(found, [5, 0])
        assert stream.log == ["up"] * 2 * states
        assert all(np.array_equal(each[[5, 0]], found[name]) for name, each in session.state.items())


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("step"), st.none()),
        st.tuples(st.sampled_from(["some", "reset", "put"]), st.sets(st.integers(0, 4), min_size=1)),
        st.tuples(st.just("reset"), st.none()),
    ),
    max_size=12,
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions=ACTIONS, filled=st.booleans(), graphs=st.booleans())
def test_any_order_of_steps_resets_and_writes_is_the_references(shared, actions, filled, graphs):
    """5 rows, each of which the reference follows alone; potentials are compared bit for bit."""
    made = shared[filled]
    # As many rows as the engine computes with: NumPy's sums depend on how many there are.
    judge = reference.Reference(made.graph, made.bundle.manifest.states).session(8 if filled else 5)
    draw = np.random.default_rng(len(actions))
    with pytest.MonkeyPatch.context() as patch:
        made.install(patch)
        runtime = made.load(cuda_graph=str(graphs).lower())
    with runtime, runtime.session(5) as session:
        for action, rows in actions:
            chosen = None if rows is None else sorted(rows, reverse=True)
            count = 5 if chosen is None else len(chosen)
            if action in ("step", "some"):
                frame = draw.normal(0.5, 1, (count, 2, 6, 6)).astype(np.float32)
                assert np.array_equal(session.step(frame, chosen), judge.step(frame, chosen or range(5)))
            elif action == "reset":
                session.reset(chosen)
                judge.reset(chosen)
            else:
                states = session.read_state(chosen[::-1])
                session.write_state(states, chosen)
                judge.write_state(states, chosen)
        for name, each in session.state.items():
            assert np.array_equal(each, judge.state[name][:5])


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        yield {
            filled: Gpu(tmp_path_factory.mktemp("gpu") / "b", patch, mode="sequence", batch=batch)
            for filled, batch in ((False, (1, 1, 8)), (True, (8, 8, 8)))
        }


def test_streams_share_a_session(gpu):
    made = gpu(mode="sequence", batch=(1, 1, 4))
    expected = reference.run(made.graph, made.x[:, :2]).output
    with made.load() as runtime:
        streams = Streams(runtime, 3)
        first, second = streams.open(), streams.open()
        found = {first: [], second: []}
        for t in range(T):  # the second one is a step behind
            frames = {first: made.x[t, 0]} | ({second: made.x[t - 1, 1]} if t else {})
            for row, output in streams.step(frames).items():
                found[row].append(output)
        streams.close()
    np.testing.assert_allclose(np.stack(found[first]), expected[:, 0], atol=1e-6)
    np.testing.assert_allclose(np.stack(found[second]), expected[: T - 1, 1], atol=1e-6)


def test_sessions_have_streams_of_their_own_and_may_have_threads(gpu):
    made = gpu(mode="sequence")
    expected = reference.run(made.graph, made.x).output
    found = {}
    with made.load() as runtime:

        def work(sample):
            with runtime.session(1) as session:
                found[sample] = np.stack([session.step(frame[sample : sample + 1]) for frame in made.x])

        threads = [threading.Thread(target=work, args=(sample,)) for sample in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len({stream.handle for stream in made.cuda.streams}) == 6
    for sample, outputs in found.items():
        np.testing.assert_allclose(outputs[:, 0], expected[:, sample], atol=1e-6)


def test_memory_of_the_device_is_counted_while_it_is_held(gpu):
    made = gpu(mode="sequence", engine=FakeRtxEngine)
    with made.load() as runtime:
        assert runtime.device_bytes() == 2 * 5000  # weights of two engines
        with runtime.session(2):
            held = runtime.device_bytes()
            states = sum(int(np.prod(info.shape)) * 4 for info in made.bundle.manifest.states)
            ends = 2 * (2 * 6 * 6 + 3) * 4
            assert held == 2 * 5000 + 1000 + ends + 2 * 2 * states + states  # two sets, and one row to start from
            runtime.run(made.x)
            assert runtime.device_bytes() > held + 2 * 1000
        made.engines["sequence"].device_memory_size_v2 = made.engines["step"].device_memory_size_v2 = 0
        assert runtime.device_bytes() == 2 * 5000 + made.cuda.allocated


def test_only_a_few_batch_sizes_are_kept(gpu):
    """A caller that gives any number of samples does not fill the GPU; the sizes used last stay as they are."""
    made = gpu(batch=(1, 1, 16))
    expected = reference.run(made.graph, made.x).output
    with made.load() as runtime:
        for size in (1, 2, 3, 4, 1, 5, 6, 1):  # 2, then 3 have to go
            np.testing.assert_allclose(runtime.run(made.x[:size]), expected[:, :size], atol=1e-6)
        assert [stream.closed for stream in made.cuda.streams] == [False, True, True, False, False, False]
        assert [context.batch for context in made.engines["sequence"].contexts] == [1, 2, 3, 4, 5, 6]
        np.testing.assert_allclose(runtime.run(made.x[:3]), expected[:, :3], atol=1e-6)
    assert not made.cuda.memory


def test_where_the_time_of_a_run_went(gpu):
    made = gpu()
    with made.load() as runtime:
        x, _ = runtime.ends.sequence(made.x)
        parts = runtime.timed_parts(x, T)
        assert parts.keys() == {"h2d", "compute", "d2h", "enqueue"}
        assert (parts["h2d"], parts["compute"], parts["d2h"]) == (2.0, 2.0, 2.0)  # two parts, by the fake's clock
        assert parts["enqueue"] > 0
        with runtime.session(2) as session:
            took = session.timed_parts(made.x[:2])
            assert (took["h2d"], took["compute"], took["d2h"]) == (1.0, 1.0, 1.0)
            again = session.step(made.x[:2])
    assert np.array_equal(again, reference.run(made.graph, made.x[:2]).output[1])  # it was a step


def test_rtx_keeps_what_it_compiled_and_takes_it_the_next_time(gpu):
    made = gpu(mode="sequence", engine=FakeRtxEngine)
    with made.load() as runtime:
        stepped(runtime, made.x, 2)
    assert len(list(KERNELS.folder.glob("*.entry"))) == 2  # of both engines
    assert made.engines["step"].config.cache.content == b"kernel "
    with made.load() as runtime:
        assert made.engines["step"].config.cache.content == b"kernel "
    made.cuda.driver = "13.0"  # what another driver compiled is not taken
    with made.load() as runtime:
        assert made.engines["step"].config.cache.content == b""
        stepped(runtime, made.x, 2)
    assert len(list(KERNELS.folder.glob("*.entry"))) == 4


def test_no_memory_for_a_context_is_one_sentence(gpu):
    made = gpu()
    made.engines["step"].opens = False
    with made.load() as runtime:
        with pytest.raises(Unavailable, match=r"^step.engine: it opens, but has no memory to run in: TensorRT gave no"):
            runtime.session(1)
        assert runtime.run(made.x).shape[1] == 6


@pytest.mark.parametrize("room", [0, 100, 300, 3000, 8000])
def test_no_memory_for_a_session_leaves_nothing_and_smaller_ones_work(gpu, room):
    made = gpu(mode="sequence", device=FakeCuda(room=room), batch=(1, 1, 64))
    with made.load() as runtime:
        with pytest.raises(Unavailable, match="out of memory"):
            runtime.session(64)
        assert not made.cuda.memory
        assert not made.cuda.pins
        assert all(stream.closed for stream in made.cuda.streams)
        made.cuda.room = 1 << 30
        assert np.array_equal(stepped(runtime, made.x, 2), reference.run(made.graph, made.x[:, :2]).output)


def test_an_engine_that_does_not_start_says_why_and_the_session_stays_as_it_was(gpu):
    made = gpu(mode="sequence")
    with made.load(cuda_graph="false") as runtime, runtime.session(2) as session:
        first = session.step(made.x[0, :2])
        before = session.state
        made.engines["step"].starts = False
        with pytest.raises(Unavailable, match="could not be started: it gave no reason"):
            session.step(made.x[1, :2])
        made.engines["step"].starts = True
        assert all(np.array_equal(each, before[name]) for name, each in session.state.items())
        assert first.shape == (2, 3)


@pytest.mark.parametrize("tensor", ["input", "output"])
def test_an_engine_of_another_shape_is_refused(gpu, tensor):
    made = gpu()
    shape = made.engines["sequence"].shapes[tensor]
    made.engines["sequence"].shapes[tensor] = [*shape[:-1], shape[-1] + 1]
    with made.load() as runtime, pytest.raises(Unavailable, match=f"the engine's '{tensor}' is .*: build it again"):
        runtime.run(made.x)


def test_a_state_that_the_step_engine_lacks_is_one_sentence(gpu):
    made = gpu()
    info = made.bundle.manifest.states[0]
    del made.engines["step"].shapes[info.output]
    with made.load() as runtime, pytest.raises(Unavailable, match=f"the engine has no '{info.output}'"):
        runtime.session(1)


def test_the_registry_opens_it_with_options(gpu):
    with base.load(gpu().bundle, "tensorrt", options={"cuda_graph": "false"}) as runtime:
        assert runtime.describe()["step cuda_graph"] == "off, as asked for"
