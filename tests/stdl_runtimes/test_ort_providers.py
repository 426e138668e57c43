"""Execution providers by name: memory on the device, CUDA graphs, options, and no falling back without a word."""

import sys

import bundles
import numpy as np
import pytest
from chains import exact, small_network

pytest.importorskip("onnxruntime")

from fake_ort import FakeOrt

import stdl_runtimes
from stdl_export.common.errors import BadInput, Unavailable
from stdl_export.manifest import Arithmetic, Tolerances
from stdl_runtimes import Streams, ort_model, ort_options

B, T = 3, 6
ON_GPU = {provider.runtime: provider for provider in (ort_options.CUDA, ort_options.TENSORRT, ort_options.NV)}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    x = np.random.default_rng(3).normal(0.5, 1, (T, B, 2, 6, 6)).astype(np.float32)
    graph, x = exact(small_network(mode="sequence", readout="li", T=T), x)
    return bundles.make(tmp_path_factory.mktemp("providers") / "b", graph, x), x


@pytest.fixture(params=ON_GPU)
def name(request):
    return request.param


@pytest.fixture
def fake(monkeypatch, name):
    """Makes the provider of that name one of a fake onnxruntime."""

    def put(driver=True, gpus=2, **said):
        ort = FakeOrt(ON_GPU[name], **said)
        plugin = ort.plugin(driver=driver, gpus=gpus) if ON_GPU[name].plugin else None
        monkeypatch.setattr(ort_model, "module", lambda: ort)
        if plugin:
            monkeypatch.setitem(sys.modules, ON_GPU[name].plugin, plugin)
        return ort

    return put


@pytest.mark.parametrize("graphs", [False, True])
def test_states_stay_on_the_device_and_change_places(made, fake, name, graphs):
    bundle, x = made
    ort = fake()
    expected = stdl_runtimes.load(bundle, "reference").run(x)
    options = {"cuda_graph": "true"} if graphs else {}
    with stdl_runtimes.load(bundle, name, options=options) as runtime:
        np.testing.assert_allclose(runtime.run(x), expected, atol=1e-6)
        with runtime.session(B) as session, runtime.session(B) as other:
            first = np.stack([session.step(frame) for frame in x[:5]])
            assert np.array_equal(other.step(x[0]), first[0]), "sessions of one model share no memory, and no graph"
            kept = session.state
            session.reset([1])
            session.step(x[2][[0, 2]], [0, 2])
            assert np.array_equal(session.step(x[0][[1]], [1])[0], first[0, 1])
            session.state = kept
            last = session.step(x[5])
            session.reset()
            again = np.stack([session.step(frame) for frame in x])
    np.testing.assert_allclose(np.concatenate([first, last[None]]), expected, atol=1e-6)
    assert np.array_equal(again, np.concatenate([first, last[None]]))
    step = ort.sessions[0]
    assert step.captures == graphs
    assert len(step.graphs) == (4 if graphs else 0)  # two ways for each of two sessions
    assert all(binding.waited for binding in step.bindings[:2])
    assert not any(session.captures for session in ort.sessions[1:]), "only single steps have memory that stays"


@pytest.mark.parametrize("membrane", ["fp32", "fp16"])
def test_one_graph_for_both_ways_is_found_out(tmp_path, made, fake, name, membrane):
    """A version that does not look at the graph's number would go on with the states of two steps ago."""
    fake(one_graph=True)
    arithmetic = Arithmetic(precision="fp16", membrane=membrane)
    half = bundles.make(tmp_path / "b", small_network(mode="sequence", T=T), made[1], arithmetic=arithmetic)
    with (
        stdl_runtimes.load(half, name, options={"cuda_graph": "true"}) as runtime,
        pytest.raises(Unavailable, match="replays one CUDA graph for both sets of states: leave out cuda_graph"),
    ):
        runtime.session(B)
    with stdl_runtimes.load(made[0], name) as runtime:
        runtime.session(B).step(made[1][0])


def test_half_precision_states_keep_their_type_on_the_device(tmp_path, fake, name):
    fake()
    graph = small_network(mode="sequence", readout="li", T=T)
    x = np.random.default_rng(3).normal(0.5, 1, (T, B, 2, 6, 6)).astype(np.float32)
    bundle = bundles.make(tmp_path / "b", graph, x, arithmetic=Arithmetic(precision="fp16", membrane="fp16"))
    with stdl_runtimes.load(bundle, name) as runtime, runtime.session(B) as session:
        session.step(x[0])
        session.reset([0])
        assert {each.dtype for each in session.state.values()} == {np.dtype(np.float16)}


def test_many_streams_on_one_device(made, fake, name):
    bundle, x = made
    fake()
    with stdl_runtimes.load(bundle, name) as runtime, Streams(runtime, B) as streams:
        whole = runtime.run(x)
        rows = [streams.open() for _ in range(B)]
        for t in range(T):
            assert np.array_equal(streams.step({rows[1]: x[t, 1]})[rows[1]], whole[t, 1])
        for t in range(T):
            assert np.array_equal(streams.step({rows[2]: x[t, 2]})[rows[2]], whole[t, 2])


def test_a_provider_that_does_not_start_is_an_error(made, fake, name):
    fake(starts=False)
    with pytest.raises(Unavailable, match=f"onnxruntime could not start {ON_GPU[name].name}: check the driver"):
        stdl_runtimes.load(made[0], name)


def test_a_provider_that_takes_no_node_is_an_error(made, fake, name):
    fake(takes_nodes=False)
    with pytest.raises(Unavailable, match=f"{ON_GPU[name].name} takes none of the graph's nodes: all 3 are on the CPU"):
        stdl_runtimes.load(made[0], name)


def test_options_go_to_the_provider_and_are_shown(made, fake, name):
    ort = fake(refuses=["nonsense"])
    options = {"threads": "3", "gpu_mem_limit": "1000", "session.some.key": "7", "cuda_graph": "true"}
    with stdl_runtimes.load(made[0], name, options=options) as runtime:
        said = runtime.describe()
    assert ort.sessions[0].chosen["gpu_mem_limit"] == "1000"
    assert said["engine"] == "onnxruntime 1.99"
    assert said["provider"] == ON_GPU[name].name
    assert said["threads"] == "3"
    assert said["provider.gpu_mem_limit"] == "1000"
    assert said["provider.device_id"] == "0", "also what the provider set by itself"
    assert said["session.some.key"] == "7"
    assert said["cuda_graph"] == "on, for single steps"
    assert said["nodes of model.step.onnx"] == f"3 on {ON_GPU[name].name}"
    with pytest.raises(Unavailable, match=r"does not take .model.step.onnx.: .*Unknown option nonsense"):
        stdl_runtimes.load(made[0], name, options={"nonsense": "1"})


def test_where_tf32_may_be_on_it_is_said_and_judged_so(made, fake, name, monkeypatch):
    """It is off in the CUDA provider, unless that is asked for; the others follow the environment."""
    fake()
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    with stdl_runtimes.load(made[0], name) as runtime:
        if name == "onnxruntime-cuda":
            assert (runtime.describe()["TF32"], runtime.tolerances) == ("off", None)
        else:
            assert runtime.describe()["TF32"] == "may be on: NVIDIA_TF32_OVERRIDE=0 turns it off"
            assert runtime.tolerances == Tolerances.of("fp16")
    with stdl_runtimes.load(made[0], name, options={"use_tf32": "1"}) as runtime:
        assert runtime.tolerances == Tolerances.of("fp16")
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    with stdl_runtimes.load(made[0], name) as runtime:
        assert (runtime.describe()["TF32"], runtime.tolerances) == ("off", None)


def test_what_a_provider_builds_goes_to_the_users_cache(name):
    own = ON_GPU[name].own()
    if name == "onnxruntime-cuda":
        assert own == {"use_tf32": "0"}
    else:
        assert own[ON_GPU[name].cached] == str(ort_options.cache_folder() / name)


def test_a_failed_call_leaves_the_states_as_they_were(made, fake, name):
    bundle, x = made
    ort = fake()
    with stdl_runtimes.load(bundle, name) as runtime, runtime.session(B) as session:
        whole = [session.step(frame) for frame in x]
        session.reset()
        session.step(x[0])
        ort.sessions[0].fails = True
        with pytest.raises(BadInput, match="cannot run the graph: the GPU fell off the bus"):
            session.step(x[1])
        ort.sessions[0].fails = False
        assert np.array_equal(session.step(x[1]), whole[1])


@pytest.mark.parametrize("name", ["onnxruntime-cuda", "onnxruntime-tensorrt"], indirect=True)
def test_a_provider_this_onnxruntime_does_not_know(made, fake, name):
    fake(known=[])
    with pytest.raises(Unavailable, match=f"this onnxruntime has no {ON_GPU[name].name}: install the extra 'gpu'"):
        stdl_runtimes.load(made[0], name)


@pytest.mark.parametrize("name", ["onnxruntime-nv"], indirect=True)
@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"driver": False}, "NvTensorRTRTXExecutionProvider does not start: no NVIDIA driver$"),
        ({"gpus": 0}, "finds no GPU that it runs on"),
    ],
)
def test_a_provider_from_a_package_that_does_not_start(made, fake, name, broken, message):
    fake(**broken)
    with pytest.raises(Unavailable, match=message):
        stdl_runtimes.load(made[0], name)


def test_a_provider_whose_package_is_absent(made, monkeypatch):
    monkeypatch.setitem(sys.modules, ort_options.NV.plugin, None)
    with pytest.raises(Unavailable, match="is not installed: pip install onnxruntime-ep-nv-tensorrt-rtx"):
        stdl_runtimes.load(made[0], "onnxruntime-nv")


@pytest.mark.parametrize("name", ["onnxruntime-nv"], indirect=True)
def test_an_onnxruntime_that_takes_no_plugins_is_said_to_be_old(made, fake, name):
    del fake().register_execution_provider_library
    with pytest.raises(Unavailable, match=r"onnxruntime 1\.99 takes no providers from other packages: 1\.24 or newer"):
        stdl_runtimes.load(made[0], name)


@pytest.mark.parametrize("name", ["onnxruntime-nv"], indirect=True)
def test_the_plugin_is_registered_once(made, fake, name):
    ort = fake()
    for _ in range(2):
        stdl_runtimes.load(made[0], name).close()
    assert ort.registered == [("NvTensorRTRTXExecutionProvider", "ep.so")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": "0"}, "threads is '0': give a whole number from 1 to 1024"),
        ({"threads": "two"}, "threads is 'two'"),
        ({"cuda_graph": "true"}, "runtime 'onnxruntime' has no CUDA graphs"),
        ({"cuda_graph": "yes"}, "cuda_graph is 'yes': give true or false"),
        ({"thread": "1"}, "has no option 'thread': it takes threads=N"),
    ],
)
def test_options_of_the_cpu_are_checked(made, options, message):
    with pytest.raises(BadInput, match=message):
        stdl_runtimes.load(made[0], "onnxruntime", options=options)


def test_the_cpus_options_are_in_force(made):
    bundle, x = made
    with stdl_runtimes.load(bundle, options={"threads": "1", "session.disable_prepacking": "1"}) as runtime:
        runtime.session(B).step(x[0])
        said = runtime.describe()
        assert runtime.threads
    assert said["threads"] == "1"
    assert said["session.disable_prepacking"] == "1"
    import onnxruntime

    if hasattr(onnxruntime.InferenceSession, "get_provider_graph_assignment_info"):  # newer versions tell
        assert said["nodes of model.step.onnx"].endswith(" on CPUExecutionProvider")
