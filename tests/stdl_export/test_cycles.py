"""Which edges read the step before. Graphs are dictionaries: node -> those it reads."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stdl_export import cycles
from stdl_export.cycles import Uncut, components, dead_cycle, delay_source_output, delay_target_input, on_cycles

RECURRENT = {"in": [], "fc": ["in"], "lif": ["fc", "rec"], "rec": ["lif"], "out": ["lif"]}
TWO = {  # of the conformance cases: a loop of one neuron, one of two, a skip connection
    "in": [], "n0": ["in"], "n1": ["n0", "n5", "n6"], "n2": ["n1"], "n3": ["in"], "n4": ["n2", "n3"], "n5": ["n4"],
    "n6": ["n1"], "out": ["n4"],
}  # fmt: skip


def test_the_recurrent_weights_read_late_spikes_or_their_output_is_late() -> None:
    assert delay_source_output(RECURRENT, ["in"], {"lif"}, set()) == {("lif", "rec")}
    assert delay_target_input(RECURRENT, ["in"], ["out"], set()) == {("rec", "lif")}


def test_several_loops() -> None:
    assert delay_source_output(TWO, ["in"], {"n1", "n4"}, set()) == {("n4", "n5"), ("n1", "n6")}
    assert delay_target_input(TWO, ["in"], ["out"], set()) == {("n5", "n1"), ("n6", "n1")}


def test_nirtorch_depends_on_names() -> None:
    """Two neurons that excite each other, both with an input: the first by name reads the other's late output."""
    graph = {"in": [], "a": ["in", "b"], "b": ["in", "a"], "out": ["b"]}
    assert delay_target_input(graph, ["in"], ["out"], set()) == {("b", "a")}
    before = {"z": [], "a": ["y", "z"], "y": ["z", "a"]}  # the Input comes first, then what stands behind it
    assert delay_target_input(before, ["z"], [], set()) == {("y", "a")}
    middle = {"m": [], "a": ["x", "y"], "x": ["a", "m"], "y": ["a"]}  # x is taken before a, whose turn was before m
    assert delay_target_input(middle, ["m"], [], set()) == {("a", "x"), ("y", "a")}
    behind = {"k": [], "a": ["y", "k"], "y": ["k", "a"]}
    assert delay_target_input(behind, ["k"], [], set()) == {("a", "y")}


def test_a_node_with_one_input_waits_for_it() -> None:
    graph = {"in": [], "a": ["b"], "b": ["c", "in"], "c": ["a"]}
    assert delay_target_input(graph, ["in"], [], set()) == {("c", "b")}


def test_late_nodes_need_no_cut() -> None:
    assert delay_source_output(RECURRENT, ["in"], {"lif"}, {"lif"}) == set()
    assert delay_target_input(RECURRENT, ["in"], ["out"], {"lif"}) == set()
    assert delay_source_output(RECURRENT, ["in"], {"lif"}, {"rec"}) == set()
    (loop,) = [each for each in components(RECURRENT, set(), {"lif"}) if each.cyclic]
    assert loop.nodes == ("lif", "rec")


def test_a_neuron_that_reads_itself() -> None:
    graph = {"in": [], "lif": ["in", "lif"]}
    assert delay_source_output(graph, ["in"], {"lif"}, set()) == {("lif", "lif")}
    assert delay_target_input(graph, ["in"], [], set()) == {("lif", "lif")}
    assert components(graph, {("lif", "lif")}, set())[1].cyclic


def test_a_loop_that_no_input_leads_into() -> None:
    graph = {"in": [], "out": ["in", "lif"], "lif": ["rec"], "rec": ["lif"]}
    assert delay_source_output(graph, ["in"], {"lif"}, set()) == {("lif", "rec")}
    with pytest.raises(Uncut, match="no Input leads into it"):
        delay_target_input(graph, ["in"], ["out"], set())


def test_dead_cycles() -> None:
    assert dead_cycle(RECURRENT, {"lif"}) is None
    assert sorted(dead_cycle(RECURRENT, set()) or []) == ["lif", "rec"]
    assert dead_cycle({"a": ["a"]}, set()) == ["a"]
    assert dead_cycle({"a": [], "b": ["a", "a"]}, set()) is None


def test_order_of_execution() -> None:
    order = components(TWO, {("n5", "n1"), ("n6", "n1")}, set())
    assert [each.nodes for each in order if not each.cyclic] == [("in",), ("n0",), ("n3",), ("out",)]
    assert [each.nodes for each in order if each.cyclic] == [("n1", "n2", "n4", "n5", "n6")]


@st.composite
def drawn(draw: st.DrawFn) -> tuple[dict[str, list[str]], set[str]]:
    """Any graph; every second node or so has a state, so that some cycles cannot be cut."""
    names = [f"n{index}" for index in range(draw(st.integers(1, 8)))]
    sources = {name: sorted(draw(st.sets(st.sampled_from(names), max_size=3))) for name in names}
    return {"in": []} | sources, set(draw(st.sets(st.sampled_from(names))))


@settings(max_examples=300)
@given(drawn(), st.booleans())
def test_what_is_left_has_no_cycle_within_a_step(graph: tuple[dict[str, list[str]], set[str]], source: bool) -> None:
    sources, stateful = graph
    if dead_cycle(sources, stateful) is not None:
        with pytest.raises(Uncut):
            delay_source_output(sources, ["in"], stateful, set())
        return
    try:
        cut = (
            delay_source_output(sources, ["in"], stateful, set())
            if source
            else delay_target_input(sources, ["in"], [], set())
        )
    except Uncut:
        assert not source
        return
    left = {name: [each for each in names if (each, name) not in cut] for name, names in sources.items()}
    assert not on_cycles(left)
    if source:
        assert {begin for begin, _ in cut} <= stateful
    done: set[str] = set()
    for component in components(sources, cut, set()):
        for name in component.nodes:
            assert set(left[name]) <= done
            done.add(name)
        loop = set(component.nodes) <= on_cycles(sources)
        assert component.cyclic == loop
    assert done == set(sources)


def test_a_long_chain_and_a_large_loop_are_no_recursion() -> None:
    chain = {"n0": []} | {f"n{i}": [f"n{i - 1}"] for i in range(1, 5000)}
    assert len(components(chain, set(), set())) == 5000
    ring = chain | {"n0": ["n4999"]}
    assert delay_source_output(ring, ["n0"], {"n7"}, set()) == {("n7", "n8")}
    assert len(cycles.on_cycles(ring)) == 5000
