"""Units, their maps and the chain with its relays: in floats they are the network, spike for spike."""

from __future__ import annotations

import json
from types import ModuleType
from typing import Any

import float_chain
import hypothesis
import nir
import numpy as np
import pytest
import random_graphs
from hypothesis import given, settings
from hypothesis import strategies as st
from skip_graphs import delayed, recurrent, residual
from small_graphs import assemble, full, lif
from small_graphs import chain as in_a_row

from stdl_export.chips import chain, chain_conv, loihi2_build
from stdl_export.chips.base import Refusal
from stdl_export.chips.maps import Kernel, Map, added, identity
from stdl_export.program import program
from stdl_export.semantics import collapse
from stdl_runtimes import reference

SEEDS = st.integers(0, 10**6)


def compared(graph: nir.NIRGraph, x: np.ndarray, T: int) -> Any:
    """The structure of a graph, after every spike of it was compared with the reference's."""
    refused: list[Refusal] = []
    made = loihi2_build.structure(graph, refused)
    assert made is not None, "; ".join(map(str, refused))
    wanted = reference.run(graph, x, T=T)
    spikes, outputs = float_chain.run(made, x, T)
    for path, found in spikes.items():
        np.testing.assert_array_equal(found, wanted.spikes[path], err_msg=path)
    if made.links[-1].unit.numbers is not None and made.links[-1].unit.numbers.spikes:
        np.testing.assert_array_equal(spikes[made.links[-1].unit.path] * made.found.amplitude, wanted.output)
    return made, wanted, outputs


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.sampled_from(["repeat", "sequence"]))
def test_skip_connections_go_through_relays(seed: int, mode: str) -> None:
    graph = residual(seed, mode)
    made, wanted, _ = compared(graph, random_graphs.inputs(graph, 2, 4, seed), 4)
    for before, after in zip(made.links, made.links[1:], strict=False):
        assert after.reads == before.puts
    assert any(each.any() for each in wanted.spikes.values())


def test_a_shortcut_of_stride_2_carries_what_it_reads_of_the_image() -> None:
    """Of a 1x1 kernel one place in four, of a 3x3 kernel all four."""
    phases: dict[tuple[int, int], set[int]] = {}
    for seed in range(60):
        refused: list[Refusal] = []
        made = loihi2_build.structure(residual(seed), refused)
        assert made is not None
        for link in made.links:
            for stream in link.puts[1:]:
                phases.setdefault(stream.step, set()).add(len(stream.phases))
    assert phases[1, 1] == {1}
    assert phases[2, 2] == {1, 4}


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_delays_are_those_of_synapses(seed: int) -> None:
    graph = delayed(seed)
    made, _, _ = compared(graph, random_graphs.inputs(graph, 2, 6, seed), 6)
    assert made.links[0].delay is None
    assert made.links[1].hosts, "a0 is read behind a1, too"


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.booleans())
def test_a_layer_that_reads_itself_is_recurrent(seed: int, cuba: bool) -> None:
    graph = recurrent(seed, cuba=cuba)
    made, _, _ = compared(graph, random_graphs.inputs(graph, 2, 5, seed), 5)
    assert [link.recurrent is not None for link in made.links] == [True, False]


@settings(max_examples=60, deadline=None)
@given(random_graphs.graphs(T=4), st.integers(0, 99))
def test_pools_scales_and_weights_in_a_row_are_one_map(graph: nir.NIRGraph, seed: int) -> None:
    graph = tamed(graph)
    if any(isinstance(node, nir.Threshold) for node in graph.nodes.values()):
        return
    compared(graph, random_graphs.inputs(graph, 2, 4, seed), 4)


def tamed(graph: nir.NIRGraph) -> nir.NIRGraph:
    """The graph with one time constant a layer, thresholds a channel, and hard resets to 0."""
    for node in graph.nodes.values():
        node.metadata.pop("stdl.reset", None)
        if isinstance(node, nir.LIF | nir.LI | nir.IF):
            shape = node.r.shape
            for field in ("tau", "r", "v_leak", "v_threshold", "v_reset"):
                if hasattr(node, field):
                    values = getattr(node, field).reshape(shape[0], -1)[:, :1]
                    values = values[:1] if field in ("tau", "r") else values * (field != "v_reset")
                    whole = np.broadcast_to(values.reshape(-1, *[1] * (len(shape) - 1)), shape)
                    setattr(node, field, np.ascontiguousarray(whole))
    graph.metadata["stdl.reset"] = "v_reset"
    return graph


def test_outputs_of_a_linear_readout_and_of_a_potential_are_right() -> None:
    for graph in (residual(4), recurrent(4)):
        T = graph.metadata["stdl.T"]
        _, wanted, outputs = compared(graph, random_graphs.inputs(graph, 2, T), T)
        np.testing.assert_allclose(outputs, wanted.output, atol=1e-5)


# --- maps -------------------------------------------------------------------------------------------------------------


@given(SEEDS)
def test_maps_in_a_row_are_their_product(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (2, int(rng.integers(5, 9)), int(rng.integers(5, 9)))
    first = kernel_map(rng, shape)
    second = kernel_map(rng, first.target)
    both = first.then(second)
    x = rng.normal(size=shape)
    wanted = second.applied(first.applied(x) + first.bias) + second.bias
    np.testing.assert_allclose(both.applied(x) + both.bias, wanted, atol=1e-9)
    np.testing.assert_allclose((both.matrix @ x.reshape(-1)).reshape(both.target) + both.bias, wanted, atol=1e-9)
    other = kernel_map(rng, shape, first)
    np.testing.assert_allclose(added([first, other]).applied(x), first.applied(x) + other.applied(x), atol=1e-9)
    factor = rng.normal(size=(first.target[0], 1, 1))
    np.testing.assert_allclose(first.scaled(factor).applied(x), first.applied(x) * factor, atol=1e-9)


def kernel_map(rng: np.random.Generator, shape: tuple[int, ...], like: Map | None = None) -> Map:
    kernel = tuple(int(k) for k in rng.integers(1, 3, 2))
    stride = tuple(int(s) for s in rng.integers(1, 3, 2))
    begin = tuple(int(b) for b in rng.integers(0, 2, 2))
    size = tuple((n + 2 * b - k) // s + 1 for n, b, k, s in zip(shape[1:], begin, kernel, stride, strict=True))
    if like is not None:
        stride, size = like.what.stride, like.what.size
    outputs = like.target[0] if like is not None else int(rng.integers(1, 4))
    weight = rng.normal(size=(outputs, shape[0], *kernel))
    return Map(shape, (outputs, *size), Kernel(weight, stride, begin, size), rng.normal(size=(outputs, *size)))


def test_the_identity_is_none_of_these() -> None:
    assert identity((3,)).matrix.tolist() == np.eye(3).tolist()
    assert identity((2, 3, 3)).kernel is not None


# --- refusals ---------------------------------------------------------------------------------------------------------


def refused(graph: nir.NIRGraph) -> list[str]:
    found: list[Refusal] = []
    assert loihi2_build.structure(graph, found) is None
    return [str(each) for each in found]


def small(**changes: Any) -> nir.NIRGraph:
    """Input, weights, a neuron with these fields, Output."""
    node = lif(3)
    for field, value in changes.items():
        setattr(node, field, np.broadcast_to(np.array(value, np.float32), (3,)).copy())
    return in_a_row(nir.Linear(np.ones((3, 2), np.float32)), node, shape=(2,), output=(3,), input="sequence", T=3)


REFUSED = [
    ({"tau": [0.5, 0.25, 0.5]}, "n1", "decay of v", "one number for a layer"),
    ({"tau": 1e6}, None, None, None),
    ({"v_reset": 2.0}, "n1", "v_threshold", "a threshold above v_reset"),
    ({"v_reset": -0.5}, "n1", "v before the first step", "v_reset, -0.5"),
    ({"v_threshold": [1.0, 2.0, 3.0]}, None, None, None),
]


@pytest.mark.parametrize(("changes", "node", "field", "limit"), REFUSED)
def test_what_a_neuron_cannot_be_is_said_by_name(
    changes: dict[str, Any], node: str | None, field: str | None, limit: str | None
) -> None:
    graph = small(**changes)
    if node is None:
        compared(graph, np.ones((3, 2, 2), np.float32), 3)
        return
    lines = refused(graph)
    assert any(f"node '{node}': {field}" in line and (limit or "") in line for line in lines), lines
    assert all("the chip takes" in line for line in lines)


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ({"reset": "subtract"}, "reset is 'subtract', the chip takes 'v_reset'"),
        ({"spike": "floor"}, "spike is 'floor', several in a step"),
        ({"reset": "subtract", "reset_when": "next_sub"}, "reset_when is 'next_sub'"),
        ({"spike_from": "prev"}, "spike_from is 'prev'"),
        ({"v_min": "-1"}, "v_min is -1"),
        ({"v_init": "0.5"}, "v before the first step is 0.5"),
    ],
)
def test_what_a_dialect_makes_of_a_neuron_is_refused(rule: dict[str, str], reason: str) -> None:
    graph = small()
    graph.metadata["stdl.dialect"] = json.dumps({"nodes": {"n1": rule}})
    lines = refused(graph)
    assert any(f"node 'n1': {reason}" in line for line in lines), lines


def test_every_reason_is_said_at_once() -> None:
    graph = small(tau=[0.5, 0.25, 0.5])
    graph.metadata["stdl.reset"] = "subtract"
    assert len(refused(graph)) == 2


def test_nodes_that_the_chip_has_not_are_named() -> None:
    held = in_a_row(nir.Linear(np.ones((3, 2), np.float32)), lif(3), nir.Delay(full(63 * 2.0**-10, 3)), lif(3),
                    shape=(2,), output=(3,), input="sequence", T=3)  # fmt: skip
    assert any("node 'n2': its delay is 63 steps, the chip takes at most 62" in line for line in refused(held))
    biased = in_a_row(nir.Affine(np.ones((3, 2), np.float32), full(1, 3)), nir.Delay(full(2.0**-10, 3)), lif(3),
                      shape=(2,), output=(3,), input="sequence", T=3)  # fmt: skip
    assert any("node 'n1': what it holds is more than spikes: a bias" in line for line in refused(biased))
    stepped = in_a_row(nir.Threshold(full(0.5, 2)), lif(2), shape=(2,), input="sequence", T=3)
    assert any("node 'n0': its type is Threshold" in line for line in refused(stepped))
    potential = in_a_row(nir.LI(full(1, 2), full(1, 2), full(0, 2)), lif(2), shape=(2,), input="sequence", T=3)
    assert any("node 'n1': what it reads is the potential of 'n0'" in line for line in refused(potential))


def test_two_delays_for_one_pair_of_neurons_are_refused() -> None:
    nodes = {"input": nir.Input(np.array([2])), "a": lif(2), "late": nir.Delay(full(2.0**-10, 2)),
             "w": nir.Linear(np.ones((2, 2), np.float32)), "b": lif(2),
             "output": nir.Output(np.array([2]))}  # fmt: skip
    edges = [("input", "a"), ("a", "late"), ("late", "w"), ("a", "w"), ("w", "b"), ("b", "output")]
    lines = refused(assemble(nodes, edges, input="sequence", T=3))
    assert any("node 'b': the delay of a synapse is 1 steps, and another one, of 'a'" in line for line in lines)


def test_a_loop_over_two_layers_is_refused() -> None:
    nodes = {"input": nir.Input(np.array([2])), "a": lif(2), "b": lif(2), "w": nir.Linear(np.eye(2, dtype=np.float32)),
             "output": nir.Output(np.array([2]))}  # fmt: skip
    graph = assemble(nodes, [("input", "a"), ("a", "b"), ("b", "w"), ("w", "a"), ("b", "output")],
                     input="sequence", T=3)  # fmt: skip
    assert any("node 'a': its recurrence is from 'b'" in line for line in refused(graph))


def test_parameters_that_vary_within_a_channel_are_refused() -> None:
    node = lif(2, 3, 3)
    node.v_threshold = np.arange(1, 19, dtype=np.float32).reshape(2, 3, 3)
    weight = np.ones((2, 1, 3, 3), np.float32)
    graph = in_a_row(nir.Conv2d(None, weight, 1, 1, 1, 1, full(0, 2)), node, shape=(1, 3, 3), output=(2, 3, 3),
                     input="sequence", T=2)  # fmt: skip
    assert any("not the same within a channel" in line for line in refused(graph))


@pytest.mark.parametrize("module", [chain, chain_conv])
def test_a_chain_that_memory_would_not_hold_is_refused(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found where it is still small: of all layers so far, or of the one that comes."""
    monkeypatch.setattr(module, "MOST_WEIGHTS", 50)
    lines = refused(residual(5658))
    assert any("the number of weights is " in line and "model.options.widths" in line for line in lines)


def test_numbers_of_a_program_are_collapsed() -> None:
    """What the chain relies on: a value that does not vary is one number."""
    numbers = program(small()).nodes["n1"].numbers
    assert numbers is not None
    assert numbers.decay.shape == collapse(np.ones(3)).shape == ()


VIOLATIONS: dict[str, tuple[str, str]] = {
    "tau": ("decay of v", "one number for a layer"),
    "v_threshold": ("v_threshold", "a threshold above v_reset"),
    "v_reset": ("v before the first step", "v_reset"),
    "subtract": ("reset", "'v_reset'"),
    "within a channel": ("threshold or gain", "one a channel"),
    "delay": ("its delay", "at most 62"),
}


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.sampled_from(sorted(VIOLATIONS)), st.integers(0, 9))
def test_any_layer_that_breaks_a_limit_is_named(seed: int, kind: str, which: int) -> None:
    graph = residual(seed)
    neurons = [name for name, node in graph.nodes.items() if isinstance(node, nir.LIF)]
    if not neurons:
        return
    name = neurons[which % len(neurons)]
    if kind == "within a channel":
        hypothesis.assume(np.prod(graph.nodes[name].tau.shape[1:]) > 1)
    field, limit = VIOLATIONS[kind]
    named = broken(graph, name, kind)
    lines = refused(graph)
    assert any(line.startswith(f"node '{named}': {field} is ") and limit in line for line in lines), lines
    assert len(lines) == 1


def broken(graph: nir.NIRGraph, name: str, kind: str) -> str:
    """Break one limit at a layer; the node that is to be named."""
    node = graph.nodes[name]
    rise = 1 + np.arange(node.tau.size, dtype=np.float32).reshape(node.tau.shape) / node.tau.size
    if kind == "tau":
        node.r = node.r * rise  # the same gain
        node.tau = node.tau * rise
    elif kind == "v_threshold":
        node.v_threshold = node.v_threshold * 0
    elif kind == "v_reset":
        node.v_reset = node.v_reset - 0.25
    elif kind == "subtract":
        node.metadata["stdl.reset"] = "subtract"
    elif kind == "within a channel":
        node.v_threshold = node.v_threshold * rise
    else:
        graph.nodes["late"] = nir.Delay(np.full(node.tau.shape, 70e-4, np.float32))
        graph.edges = [(("late" if source == name else source), target) for source, target in graph.edges]
        graph.edges.append((name, "late"))
        return "late"
    return name
