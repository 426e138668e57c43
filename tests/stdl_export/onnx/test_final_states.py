"""Final states of a sequence: single steps that go on from them are the rest of a longer sequence."""

import numpy as np
import pytest
import random_programs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from run_onnx import call, named, run, sequence_feeds, session
from several import inputs, network

from stdl_export import graph as graphs
from stdl_export.onnx import lower
from stdl_export.program import program

STEPS = 3  # that follow


def with_time(graph, T):
    return graphs.with_settings(graph, graphs.Settings(**vars(graphs.settings(graph)) | {"T": T}))


def assert_goes_on(graph, x, steps, form, dynamic=False):
    """x: by Input, of steps + STEPS steps. Every output and state, bit for bit."""
    repeats = graphs.settings(graph).input == "repeat"
    names, held = lower.output_names(program(graph)), lower.states(graph)
    first = with_time(graph, None if dynamic else steps)
    begin = {name: each if repeats else each[:steps] for name, each in x.items()}
    found = run(lower.sequence(first, form, final_states=True), **sequence_feeds(first, begin, steps))
    state, opened = {each.input: found[each.output] for each in held}, session(lower.step(graph))
    outputs = {name: [found[name]] for name in names.values()}
    for t in range(steps, steps + STEPS):
        frames = {name: each if repeats else each[t] for name, each in x.items()}
        result = call(opened, named(graph, frames) | state)
        state = {each.input: result[each.output] for each in held}
        for name in names.values():
            outputs[name].append(result[name][None])
    whole = with_time(graph, steps + STEPS)
    expected = run(lower.sequence(whole, "unroll", final_states=True), **sequence_feeds(whole, x, steps + STEPS))
    for name, parts in outputs.items():
        np.testing.assert_array_equal(np.concatenate(parts), expected[name])
    for each in held:
        np.testing.assert_array_equal(state[each.input], expected[each.output], err_msg=each.input)
    return expected


FORMS = [("unroll", 1, False), ("unroll", 3, False), ("chunks", 8, False), ("chunks", 9, False), ("scan", 3, False)]
FORMS += [("auto", 2, True)]


@pytest.mark.parametrize(("form", "steps", "dynamic"), FORMS)
@pytest.mark.parametrize("mode", ["sequence", "repeat"])
def test_every_time_form(mode, form, steps, dynamic):
    graph = network(mode, None)
    expected = assert_goes_on(graph, inputs(mode, T=steps + STEPS), steps, form, dynamic)
    assert expected["state_out.lif2.v"].any()
    assert expected["state_out.lif2.feedback"].any() or expected["state_out.rec.feedback"].any()


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(graph=random_programs.graphs(), form=st.sampled_from(FORMS))
def test_random_programs(graph, form):
    """Loops, Delays, sub-graphs, and the states v, i, s, delay and feedback of all dialects."""
    kind, steps, dynamic = form
    rng = np.random.default_rng(0)
    x = {
        name: (rng.integers(-4, 9, size=(steps + STEPS, *each.shape[1:])) / 4).astype(np.float32)
        for name, each in random_programs.inputs(graph).items()
    }
    assert_goes_on(graph, x, steps, kind, dynamic)


def test_without_the_option_no_state_comes_out():
    names = [output.name for output in lower.sequence(network()).graph.output]
    assert len(names) == 4
    assert not [name for name in names if name.startswith("state_out")]
