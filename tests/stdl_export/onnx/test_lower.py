from __future__ import annotations

import nir
import numpy as np
import onnx
import pytest
import random_graphs
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from run_onnx import run, run_sequence, run_steps, sequence_feeds
from small_graphs import DT, assemble, chain, conv_net, frames, full, if_, lif

from stdl_export import graph as graphs
from stdl_export.common.errors import BadInput
from stdl_export.onnx import lower
from stdl_export.onnx.probe import probe
from stdl_runtimes import reference

pytest.importorskip("onnxruntime")

several = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
few = settings(several, max_examples=30)

BATCH = 3


def reference_run(graph: nir.NIRGraph, x: np.ndarray, steps: int) -> reference.Result:
    return reference.run(graph, x, T=steps if graphs.settings(graph).input == "repeat" else None)


def drawn_inputs(graph: nir.NIRGraph, seed: int = 0) -> tuple[np.ndarray, int]:
    steps = graphs.settings(graph).T or 5
    return random_graphs.inputs(graph, BATCH, steps, seed), steps


def test_random_graphs_really_spike() -> None:
    """Else every other test here would compare zeros with zeros."""
    rates: list[float] = []

    @settings(max_examples=40, deadline=None, database=None, derandomize=True)
    @given(random_graphs.graphs())
    def collect(graph: nir.NIRGraph) -> None:
        x, steps = drawn_inputs(graph)
        rates.extend(float(fired.mean()) for fired in reference_run(graph, x, steps).spikes.values())

    collect()
    assert len(rates) > 30
    assert np.mean([0.02 < rate < 0.98 for rate in rates]) > 0.7


@several
@given(random_graphs.graphs(), st.integers(0, 99))
def test_sequence_is_the_reference_bit_for_bit(graph: nir.NIRGraph, seed: int) -> None:
    x, steps = drawn_inputs(graph, seed)
    expected = reference_run(graph, x, steps)
    note(f"rates: { {name: fired.mean() for name, fired in expected.spikes.items()} }")
    np.testing.assert_array_equal(run_sequence(graph, x, steps), expected.output)


@few
@given(random_graphs.graphs())
def test_steps_are_the_sequence_bit_for_bit(graph: nir.NIRGraph) -> None:
    x, steps = drawn_inputs(graph)
    np.testing.assert_array_equal(run_steps(graph, x, steps), run_sequence(graph, x, steps))


@few
@given(random_graphs.graphs(T=None))
def test_dynamic_t_is_static_t(graph: nir.NIRGraph) -> None:
    x, steps = drawn_inputs(graph)
    static = graphs.with_settings(
        graph, graphs.settings(graph).__class__(**vars(graphs.settings(graph)) | {"T": steps})
    )
    np.testing.assert_array_equal(run_sequence(graph, x, steps), run_sequence(static, x, steps))


@pytest.mark.parametrize("mode", ["repeat", "sequence"])
@pytest.mark.parametrize("steps", [1, 7, 8, 16, 19])
def test_all_time_forms_agree(mode: str, steps: int) -> None:
    graph = conv_net(input=mode, T=steps)
    x = frames(*(() if mode == "repeat" else (steps,)), BATCH, 2, 6, 6)
    expected = reference_run(graph, x, steps)
    assert all(0.02 < fired.mean() < 0.98 for fired in expected.spikes.values())
    for form in ("unroll", "scan", "chunks", "auto"):
        np.testing.assert_array_equal(run_sequence(graph, x, steps, form), expected.output, err_msg=form)


@pytest.mark.parametrize(("steps", "form"), [(4, "unroll"), (16, "unroll"), (17, "chunks"), (None, "scan")])
def test_auto_picks_the_form(steps: int | None, form: str) -> None:
    graph = conv_net() if steps else conv_net(input="sequence")
    graph.metadata.pop("stdl.T")
    if steps:
        graph.metadata["stdl.T"] = steps
    model = lower.sequence(graph)
    assert {prop.key: prop.value for prop in model.metadata_props}["stdl.time_form"] == form
    scans = [node for node in model.graph.node if node.op_type == "Scan"]
    assert bool(scans) == (form != "unroll")


@pytest.mark.parametrize("form", ["unroll", "chunks"])
def test_forms_that_need_t_refuse_a_dynamic_one(form: str) -> None:
    graph = conv_net()
    del graph.metadata["stdl.T"]
    with pytest.raises(BadInput, match="fixed number of time steps"):
        lower.sequence(graph, form)


def test_one_model_takes_any_batch() -> None:
    graph = conv_net()
    model = lower.sequence(graph)
    x = frames(5, 2, 6, 6)
    whole = run(model, input=x)["output"]
    for i in range(5):
        np.testing.assert_array_equal(run(model, input=x[i : i + 1])["output"][:, 0], whole[:, i])


@few
@given(random_graphs.graphs(), st.integers(0, 99))
def test_probe_shows_each_layer_on_the_references_spikes(graph: nir.NIRGraph, seed: int) -> None:
    x, steps = drawn_inputs(graph, seed)
    expected = reference_run(graph, x, steps)
    fed = {f"probe_in.{name}": fired.astype(np.float32) for name, fired in expected.spikes.items()}
    used = {entry.name for entry in probe(graph).graph.input}
    assert set(fed) <= used
    outputs = run(probe(graph), **sequence_feeds(graph, x, steps), **fed)
    assert set(outputs) == {"output", *(f"probe_out.{name}" for name in expected.spikes)}
    for name, fired in expected.spikes.items():
        np.testing.assert_array_equal(outputs[f"probe_out.{name}"], fired)
    np.testing.assert_array_equal(outputs["output"], expected.output)


def test_probe_feeds_consumers_from_its_input() -> None:
    graph = conv_net()
    x = frames(BATCH, 2, 6, 6)
    silent = {f"probe_in.{name}": np.zeros((4, BATCH, 4, 6, 6), np.float32) for name in ("lif1", "lif2")}
    outputs = run(probe(graph), input=x, **silent)
    np.testing.assert_array_equal(outputs["output"], np.broadcast_to(graph.nodes["readout"].bias, (4, BATCH, 5)))
    assert outputs["probe_out.lif1"].any(), "what lif1 puts out does not depend on what is fed in its place"


def test_thresholds_hit_exactly_do_not_spike() -> None:
    """IF, gain 1, threshold 1, input 1/2: u = 0.5, 1.0 (silent), 1.5 (spike, reset to 0), 0.5, ..."""
    graph = chain(if_(1), shape=(1,), T=6, input="repeat")
    output = run_sequence(graph, full(0.5, 1, 1), 6)
    assert output.ravel().tolist() == [0, 0, 1, 0, 0, 1]


def test_subtract_keeps_what_lies_above_the_threshold() -> None:
    """IF, gain 1, threshold 1, input 3/4: u = 0.75, 1.5 (0.5 left), 1.25 (0.25 left), 1.0 (silent), 1.75."""
    graph = chain(if_(1), shape=(1,), T=5, input="repeat", reset="subtract")
    assert run_sequence(graph, full(0.75, 1, 1), 5).ravel().tolist() == [0, 1, 1, 0, 1]


def test_v_reset_and_leak() -> None:
    """LIF, decay 1/2, gain 1, leak 1/4, v_reset -1: u = 1.25 (spike, -1), 0.75, 1.625 (spike, -1), 0.75."""
    graph = chain(lif(1, v_reset=-1, v_leak=0.5), shape=(1,), T=4, input="repeat")
    assert run_sequence(graph, full(1.0, 1, 1), 4).ravel().tolist() == [1, 0, 1, 0]


def test_a_node_may_reset_in_its_own_way() -> None:
    graph = chain(if_(1), shape=(1,), T=5, input="repeat", reset="v_reset")
    graph.nodes["n0"].metadata["stdl.reset"] = "subtract"
    assert run_sequence(graph, full(0.75, 1, 1), 5).ravel().tolist() == [0, 1, 1, 0, 1]


def test_li_puts_out_its_potential() -> None:
    """LI, decay 1/2, gain 1/2: 0.5, 0.75, 0.875."""
    graph = chain(nir.LI(tau=full(2 * DT, 1), r=full(1, 1), v_leak=full(0, 1)), shape=(1,), T=3, input="repeat")
    assert run_sequence(graph, full(1, 1, 1), 3).ravel().tolist() == [0.5, 0.75, 0.875]
    assert run_steps(graph, full(1, 1, 1), 3).ravel().tolist() == [0.5, 0.75, 0.875]


def test_average_pool_counts_padded_zeros() -> None:
    pool = nir.AvgPool2d(np.array([2, 2]), np.array([2, 2]), np.array([1, 1]))
    graph = chain(pool, shape=(1, 2, 2), output=(1, 2, 2), T=1, input="repeat")
    assert run_sequence(graph, full(4, 1, 1, 2, 2), 1).ravel().tolist() == [1, 1, 1, 1]


def test_same_padding_of_an_even_kernel_is_odd_at_the_end() -> None:
    """Kernel (1, 2) of ones over 1, 2, 4: each element and the one behind it."""
    conv = nir.Conv2d(None, full(1, 1, 1, 1, 2), 1, "same", 1, 1, full(0, 1))
    graph = chain(conv, shape=(1, 1, 3), T=1, input="repeat")
    assert run_sequence(graph, np.array([1, 2, 4], np.float32).reshape(1, 1, 1, 3), 1).ravel().tolist() == [3, 6, 4]


@pytest.mark.parametrize(
    ("dims", "shape"), [((0, -1), (24,)), ((1, 2), (2, 12)), ((-3, -2), (6, 4)), ((1, 1), (2, 3, 4))]
)
def test_flatten_counts_dimensions_without_batch(dims: tuple[int, int], shape: tuple[int, ...]) -> None:
    graph = chain(nir.Flatten({"input": None}, *dims), shape=(2, 3, 4), output=shape, T=2, input="repeat")
    x = frames(BATCH, 2, 3, 4)
    np.testing.assert_array_equal(
        run_sequence(graph, x, 2), np.broadcast_to(x.reshape(BATCH, *shape), (2, BATCH, *shape))
    )


def test_what_does_not_depend_on_time_is_computed_once() -> None:
    inferred = onnx.shape_inference.infer_shapes(lower.sequence(conv_net()), data_prop=True)
    convs = {node.name: node.input[0] for node in inferred.graph.node if node.op_type == "Conv"}
    assert convs["conv1"] == "input"
    assert run(inferred, input=frames(2, 2, 6, 6))["output"].shape == (4, 2, 5)


def test_a_static_branch_joins_a_timed_one() -> None:
    """Repeated input and spikes summed: the input counts at every step."""
    nodes = {
        "input": nir.Input(np.array([1])),
        "a": if_(1),
        "b": nir.Scale(full(1, 1)),
        "output": nir.Output(np.array([1])),
    }
    graph = assemble(nodes, [("input", "a"), ("a", "b"), ("input", "b"), ("b", "output")], T=3, input="repeat")
    expected = [0.5, 0.5, 1.5]
    assert run_sequence(graph, full(0.5, 1, 1), 3).ravel().tolist() == expected
    assert run_steps(graph, full(0.5, 1, 1), 3).ravel().tolist() == expected


@pytest.mark.parametrize("name", ["input", "output", "timesteps", "state.x.v", "axis"])
def test_nir_names_do_not_clash_with_ours(name: str) -> None:
    nodes = {"in": nir.Input(np.array([1])), name: if_(1), "x": if_(1), "out": nir.Output(np.array([1]))}
    graph = assemble(nodes, [("in", name), (name, "x"), ("x", "out")], input="repeat")
    x = full(1.5, 2, 1)
    np.testing.assert_array_equal(run_sequence(graph, x, 3), reference_run(graph, x, 3).output)
    np.testing.assert_array_equal(run_steps(graph, x, 3), reference_run(graph, x, 3).output)


def test_multiplications_by_one_and_additions_of_zero_are_left_out() -> None:
    graph = chain(if_(2), shape=(2,), T=3, input="repeat")
    operators = [node.op_type for node in lower.sequence(graph).graph.node]
    assert operators.count("Mul") == 2, "in the two resets that somebody needs; neither gain nor decay"
    assert operators.count("Add") == 2, "one for each step but the first"


@pytest.mark.parametrize(
    ("v_reset", "threshold", "said"),
    [
        (0.0, 1.0, "Min"),
        (0.0, 0.0, "Min"),
        (-0.7, 1.0, "Min"),
        ([0.5, -1e20, 1.0, 0.25], [1.0, -1e19, 1.0, 0.5], "Min"),
        ([0.5, 0.0, 1.5, 0.25], [1.0, 1.0, 1.0, 0.5], "Where"),  # set above its threshold: spikes again
        (-2e30, 1.0, "Where"),  # is not lost beside the largest number
    ],
)
@pytest.mark.parametrize("spike", [">", ">="])
def test_resets_set_exactly_v_reset(v_reset, threshold, said, spike) -> None:
    node = lif(4)
    node.v_reset, node.v_threshold = (np.broadcast_to(np.float32(value), 4).copy() for value in (v_reset, threshold))
    graph = chain(node, shape=(4,), T=6, dialect=f'{{"types": {{"LIF": {{"spike": "{spike}"}}}}}}')
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 40, 4)).astype(np.float32) * np.float32(4)
    x[:, :4] = np.where(rng.random((6, 4, 4)) < 0.5, np.float32(3e38), np.float32(-3e38))
    x[:, 4:8] *= np.where(rng.random((6, 4, 4)) < 0.3, np.inf, np.float32(1))
    x[:, 8:12] = np.round(x[:, 8:12])  # ties
    with np.errstate(over="ignore", invalid="ignore"):
        expected = reference.run(graph, x)
    assert 0.1 < expected.spikes["n0"].mean() < 0.9
    assert {"Min", "Where"} & {node.op_type for node in lower.sequence(graph).graph.node} == {said}
    np.testing.assert_array_equal(run_sequence(graph, x, 6), expected.output)
    np.testing.assert_array_equal(run_sequence(graph, x, 6, "scan"), expected.output)


def test_uniform_parameters_are_scalars_and_channel_wise_ones_stay_small() -> None:
    node = lif(2, 3, 3)
    node.v_threshold = np.ascontiguousarray(
        np.broadcast_to(full(1, 2, 1, 1) * np.array([1, 2]).reshape(2, 1, 1), (2, 3, 3))
    )
    model = lower.sequence(chain(node, shape=(2, 3, 3), T=2, input="repeat"))
    dims = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    assert dims["n0/decay"] == ()
    assert dims["n0/v_threshold"] == (2, 1, 1)


def test_models_say_what_they_are() -> None:
    model = lower.sequence(conv_net())
    said = {prop.key: prop.value for prop in model.metadata_props}
    expected = {"kind": "sequence", "T": "4", "dialect": "nir", "reset": "v_reset", "input": "repeat", "output": "mean"}
    assert {key: said[f"stdl.{key}"] for key in expected} == expected
    assert float(said["stdl.dt"]) == DT
    assert model.ir_version == 10
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]


def test_names_are_unique_and_come_from_the_graph() -> None:
    for model in (lower.sequence(conv_net()), lower.step(conv_net()), probe(conv_net())):
        names = [node.name for node in model.graph.node]
        assert len(set(names)) == len(names)
        assert {"conv1", "lif1", "conv2", "lif2", "pool", "flatten", "readout"} <= set(names)


def test_the_same_graph_gives_the_same_bytes() -> None:
    graph = conv_net()
    shuffled = nir.NIRGraph(
        nodes=dict(reversed(graph.nodes.items())), edges=graph.edges[::-1], metadata=graph.metadata, type_check=False
    )
    assert lower.sequence(graph) == lower.sequence(shuffled)


@pytest.mark.parametrize("form", ["unroll", "scan"])
def test_the_onnx_reference_evaluator_agrees(form: str) -> None:
    """A second judge of what our graphs mean, with no code of ours or of ONNX Runtime in it."""
    from onnx.reference import ReferenceEvaluator

    graph, x = conv_net(), frames(2, 2, 6, 6)
    (output,) = ReferenceEvaluator(lower.sequence(graph, form)).run(None, {"input": x})
    np.testing.assert_array_equal(output, reference_run(graph, x, 4).output)


# --- what other dialects and sub-graphs make of it ------------------------------------------------------------------


def sub_graph() -> nir.NIRGraph:
    """conv_net with its second layer in a sub-graph."""
    graph = conv_net()
    inner = {"i": nir.Input(np.array([4, 6, 6])), "o": nir.Output(np.array([4, 6, 6]))}
    inner |= {name: graph.nodes.pop(name) for name in ("conv2", "lif2")}
    graph.nodes["layer"] = nir.NIRGraph(inner, [("i", "conv2"), ("conv2", "lif2"), ("lif2", "o")], {}, type_check=False)
    edges = [tuple({"conv2": "layer", "lif2": "layer"}.get(end, end) for end in edge) for edge in graph.edges]
    graph.edges = [edge for edge in edges if edge != ("layer", "layer")]
    return graph


def test_a_sub_graph_is_lowered_in_its_place() -> None:
    x = frames(BATCH, 2, 6, 6)
    expected = reference.run(conv_net(), x)
    assert all(fired.any() for fired in expected.spikes.values())
    np.testing.assert_array_equal(run_sequence(sub_graph(), x, 4), expected.output)
    np.testing.assert_array_equal(run_steps(sub_graph(), x, 4), expected.output)
    assert [state.input for state in lower.states(sub_graph())] == ["state.lif1.v", "state.layer/lif2.v"]


def test_coefficients_of_another_dialect_are_lowered() -> None:
    graph = conv_net(dialect='{"types":{"LIF":{"decay":"exp(-dt/tau)","gain":"1","leak":"0.125","reset":"0.25"}}}')
    x = frames(BATCH, 2, 6, 6)
    expected = reference.run(graph, x).output
    np.testing.assert_allclose(run_sequence(graph, x, 4), expected, atol=1e-5)
    assert not np.array_equal(expected, reference.run(conv_net(), x).output)


def with_node(node: nir.NIRNode, *more: tuple[str, str], choices: str = "{}", **said: int) -> nir.NIRGraph:
    graph = chain(node, lif(2), shape=(2,), dialect=f'{{"nodes":{{"n1":{choices}}}}}', **said)
    graph.edges += more
    return graph


@pytest.mark.parametrize(
    "graph",
    [
        with_node(nir.I(full(1 / DT, 2))),
        with_node(nir.CubaLIF(*(full(value, 2) for value in (2 * DT, 2 * DT, 2, 0, 1)))),
        with_node(nir.Delay(full(DT, 2))),
        with_node(if_(2), ("n1", "n0")),
        with_node(if_(2), choices='{"spike":">="}'),
        with_node(if_(2), choices='{"spike":"floor"}'),
        with_node(if_(2), choices='{"spike_from":"prev"}'),
        with_node(if_(2), choices='{"reset":"none"}'),
        with_node(if_(2), choices='{"reset":"zero","reset_when":"next_drop"}'),
        with_node(if_(2), choices='{"v_min":"0"}'),
        with_node(if_(2), choices='{"v_init":"1"}'),
        with_node(if_(2), choices='{"out_scale":"2"}'),
        chain(nir.Linear(full(1, 2, 2, 2)), shape=(2, 2)),
        chain(nir.Conv1d(None, full(1, 2, 2, 1), 1, 0, 1, 1, full(0, 2)), shape=(2, 2)),
    ],
)
def test_every_node_and_choice_gives_the_references_numbers(graph: nir.NIRGraph) -> None:
    x = 2 * frames(6, BATCH, *graphs.shapes(graph)[graphs.inputs(graph)[0]])
    expected = reference.run(graph, x).output
    assert expected.any()
    np.testing.assert_allclose(run_sequence(graph, x, 6), expected, rtol=1e-6)
    np.testing.assert_allclose(run_steps(graph, x, 6), expected, rtol=1e-6)
