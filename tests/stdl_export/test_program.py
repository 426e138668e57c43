from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import nir
import numpy as np
import pytest
from small_graphs import DT, assemble, chain, full, if_, lif

from stdl_export import graph as graphs
from stdl_export.common.errors import BadInput
from stdl_export.program import Source, program

AUTONOMOUS = [("input", "output"), ("a", "b"), ("b", "a")]  # a loop that no Input leads into


def vector(*ones: str, size: int = 2) -> dict[str, nir.NIRNode]:
    """`input`, `output`, and a weight for every other name."""
    nodes: dict[str, nir.NIRNode] = {name: nir.Linear(full(0.5, size, size)) for name in ones}
    return nodes | {"input": nir.Input(np.array([size])), "output": nir.Output(np.array([size]))}


def hidden(**more: nir.NIRNode) -> nir.NIRGraph:
    nodes = vector("rec") | {"lif": lif(2)} | more
    return nir.NIRGraph(
        nodes, [("input", "lif"), ("lif", "rec"), ("rec", "lif"), ("lif", "output")], {}, type_check=False
    )


def nested(part: nir.NIRGraph, *more: tuple[str, str], **said: Any) -> nir.NIRGraph:
    nodes = vector("fc", "fb") | {"hidden": part}
    edges = [("input", "fc"), ("fc", "hidden"), ("hidden", "output"), ("fb", "output"), ("hidden", "fb"), *more]
    return assemble(nodes, edges, **said)


def dialect(**said: Any) -> str:
    return json.dumps(said)


def under(**said: Any) -> nir.NIRGraph:
    return nested(hidden(), dialect=dialect(**said))


def named(said: object) -> nir.NIRGraph:
    return nested(hidden(), dialect=said)


def reasons(graph: nir.NIRGraph) -> str:
    return "; ".join(map(str, graphs.problems(graph)))


def test_sub_graphs_are_written_into_the_graph() -> None:
    made = program(nested(hidden()))
    assert list(made.nodes) == ["input", "fc", "hidden/rec", "hidden/lif", "fb", "output"]
    assert made.nodes["hidden/lif"].sources == (Source("fc"), Source("hidden/rec"))
    assert made.nodes["hidden/rec"].sources == (Source("hidden/lif", previous=True),)
    assert made.nodes["output"].sources == (Source("fb"), Source("hidden/lif"))
    assert [[node.path for node in each.nodes] for each in made.components if each.cyclic] == [
        ["hidden/rec", "hidden/lif"]
    ]
    assert made.spiking == graphs.neurons(nested(hidden())) == ["hidden/lif"]
    assert made.fed_back == ["hidden/lif"]
    assert made.timeless == ["input", "fc"]
    assert made.before()["fb"] == {"hidden/lif"} == made.before()["hidden/rec"]
    assert made.before()["fc"] == set()


def test_a_loop_through_a_sub_graph_delays_nobody_else() -> None:
    made = program(nested(hidden(), ("fb", "hidden")))
    assert made.nodes["fb"].sources == (Source("hidden/lif", previous=True),)
    assert made.nodes["output"].sources == (Source("fb"), Source("hidden/lif"))
    assert made.nodes["hidden/lif"].sources == (Source("fb"), Source("fc"), Source("hidden/rec"))


def test_a_value_that_arrives_twice_is_summed_twice() -> None:
    wire = nir.NIRGraph(vector(), [("input", "output")], {}, type_check=False)
    made = program(nested(wire, ("fc", "output")))
    assert made.nodes["output"].sources == (Source("fb"), Source("fc"), Source("fc"))


def test_neurons_have_their_numbers_thresholds_their_comparison_delays_their_steps() -> None:
    said = dialect(nodes={"n0": {"spike": "floor"}, "n1": {"spike": ">="}})
    made = program(chain(lif(2), nir.Threshold(full(1, 2)), nir.Delay(full(3 * DT, 2)), shape=(2,), dialect=said))
    assert made.nodes["n0"].numbers is not None
    assert made.nodes["n0"].numbers.spike == "floor"
    assert (made.nodes["n1"].spike, made.nodes["n1"].numbers, made.nodes["n1"].stateful) == (">=", None, False)
    assert made.nodes["n2"].steps is not None
    assert (made.nodes["n2"].steps.tolist(), made.nodes["n2"].late, made.nodes["n2"].stateful) == (3, True, True)
    assert [node.shape for node in made.nodes.values()] == [(2,)] * 5


def test_delays_of_a_dialect_are_nodes() -> None:
    said = dialect(graph={"delays": {"Linear": 2, "Input": 0, "Output": 5}})
    made = program(chain(nir.Linear(full(1, 3, 2)), if_(3), shape=(2,), output=(3,), dialect=said))
    assert list(made.nodes) == ["input", "n0", "n0/delay", "n1", "output"]
    assert made.nodes["n1"].sources == (Source("n0/delay"),)
    assert made.nodes["n0/delay"].steps is not None
    assert (made.nodes["n0/delay"].steps.tolist(), made.nodes["n0/delay"].shape) == (2, (3,))


def test_flatten_dims_with_the_batch() -> None:
    def graph(first: int, last: int, output: tuple[int, ...]) -> nir.NIRGraph:
        flatten = nir.Flatten({"input": None}, first, last)
        return chain(flatten, shape=(2, 3, 4), output=output, dialect=dialect(graph={"flatten_dims": "batch"}))

    assert program(graph(1, -1, (24,))).nodes["n0"].shape == (24,)
    assert program(graph(2, 3, (2, 12))).nodes["n0"].shape == (2, 12)
    assert "node 'n0' (Flatten): start_dim=0 joins the batch" in reasons(graph(0, -1, (24,)))


def test_biases_that_a_dialect_drops() -> None:
    nodes = vector() | {
        "fc": nir.Affine(full(1, 2, 2), full(1, 2)),
        "rec": nir.Affine(full(1, 2, 2), full(1, 2)),
        "lif": lif(2),
    }
    edges = [("input", "fc"), ("fc", "lif"), ("lif", "rec"), ("rec", "lif"), ("lif", "output")]
    for drop, dropped in ((["rec"], {"rec"}), (["fc"], {"fc"}), (["Affine@cycle"], {"rec"}), ([], set())):
        made = program(assemble(nodes, edges, dialect=dialect(graph={"drop_bias": drop})))
        assert {name for name in ("fc", "rec") if isinstance(made.nodes[name].node, nir.Linear)} == dropped


@pytest.mark.parametrize(
    "choice", [{"spike_from": "prev"}, {"spike_from": "prev", "reset_when": "next_sub", "reset": "subtract"}]
)
def test_late_neurons_need_no_delay(choice: dict[str, str]) -> None:
    made = program(nested(hidden(), dialect=dialect(nodes={"hidden/lif": choice})))
    assert made.nodes["hidden/lif"].late
    assert made.fed_back == []


def test_a_delay_of_a_step_is_the_delay_of_a_loop() -> None:
    for steps, fed_back in (([1, 2], []), ([0, 2], ["hidden/lif"])):
        made = program(nested(hidden(rec=nir.Delay(np.array(steps) * DT))))
        assert made.fed_back == fed_back


def test_settings_are_the_graphs() -> None:
    made = program(nested(hidden(), T=7, dialect="spikingjelly"))
    assert (made.settings.T, made.settings.dt, made.settings.dialect) == (7, DT, "spikingjelly")
    assert program(assemble(vector(), [("input", "output")], dt=0.5, dialect="norse")).settings.dt == 0.5
    bare = nir.NIRGraph(vector(), [("input", "output")], {"stdl.dialect": "norse"}, type_check=False)
    assert graphs.settings(bare).dt == 1e-3
    bare.metadata["stdl.dialect"] = dialect(base="norse", graph={"dt": 0.25})
    assert graphs.settings(bare).dt == 0.25
    bare.metadata.clear()
    assert graphs.settings(bare).dt == 1e-4


def test_several_inputs_and_outputs() -> None:
    nodes = vector() | {"more": nir.Input(np.array([2])), "end": nir.Output(np.array([2])), "if": if_(2)}
    graph = assemble(nodes, [("input", "if"), ("more", "if"), ("if", "output"), ("more", "end")])
    made = program(graph)
    assert (made.inputs, made.outputs) == (("input", "more"), ("end", "output"))


@pytest.mark.parametrize(
    ("graph", "said"),
    [
        (
            nested(hidden(lif=nir.Scale(full(1, 2)))),
            "node 'hidden/lif' (Scale): it lies on a cycle: hidden/lif -> hidden/rec",
        ),
        (nested(hidden(lif=nir.Delay(full(0, 2)))), "neither a neuron nor a delay of a step lies on it"),
        (
            nested(hidden(more=nir.Input(np.array([2])))),
            "a sub-graph has 2 Input nodes (input, more): an edge cannot say",
        ),
        (nested(hidden(more=nir.Output(np.array([2])))), "node 'hidden' (NIRGraph): a sub-graph has 2 Output nodes"),
        (nested(hidden(lif=lif(3))), "node 'hidden/lif' (LIF): its input has shape (2,), its tau has (3,)"),
        (nested(hidden(lif=nir.LIF(*[full(-1, 2)] * 5))), "node 'hidden/lif' (LIF): tau is not positive"),
        (nested(hidden(), ("hidden", "nothere")), "edge ('hidden', 'nothere') names 'nothere', which is no node"),
        (nested(hidden(**{".": lif(2)})), "node 'hidden/.' (LIF): a node's name may not be"),
        (
            nested(nir.NIRGraph(vector(), [("input", "output")], {}, type_check=False), ("hidden", "hidden")),
            "the sub-graph feeds itself with no node in between",
        ),
        (
            under(nodes={"hiden/lif": {}}),
            "dialect.nodes names 'hiden/lif', which is no node: did you mean 'hidden/lif'?",
        ),
        (under(nodes={"fc": {"spike": ">"}}), "node 'fc' (Linear): the dialect has choices for it"),
        (under(nodes={"hidden/lif": {"output": "prev"}}), "a LIF takes no 'output'"),
        (under(nodes={"hidden/lif": {"gain": "tau_mem"}}), "unknown name 'tau_mem'"),
        (under(nodes={"hidden/lif": {"gain": "r/0"}}), "the gain of an LIF does not fit float32"),
        (under(graph={"drop_bias": ["fx"]}), "drop_bias names 'fx', which is no node: did you mean"),
        (under(graph={"drop_bias": ["fc"]}), "drop_bias names it, but it has no bias"),
        (named("snntorhc"), "metadata stdl.dialect: unknown dialect 'snntorhc': did you mean 'snntorch'"),
        (named("{"), "metadata stdl.dialect: dialect is not JSON"),
        (named(3), "metadata stdl.dialect=3: accepted is the name of a dialect"),
        (
            nested(hidden(), dialect="spyx", reset="subtract"),
            "stdl.reset is for dialect nir, 'spyx' has resets of its own",
        ),
        (under(graph={"dt": 0.5}), "metadata stdl.dt=0.000976562, but its dialect says dt 0.5"),
        (
            nested(hidden(lif=lif(2, threshold=-1)), dialect=dialect(types={"LIF": {"spike": "floor"}})),
            "v_threshold is not positive everywhere: spike 'floor' counts",
        ),
        (
            assemble(vector("b") | {"a": lif(2)}, [*AUTONOMOUS, ("a", "output")], dialect="norse"),
            "node 'a' (LIF): it lies on a cycle: a -> b -> a, and no Input leads into it",
        ),
    ],
)
def test_what_is_refused(graph: nir.NIRGraph, said: str) -> None:
    found = reasons(graph)
    assert said in found
    with pytest.raises(BadInput) as error:
        graphs.check(graph, "'a.nir'")
    assert "\n" not in str(error.value)


def test_shapes_are_inferred_around_a_loop() -> None:
    nodes = vector(size=3) | {"down": nir.Linear(full(1, 2, 3)), "lif": lif(2), "rec": nir.Linear(full(1, 2, 2))}
    nodes["output"] = nir.Output(np.array([2]))
    edges = [("input", "down"), ("down", "lif"), ("lif", "rec"), ("rec", "lif"), ("lif", "output")]
    assert graphs.shapes(assemble(nodes, edges))["rec"] == (2,)
    nodes["rec"] = nir.Linear(full(1, 3, 2))
    assert "node 'lif' (LIF): its inputs are summed but differ in shape: 'down' (2,), 'rec' (3,)" in reasons(
        assemble(nodes, edges)
    )
    alone = assemble(
        vector("rec") | {"lif": lif(2)}, [("input", "output"), ("lif", "rec"), ("rec", "lif"), ("rec", "output")]
    )
    assert graphs.shapes(alone)["lif"] == (2,)


@pytest.mark.parametrize(
    ("declared", "ends", "taken"),
    [((1, 2), (1, 1, 2), (2,)), ((1,), (1,), (2,)), ((2,), (2,), (2,)), ((1, 1, 2), (2,), (2,))],
)
def test_shapes_that_exporters_write_wrong(
    declared: tuple[int, ...], ends: tuple[int, ...], taken: tuple[int, ...]
) -> None:
    graph = chain(nir.Linear(full(1, 2, 2)), lif(2), shape=declared, output=ends)
    assert reasons(graph) == ""
    assert graphs.shapes(graph)["input"] == graphs.shapes(graph)["output"] == taken
    remarks = [
        f"'{name}' ({kind}) declares shape {shape}"
        for name, kind, shape in (("input", "Input", declared), ("output", "Output", ends))
        if shape != taken
    ]
    found = graphs.remarks(graph)
    assert len(found) == len(remarks)
    assert all(said in line for said, line in zip(remarks, found, strict=True))


@pytest.mark.parametrize(("declared", "ends"), [((3,), (2,)), ((2,), (3,)), ((2, 1), (2,)), ((2, 2), (2,))])
def test_shapes_that_contradict_are_refused(declared: tuple[int, ...], ends: tuple[int, ...]) -> None:
    assert reasons(chain(nir.Linear(full(1, 2, 2)), lif(2), shape=declared, output=ends))


def test_a_sub_graphs_boundaries_are_what_arrives() -> None:
    graph = nested(hidden(input=nir.Input(np.array([7])), output=nir.Output(np.array([1, 2]))))
    assert reasons(graph) == ""
    assert graphs.remarks(graph) == [
        "node 'hidden/input' (Input) declares shape (7,), but has (2,): that is taken",
        "node 'hidden/output' (Output) declares shape (1, 2), but has (2,): that is taken",
    ]


def test_a_step_longer_than_its_time_constant_is_remarked() -> None:
    graph = nested(hidden(lif=nir.LIF(full(0.6 * DT, 2), *[full(1, 2)] * 4)))
    assert reasons(graph) == ""
    assert graphs.remarks(graph) == [
        "node 'hidden/lif': its decay is -0.6667: a step of 0.000976562 is longer than its time constant, so its sign "
        "flips"
    ]


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1), (3, 1, 1), (1, 2, 1), (3, 2, 4)])
def test_parameters_broadcast(shape: tuple[int, ...]) -> None:
    graph = chain(nir.CubaLIF(*[np.asarray(full(1, *shape))] * 5), shape=(3, 2, 4))
    assert reasons(graph) == ""


@pytest.mark.parametrize("shape", [(3,), (4,), (2, 4), (2, 1, 1), (1, 1, 1, 1)])
def test_parameters_that_do_not_broadcast(shape: tuple[int, ...]) -> None:
    graph = chain(nir.LI(*[full(1, *shape)] * 3), shape=(3, 2, 4))
    assert f"its input has shape (3, 2, 4), its tau has {shape}" in reasons(graph)


def test_wires_that_double_with_every_sub_graph_are_refused() -> None:
    chained = vector() | {f"w{i}": small for i, small in enumerate([doubled()] * 20)}
    names = ["input", *(f"w{i}" for i in range(20)), "output"]
    graph = assemble(chained, list(pairwise(names)))
    assert "more wires of sub-graphs lead to it than can be followed" in reasons(graph)


def doubled() -> nir.NIRGraph:
    """A sub-graph that gives twice what it gets."""
    wire = nir.NIRGraph(vector(), [("input", "output")], {}, type_check=False)
    edges = [("input", "output"), ("input", "wire"), ("wire", "output")]
    return nir.NIRGraph(vector() | {"wire": wire}, edges, {}, type_check=False)


def test_a_value_over_a_few_wires_is_summed_as_often_as_it_arrives() -> None:
    graph = assemble(vector() | {"a": doubled(), "b": doubled()}, [("input", "a"), ("a", "b"), ("b", "output")])
    assert program(graph).nodes["output"].sources == (Source("input"),) * 4
