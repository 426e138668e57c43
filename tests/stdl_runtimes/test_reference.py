import nir
import numpy as np
import onnx
import onnx.reference
import pytest
from chains import chain, integrate, lif, small_network, varied_if, varied_lif
from hypothesis import given, settings
from hypothesis import strategies as st
from small_graphs import assemble, full

from stdl_export import dialects
from stdl_export.common.errors import BadInput
from stdl_export.semantics import discretise
from stdl_runtimes import reference
from stdl_runtimes import reference_nodes as nodes


def run_one(node, inputs, **metadata):
    """One neuron, one sample: its output over time as a list. inputs: one number per step."""
    graph = chain((1,), (1,), {"n": node}, **metadata)
    x = np.array(inputs, np.float32).reshape(-1, 1, 1)
    return reference.run(graph, x).output.reshape(-1).tolist()


# --- neurons, by arithmetic -----------------------------------------------------------------------------------------


def test_if_is_silent_at_its_threshold_and_restarts_at_v_reset():
    # u:   0.5  1.0=th  1.5!  -> 0.25: 0.75  1.25!  -> 0.25: 0.75  1.25!  -> 0.25: 0.25
    x = [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.0]
    assert run_one(integrate((1,), v_reset=0.25), x) == [0, 0, 1, 0, 1, 0, 1, 0]


def test_if_that_subtracts_keeps_what_is_above_the_threshold():
    # u:   0.75  1.5! -> 0.5: 1.25! -> 0.25: 1.0=th  1.75! -> 0.75: 1.5! -> 0.5: 1.25!
    x = [0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75]
    assert run_one(integrate((1,)), x, reset="subtract") == [0, 1, 1, 0, 1, 1, 1]


def test_subtracting_takes_the_threshold_off_once_a_step():
    # u:   3.5! -> 2.5!  1.5!  0.5 silent
    assert run_one(integrate((1,)), [3.5, 0.0, 0.0, 0.0, 0.0], reset="subtract") == [1, 1, 1, 0, 0]


def test_lif_decays_leaks_and_restarts():
    # u = 0.5 v + x + 0.125:  0.625  0.9375  1.09375! -> -0.5: 0.375  0.8125  1.03125! -> -0.5: 0.375
    node = lif((1,), beta=0.5, leak=0.125, v_reset=-0.5)
    assert run_one(node, [0.5] * 7) == [0, 0, 1, 0, 0, 1, 0]


def test_lif_that_subtracts():
    # u = 0.5 v + x:  1.0=th  1.5! -> 0.5: 1.25! -> 0.25: 1.125! -> 0.125: 1.0625!  -> 0.0625: 0.03125
    assert run_one(lif((1,), beta=0.5), [1, 1, 1, 1, 1, 0], reset="subtract") == [0, 1, 1, 1, 1, 0]


def test_a_node_resets_as_it_says_itself_whatever_the_graph_says():
    node = integrate((1,))
    node.metadata = {"stdl.reset": "subtract"}
    assert run_one(node, [1.75, 0.5], reset="v_reset") == [1, 1]
    assert run_one(integrate((1,)), [1.75, 0.5], reset="v_reset") == [1, 0]


def test_gain_scales_the_input():
    # u = v + 0.25 x:  0.5  1.0=th  1.5! -> 0: 0.5
    assert run_one(integrate((1,), gain=0.25), [2, 2, 2, 2]) == [0, 0, 1, 0]


def test_li_puts_out_its_potential_and_never_resets():
    # u = 0.5 v + x + 0.25:  1.25  1.875  2.1875  1.34375
    node = nir.LI(full(2e-4, 1), full(2.0, 1), full(0.5, 1))
    assert run_one(node, [1, 1, 1, 0]) == [1.25, 1.875, 2.1875, 1.34375]


def test_threshold_is_strict_and_has_no_memory():
    assert run_one(nir.Threshold(full(0.5, 1)), [0.5, 0.75, 0.25, 0.5]) == [0, 1, 0, 0]


@pytest.mark.parametrize("reset", ["v_reset", "subtract"])
@pytest.mark.parametrize("make", [varied_lif, varied_if])
def test_heterogeneous_neurons_equal_a_loop_over_single_ones(make, reset):
    rng = np.random.default_rng(3)
    node = make(rng, (5, 2))
    if reset == "subtract":
        node.v_reset = np.zeros_like(node.v_reset)
    x = rng.normal(0.4, 0.5, (30, 3, 5, 2)).astype(np.float32)
    result = reference.run(chain((5, 2), (5, 2), {"n": node}, reset=reset), x, margins=True)
    rule = dialects.rule(dialects.NIR, type(node).__name__, "n", reset=reset)
    spikes, margins = loop(discretise(node, rule, 1e-4), x)
    assert 0.05 < spikes.mean() < 0.9
    assert (np.diff(spikes.sum(axis=(1, 2, 3))) != 0).any()
    assert np.array_equal(result.spikes["n"], spikes)
    assert np.array_equal(result.output, spikes.astype(np.float32))
    assert np.array_equal(result.margins["n"], margins)


def loop(k, x):
    """Neuron by neuron, step by step, with float32 numbers."""
    one, shape = np.float32(1), x.shape[2:]
    coefficients = [np.broadcast_to(array, shape) for array in (k.decay, k.gain, k.leak, k.v_threshold, k.v_reset)]
    spikes, margins = np.zeros(x.shape, bool), np.zeros(x.shape, np.float32)
    for at in np.ndindex(x.shape[1:]):
        decay, gain, leak, threshold, v_reset = (array[at[1:]] for array in coefficients)
        v = np.float32(0)
        for t in range(len(x)):
            u = (decay * v + gain * x[t][at]) + leak
            spikes[t][at] = u > threshold
            margins[t][at] = abs(u - threshold) / max(one, abs(threshold))
            v = u if not spikes[t][at] else v_reset if k.reset == "v_reset" else u - threshold
    return spikes, margins


# --- nodes without memory -------------------------------------------------------------------------------------------


def onnx_op(op, x, *constants, **attributes):
    names = ["x", *(f"c{i}" for i in range(len(constants)))]
    values = [onnx.helper.make_tensor_value_info(name, 1, None) for name in names]
    node = onnx.helper.make_node(op, names, ["y"], **attributes)
    graph = onnx.helper.make_graph([node], "g", values, [onnx.helper.make_tensor_value_info("y", 1, None)])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])
    return onnx.reference.ReferenceEvaluator(model).run(None, dict(zip(names, (x, *constants), strict=True)))[0]


@settings(max_examples=25)
@given(
    groups=st.integers(1, 3),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 2), st.integers(1, 3)),
    padding=st.one_of(st.tuples(st.integers(0, 2), st.integers(0, 2)), st.sampled_from(["same", "valid"])),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    seed=st.integers(0, 1000),
)
def test_conv2d_is_onnx_conv(groups, kernel, stride, padding, dilation, seed):
    rng = np.random.default_rng(seed)
    if padding == "same":
        stride = (1, 1)
    weight = rng.normal(size=(2 * groups, 3, *kernel)).astype(np.float32)
    bias = rng.normal(size=2 * groups).astype(np.float32)
    x = rng.normal(size=(2, 3 * groups, 7, 6)).astype(np.float32)
    node = nir.Conv2d(None, weight, stride, padding, dilation, groups, bias)
    total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)] if padding == "same" else [0, 0]
    begin = [size // 2 for size in total] if isinstance(padding, str) else list(padding)
    end = [size - size // 2 for size in total] if isinstance(padding, str) else list(padding)
    expected = onnx_op(
        "Conv", x, weight, bias, strides=stride, pads=begin + end, dilations=dilation, group=groups, kernel_shape=kernel
    )
    np.testing.assert_allclose(nodes.conv2d(node, x), expected, rtol=1e-5, atol=1e-5)


def test_conv2d_of_a_large_batch_is_done_in_parts(monkeypatch):
    rng = np.random.default_rng(0)
    x = rng.integers(-3, 4, (5, 2, 6, 6)).astype(np.float32)  # small whole numbers: sums are exact in any order
    node = nir.Conv2d(None, rng.integers(-3, 4, (3, 2, 3, 3)).astype(np.float32), 1, 1, 1, 1, np.arange(3.0))
    whole = nodes.conv2d(node, x)
    monkeypatch.setattr(nodes, "PATCH_BYTES", 1)
    assert np.array_equal(nodes.conv2d(node, x), whole)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [((2, 2), (2, 2), (0, 0)), ((3, 2), (2, 1), (1, 0)), ((5, 6), (1, 1), (0, 0))]
)
def test_pools_are_onnx_pools(kernel, stride, padding):
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 6)).astype(np.float32)
    fields = [np.array(pair) for pair in (kernel, stride, padding)]
    mean = onnx_op("AveragePool", x, kernel_shape=kernel, strides=stride, pads=padding * 2, count_include_pad=1)
    np.testing.assert_allclose(nodes.avg_pool2d(nir.AvgPool2d(*fields), x), mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        nodes.sum_pool2d(nir.SumPool2d(*fields), x), mean * np.prod(kernel), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    ("dims", "shape"), [((0, -1), (2, 24)), ((1, -1), (2, 2, 12)), ((0, 1), (2, 6, 4)), ((1, 1), (2, 2, 3, 4))]
)
def test_flatten_counts_without_the_batch(dims, shape):
    x = np.arange(48.0, dtype=np.float32).reshape(2, 2, 3, 4)
    assert np.array_equal(nodes.flatten(nir.Flatten({"input": np.array([2, 3, 4])}, *dims), x), x.reshape(shape))


def test_affine_linear_and_scale_by_hand():
    x = np.array([[1.0, 2.0], [3.0, -1.0]], np.float32)
    weight, bias = np.array([[1.0, 10.0], [0.5, 0.0], [0.0, -1.0]]), np.array([0.25, 0.0, 1.0])  # float64 is rounded
    assert nodes.affine(nir.Affine(weight, bias), x).tolist() == [[21.25, 0.5, -1.0], [-6.75, 1.5, 2.0]]
    assert nodes.linear(nir.Linear(weight), x).tolist() == [[21.0, 0.5, -2.0], [-7.0, 1.5, 1.0]]
    assert nodes.scale(nir.Scale(np.array([2.0, -1.0])), x).tolist() == [[2.0, -2.0], [6.0, 1.0]]
    assert nodes.affine(nir.Affine(weight, bias), x).dtype == np.float32


# --- the walk -------------------------------------------------------------------------------------------------------


def test_fan_in_is_a_sum_and_a_repeated_edge_counts_once():
    nodes = {
        "input": nir.Input({"input": np.array([1])}),
        "a": nir.Scale(np.array([2.0], np.float32)),
        "b": nir.Scale(np.array([3.0], np.float32)),
        "output": nir.Output({"output": np.array([1])}),
    }
    edges = [("input", "b"), ("a", "output"), ("input", "a"), ("b", "output"), ("input", "output")]
    x = np.array([[[1.0]], [[4.0]]], np.float32)
    for order in (edges, edges[::-1]):
        graph = assemble(nodes, order)
        graph.edges = [*order, ("a", "output")]
        assert reference.run(graph, x).output.reshape(-1).tolist() == [6.0, 24.0]


@pytest.mark.parametrize("readout", ["affine", "li"])
def test_a_repeated_frame_is_that_sequence(readout):
    rng = np.random.default_rng(1)
    frame = rng.normal(0.5, 1, (3, 2, 6, 6)).astype(np.float32)
    once = reference.run(small_network(mode="repeat", readout=readout), frame)
    again = reference.run(small_network(mode="sequence", readout=readout), np.stack([frame] * 5))
    assert all(0.02 < spikes.mean() < 0.9 for spikes in once.spikes.values())
    assert np.array_equal(once.output, again.output)
    assert list(once.spikes) == ["lif1", "if2"]
    for node, spikes in once.spikes.items():
        assert np.array_equal(spikes, again.spikes[node])


@pytest.mark.parametrize("mode", ["repeat", "sequence"])
def test_single_steps_are_the_sequence_and_reset_begins_a_new_one(mode):
    graph = small_network(mode=mode, readout="li", T=6)
    x = np.random.default_rng(2).normal(0.5, 1, (6, 4, 2, 6, 6)).astype(np.float32)
    frames = [x[0]] * 6 if mode == "repeat" else list(x)
    whole = reference.run(graph, x[0] if mode == "repeat" else x).output
    session = reference.Session(graph, batch=4)
    first = np.stack([session.step(frame) for frame in frames])
    session.reset()
    second = np.stack([session.step(frame) for frame in frames])
    assert np.array_equal(first, whole)
    assert np.array_equal(second, whole)
    assert not np.array_equal(session.step(frames[0]), whole[0])  # the state is still that of the sequence's end


def test_a_session_takes_frames_that_change_in_place():
    graph, rng = small_network(T=4), np.random.default_rng(3)
    x = rng.normal(0.5, 1, (4, 2, 2, 6, 6)).astype(np.float32)
    session, buffer, found = reference.Session(graph, batch=2), np.empty_like(x[0]), []
    for frame in x:
        buffer[...] = frame
        found.append(session.step(buffer).copy())
    assert np.array_equal(np.stack(found), reference.run(small_network(T=4, mode="sequence"), x).output)


def test_what_a_session_hands_out_is_the_callers():
    graph = small_network(readout="li", T=4)
    x = np.random.default_rng(3).normal(0.5, 1, (2, 2, 6, 6)).astype(np.float32)
    session, found = reference.Session(graph, batch=2), []
    for _ in range(4):
        output = session.step(x)
        found.append(output.copy())
        output *= 0
    assert np.array_equal(np.stack(found), reference.run(graph, x).output)


def test_a_large_batch_is_run_in_parts(monkeypatch):
    graph = small_network()
    x = np.random.default_rng(4).normal(0.5, 1, (7, 2, 6, 6)).astype(np.float32)
    whole = reference.run(graph, x, margins=True)
    monkeypatch.setattr(reference, "SAMPLES_AT_ONCE", 3)
    parts = reference.run(graph, x, margins=True)
    np.testing.assert_allclose(parts.output, whole.output, atol=1e-5)
    for node in whole.spikes:
        assert np.array_equal(parts.spikes[node], whole.spikes[node])
        assert parts.margins[node].shape == whole.margins[node].shape == whole.spikes[node].shape


def test_margins_say_how_far_the_other_decision_was():
    graph = chain((1,), (1,), {"n": integrate((1,), v_threshold=4.0)})
    x = np.array([3.0, 1.0, 0.5], np.float32).reshape(3, 1, 1)
    result = reference.run(graph, x, margins=True)
    assert result.margins["n"].reshape(-1).tolist() == [0.25, 0.0, 0.125]  # |u - 4| / 4 for u = 3, 4, 4.5
    assert result.spikes["n"].reshape(-1).tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("mode", "T", "shape", "asked", "message"),
    [
        ("repeat", 5, (3, 2, 5, 6), None, r"sample of shape \(2, 5, 6\) was given, the graph takes \(2, 6, 6\)"),
        ("sequence", 5, (5, 2, 6, 6), None, r"shape \(6, 6\) was given"),
        ("sequence", 5, (4, 3, 2, 6, 6), None, "4 time steps were asked for, 5 are fixed"),
        ("repeat", 5, (3, 2, 6, 6), 6, "6 time steps were asked for, 5 are fixed"),
        ("repeat", None, (3, 2, 6, 6), None, "leaves the number of time steps open"),
        ("repeat", 5, (0, 2, 6, 6), None, "the batch is empty"),
    ],
)
def test_input_that_does_not_fit_is_refused(mode, T, shape, asked, message):
    with pytest.raises(BadInput, match=message):
        reference.run(small_network(mode=mode, T=T), np.zeros(shape, np.float32), T=asked)


def test_a_session_refuses_another_batch():
    with pytest.raises(BadInput, match="a frame of 3 samples came to a session of 2"):
        reference.Session(small_network(), batch=2).step(np.zeros((3, 2, 6, 6), np.float32))
