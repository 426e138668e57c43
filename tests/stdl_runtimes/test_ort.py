import json

import bundles
import nir
import numpy as np
import pytest
import random_graphs
import random_programs
from chains import chain, small_network
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stdl_export import graph as graphs
from stdl_export.common.errors import BadInput, Unavailable
from stdl_runtimes import base, reference

pytest.importorskip("onnxruntime")


def inputs(batch, mode="repeat", T=5, seed=0):
    shape = (batch, 2, 6, 6) if mode == "repeat" else (T, batch, 2, 6, 6)
    return np.random.default_rng(seed).normal(0.5, 1, shape).astype(np.float32)


def steps(runtime, x, timesteps, repeated):
    with runtime.session(x.shape[0 if repeated else 1]) as session:
        return np.stack([session.step(x if repeated else x[t]) for t in range(timesteps)])


@pytest.mark.parametrize("mode", ["repeat", "sequence"])
@pytest.mark.parametrize("readout", ["affine", "li"])
def test_every_way_through_onnxruntime_gives_the_references_spikes(tmp_path, mode, readout):
    graph = small_network(mode=mode, readout=readout)
    x = inputs(7, mode)
    expected = reference.run(graph, x)
    with base.load(bundles.make(tmp_path / "b", graph, x), "onnxruntime") as runtime:
        whole, recorded = runtime.run(x), runtime.run_recorded(x)
        single = runtime.layers(x, expected.spikes)
        stepped = steps(runtime, x, 5, mode == "repeat")
    np.testing.assert_allclose(whole, expected.output, atol=1e-5)
    assert np.array_equal(stepped, whole)
    assert np.array_equal(recorded.output, whole)
    for node, spikes in expected.spikes.items():
        assert 0.02 < spikes.mean() < 0.9
        assert np.array_equal(recorded.spikes[node], spikes)
        assert np.array_equal(single.spikes[node], spikes)


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(graph=random_graphs.graphs(), seed=st.integers(0, 100))
def test_random_networks_agree_bit_for_bit(tmp_path_factory, graph, seed):
    timesteps = graphs.settings(graph).T or 16
    x = random_graphs.inputs(graph, batch=3, T=timesteps, seed=seed)
    expected = reference.run(graph, x, T=timesteps)
    repeated = graphs.settings(graph).input == "repeat"
    with base.load(bundles.make(tmp_path_factory.mktemp("b") / "b", graph, x), "onnxruntime") as runtime:
        recorded = runtime.run_recorded(x, timesteps)
        assert np.array_equal(runtime.run(x, timesteps), expected.output)
        assert np.array_equal(steps(runtime, x, timesteps, repeated), expected.output)
    assert np.array_equal(recorded.output, expected.output)
    for node, spikes in expected.spikes.items():
        assert np.array_equal(recorded.spikes[node], spikes)


LOOPED = {
    "base": "nir",
    "types": {"LIF": {"spike": "floor", "reset": "subtract", "v_init": "0.25", "out_scale": "2"}},
}


def looped(T=12):
    """input -> first (LIF) -> second (CubaLIF) <-> rec -> output; `first` fires several times a step, from v = 1/4."""
    rng = np.random.default_rng(3)
    nodes = {
        "input": nir.Input(np.array([3])),
        "first": random_programs.neuron(rng, "LIF", (3,)),
        "fc": nir.Linear(rng.normal(size=(3, 3)).astype(np.float32)),
        "second": random_programs.neuron(rng, "CubaLIF", (3,)),
        "rec": nir.Linear(rng.normal(size=(3, 3)).astype(np.float32)),
        "output": nir.Output(np.array([3])),
    }
    edges = [
        ("input", "first"), ("first", "fc"), ("fc", "second"),
        ("second", "rec"), ("rec", "second"), ("second", "output"),
    ]  # fmt: skip
    metadata = {"stdl.dt": random_programs.DT, "stdl.T": T, "stdl.dialect": json.dumps(LOOPED)}
    return nir.NIRGraph(nodes, edges, metadata, type_check=False)


def test_loops_counts_and_first_states_go_through_onnxruntime(tmp_path):
    graph = looped()
    x = np.random.default_rng(0).normal(1, 1, (12, 4, 3)).astype(np.float32)
    expected = reference.run(graph, x)
    assert expected.spikes["first"].max() > 1
    assert 0.02 < expected.spikes["second"].mean() < 0.98
    bundle = bundles.make(tmp_path / "b", graph, x)
    assert [(info.node, info.var) for info in bundle.manifest.states] == [
        ("first", "v"), ("second", "v"), ("second", "i"), ("second", "feedback"),
    ]  # fmt: skip
    nonsense = {node: np.zeros_like(spikes) for node, spikes in expected.spikes.items()}
    with base.load(bundle, "onnxruntime") as runtime:
        assert np.array_equal(runtime.run(x), expected.output)
        assert np.array_equal(steps(runtime, x, 12, False), expected.output)
        recorded = runtime.run_recorded(x)
        single = runtime.layers(x, expected.spikes)
        alone = runtime.layers(x, expected.spikes | {"second": nonsense["second"]})
    for node, spikes in expected.spikes.items():
        assert np.array_equal(recorded.spikes[node], spikes)
        assert np.array_equal(single.spikes[node], spikes)
        assert np.array_equal(alone.spikes[node], spikes), "a loop runs whole: what is fed goes to who reads it outside"
    assert not alone.output.any()


def test_layers_show_each_layer_by_itself(tmp_path):
    """Spikes of nonsense in front of the second layer change it and leave the first alone."""
    graph, x = small_network(), inputs(3)
    expected = reference.run(graph, x).spikes
    nonsense = dict(expected, lif1=~expected["lif1"])
    with base.load(bundles.make(tmp_path / "b", graph, x), "onnxruntime") as runtime:
        found = runtime.layers(x, nonsense).spikes
    assert np.array_equal(found["lif1"], expected["lif1"])
    assert not np.array_equal(found["if2"], expected["if2"])


@pytest.mark.parametrize("mode", ["repeat", "sequence"])
def test_recorded_spikes_do_not_depend_on_the_guess(tmp_path, mode):
    graph, x = small_network(mode=mode, readout="li"), inputs(6, mode)
    expected = reference.run(graph, x)
    guess = {node: spikes.copy() for node, spikes in expected.spikes.items()}
    guess["lif1"][2, 1] ^= True  # wrong in one sample, in the first layer
    guess["if2"][:, 4] = False  # and in another one, in the second
    with base.load(bundles.make(tmp_path / "b", graph, x), "onnxruntime") as runtime:
        guesses = (None, expected.spikes, guess, {node: ~spikes for node, spikes in guess.items()})
        found = [runtime.run_recorded(x, guess=each) for each in guesses]
        whole = runtime.run(x)
    for recorded in found:
        np.testing.assert_allclose(recorded.output, whole, atol=1e-6)
        for node, spikes in expected.spikes.items():
            assert np.array_equal(recorded.spikes[node], spikes)


def test_a_network_without_neurons_runs(tmp_path):
    graph = chain((2,), (3,), {"fc": nir.Linear(np.ones((3, 2), np.float32))}, T=4, input="repeat")
    x = np.ones((2, 2), np.float32)
    with base.load(bundles.make(tmp_path / "b", graph, x), "onnxruntime") as runtime:
        assert runtime.run_recorded(x).output.tolist() == runtime.run(x).tolist() == [[[2.0] * 3] * 2] * 4
        assert np.array_equal(steps(runtime, x, 4, True), runtime.run(x))


def test_sessions_are_independent_and_begin_again_after_reset(tmp_path):
    graph, x = small_network(readout="li", mode="sequence"), inputs(2, "sequence")
    with base.load(bundles.make(tmp_path / "b", graph, x), "onnxruntime") as runtime:
        whole = runtime.run(x)
        one, other = runtime.session(2), runtime.session(2)
        for t, frame in enumerate(x):
            assert np.array_equal(one.step(frame), whole[t])
            if t % 2 == 0:
                assert np.array_equal(other.step(x[t // 2]), whole[t // 2])
        one.reset()
        assert np.array_equal(one.step(x[0]), whole[0])


def test_states_begin_as_the_bundle_says(tmp_path):
    graph, x = small_network(readout="li", mode="sequence"), inputs(2, "sequence")
    bundle = bundles.make(tmp_path / "b", graph, x)
    initial = {info.input: np.zeros(info.shape, np.float32) for info in bundle.manifest.states}
    initial["state.li.v"] += 8
    np.savez(bundle.path / "states.npz", **initial)
    with base.load(bundles.rehash(bundle, ["states.npz"]), "onnxruntime") as runtime:
        decay = 1 - 1e-4 / np.float64(np.float32(3e-4))
        np.testing.assert_allclose(runtime.session(2).step(x[0]), runtime.run(x)[0] + 8 * decay, rtol=1e-5)
    np.savez(bundle.path / "states.npz", **{"state.li.v": initial["state.li.v"]})
    with (
        base.load(bundles.rehash(bundle, ["states.npz"]), "onnxruntime") as runtime,
        pytest.raises(BadInput, match=r"states.npz does not hold the state 'state"),
    ):
        runtime.session(2)


def test_a_dynamic_t_is_asked_for_where_the_input_repeats(tmp_path):
    graph, x = small_network(T=None), inputs(3)
    with base.load(bundles.make(tmp_path / "b", graph, x), "onnxruntime") as runtime:
        np.testing.assert_allclose(runtime.run(x, 9), reference.run(graph, x, T=9).output, atol=1e-5)
        with pytest.raises(BadInput, match="leaves the number of time steps open"):
            runtime.run(x)


def test_modes_are_what_the_bundle_holds(tmp_path):
    graph, x = small_network(), inputs(2)
    only_steps = bundles.make(tmp_path / "steps", graph, x, modes=("step",))
    assert base.load(only_steps, "onnxruntime").modes == ("step",)
    with pytest.raises(Unavailable, match="the bundle has no ONNX graph: add one with stdl-export"):
        base.load(bundles.make(tmp_path / "none", graph, x, targets=("nir",)), "onnxruntime")


def test_a_graph_that_onnxruntime_does_not_take_is_named(tmp_path):
    bundle = bundles.make(tmp_path / "b", small_network(), inputs(2))
    (bundle.path / "model.onnx").write_bytes(b"\x3a\x02\x0a\x00")  # a graph with a node of no kind
    with (
        base.load(bundles.rehash(bundle, ["model.onnx"]), "onnxruntime") as runtime,
        pytest.raises(BadInput, match=r"onnxruntime cannot load '.*model\.onnx'"),
    ):
        runtime.run(inputs(2))


def test_input_of_another_shape_is_refused_in_one_line(tmp_path):
    with (
        base.load(bundles.make(tmp_path / "b", small_network(), inputs(2)), "onnxruntime") as runtime,
        pytest.raises(BadInput, match=r"sample of shape .* was given, the graph takes"),
    ):
        runtime.run(np.zeros((2, 2, 5, 6), np.float32))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 2, 6, 6), r"^a frame of 3 samples came to a session of 2: open one with batch 3$"),
        ((1, 2, 6, 6), r"^a frame of 1 samples came to a session of 2: open one with batch 1$"),
        ((2, 1, 6, 6), r"^a sample of shape \(1, 6, 6\) was given, the graph takes \(2, 6, 6\)$"),
    ],
)
def test_a_session_refuses_another_frame(tmp_path, shape, message):
    with (
        base.load(bundles.make(tmp_path / "b", small_network(), inputs(2)), "onnxruntime") as runtime,
        runtime.session(2) as session,
        pytest.raises(BadInput, match=message),
    ):
        session.step(np.zeros(shape, np.float32))


def test_a_device_that_is_not_there_is_said(tmp_path):
    bundle = bundles.make(tmp_path / "b", small_network(), inputs(2))
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime knows CUDA")
    for name, device in (("onnxruntime", "cuda"), ("onnxruntime-cuda", "cpu")):
        with pytest.raises(Unavailable, match="has no CUDAExecutionProvider: install the extra 'gpu'"):
            base.load(bundle, name, device=device)


def test_an_unknown_runtime_is_named(tmp_path):
    bundle = bundles.make(tmp_path / "b", small_network(), inputs(2), targets=("nir",))
    with pytest.raises(BadInput, match="unknown runtime 'onnxruntme': did you mean 'onnxruntime'"):
        base.load(bundle, "onnxruntme")


@pytest.mark.parametrize("wrong", ["names", "shapes", "another output"])
def test_a_step_graph_that_is_not_the_manifests_is_one_line(tmp_path, wrong):
    x = np.zeros((5, 2, 2, 6, 6), np.float32)
    bundle = bundles.make(tmp_path / "b", small_network(mode="sequence", readout="li"), x)
    if wrong == "names":
        other = small_network(mode="sequence")
    else:
        nodes = {
            "flat": nir.Flatten({"input": np.array([2, 6, 6])}, 0, -1),
            "fc": nir.Linear(np.ones((4, 72), np.float32)),
            "li": nir.LI(tau=np.full(4, 3e-4, np.float32), r=np.ones(4, np.float32), v_leak=np.zeros(4, np.float32)),
        }
        other = chain((2, 6, 6), (4,), nodes, T=5, input="sequence")
        if wrong == "another output":
            other = changed_output(small_network(mode="sequence", readout="li"))
    made = bundles.replace_onnx(bundle, other, ["model.step.onnx"])
    with base.load(made, "onnxruntime") as runtime, pytest.raises(BadInput) as error:
        runtime.session(2).step(x[0])
    assert "\n" not in str(error.value)


def changed_output(graph):
    """The same network with four outputs."""
    graph.nodes["fc"] = nir.Affine(np.ones((4, 54), np.float32), np.zeros(4, np.float32))
    four = {name: np.full(4, value, np.float32) for name, value in (("tau", 3e-4), ("r", 1), ("v_leak", 0))}
    graph.nodes["li"] = nir.LI(**four)
    graph.nodes["output"] = nir.Output(np.array([4]))
    return graph
