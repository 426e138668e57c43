"""All passes together: what ONNX computes after them is what the reference computes without them."""

from __future__ import annotations

from collections import Counter

import foldable_graphs
import nir
import numpy as np
import pytest
import random_programs
from hypothesis import HealthCheck, assume, given, note, settings
from hypothesis import strategies as st
from random_programs import STEPS
from run_onnx import run_sequence_outputs, run_steps_outputs

from stdl_export import graph as graphs
from stdl_export.onnx import lower
from stdl_export.onnx.walk import cell_of
from stdl_export.passes import PASSES, applied, optimised
from stdl_export.program import Program, program
from stdl_runtimes import reference
from stdl_runtimes.reference_walk import Simulation

several = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
few = settings(several, max_examples=25)


def inputs(graph: nir.NIRGraph, seed: int = 0) -> dict[str, np.ndarray]:
    x = random_programs.inputs(graph, seed=seed)
    return {name: each[0] for name, each in x.items()} if graphs.settings(graph).input == "repeat" else x


def known(made: Program) -> set[object]:
    """What manifests and runtimes know of a program."""
    stateful = {(path, node.shape) for path, node in made.nodes.items() if node.numbers or node.late}
    return {*stateful, *made.inputs, *made.outputs, *made.fed_back, tuple(sorted(made.spiking))}


def test_random_graphs_give_every_pass_something_to_do_and_spike() -> None:
    """Which graphs are drawn hangs on what else this process imported, so there are enough for every draw."""
    worked: Counter[str] = Counter()
    rates: list[float] = []

    @settings(
        max_examples=250, deadline=None, database=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
    )
    @given(foldable_graphs.graphs())
    def collect(graph: nir.NIRGraph) -> None:
        worked.update({name for name, _ in applied(program(graph))})
        spikes = reference.run(graph, inputs(graph), T=STEPS if graph.metadata["stdl.input"] == "repeat" else None)
        rates.extend(float(fired.mean()) for fired in spikes.spikes.values())

    collect()
    assert all(worked[each.name] >= 8 for each in PASSES), worked
    assert np.mean([0.02 < rate < 0.98 for rate in rates]) > 0.4


@several
@given(foldable_graphs.graphs(), st.integers(0, 99))
def test_every_bit_stays_where_nothing_rounds(graph: nir.NIRGraph, seed: int) -> None:
    """Sequence and step graph, loops and delays included: outputs and spikes."""
    pytest.importorskip("onnxruntime")
    x = inputs(graph, seed)
    wanted = reference.run(graph, x, T=STEPS if graphs.settings(graph).input == "repeat" else None).outputs
    note(f"{graph.edges}, {[name for name, _ in applied(program(graph))]}")
    for found in (run_sequence_outputs(graph, x, STEPS), run_steps_outputs(graph, x, STEPS)):
        assert set(found) == set(wanted)
        for name, output in wanted.items():
            np.testing.assert_array_equal(found[name], output, err_msg=name)


@several
@given(foldable_graphs.graphs(loops=False), st.integers(0, 99))
def test_values_stay_up_to_rounding(graph: nir.NIRGraph, seed: int) -> None:
    """Arbitrary weights. In front of the first neuron or comparison, where no decision hangs on a last digit."""
    graph = foldable_graphs.rough(graph, seed)
    before, after = program(graph), optimised(program(graph))
    x = {name: each[0] for name, each in random_programs.inputs(graph, seed=seed).items()}
    decided = {p for p, node in before.nodes.items() if node.numbers or isinstance(node.node, nir.Threshold)}
    behind = _behind(before, decided)
    wanted = Simulation(before, random_programs.BATCH).advance(x)
    found = lower_once(after, x)
    for path in set(before.outputs) - behind:
        size = max(1.0, float(np.abs(wanted[path]).max()))
        np.testing.assert_allclose(found[path], wanted[path], rtol=0, atol=2e-6 * size, err_msg=path)


def lower_once(made: Program, x: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The first step of a program after passes, in NumPy: constants stand for themselves."""
    simulation, batch = Simulation(made, random_programs.BATCH), random_programs.BATCH
    constant = {p: n.node.value for p, n in made.nodes.items() if type(n.node).__name__ == "Constant"}
    return simulation.advance(x | {p: np.broadcast_to(v, (batch, *v.shape)) for p, v in constant.items()})


def _behind(made: Program, nodes: set[str]) -> set[str]:
    found = set(nodes)
    for path, node in made.nodes.items():
        if any(source.path in found for source in node.sources):
            found.add(path)
    return found


@several
@given(st.one_of(foldable_graphs.graphs(), random_programs.graphs()))
def test_twice_is_once_and_what_is_known_stays(graph: nir.NIRGraph) -> None:
    before = program(graph)
    after = optimised(before)
    assert optimised(after) is after
    assert known(after) == known(before)
    assert set(after.nodes) <= set(before.nodes)
    assert {(state.node, state.var) for state in lower.states(graph)} == {
        (held.path, held.var)
        for component in after.components
        if (cell := cell_of(after, component)) is not None
        for held in cell.held
    }


@few
@given(foldable_graphs.graphs())
def test_passes_that_say_bits_keep_bits(graph: nir.NIRGraph) -> None:
    assume(graphs.settings(graph).input == "sequence")
    graph = foldable_graphs.rough(graph)
    x = random_programs.inputs(graph)
    made = program(graph)
    for each in (each for each in PASSES if each.keeps == "bits"):
        made = each.run(made)
    wanted, found = (Simulation(each, random_programs.BATCH) for each in (program(graph), made))
    for t in range(STEPS):
        now = {name: each[t] for name, each in x.items()}
        before, after = wanted.advance(now), found.advance(now)
        for path in made.nodes:
            np.testing.assert_array_equal(after[path], before[path], err_msg=path)


def test_rows_are_one_file_each() -> None:
    assert [each.run.__module__.rsplit(".", 1)[1] for each in PASSES] == [each.name for each in PASSES]
