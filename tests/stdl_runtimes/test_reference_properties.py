"""What must hold for any graph: with loops, sub-graphs, delays, several inputs, every primitive, any dialect."""

import nir
import numpy as np
import random_programs
from hypothesis import HealthCheck, assume, given, note, settings
from hypothesis import strategies as st

from stdl_export import graph as graphs
from stdl_export.primitives import PRIMITIVES
from stdl_export.program import program
from stdl_runtimes import reference
from stdl_runtimes.reference_walk import Simulation

several = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
few = settings(several, max_examples=30)


def assert_same(a: reference.Result, b: reference.Result) -> None:
    assert list(a.outputs) == list(b.outputs)
    for name in a.outputs:
        np.testing.assert_array_equal(a.outputs[name], b.outputs[name])
    for name in a.spikes:
        np.testing.assert_array_equal(a.spikes[name], b.spikes[name])


def test_every_primitive_is_drawn_and_neurons_really_spike():
    kinds: set[type] = set()
    rates: list[float] = []
    loops = nested = many = 0

    @settings(several, max_examples=150, database=None, derandomize=True)
    @given(random_programs.graphs())
    def collect(graph):
        nonlocal loops, nested, many
        assert graphs.problems(graph) == []
        made = program(graph)
        kinds.update(type(node.node) for node in made.nodes.values())
        loops += any(source.previous for node in made.nodes.values() for source in node.sources)
        nested += any("/" in path.removesuffix("/delay") for path in made.nodes)
        many += len(made.inputs) > 1
        result = reference.run(graph, random_programs.inputs(graph))
        rates.extend(float((fired > 0).mean()) for fired in result.spikes.values())

    collect()
    assert kinds == set(PRIMITIVES)
    assert min(loops, nested, many) > 15
    assert np.mean([0.02 < rate < 0.98 for rate in rates]) > 0.5


@several
@given(random_programs.graphs(), st.randoms(use_true_random=False))
def test_the_order_in_the_file_does_not_matter(graph, random):
    def shuffled(part: nir.NIRGraph) -> nir.NIRGraph:
        names, edges = list(part.nodes), [*part.edges, *part.edges[:1]]
        random.shuffle(names)
        random.shuffle(edges)
        nodes = {name: part.nodes[name] for name in names}
        nodes = {name: shuffled(node) if isinstance(node, nir.NIRGraph) else node for name, node in nodes.items()}
        return nir.NIRGraph(nodes, edges, part.metadata, type_check=False)

    other = shuffled(graph)
    x = random_programs.inputs(graph)
    assert graphs.order(other) == graphs.order(graph)
    assert_same(reference.run(other, x), reference.run(graph, x))


@several
@given(random_programs.graphs())
def test_read_back_it_is_the_same_graph(tmp_path_factory, graph):
    path = tmp_path_factory.mktemp("nir") / "graph.nir"
    graphs.write(graph, path)
    back = graphs.read(path)
    assert graphs.same(graph, back) is None
    assert graphs.problems(back) == []
    x = random_programs.inputs(graph)
    assert_same(reference.run(back, x), reference.run(graph, x))


@several
@given(random_programs.graphs())
def test_a_batch_is_its_samples_alone(graph):
    x = random_programs.inputs(graph, batch=3)
    whole = reference.run(graph, x, margins=True, states=True)
    assume(all(np.isfinite(output).all() for output in whole.outputs.values()))
    assume(all((margin > 1e-4).all() for margin in whole.margins.values()))  # else rounding may decide
    alone = [reference.run(graph, {k: v[:, b : b + 1] for k, v in x.items()}, states=True) for b in range(3)]
    for name, output in whole.outputs.items():
        joined = np.concatenate([each.outputs[name] for each in alone], axis=1)
        np.testing.assert_allclose(output, joined, rtol=1e-4, atol=1e-5)
    for (path, name), state in whole.states.items():
        joined = np.concatenate([each.states[path, name] for each in alone], axis=1 if name == "delay" else 0)
        np.testing.assert_allclose(state, joined, rtol=1e-4, atol=1e-5)


@few
@given(random_programs.graphs(), st.integers(1, random_programs.STEPS - 1))
def test_a_sequence_in_two_parts_is_the_whole(graph, at):
    """All that is remembered is in the states."""
    x = random_programs.inputs(graph)
    whole = reference.run(graph, x)
    simulation = Simulation(program(graph), random_programs.BATCH)
    for t in range(at):
        simulation.advance({name: each[t] for name, each in x.items()})
    second = Simulation(program(graph), random_programs.BATCH)
    second.states = {key: state.copy() for key, state in simulation.states.items()}
    for t in range(at, random_programs.STEPS):
        values = second.advance({name: each[t] for name, each in x.items()})
        for name, output in whole.outputs.items():
            np.testing.assert_array_equal(values[name], output[t])


@several
@given(
    random_programs.graphs(feedback="delay_source_output", loops=False, dialect=False),
    st.randoms(use_true_random=False),
)
def test_names_do_not_matter_where_each_loop_has_one_neuron(graph, random):
    names = [f"m{index}" for index in range(len(graph.nodes))]
    random.shuffle(names)
    new = dict(zip(graph.nodes, names, strict=True))
    renamed = nir.NIRGraph(
        {new[name]: node for name, node in graph.nodes.items()},
        [(new[source], new[target]) for source, target in graph.edges],
        graph.metadata,
        type_check=False,
    )
    x = random_programs.inputs(graph)
    before = reference.run(graph, x, margins=True)
    assume(all((margin > 1e-4).all() for margin in before.margins.values()))  # sums are made in another order
    after = reference.run(renamed, {new[name]: each for name, each in x.items()})
    for name, output in before.outputs.items():
        np.testing.assert_allclose(after.outputs[new[name]], output, rtol=1e-4, atol=1e-5)


@several
@given(random_programs.graphs(dialect=False))
def test_a_sub_graph_is_its_nodes_in_its_place(graph):
    """Written out by hand: `hidden/lif` is a node of the graph, and edges to `hidden` go to who reads its Input."""
    flat = by_hand(graph)
    note(f"{flat.edges}")
    assert not any(isinstance(node, nir.NIRGraph) for node in flat.nodes.values())
    assume(len(flat.edges) == len(set(flat.edges)))  # a value that arrives twice cannot be said with edges
    x = random_programs.inputs(graph)
    nested, plain = reference.run(graph, x, margins=True), reference.run(flat, x)
    assume(all((margin > 1e-4).all() for margin in nested.margins.values()))
    for name, output in nested.outputs.items():
        np.testing.assert_allclose(plain.outputs[name], output, rtol=1e-4, atol=1e-5)


def by_hand(graph: nir.NIRGraph) -> nir.NIRGraph:
    nodes, edges = dict(graph.nodes), list(graph.edges)
    while hidden := next((name for name, node in nodes.items() if isinstance(node, nir.NIRGraph)), None):
        part = nodes.pop(hidden)
        ends = {name for name, node in part.nodes.items() if isinstance(node, nir.Input | nir.Output)}
        nodes |= {f"{hidden}~{name}": node for name, node in part.nodes.items() if name not in ends}
        inside = [(f"{hidden}~{a}", f"{hidden}~{b}") for a, b in part.edges if not {a, b} & ends]
        first = [b for a, b in part.edges if a == "input"]
        last = [a for a, b in part.edges if b == "output"]
        into = [a for a, b in edges if b == hidden]
        out = [b for a, b in edges if a == hidden]
        through = [(a, b) for a in into for b in out] if "output" in first else []
        edges = [edge for edge in edges if hidden not in edge] + inside + through
        edges += [(a, f"{hidden}~{b}") for a in into for b in first if b != "output"]
        edges += [(f"{hidden}~{a}", b) for b in out for a in last if a != "input"]
    return nir.NIRGraph(nodes, edges, graph.metadata, type_check=False)
