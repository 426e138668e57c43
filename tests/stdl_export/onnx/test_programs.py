"""Any graph at all, with loops, sub-graphs, delays, several inputs, every primitive, any dialect: ONNX = reference."""

from __future__ import annotations

import json
from typing import Any

import nir
import numpy as np
import pytest
import random_programs
from hypothesis import HealthCheck, assume, given, note, settings
from hypothesis import strategies as st
from random_programs import DT, STEPS
from run_onnx import run, run_sequence_outputs, run_steps_outputs, sequence_feeds

from stdl_export import dialects
from stdl_export import graph as graphs
from stdl_export.common.errors import BadInput
from stdl_export.onnx import lower
from stdl_export.onnx.probe import probe
from stdl_export.structure import STATEFUL
from stdl_runtimes import reference

pytest.importorskip("onnxruntime")

several = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
few = settings(several, max_examples=25)


def with_time(graph: nir.NIRGraph, **changes: Any) -> nir.NIRGraph:
    return graphs.with_settings(graph, graphs.Settings(**vars(graphs.settings(graph)) | changes))


def expected(graph: nir.NIRGraph, x: dict[str, np.ndarray]) -> reference.Result:
    """The reference's result. Sums in another order may fall on another side where a potential is all but a tie, and
    what grows beyond measure says nothing.
    """
    T = STEPS if graphs.settings(graph).input == "repeat" else None
    result = reference.run(graph, x, T=T, margins=True, potentials=True)
    everything = [*result.outputs.values(), *result.potentials.values()]
    assume(all(np.isfinite(each).all() and np.abs(each).max() < 1e6 for each in everything))
    assume(all(((margin > 1e-5) | (margin == 0)).all() for margin in result.margins.values()))
    return result


def assert_same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert set(found) == set(wanted)
    for name, output in wanted.items():
        scale = max(1.0, float(np.abs(output).max()))
        np.testing.assert_allclose(found[name], output, rtol=0, atol=1e-6 * scale, err_msg=name)


@several
@given(random_programs.graphs(), st.integers(0, 99))
def test_the_sequence_graph_is_the_reference(graph: nir.NIRGraph, seed: int) -> None:
    x = random_programs.inputs(graph, seed=seed)
    result = expected(graph, x)
    note(f"{graph.edges}")
    assert_same(run_sequence_outputs(graph, x, STEPS), result.outputs)


@few
@given(random_programs.graphs(), st.integers(0, 99))
def test_the_step_graph_is_the_reference(graph: nir.NIRGraph, seed: int) -> None:
    x = random_programs.inputs(graph, seed=seed)
    assert_same(run_steps_outputs(graph, x, STEPS), expected(graph, x).outputs)


@few
@given(random_programs.graphs())
def test_a_dynamic_t_is_a_static_one(graph: nir.NIRGraph) -> None:
    x = random_programs.inputs(graph)
    assert_same(run_sequence_outputs(with_time(graph, T=None), x, STEPS), expected(graph, x).outputs)


@few
@given(random_programs.graphs(), st.sampled_from([STEPS, None]))
def test_repeated_inputs_are_the_same_frame_at_every_step(graph: nir.NIRGraph, steps: int | None) -> None:
    graph = with_time(graph, input="repeat", T=steps)
    x = {name: each[0] for name, each in random_programs.inputs(graph).items()}
    result = expected(graph, x)
    assert_same(run_sequence_outputs(graph, x, STEPS), result.outputs)
    assert_same(run_steps_outputs(graph, x, STEPS), result.outputs)


@few
@given(random_programs.graphs())
def test_the_probe_shows_each_layer_on_the_references_spikes(graph: nir.NIRGraph) -> None:
    x = random_programs.inputs(graph)
    result = expected(graph, x)
    fed = {f"probe_in.{node}": np.float32(fired) for node, fired in result.spikes.items()}
    outputs = run(probe(graph), **sequence_feeds(graph, x, STEPS), **fed)
    for node, fired in result.spikes.items():
        np.testing.assert_array_equal(outputs[f"probe_out.{node}"], np.float32(fired))
    names = lower.output_names(lower.optimised_program(graph))
    assert_same({path: outputs[name] for path, name in names.items()}, result.outputs)


# --- single things --------------------------------------------------------------------------------------------------


def looped(T: int | None = 19, **said: Any) -> nir.NIRGraph:
    """input -> hidden (CubaLIF) <-> rec, hidden -> late (Delay) -> output; 0 to 3 steps late."""
    rng = np.random.default_rng(1)
    nodes = {
        "input": nir.Input(np.array([3])),
        "hidden": random_programs.neuron(rng, "CubaLIF", (3,)),
        "rec": nir.Affine(rng.normal(size=(3, 3)).astype(np.float32), np.float32([0.5, 0, -0.5])),
        "late": nir.Delay(np.float32([0, 2 * DT, 3 * DT])),
        "output": nir.Output(np.array([3])),
    }
    edges = [("input", "hidden"), ("hidden", "rec"), ("rec", "hidden"), ("hidden", "late"), ("late", "output")]
    metadata: dict[str, Any] = {"stdl.dt": DT} | ({"stdl.T": T} if T else {}) | said
    return nir.NIRGraph(nodes, edges, metadata, type_check=False)


def drawn(steps: int, *shape: int) -> np.ndarray:
    return (np.random.default_rng(0).integers(-2, 9, size=(steps, 2, *shape)) / 4).astype(np.float32)


LOOPS: dict[str, dict[str, Any]] = {
    "source": {"graph": {"feedback": "delay_source_output"}},
    "target": {"graph": {"feedback": "delay_target_input"}},
    "late": {"nodes": {"hidden": {"spike_from": "prev"}}},
}


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("steps", [1, 7, 8, 16, 19])
def test_all_time_forms_agree_on_a_loop_and_a_delay(steps: int, loop: str) -> None:
    dialect = json.dumps({"base": "nir"} | LOOPS[loop])
    graph, x = looped(steps, **{"stdl.dialect": dialect}), drawn(steps, 3)
    result = reference.run(graph, x)
    assert steps < 7 or 0.02 < result.spikes["hidden"].mean() < 0.98
    for form in ("unroll", "scan", "chunks", "auto"):
        found = run_sequence_outputs(graph, x, steps, form)["output"]
        np.testing.assert_array_equal(found, result.output, err_msg=form)
    np.testing.assert_array_equal(run_sequence_outputs(with_time(graph, T=None), x, steps)["output"], result.output)
    np.testing.assert_array_equal(run_steps_outputs(graph, x, steps)["output"], result.output)


def test_states_have_names_shapes_and_first_values() -> None:
    dialect = {"base": "nir", "nodes": {"hidden": {"v_init": "0.25", "i_init": "0.125", "reset_when": "next_sub"}}}
    dialect["nodes"]["hidden"]["reset"] = "subtract"
    states = {state.input: state for state in lower.states(looped(**{"stdl.dialect": json.dumps(dialect)}))}
    assert list(states) == [
        "state.hidden.v", "state.hidden.i", "state.hidden.s", "state.hidden.feedback", "state.late.delay",
    ]  # fmt: skip
    assert states["state.hidden.v"].output == "state_out.hidden.v"
    assert [float(state.initial) for state in states.values()] == [0.25, 0.125, 0, 0, 0]
    assert states["state.late.delay"].shape == (3, 3)


def test_a_loop_is_one_scan_and_its_size_does_not_depend_on_t() -> None:
    model = lower.sequence(looped(T=1000), "scan")
    assert [node.op_type for node in model.graph.node].count("Scan") == 1
    assert len(model.graph.node) == len(lower.sequence(looped(T=100), "scan").graph.node)


def test_several_inputs_and_outputs_carry_their_names() -> None:
    nodes = {
        "left": nir.Input(np.array([2])),
        "right": nir.Input(np.array([2])),
        "sum": nir.Scale(np.float32([2, 2])),
        "whole": nir.Output(np.array([2])),
        "half": nir.Output(np.array([2])),
    }
    edges = [("left", "sum"), ("right", "sum"), ("sum", "whole"), ("right", "half")]
    graph = nir.NIRGraph(nodes, edges, {"stdl.T": 2}, type_check=False)
    model = lower.sequence(graph)
    assert [entry.name for entry in model.graph.input] == ["left", "right"]
    assert [entry.name for entry in model.graph.output] == ["half", "whole"]
    found = run(model, left=np.ones((2, 1, 2), np.float32), right=np.full((2, 1, 2), 3, np.float32))
    assert found["whole"].ravel().tolist() == [8] * 4
    assert found["half"].ravel().tolist() == [3] * 4


def meeting(*inputs: str) -> nir.NIRGraph:
    """Inputs with these names into an IF `if`, and one Output."""
    ends: dict[str, nir.NIRNode] = {name: nir.Input(np.array([1])) for name in inputs}
    neuron = nir.IF(np.float32([1]), np.float32([1]), np.float32([0]))
    nodes = ends | {"if": neuron, "end": nir.Output(np.array([1]))}
    return nir.NIRGraph(nodes, [*((name, "if") for name in inputs), ("if", "end")], {}, type_check=False)


def test_the_only_output_keeps_its_name_where_an_input_is_called_output() -> None:
    model = lower.sequence(meeting("a", "output"))
    assert [entry.name for entry in model.graph.input] == ["a", "output"]
    assert [entry.name for entry in model.graph.output] == ["end"]


@pytest.mark.parametrize("name", ["timesteps", "state.if.v", "probe_in.if", "probe_out.if"])
def test_names_that_would_meet_are_refused(name: str) -> None:
    with pytest.raises(BadInput, match=f"two inputs or outputs called '{name}'"):
        lower.sequence(meeting("a", name))


def choices() -> list[object]:
    """Every choice of every neuron alone, and every way to reset with every spike."""
    found = []
    for kind, fields in dialects.FIELDS.items():
        drawn = [{key: value} for key in fields for value in random_programs.CHOICES.get(key, [])]
        drawn += [
            {"spike": spike, "spike_from": spike_from, "reset_when": when, "reset": reset, "v_init": "0.5"}
            for spike in (">", ">=", "floor")
            for spike_from in ("new", "prev")
            for when, reset in (("next_sub", "subtract"), ("next_drop", "zero"), ("now_nodouble", "subtract"))
        ]
        for said in drawn:
            rule = dialects.Rule(**said).over(dialects.rule(dialects.NIR, kind, "n"))
            if kind in STATEFUL and not dialects.reasons(kind, rule):
                found.append(pytest.param(kind, said, id=f"{kind}-{'-'.join(map(str, said.values()))}"))
    return found


@pytest.mark.parametrize(("kind", "said"), choices())
def test_every_choice_of_a_neuron_is_the_references(kind: str, said: dict[str, Any]) -> None:
    nodes = {
        "input": nir.Input(np.array([3])),
        "n": random_programs.neuron(np.random.default_rng(5), kind, (3,)),
        "output": nir.Output(np.array([3])),
    }
    metadata = {"stdl.dt": DT, "stdl.T": 10, "stdl.dialect": json.dumps({"base": "nir", "nodes": {"n": said}})}
    graph = nir.NIRGraph(nodes, [("input", "n"), ("n", "output")], metadata, type_check=False)
    x = drawn(10, 3)
    wanted = reference.run(graph, x).output
    assert wanted.any() or said == {"gain": "1-decay"}, "of an IF that is 0"
    for form in ("unroll", "scan", "chunks"):
        np.testing.assert_array_equal(run_sequence_outputs(graph, x, 10, form)["output"], wanted, err_msg=form)
    np.testing.assert_array_equal(run_steps_outputs(graph, x, 10)["output"], wanted)
