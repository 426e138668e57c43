"""`--for PEER`: what the peer's reading computes of the rewritten graph is what ours computes of the original.

The peer's reading is its dialect here, run by our reference; the importers themselves are asked in tests/peers.
"""

from __future__ import annotations

import copy

import interop_cases
import nir
import numpy as np
import pytest
import random_graphs
import random_programs
import torch
from hypothesis import assume, event, given
from hypothesis import strategies as st
from networks import lively, neuron, residual_spec
from small_graphs import assemble, chain, full, lif

from stdl_export import from_torch, semantics
from stdl_export import graph as graphs
from stdl_export.common.errors import BadInput
from stdl_export.fold import fold
from stdl_export.interop import peers
from stdl_export.interop.adapt import adapt
from stdl_export.interop.neurons import time_constant
from stdl_export.program import program
from stdl_models.nets.registry import build_network
from stdl_runtimes import reference

CASES, PEERS = interop_cases.CASES, peers.PEERS

ROUNDING = 2e-6  # of a potential around 1: gains and thresholds are rounded to float32 once more

REFUSED = {
    ("snntorch", "resets_elsewhere"): "starts at another potential than it resets to",
    ("snntorch", "soft_reset"): "reset is by subtraction",
    ("snntorch", "soft_synapses"): "reset is by subtraction",
    ("snntorch", "soft_ties"): "reset is by subtraction",
    ("snntorch", "readout"): "reads no LI",
    ("snntorch", "recurrent"): "on a loop",
    ("norse", "readout"): "reads no LI",
    ("norse", "recurrent"): "on a loop",
    ("sinabs", "resets_elsewhere"): "starts at another potential than it resets to",
    ("sinabs", "synapses"): "reads no CubaLIF",
    ("sinabs", "synapses_alike"): "reads no CubaLIF",
    ("sinabs", "soft_synapses"): "reads no CubaLIF",
    ("sinabs", "recurrent"): "on a loop",
    ("spikingjelly", "beta_per_neuron"): "decay differs from neuron to neuron",
    ("spikingjelly", "slower"): "decay differs from neuron to neuron",
    ("spikingjelly", "resets_elsewhere"): "starts at another potential than it resets to",
    ("spikingjelly", "soft_reset"): "reset is by subtraction",
    ("spikingjelly", "soft_synapses"): "reset is by subtraction",
    ("spikingjelly", "soft_ties"): "reset is by subtraction",
    ("spikingjelly", "synapses"): "decay differs from neuron to neuron",
    ("spikingjelly", "readout"): "reads no LI",
}
REFUSED |= {(peer, "lines"): "reads no Conv1d" for peer in PEERS if peer != "spikingjelly"}
REFUSED |= {(peer, "sums"): "reads no" for peer in ("snntorch", "norse", "spikingjelly")}
REFUSED["norse-main", "sums"] = "does not leak, and the peer would scale its input by 0"


def spikes_of(result: reference.Result) -> list[np.ndarray]:
    """Without names, which a peer may want otherwise: in an order that does not depend on them."""
    return sorted((each for each in result.spikes.values()), key=lambda each: (each.shape, each.tobytes()))


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("name", CASES)
def test_the_peers_reading_gives_our_numbers(name, peer):
    graph = CASES[name]()
    before = copy.deepcopy(graph)
    x = interop_cases.inputs(graph)
    ours = reference.run(graph, x, margins=True)
    assert all(0.02 < each.mean() < 0.98 for each in ours.spikes.values()), "a case must spike, and not always"
    if (peer, name) in REFUSED:
        with pytest.raises(BadInput, match=f"^--for {peer}: .*{REFUSED[peer, name]}"):
            adapt(graph, peer)
        return
    made = adapt(graph, peer)
    assert graphs.same(graph, before) is None, "the original stays as it is"
    if "ties" not in name:
        assert min(np.abs(each).min() for each in ours.margins.values()) > ROUNDING
    theirs = reference.run(made.graph, x)
    np.testing.assert_allclose(theirs.output, ours.output, rtol=1e-5, atol=1e-5)
    missing = [each for each in spikes_of(ours) if not any(np.array_equal(each, other) for other in spikes_of(theirs))]
    assert not missing


@pytest.mark.parametrize(
    ("peer", "reset"), [("snntorch", "v_reset"), ("norse", "v_reset"), ("norse", "subtract"), ("sinabs", "subtract")]
)
def test_a_trained_residual_network(peer, reset):
    """As stdl-train's networks are exported: SEW additions, parameters that differ by channel, names with dots."""
    network = lively(build_network(residual_spec(neuron_spec=neuron(reset=reset))))
    for unit in network.units:
        for layer in unit.layers:
            zeros = torch.zeros(layer.neuron.shape)
            layer.neuron.set_fields(v_leak=zeros, **({"v_reset": zeros} if reset == "v_reset" else {}))
    graph = from_torch.to_nir(fold(network))
    x = np.random.default_rng(0).uniform(0, 2, (3, *graph.nodes["input"].input_type["input"])).astype(np.float32)
    ours = reference.run(graph, x, margins=True)
    assert all(0.03 < each.mean() < 0.97 for each in ours.spikes.values())
    assert min(np.abs(each).min() for each in ours.margins.values()) > ROUNDING
    made = adapt(graph, peer)
    np.testing.assert_allclose(reference.run(made.graph, x).output, ours.output, rtol=1e-5, atol=1e-5)
    assert all(name.isidentifier() for name in made.graph.nodes)


def test_ties_are_met_and_decided_as_with_us():
    """The case for equality is one: without the step to the next float32, spikingjelly fires where we do not."""
    graph = CASES["ties"]()
    x = interop_cases.inputs(graph)
    margins = reference.run(graph, x, margins=True).margins
    assert all((each == 0).any() for each in margins.values())
    made = adapt(graph, "spikingjelly").graph
    for node in made.nodes.values():
        if isinstance(node, nir.LIF):
            node.v_threshold = np.nextafter(node.v_threshold.astype(np.float32), np.float32(0))
    assert any(
        not np.array_equal(a, b)
        for a, b in zip(spikes_of(reference.run(made, x)), spikes_of(reference.run(graph, x)), strict=True)
    )


@given(st.data())
def test_random_graphs_are_read_right_or_refused(data):
    graph = data.draw(random_graphs.graphs(input="sequence"))
    peer = data.draw(st.sampled_from(sorted(set(PEERS) - {"nirtorch"})))
    if data.draw(st.integers(0, 4)):  # else it is refused, nearly always
        tame(graph, peer, data.draw(st.sampled_from(["v_reset", "subtract"])))
    steps = graph.metadata.get("stdl.T", 4)
    x = (random_graphs.inputs(graph, batch=2, T=steps) * 0.913 + 0.0317).astype(np.float32)
    agree(graph, peer, x)


@given(st.data())
def test_random_programs_are_read_right_or_refused(data):
    """Loops, delays, odd names, several outputs, and dialects that hardly anybody reads."""
    graph = data.draw(random_programs.graphs(dialect=data.draw(st.booleans())))
    peer = data.draw(st.sampled_from(sorted(PEERS)))
    x = {name: (each * 0.913 + 0.0317).astype(np.float32) for name, each in random_programs.inputs(graph).items()}
    agree(graph, peer, x)


def tame(graph, peer, reset):
    """What varies within a channel or resets otherwise than to 0 goes, so that the peer can read most of it."""
    graph.metadata["stdl.reset"] = reset if peer in ("norse", "sinabs") else "v_reset"
    for node in graph.nodes.values():
        node.metadata.pop("stdl.reset", None)
        kind = type(node).__name__
        if kind not in ("IF", "LIF"):
            continue
        node.v_reset = np.zeros_like(node.v_reset)
        for field in ("tau", "r", "v_leak", "v_threshold"):
            value = getattr(node, field, None)
            if value is None:
                continue
            each = (slice(None), *[slice(0, 1)] * (value.ndim - 1))
            alone = value.reshape(-1)[0] if field == "tau" and peer == "spikingjelly" else value[each]
            setattr(node, field, np.ascontiguousarray(np.broadcast_to(alone, value.shape)))


def agree(graph, peer, x):
    try:
        made = adapt(graph, peer)
    except BadInput:
        event(f"{peer} refuses")
        return
    if isinstance(x, dict) and len(x) == 1:
        x = next(iter(x.values()))
    ours = reference.run(graph, x, margins=True)
    assume(all(np.abs(each).min() > 1e-4 for each in ours.margins.values()))
    assume(all(np.abs(each).max() < 1e3 for each in ours.outputs.values()))
    event(f"{peer} reads")
    theirs = reference.run(made.graph, x)
    np.testing.assert_allclose(theirs.output, ours.output, rtol=1e-4, atol=1e-4)


def test_every_reason_is_told_at_once():
    graph = chain(
        lif(3, v_reset=0.5), nir.Delay(full(2.0**-10, 3)), nir.LI(full(1, 3), full(1, 3), full(0, 3)), shape=(3,)
    )
    with pytest.raises(BadInput) as caught:
        adapt(graph, "snntorch")
    said = str(caught.value)
    assert "'n0' (LIF)" in said
    assert "'n1' (Delay)" in said
    assert "'n2' (LI)" in said
    assert "\n" not in said


def test_an_unknown_peer_is_told_with_the_known_ones():
    with pytest.raises(BadInput, match="unknown peer 'sinab': did you mean 'sinabs'"):
        adapt(chain(lif(3), shape=(3,)), "sinab")


def test_a_threshold_beyond_float32_is_refused_without_a_warning():
    """Where the peer's gain is 1, a small r makes the threshold larger by as much."""
    weak = nir.IF(r=full(1e-8 / 2**-10, 3), v_threshold=full(1e35, 3), v_reset=full(0, 3))
    affine = nir.Affine(np.eye(3, dtype=np.float32), full(0, 3))
    with pytest.raises(BadInput, match="its threshold is beyond what float32 holds"):
        adapt(chain(affine, weak, shape=(3,)), "sinabs")


def test_what_others_read_elsewhere_is_refused():
    """Two neurons on one loop: importers put the delay where names say."""
    nodes = {
        "input": nir.Input(np.array([3])), "a": lif(3), "b": lif(3), "w": nir.Linear(np.eye(3, dtype=np.float32)),
        "output": nir.Output(np.array([3])),
    }  # fmt: skip
    edges = [("input", "a"), ("a", "b"), ("b", "w"), ("w", "a"), ("b", "output")]
    with pytest.raises(BadInput, match="more than one neuron"):
        adapt(assemble(nodes, edges), "norse-main")


def test_a_nodes_own_reset_is_kept_where_it_counts():
    """NIRTorch's readers take neurons as the graph says them; sinabs' take one reset for all: a mixture is refused."""
    soft = lif(3)
    soft.metadata["stdl.reset"] = "subtract"
    graph = chain(soft, nir.Linear(np.eye(3, dtype=np.float32)), lif(3), shape=(3,), input="sequence", T=6)
    x = np.random.default_rng(0).uniform(0, 2, (6, 4, 3)).astype(np.float32)
    ours = reference.run(graph, x).output
    for peer in ("nirtorch", "norse"):
        np.testing.assert_array_equal(reference.run(adapt(graph, peer).graph, x).output, ours)
    soft.metadata.clear()
    assert not np.array_equal(reference.run(graph, x).output, ours)
    soft.metadata["stdl.reset"] = "subtract"
    with pytest.raises(BadInput, match="its reset is"):
        adapt(graph, "sinabs")


@pytest.mark.parametrize("tiny", [1e-9, 1.0])
def test_leaks_count_whatever_the_unit_of_the_potential(tiny):
    """In volts, everything is small: nothing is rounded away by its absolute size."""
    graph = CASES["leaks"]()
    for node in graph.nodes.values():
        for field in ("weight", "bias", "v_leak", "v_threshold"):
            if hasattr(node, field):
                setattr(node, field, (getattr(node, field) * np.float32(tiny)).astype(np.float32))
    x = interop_cases.inputs(graph)
    ours = reference.run(graph, x).output
    assert 0.05 < ours.mean() < 0.95
    for peer in ("snntorch", "norse", "sinabs", "spikingjelly"):
        np.testing.assert_array_equal(reference.run(adapt(graph, peer).graph, x).output, ours)


@pytest.mark.parametrize("between", [nir.Threshold(full(0.5, 3)), None])
def test_a_neuron_that_feeds_itself(between):
    """Directly it is read through an identity; through a Threshold there would be two neurons on the loop."""
    nodes = {"input": nir.Input(np.array([3])), "a": lif(3), "output": nir.Output(np.array([3]))}
    edges = [("input", "a"), ("a", "output")]
    nodes |= {} if between is None else {"t": between}
    edges += [("a", "a")] if between is None else [("a", "t"), ("t", "a")]
    graph = assemble(nodes, edges, input="sequence", T=6)
    if between is not None:
        with pytest.raises(BadInput, match="a loop other than neuron -> weights -> neuron"):
            adapt(graph, "norse-main")
        return
    x = np.random.default_rng(0).uniform(0, 1, (6, 4, 3)).astype(np.float32)
    found = reference.run(adapt(graph, "norse-main").graph, x).output
    np.testing.assert_array_equal(found, reference.run(graph, x).output)
    assert 0.1 < found.mean() < 0.9


def test_a_leak_that_differs_within_a_channel_cannot_go_into_a_convolution():
    node = lif(2, 3, 3)
    node.v_leak = np.random.default_rng(0).normal(0, 1, (2, 3, 3)).astype(np.float32)
    conv = nir.Conv2d(None, np.ones((2, 2, 3, 3), np.float32), 1, 1, 1, 1, np.zeros(2, np.float32))
    with pytest.raises(BadInput, match="differs within a channel"):
        adapt(chain(conv, node, shape=(2, 3, 3)), "snntorch")


def test_weights_that_others_read_as_well_are_copied():
    """One Affine in front of two neurons, one of which has a leak: the other must not feel it."""
    rng = np.random.default_rng(0)
    affine = nir.Affine(rng.normal(0, 1, (3, 3)).astype(np.float32), rng.normal(0, 1, 3).astype(np.float32))
    nodes = {
        "input": nir.Input(np.array([3])), "fc": affine, "a": lif(3, v_leak=0.4), "b": lif(3, threshold=0.7),
        "output": nir.Output(np.array([3])),
    }  # fmt: skip
    edges = [("input", "fc"), ("fc", "a"), ("fc", "b"), ("a", "output"), ("b", "output")]
    graph = assemble(nodes, edges, input="sequence", T=6)
    x = rng.normal(0, 1, (6, 4, 3)).astype(np.float32)
    made = adapt(graph, "snntorch")
    np.testing.assert_array_equal(reference.run(made.graph, x).output, reference.run(graph, x).output)
    assert any("put in or copied" in remark for remark in made.remarks)


def test_what_the_peer_does_not_know_is_told():
    graph = chain(lif(3), shape=(3,), T=4)
    graph.metadata |= {"stdl.input": "repeat", "stdl.output": "mean"}
    remarks = "; ".join(adapt(graph, "norse").remarks)
    assert "feed it T times" in remarks
    assert "the mean of its outputs" in remarks


@pytest.mark.parametrize("name", ["snntorch", "norse", "sinabs"])
def test_time_constants_give_the_decay_to_the_bit_or_say_by_how_much_not(name):
    peer = peers.get(name)
    dt = 1e-4 if peer.dt == "graph" else peer.dt
    wanted = np.random.default_rng(0).uniform(0.01, 0.999, 5000).astype(np.float32)
    tau, off = time_constant(wanted.astype(np.float64), peer, dt)
    tau = tau.astype(np.float32)
    found = np.exp(-np.float32(dt) / tau) if peer.decay == "exp" else 1 - np.float32(dt) / tau
    assert (found == wanted)[wanted > 0.5].mean() > (0.75 if peer.decay == "exp" else 0.95)
    assert np.abs(found.astype(np.float64) - wanted).max() <= off < 1.3e-7
    plain = -dt / np.log(wanted.astype(np.float64)) if peer.decay == "exp" else dt / (1 - wanted.astype(np.float64))
    plain = plain.astype(np.float32)
    naive = np.exp(-np.float32(dt) / plain) if peer.decay == "exp" else 1 - np.float32(dt) / plain
    assert (found == wanted).mean() > (naive == wanted).mean()


def test_a_decay_of_one_is_one():
    """An IF for a peer that reads none: a LIF whose time constant float32 cannot tell from forever."""
    graph = CASES["integrators"]()
    for peer in ("snntorch", "sinabs"):
        made = program(adapt(graph, peer).graph)
        numbers = [node.numbers for node in made.nodes.values() if node.spikes]
        assert {type(node.node).__name__ for node in made.nodes.values() if node.spikes} == {"LIF"}
        assert all(isinstance(each, semantics.Discrete) and (each.decay == 1).all() for each in numbers)
