"""fp16 and int8 in the graph: what is lost, what is not, and what is said about it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nir
import numpy as np
import onnx
import pytest
import random_graphs
import random_programs
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from run_onnx import call, run, sequence_feeds, session
from small_graphs import DT, assemble, chain, conv_net, frames, full, if_

from stdl_export.common.errors import BadInput
from stdl_export.manifest import Arithmetic
from stdl_export.onnx import lower
from stdl_export.onnx.exactness import Grid, grids
from stdl_export.onnx.precision import channels, weighted
from stdl_export.onnx.probe import probe
from stdl_export.onnx.quantise import quantised
from stdl_export.onnx.ranges import check
from stdl_export.program import program

FP16, INT8 = Arithmetic(precision="fp16"), Arithmetic(precision="int8")
HALF_MEMBRANE = Arithmetic(precision="fp16", membrane="fp16")


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def constants(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in model.graph.initializer}


def with_linear(weight: Any, **stdl: Any) -> nir.NIRGraph:
    """Input -> IF -> Linear -> IF -> Output."""
    weight = np.asarray(weight, np.float32)
    outputs, inputs = weight.shape
    ends = {"shape": (inputs,), "output": (outputs,)}
    return chain(if_(inputs), nir.Linear(weight), if_(outputs), **ends, **({"T": 4} | stdl))


def test_a_channel_of_whole_multiples_keeps_its_scale() -> None:
    rng = np.random.default_rng(0)
    whole = rng.integers(-100, 101, size=(5, 40))
    weight = np.float32(whole * np.array([0.25, 0.5, 2, 1 / 1024, 3])[:, None])
    found = quantised(weight)
    assert not found.error.any()
    np.testing.assert_array_equal(np.float32(found.values) * found.scales[:, None], weight)


def test_any_other_channel_is_off_by_half_a_level_at_most() -> None:
    weight = np.random.default_rng(1).normal(size=(6, 4, 3, 3)).astype(np.float32)
    weight[2] = 0
    found = quantised(weight)
    assert found.values.dtype == np.int8
    assert found.values.min() >= -127
    assert (np.abs(found.error) <= found.scales[:, None] * 0.5001).all()
    np.testing.assert_allclose(np.delete(found.scales, 2) * 127, np.delete(np.abs(weight).max(axis=(1, 2, 3)), 2), 1e-6)
    assert found.scales[2] == 1


def test_the_grid_of_a_value_is_followed_through_pools_and_sums() -> None:
    """Spikes of two layers, summed (0..2), averaged over 2x2 (quarters, 0..8), then flattened."""
    found = grids(program(conv_net()))
    assert "conv1" not in found, "what comes in is analog"
    assert found["conv2"] == Grid(1.0, 0, 1)
    assert found["pool"] == Grid(1.0, 0, 2)
    assert found["readout"] == Grid(0.25, 0, 8)


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([nir.Scale(full(-0.5, 2, 4, 4))], Grid(0.5, -1, 0)),
        ([nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0]))], Grid(1.0, 0, 4)),
        ([nir.AvgPool2d(np.array([4, 4]), np.array([4, 4]), np.array([0, 0]))], Grid(1 / 16, 0, 16)),
        ([nir.Delay(full(2 * DT, 2, 4, 4))], Grid(1.0, 0, 1)),
        ([nir.Scale(np.arange(1, 33, dtype=np.float32).reshape(2, 4, 4))], None),
        ([nir.Scale(full(0, 2, 4, 4))], None),
        ([nir.LI(full(2 * DT, 2, 4, 4), full(2, 2, 4, 4), full(0, 2, 4, 4))], None),
    ],
)
def test_the_grid_behind_a_node(nodes: list[nir.NIRNode], expected: Grid | None) -> None:
    out = (2, 4, 4)
    if hasattr(nodes[0], "kernel_size"):
        out = (2, *(4 // int(size) for size in nodes[0].kernel_size))
    made = program(chain(if_(2, 4, 4), *nodes, shape=(2, 4, 4), output=out))
    assert grids(made).get("output") == expected


def test_a_neuron_that_fires_several_times_a_step_has_no_grid() -> None:
    graph = with_linear([[1, 2]], dialect='{"nodes": {"n0": {"spike": "floor"}}}')
    assert "n1" not in grids(program(graph))
    assert "QuantizeLinear" not in ops(lower.sequence(graph, arithmetic=INT8))


def test_what_int8_does_not_hold_stays_as_it_is() -> None:
    """128 spikes in a window are too many, 121 are not."""
    for size, quantised_too in ((11, True), (12, False)):
        pool = nir.SumPool2d(np.array([size, size]), np.array([size, size]), np.array([0, 0]))
        flat = nir.Flatten({"input": np.array([1, 1, 1])}, 0, -1)
        graph = chain(
            if_(1, size, size), pool, flat, nir.Linear(full(1, 1, 1)), shape=(1, size, size), output=(1,), T=2
        )
        assert ("QuantizeLinear" in ops(lower.sequence(graph, arithmetic=INT8))) == quantised_too


def test_int8_weights_lie_in_the_file_as_int8() -> None:
    model = lower.sequence(conv_net(), arithmetic=INT8)
    types = {name: tensor.data_type for name, tensor in constants(model).items()}
    assert types["conv1/weight_int8"] == types["readout/weight_int8"] == onnx.TensorProto.INT8
    assert types["conv1/bias"] == onnx.TensorProto.FLOAT
    assert "conv1/weight" not in types
    assert ops(model).count("QuantizeLinear") == 2  # conv2 and readout: the frame is analog


def test_fp16_weights_lie_in_the_file_as_fp16() -> None:
    types = {name: tensor.data_type for name, tensor in constants(lower.step(conv_net(), FP16)).items()}
    assert {types[f"{node}/{what}"] for node in ("conv1", "conv2", "readout") for what in ("weight", "bias")} == {
        onnx.TensorProto.FLOAT16
    }
    assert types["lif1/decay"] == onnx.TensorProto.FLOAT


def test_the_metadata_say_the_precision() -> None:
    kept = Arithmetic(precision="int8", fp32_nodes=("conv1",))
    said = {prop.key: prop.value for prop in lower.sequence(conv_net(), arithmetic=kept).metadata_props}
    assert (said["stdl.precision"], said["stdl.membrane"]) == ("int8", "fp32")
    assert said["stdl.fp32_nodes"] == '["conv1"]'


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_node_can_be_kept_in_fp32(precision: Any) -> None:
    kept = Arithmetic(precision=precision, fp32_nodes=("conv1", "conv2", "readout"))
    said, plain = lower.sequence(conv_net(), arithmetic=kept), lower.sequence(conv_net())
    assert said.graph == plain.graph


def test_int8_computes_with_the_rounded_weights_exactly() -> None:
    """As fp32 with w' in the place of w: nothing else is lost."""
    rng, graph = np.random.default_rng(5), conv_net(T=5)
    for name in ("conv1", "conv2", "readout"):
        node = graph.nodes[name]
        node.weight = rng.normal(0.1, 0.5, size=node.weight.shape).astype(np.float32)
    rounded = conv_net(T=5)
    for name in ("conv1", "conv2", "readout"):
        small = quantised(graph.nodes[name].weight)
        back = np.float32(small.values) * small.scales.reshape(-1, *[1] * (small.values.ndim - 1))
        rounded.nodes[name].weight = back.reshape(small.weight.shape)
    feeds = {"input": frames(3, 2, 6, 6)}
    found = run(lower.sequence(graph, arithmetic=INT8), **feeds)["output"]
    expected = run(lower.sequence(rounded), **feeds)["output"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert np.abs(found - run(lower.sequence(graph), **feeds)["output"]).max() > 1e-4, "rounding was to be seen"


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_nothing_but_the_weights_is_lost_in_int8(data: st.DataObject) -> None:
    """Weights that int8 holds exactly: every spike and every output is that of fp32, bit for bit."""
    graph = data.draw(random_graphs.graphs())
    steps = graph.metadata.get("stdl.T", 3)
    assume(_exact(graph))
    feeds = sequence_feeds(graph, random_graphs.inputs(graph, 2, steps), steps)
    for make in (lower.sequence, probe):
        given_spikes = _probe_feeds(graph, make, steps)
        plain, small = (
            call(session(make(graph, arithmetic=each)), feeds | given_spikes) for each in (Arithmetic(), INT8)
        )
        for name, array in plain.items():
            np.testing.assert_array_equal(small[name], array)


@settings(max_examples=40, deadline=None)
@given(random_programs.graphs(), st.sampled_from([INT8, FP16, HALF_MEMBRANE]), st.sampled_from(["unroll", "scan"]))
def test_loops_delays_and_dialects_in_every_precision(graph: nir.NIRGraph, arithmetic: Arithmetic, form: Any) -> None:
    """Weights that both types hold; with int8 the output is that of fp32, and the forms agree in each."""
    x = random_programs.inputs(graph)
    names = lower.input_names(program(graph))
    feeds = {names[path]: each for path, each in x.items()}
    found = run(lower.sequence(graph, form, arithmetic), **feeds)
    other = run(lower.sequence(graph, "chunks", arithmetic), **feeds)
    for name, array in found.items():
        np.testing.assert_array_equal(other[name], array)
    if arithmetic == INT8 and _exact(graph):
        for name, array in run(lower.sequence(graph, form), **feeds).items():
            np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-5)


def _exact(graph: nir.NIRGraph) -> bool:
    """Does int8 hold all its weights?"""
    return all(not quantised(channels(node)).error.any() for node in weighted(program(graph)))


def _probe_feeds(graph: nir.NIRGraph, make: Callable[..., Any], steps: int) -> dict[str, np.ndarray]:
    made, rng = program(graph), np.random.default_rng(1)
    if make is not probe:
        return {}
    return {
        f"probe_in.{path}": rng.integers(0, 2, size=(steps, 2, *made.nodes[path].shape)).astype(np.float32)
        for path in made.spiking
    }


@pytest.mark.parametrize("form", ["unroll", "scan", "chunks"])
def test_states_in_fp16_are_rounded_after_each_step(form: Any) -> None:
    """A leak that fp16 does not hold, against the equation with v rounded; the same in each time form and in steps."""
    steps, beta = 11, np.float32(0.75)
    graph = chain(nir.LI(full(4 * DT, 3), full(4, 3), full(0, 3)), shape=(3,), T=steps)
    x = np.random.default_rng(2).normal(size=(steps, 2, 3)).astype(np.float32)
    expected, v = [], np.zeros((2, 3), np.float16)
    for each in x:
        u = beta * np.float32(v) + each
        v = u.astype(np.float16)
        expected.append(u)
    found = run(lower.sequence(graph, form, HALF_MEMBRANE), input=x)["output"]
    np.testing.assert_array_equal(found, np.stack(expected))
    plain = run(lower.sequence(graph, form, FP16), input=x)["output"]
    assert (plain != found).any(), "fp16 states were to be seen"


def test_the_step_graph_takes_and_gives_fp16_states() -> None:
    states = lower.states(conv_net(), HALF_MEMBRANE)
    assert {state.dtype.name for state in states} == {"float16"}
    model = lower.step(conv_net(), HALF_MEMBRANE)
    types = {value.name: value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    assert types["state.lif1.v"] == types["state_out.lif1.v"] == onnx.TensorProto.FLOAT16
    assert types["input"] == types["output"] == onnx.TensorProto.FLOAT


def test_fp16_refuses_weights_that_it_does_not_hold() -> None:
    graph = with_linear([[7e4, 1], [1, -8e4]])
    with pytest.raises(BadInput, match=r"'n1': its weights reach 8e\+04, fp16 holds up to 65504: keep it fp32"):
        check(program(graph), FP16)
    assert check(program(graph), Arithmetic(precision="fp16", fp32_nodes=("n1",))) == []


def test_fp16_says_how_many_weights_become_0_and_what_may_overflow() -> None:
    (lost,) = check(program(with_linear([[1e-8, 1], [2e-8, 0]])), FP16)
    assert lost.startswith("node 'n1': 2 of 4 weights are too small for fp16 and become 0: keep it fp32 with --set")
    (large,) = check(program(with_linear([[4e4, 4e4], [1, 1]])), FP16)
    assert "its output can reach 8e+04" in large


def test_int8_says_which_channels_are_ruined_and_which_are_empty() -> None:
    wide = np.concatenate([full(200, 1, 1), full(0.7, 1, 63)], axis=1)
    (ruined,) = check(program(with_linear(wide)), INT8)
    assert "int8 weights put the current of 1 of 1 output channels off by up to" in ruined
    assert """--set 'precision.nodes."n1"=fp32'""" in ruined
    (empty,) = check(program(with_linear([[1, 2], [0, 0]])), INT8)
    assert "all weights of 1 of 2 output channels are 0" in empty
    fine = np.random.default_rng(0).normal(0, 0.2, size=(8, 64))
    assert check(program(with_linear(fine)), INT8) == []


def test_an_exception_must_name_a_node_with_weights() -> None:
    made = program(conv_net())
    with pytest.raises(BadInput, match="unknown node with weights 'conv3': did you mean 'conv2'"):
        check(made, Arithmetic(precision="int8", fp32_nodes=("conv3",)))
    with pytest.raises(BadInput, match="unknown node with weights 'lif1'"):
        check(made, Arithmetic(precision="int8", fp32_nodes=("lif1",)))
    with pytest.raises(BadInput, match="is fp32 anyway"):
        check(made, Arithmetic(fp32_nodes=("conv1",)))
    with pytest.raises(BadInput, match=r"precision\.membrane=fp16"):
        check(made, Arithmetic(membrane="fp16"))


def test_a_matrix_for_each_leading_index_is_quantised_by_its_outputs() -> None:
    """Weights [2, 3, 4]: six channels."""
    weight = np.random.default_rng(4).integers(-50, 51, size=(2, 3, 4)).astype(np.float32) / 8
    nodes = {
        "input": nir.Input(np.array([2, 4])),
        "linear": nir.Linear(weight),
        "if": if_(2, 3),
        "output": nir.Output(np.array([2, 3])),
    }
    edges = [("input", "linear"), ("linear", "if"), ("if", "output")]
    graph, x = assemble(nodes, edges, T=4), frames(4, 2, 2, 4)
    assert constants(lower.sequence(graph, arithmetic=INT8))["linear/weight_int8"].dims == [6, 4]
    plain = run(lower.sequence(graph), input=x)["output"]
    assert 0 < plain.mean() < 1
    for arithmetic in (INT8, FP16):
        np.testing.assert_array_equal(run(lower.sequence(graph, arithmetic=arithmetic), input=x)["output"], plain)
