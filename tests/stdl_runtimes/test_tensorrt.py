"""The TensorRT runtime without a GPU: its state machine on a fake of the API, and what it says where it cannot run."""

import sys
from itertools import pairwise
from types import SimpleNamespace

import bundles
import numpy as np
import pytest
from chains import small_network
from fake_gpu import FakeCuda, FakeEngine, FakeTensorRt
from tensorrt_bundle import Gpu, T, inputs

from stdl_export.common.errors import BadInput, Unavailable
from stdl_export.manifest import Arithmetic
from stdl_export.program import program
from stdl_runtimes import base, cuda, reference, tensorrt_engine
from stdl_runtimes.reference_walk import Simulation
from stdl_runtimes.validate import Comparison, entries_of

OPEN_DEVICE, MODULE = cuda.open_device, tensorrt_engine.module  # the real ones; most tests put fakes in their place


@pytest.fixture
def gpu(tmp_path, monkeypatch):
    return lambda **options: Gpu(tmp_path / "b", monkeypatch, **options)


@pytest.mark.parametrize("mode", ["repeat", "sequence"])
def test_the_sequence_engine_takes_any_batch_in_parts(gpu, mode):
    made = gpu(mode=mode)
    with made.load() as runtime:
        assert np.array_equal(runtime.run(made.x), reference.run(made.graph, made.x).output)  # 6 samples: 4 and 2
        assert np.array_equal(runtime.run(made.x), reference.run(made.graph, made.x).output)
    assert [context.batch for context in made.engines["sequence"].contexts] == [4, 2]  # made once each


@pytest.mark.parametrize("mode", ["repeat", "sequence"])
def test_a_batch_below_the_profile_is_filled_up(gpu, mode):
    made = gpu(mode=mode, batch=(4, 4, 4))
    expected = reference.run(made.graph, made.x).output[:, :1]
    one = made.x[:1] if mode == "repeat" else made.x[:, :1]
    with made.load() as runtime:
        np.testing.assert_allclose(runtime.run(one), expected, atol=1e-6)
        with runtime.session(1) as session:
            stepped = np.stack([session.step(one if mode == "repeat" else one[t]) for t in range(T)])
    np.testing.assert_allclose(stepped, expected, atol=1e-6)


def test_single_steps_are_the_sequence_and_states_change_places(gpu):
    made = gpu(mode="sequence")
    x = made.x[:, :3]
    expected = reference.run(made.graph, x).output
    with made.load() as runtime, runtime.session(3) as session:
        first = np.stack([session.step(frame) for frame in x])
        session.reset()  # after an odd number of steps
        second = np.stack([session.step(frame) for frame in x])
        (context,) = made.engines["step"].contexts
    assert np.array_equal(first, expected)
    assert np.array_equal(second, expected)
    calls = context.calls[2:]  # behind those that are made before graphs are captured
    assert len(calls) == 2 * T
    for before, after in pairwise(calls):
        if after is calls[T]:
            continue  # the reset wrote the state that this step reads
        for info in made.bundle.manifest.states:
            assert after[info.input] == before[info.output]
            assert after[info.output] == before[info.input]


@pytest.mark.parametrize("batch", [(1, 1, 4), (4, 4, 4)], ids=["as is", "filled up"])
@pytest.mark.parametrize("membrane", ["fp32", "fp16"])
def test_rows_are_reset_held_read_and_written_alone(gpu, batch, membrane):
    made = gpu(mode="sequence", batch=batch, arithmetic=Arithmetic(precision="fp16", membrane=membrane))
    x = made.x[:, :3]
    with made.load() as runtime, runtime.session(3) as session:
        first = session.step(x[0])
        session.step(x[1])
        before = session.state
        assert {each.dtype.name for each in before.values()} == {"float32" if membrane == "fp32" else "float16"}
        session.reset([1])
        after = session.state
        for name, each in after.items():
            assert np.array_equal(each[[0, 2]], before[name][[0, 2]])
            assert np.array_equal(each[1], session.initial[name][1])
        np.testing.assert_allclose(session.step(x[0][[1]], [1])[0], first[1], atol=1e-6)
        for name, each in session.state.items():
            assert np.array_equal(each[[0, 2]], before[name][[0, 2]])
        third = session.step(x[2])
        session.write_state({name: each[[2, 0]] for name, each in before.items()}, [0, 1])
        np.testing.assert_allclose(session.step(x[2][[2, 0]], [0, 1]), third[[2, 0]], atol=1e-6)


def test_states_in_fp16_are_kept_in_their_type(gpu):
    """2 bytes each on the device; the potential is rounded after each step."""
    made = gpu(mode="sequence", arithmetic=Arithmetic(precision="fp16", membrane="fp16"))
    x, expected = made.x[:, :3], []
    simulation = Simulation(program(made.graph), 3)
    for frame in x:
        values = simulation.advance({"input": frame})
        expected.append(values["output"])
        simulation.states = {
            key: state.astype(np.float16).astype(np.float32) for key, state in simulation.states.items()
        }
    with made.load() as runtime, runtime.session(3) as session:
        stepped = np.stack([session.step(frame) for frame in x])
        (context,) = made.engines["step"].contexts
        sizes = {
            info.input: len(made.cuda.memory[context.addresses[info.input]]) for info in made.bundle.manifest.states
        }
    assert np.array_equal(stepped, np.stack(expected))
    assert not np.array_equal(stepped, reference.run(made.graph, x).output)
    assert sizes == {info.input: 3 * int(np.prod(info.shape)) * 2 for info in made.bundle.manifest.states}


def test_an_engine_whose_states_have_another_type_is_not_run(gpu, caplog):
    """The manifest says float32, the engine has float16."""
    made = gpu()
    made.engines["step"].states = [info.model_copy(update={"dtype": "float16"}) for info in made.engines["step"].states]
    with made.load() as runtime:
        assert runtime.modes == ("sequence",)
    assert "is HALF, FLOAT is expected" in caplog.text


def test_everything_is_given_back(gpu):
    made = gpu()
    with made.load() as runtime:
        runtime.run(made.x)
        with runtime.session(2) as session:
            session.step(made.x[:2])
    assert made.cuda.streams
    assert all(stream.closed for stream in made.cuda.streams)
    assert not made.cuda.memory
    assert not made.cuda.pins


def test_the_harness_compares_it_in_both_modes(gpu):
    made = gpu(batch=(1, 1, 4))
    comparison = Comparison(made.bundle)
    with made.load() as runtime:
        rows = comparison.rows([*entries_of(reference.Reference(made.graph)), *entries_of(runtime)], lambda done: None)
    assert [row.entry.label for row in rows] == ["reference", "tensorrt", "tensorrt step"]
    assert all(check.passed for row in rows for check in comparison.checks(row))
    assert rows[2].twin_name == "sequence"


def test_a_session_larger_than_the_profile_is_refused(gpu):
    with gpu().load() as runtime, pytest.raises(BadInput, match="takes 1 to 4 samples, not 5: build it with --batch 5"):
        runtime.session(5)


@pytest.mark.parametrize("batch", [(1, 1, 4), (4, 4, 4)])
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 2, 6, 6), r"^a frame of 3 samples came to a session of 2: open one with batch 3$"),
        ((1, 2, 6, 6), r"^a frame of 1 samples came to a session of 2: open one with batch 1$"),
        ((2, 1, 6, 6), r"^a sample of shape \(1, 6, 6\) was given, the graph takes \(2, 6, 6\)$"),
    ],
)
def test_a_session_refuses_another_frame(gpu, batch, shape, message):
    with (
        gpu(batch=batch).load() as runtime,
        runtime.session(2) as session,
        pytest.raises(BadInput, match=message),
    ):
        session.step(np.zeros(shape, np.float32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": "0.9"}, "built by tensorrt_rtx 0.9, this is 1.0: build it here with stdl-export"),
        ({"compute_capability": "9.0"}, "built for SM 9.0, this GPU is 8.7"),
        ({"graph_sha256": "0" * 64}, "built from another graph than the bundle's"),
        ({"fake": FakeTensorRt({}, validity=32)}, "the file is damaged"),
        ({"fake": FakeTensorRt({}, validity=1 | 2)}, "another version built it, it is for another GPU generation"),
        (
            {
                "fake": FakeTensorRt(
                    {},
                    refuse=[("ERROR", "Thread context has not been set"), ("ERROR", "no such\nkernel"), ("INFO", "hm")],
                )
            },
            "engine: no such kernel",
        ),
        ({"fake": FakeTensorRt({}, refuse=[("INFO", "hm")])}, "refused without a reason"),
    ],
)
def test_an_engine_that_does_not_run_here_says_why(gpu, changes, message):
    with pytest.raises(Unavailable, match=f"^built, not run: sequence.engine: .*{message}"):
        gpu(**changes).load()


def test_one_engine_of_two_is_enough_and_the_other_is_said(gpu, caplog):
    made = gpu()
    infos = [info.model_dump() for info in made.bundle.manifest.engines]
    infos[0]["version"] = "0.9"
    made.bundle = bundles.rehash(made.bundle, [], engines=infos)
    with made.load() as runtime:
        assert runtime.modes == ("step",)
        with pytest.raises(Unavailable, match="no sequence engine that runs here"):
            runtime.run(made.x)
    assert "tensorrt does not run mode sequence: sequence.engine: built by tensorrt_rtx 0.9" in caplog.text


def test_an_engine_that_changes_after_the_bundle_was_opened_is_not_run(gpu, caplog):
    made = gpu()
    (made.bundle.path / "step.engine").write_text("sequence")
    with made.load() as runtime:
        assert runtime.modes == ("sequence",)
    assert "step.engine: it was changed since the bundle was opened" in caplog.text


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_engines_for_a_mode_that_of_tensorrt_is_opened(gpu, order):
    made = gpu()
    opened = []
    made.trt.Runtime = lambda log: SimpleNamespace(deserialize_cuda_engine=open_one)

    def open_one(content):
        opened.append(bytes(content).decode())
        return made.engines["step"]

    infos = [info.model_dump() for info in made.bundle.manifest.engines]
    infos[0] |= {"mode": "step", "flavour": "tensorrt_rtx"}
    infos[1] |= {"mode": "step", "flavour": "tensorrt"}
    made.rehash(infos[::order])
    with made.load() as runtime:
        assert runtime.describe()["engine"] == "tensorrt 1.0"
    assert opened == ["step"]


def test_a_bundle_without_engines_says_how_to_add_one(tmp_path):
    bundle = bundles.make(tmp_path / "b", small_network(), inputs(2, "repeat"), targets=("nir",))
    with pytest.raises(Unavailable, match="the bundle has no engine: add one with stdl-export"):
        base.load(bundle, "tensorrt")


def test_without_a_driver_the_engine_was_built_and_not_run(gpu, monkeypatch):
    made = gpu()
    monkeypatch.setattr(cuda, "open_device", OPEN_DEVICE)
    monkeypatch.setattr(cuda, "DRIVER", "libno-such-driver.so.1")
    with pytest.raises(Unavailable, match=r"^built, not run: no NVIDIA driver$"):
        made.load()


def test_a_flavour_that_is_not_installed_is_named(gpu, monkeypatch):
    made = gpu(flavour="tensorrt")
    monkeypatch.setattr(tensorrt_engine, "module", MODULE)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(Unavailable, match=r"tensorrt is not installed: on a Jetson it comes with JetPack"):
        made.load()


def test_a_flavour_whose_libraries_do_not_load_says_so(gpu, monkeypatch, tmp_path):
    made = gpu(flavour="tensorrt")
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.setattr(tensorrt_engine, "module", MODULE)
    with pytest.raises(Unavailable, match=r"tensorrt does not load: libnvinfer.so.10: cannot open"):
        made.load()


def test_the_real_tensorrt_has_what_is_called():
    trt = pytest.importorskip("tensorrt_rtx")
    assert hasattr(trt.Runtime, "deserialize_cuda_engine")
    fake = FakeEngine(small_network(T=T), FakeCuda(), "sequence", (), T, True)
    for real, stand_in in ((trt.ICudaEngine, fake), (trt.IExecutionContext, fake.create_execution_context())):
        called = [
            name for name in dir(stand_in) if name.startswith(("get_tensor", "set_", "infer", "execute", "create"))
        ]
        assert called
        assert [name for name in called if not hasattr(real, name)] == []
    assert {"INPUT", "OUTPUT"} <= set(trt.TensorIOMode.__members__)
    assert "FLOAT" in trt.DataType.__members__
    assert hasattr(trt.ICudaEngine, "num_io_tensors")


@pytest.mark.parametrize("mode", ["repeat", "sequence"])
@pytest.mark.parametrize("batch", [(1, 1, 4), (8, 8, 8)], ids=["in parts", "filled up"])
def test_several_inputs_and_outputs_and_final_states(tmp_path, monkeypatch, mode, batch):
    made = Gpu(tmp_path / "b", monkeypatch, mode=mode, batch=batch, several=True)
    expected = reference.run(made.graph, made.x, states=True)
    axis = 0 if mode == "repeat" else 1
    with made.load() as runtime:
        found, states = runtime.run_to_states(made.x)
        assert found.keys() == expected.outputs.keys() == runtime.run(made.x).keys()
        for name, y in expected.outputs.items():
            assert np.array_equal(found[name], y)
        for info in made.bundle.manifest.states:
            assert np.array_equal(states[info.input], expected.states[info.node, info.var])
        first = {name: x.take(range(2), axis) for name, x in made.x.items()}
        begin = {name: state[:2] for name, state in states.items()}
        with runtime.session(2, begin) as session, reference.Session(made.graph, 2) as judge:
            for x in runtime.ends.steps(first, T):
                judge.step(x)
            for x in runtime.ends.steps(first, T):
                y, wanted = session.step(x), judge.step(x)
                assert all(np.array_equal(y[name], wanted[name]) for name in wanted)
            session.reset()
            x = runtime.ends.steps(first, T)[0]
            assert all(np.array_equal(each, expected.outputs[name][0, :2]) for name, each in session.step(x).items())
    assert not made.cuda.memory
    assert not made.cuda.pins


def test_a_tensor_that_the_engine_lacks_is_one_sentence(tmp_path, monkeypatch):
    made = Gpu(tmp_path / "b", monkeypatch, several=True)
    del made.engines["sequence"].shapes["labels"]
    with made.load() as runtime, pytest.raises(Unavailable, match="the engine has no 'labels'"):
        runtime.run(made.x)
