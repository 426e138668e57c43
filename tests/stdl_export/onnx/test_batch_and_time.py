"""A batch is a loop over its samples, and a dynamic T a fixed one: of any program, in every precision."""

from __future__ import annotations

from typing import Any

import nir
import numpy as np
import pytest
import random_programs
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from random_programs import STEPS
from run_onnx import call, named, run_steps_outputs, sequence_feeds, session
from small_graphs import conv_net, frames

from stdl_export import graph as graphs
from stdl_export.manifest import FP32, Arithmetic
from stdl_export.onnx import lower
from stdl_runtimes import reference

pytest.importorskip("onnxruntime")

few = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
BATCH = 3
ARITHMETICS = {
    "fp16": Arithmetic(precision="fp16"),
    "fp16 states": Arithmetic(precision="fp16", membrane="fp16"),
    "int8": Arithmetic(precision="int8"),
}


def with_time(graph: nir.NIRGraph, **changes: Any) -> nir.NIRGraph:
    return graphs.with_settings(graph, graphs.Settings(**vars(graphs.settings(graph)) | changes))


def one(x: dict[str, np.ndarray], sample: int, mode: str) -> dict[str, np.ndarray]:
    """A sample as a batch of its own."""
    part = slice(sample, sample + 1)
    return {name: each[part] if mode == "repeat" else each[:, part] for name, each in x.items()}


def drawn(graph: nir.NIRGraph, mode: str) -> dict[str, np.ndarray]:
    """Inputs whose samples differ; nothing that they lead to grows beyond measure."""
    x = random_programs.inputs(graph, batch=BATCH, seed=3)
    x = {name: each[0] for name, each in x.items()} if mode == "repeat" else x
    result = reference.run(graph, x, T=STEPS if mode == "repeat" else None)
    assume(all(np.isfinite(each).all() and np.abs(each).max() < 1e4 for each in result.outputs.values()))
    return x


@few
@given(random_programs.graphs(), st.sampled_from(["sequence", "repeat"]), st.sampled_from(["unroll", "scan"]))
def test_a_batch_is_a_loop_in_sequences(graph: nir.NIRGraph, mode: str, form: Any) -> None:
    """Products of matrices may be added up in another order, so analog numbers are equal up to rounding."""
    graph = with_time(graph, input=mode)
    x = drawn(graph, mode)
    opened = session(lower.sequence(graph, form))
    whole = call(opened, sequence_feeds(graph, x, STEPS))
    for sample in range(BATCH):
        alone = call(opened, sequence_feeds(graph, one(x, sample, mode), STEPS))
        for name, output in alone.items():
            np.testing.assert_allclose(whole[name][:, sample], output[:, 0], rtol=1e-6, atol=1e-6, err_msg=name)


@few
@given(random_programs.graphs(), st.sampled_from(["sequence", "repeat"]))
def test_a_batch_is_a_loop_in_single_steps(graph: nir.NIRGraph, mode: str) -> None:
    graph = with_time(graph, input=mode)
    x = drawn(graph, mode)
    whole = run_steps_outputs(graph, x, STEPS)
    for sample in range(BATCH):
        for name, output in run_steps_outputs(graph, one(x, sample, mode), STEPS).items():
            np.testing.assert_allclose(whole[name][:, sample], output[:, 0], rtol=1e-6, atol=1e-6, err_msg=name)


@few
@given(random_programs.graphs(), st.sampled_from(["sequence", "repeat"]), st.sampled_from(sorted(ARITHMETICS)))
def test_a_dynamic_t_is_a_fixed_one_in_every_precision(graph: nir.NIRGraph, mode: str, precision: str) -> None:
    """Bit for bit: both emit the same step, and round at the same places."""
    graph = with_time(graph, input=mode)
    x, arithmetic = drawn(graph, mode), ARITHMETICS[precision]
    fixed = call(session(lower.sequence(graph, "scan", arithmetic)), named(graph, x))
    dynamic = with_time(graph, T=None)
    found = call(session(lower.sequence(dynamic, "auto", arithmetic)), sequence_feeds(dynamic, x, STEPS))
    for name, output in fixed.items():
        np.testing.assert_array_equal(found[name], output, err_msg=name)


@pytest.mark.parametrize("mode", ["repeat", "sequence"])
@pytest.mark.parametrize("precision", ARITHMETICS)
def test_one_dynamic_graph_takes_any_t_and_any_batch_in_every_precision(mode: str, precision: str) -> None:
    """A network that spikes, with numbers that fp16 and int8 do round."""
    rng, arithmetic = np.random.default_rng(4), ARITHMETICS[precision]
    graph = conv_net(T=None, input=mode)
    for node in ("conv1", "conv2", "readout"):
        weight = graph.nodes[node].weight
        graph.nodes[node].weight = (weight + rng.normal(0, 0.01, weight.shape)).astype(np.float32)
    opened = session(lower.sequence(graph, "auto", arithmetic))
    plain = session(lower.sequence(graph, "auto", FP32))
    differs = False
    for steps, batch in ((1, 1), (5, 3), (19, 2)):
        x = {"input": frames(*(() if mode == "repeat" else (steps,)), batch, 2, 6, 6)}
        fixed = with_time(graph, T=steps)
        feeds = sequence_feeds(graph, x, steps)
        found = call(opened, feeds)["output"]
        assert found.shape[:2] == (steps, batch)
        for form in ("unroll", "scan", "chunks"):
            expected = call(session(lower.sequence(fixed, form, arithmetic)), named(fixed, x))["output"]
            np.testing.assert_array_equal(found, expected, err_msg=form)
        assert steps == 1 or len(np.unique(found)) > 5, "it spikes"
        differs |= bool((found != call(plain, feeds)["output"]).any())
    assert differs, "rounding was to be seen"
