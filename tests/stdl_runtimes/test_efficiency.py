"""Operations, sparsity and bytes: by hand on small networks, against a count over every synapse on random ones."""

from __future__ import annotations

import copy

import nir
import numpy as np
import pytest
import random_graphs
import random_programs
import several
from hypothesis import given, settings
from small_graphs import DT, assemble, chain, conv_net, frames, full, lif

from stdl_export.manifest import Arithmetic
from stdl_export.program import program
from stdl_runtimes import reference
from stdl_runtimes.efficiency import Meter, measure
from stdl_runtimes.efficiency_fanout import SYNAPTIC, of_node
from stdl_runtimes.efficiency_result import EnergyModel
from stdl_runtimes.reference_nodes import STATELESS


def by_name(found):
    return {layer.node: layer for layer in found.layers}


def test_a_small_chain_by_hand():
    """2 inputs -> 3 neurons -> 2 outputs, T=3, one sample; one of the weights is zero."""
    first = np.array([[1, 0], [0.5, 0.5], [1, 1]], np.float32)
    second = np.ones((2, 3), np.float32)
    graph = chain(
        nir.Affine(first, np.zeros(3, np.float32)), lif(3), nir.Linear(second),
        shape=(2,), output=(2,), T=3, input="sequence",
    )  # fmt: skip
    x = np.array([[[2, 2]], [[0, 2]], [[1, 0]]], np.float32)  # [T, B, 2]
    found = measure(graph, x)
    layers = by_name(found)
    spikes = reference.run(graph, x).spikes["n1"]
    # weights that are not zero per input: 3 and 2; steps: both inputs, the second, the first (which is 1: a spike)
    assert (layers["n0"].macs, layers["n0"].acs, layers["n0"].dense) == (5 + 2, 3, 3 * 6)
    assert layers["n0"].input_activity == 4 / 6
    assert (layers["n0"].weights, layers["n0"].zero_weights) == (6, 1)
    assert (layers["n2"].macs, layers["n2"].acs) == (0, 2 * spikes.sum())
    assert 0 < spikes.sum() < 9
    assert layers["n1"].sparsity == found.activation_sparsity == 1 - spikes.sum() / 9
    assert layers["n1"].updates == 3 * 3
    assert layers["n1"].state_bytes == 3 * 4
    assert found.connection_sparsity == 1 / 12
    assert layers["n0"].parameter_bytes == 4 * (6 + 3)
    assert layers["n2"].parameter_bytes == 4 * 6


def test_energy_is_macs_and_acs_times_what_the_model_says():
    found = measure(conv_net(), frames(3, 2, 6, 6))
    total = found.total
    assert total.macs > 0
    assert total.acs > 0
    assert total.synaptic_nj == pytest.approx((4.6 * total.macs + 0.9 * total.acs) / 1000)
    assert total.neuron_nj == pytest.approx(4.6 * total.updates / 1000)
    assert total.dense_nj == pytest.approx(4.6 * total.dense / 1000)
    other = measure(conv_net(), frames(3, 2, 6, 6), energy=EnergyModel(2.0, 1.0, "ours"))
    assert other.total.synaptic_nj == pytest.approx((2 * total.macs + total.acs) / 1000)
    assert "ISSCC 2014" in found.energy.source


def binary(node, all_weights=False):
    """The node with 1 for every weight that is not zero (or for every weight), and no bias."""
    other = copy.deepcopy(node)
    other.weight = np.ones_like(node.weight) if all_weights else (np.asarray(node.weight) != 0).astype(np.float32)
    if hasattr(node, "bias"):
        other.bias = np.zeros_like(node.bias)
    return other


def conv(weight, stride=1, padding=0, dilation=1, groups=1, size=(5, 6)):
    kind = nir.Conv2d if weight.ndim == 4 else nir.Conv1d
    return kind(size if weight.ndim == 4 else size[1], weight, stride, padding, dilation, groups, full(0, len(weight)))


def weights(*shape):
    return np.random.default_rng(5).integers(-1, 2, size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("node", "in_shape"),
    [
        (nir.Linear(weights(4, 3)), (3,)),
        (nir.Affine(weights(2, 5, 4, 3), full(0, 2, 5, 4)), (2, 5, 3)),
        (conv(weights(4, 2, 3, 3)), (2, 5, 6)),
        (conv(weights(4, 2, 3, 2), stride=(2, 3), padding=(1, 2), dilation=(1, 2)), (2, 5, 6)),
        (conv(weights(4, 1, 2, 2), padding="same", dilation=(1, 3), groups=2), (2, 5, 6)),
        (conv(weights(4, 2, 2, 4), padding="same"), (2, 5, 6)),
        (conv(weights(6, 1, 3), stride=2, padding=1, groups=3), (3, 6)),
    ],
)
def test_fan_out_is_what_each_input_alone_reaches(node, in_shape):
    size = int(np.prod(in_shape))
    alone = np.eye(size, dtype=np.float32).reshape(size, *in_shape)
    found = of_node(node, in_shape)
    reached = STATELESS[type(node)](binary(node), alone).reshape(size, -1).sum(axis=1)
    assert found.effective.shape == in_shape
    np.testing.assert_array_equal(found.effective.reshape(-1), reached)
    every = STATELESS[type(node)](binary(node, all_weights=True), np.ones((1, *in_shape), np.float32))
    assert found.dense == every.sum() > reached.sum() > 0


def counted(graph, x, T=None):
    """Operations by running every node with weights on ones and zeros; by node [dense, macs, acs, active, inputs]."""
    made = program(graph)
    found = {path: np.zeros(5) for path, node in made.nodes.items() if isinstance(node.node, SYNAPTIC)}

    def watch(node, x, y):
        if node.path in found:
            active = (x != 0).astype(np.float32)
            dense = STATELESS[type(node.node)](binary(node.node, True), np.ones_like(x)).sum()
            effective = STATELESS[type(node.node)](binary(node.node), active).sum()
            spikes = set(np.unique(np.abs(x))) <= {0, 1}
            found[node.path] += [dense, 0 if spikes else effective, effective if spikes else 0, active.sum(), x.size]

    result = reference.run(graph, x, T=T, watch=watch)
    return found, result


def check_against_a_plain_count(graph, x, batch, T=None):
    found, (plain, result) = measure(graph, x, T=T), counted(graph, x, T)
    layers, made = by_name(found), program(graph)
    assert found.samples == batch
    for path, (dense, macs, acs, active, inputs) in plain.items():
        layer, still = layers[path], path in made.timeless and made.settings.input == "repeat"
        times = found.timesteps if still else 1
        assert layer.dense * batch == dense * times
        assert (layer.macs * batch, layer.acs * batch) == pytest.approx((macs * times, acs * times))
        assert layer.input_activity == pytest.approx(active / inputs)
    for path, spikes in result.spikes.items():
        assert layers[path].sparsity == pytest.approx((spikes == 0).mean())
    return found


@settings(max_examples=30)
@given(graph=random_graphs.graphs(T=4))
def test_random_feed_forward_graphs_cost_what_a_plain_count_says(graph):
    check_against_a_plain_count(graph, random_graphs.inputs(graph, 3, 4), 3)


@settings(max_examples=30)
@given(graph=random_programs.graphs())
def test_random_programs_with_loops_cost_what_a_plain_count_says(graph):
    check_against_a_plain_count(graph, random_programs.inputs(graph, 2), 2)


@pytest.mark.parametrize("mode", ["repeat", "sequence"])
def test_several_inputs_and_outputs(mode):
    found = check_against_a_plain_count(several.network(mode), several.inputs(mode), 4)
    assert 0 < found.activation_sparsity < 1


def test_parts_of_the_samples_are_one_measurement():
    """Whether a step has spikes only is said of all samples, so a part of them must not decide."""
    graph = chain(nir.Linear(weights(3, 4)), lif(3), shape=(4,), output=(3,), T=2, input="sequence")
    x = np.zeros((2, 4, 4), np.float32)
    x[0, 0, 0] = 0.5  # half a spike in the first sample, spikes in the last
    x[0, 2:, 0] = 1
    x[1, :, 1] = 1
    meter = Meter(program(graph), 2)
    for part in (x[:, :2], x[:, 2:]):
        meter.add(2, reference.run(graph, part, watch=meter.watch).spikes)
    assert meter.result() == measure(graph, x)
    assert by_name(measure(graph, x))["n0"].macs > 0
    assert by_name(measure(graph, x[:, 2:]))["n0"].macs == 0


def test_negative_spikes_need_no_multiplier_either():
    graph = chain(nir.Linear(weights(3, 4)), lif(3), shape=(4,), output=(3,), T=1, input="sequence")
    x = np.array([[[-1, 0, 1, 1]]], np.float32)
    layer = by_name(measure(graph, x))["n0"]
    assert (layer.macs, layer.acs) == (0, np.count_nonzero(weights(3, 4)[:, [0, 2, 3]]))
    layer = by_name(measure(graph, 2 * x))["n0"]
    assert layer.acs == 0 < layer.macs


def test_what_is_computed_once_counts_in_every_step():
    """A repeated frame: its Threshold and the weights behind it never change, and stand for all T steps."""
    graph = chain(nir.Threshold(full(0.5, 4)), nir.Linear(weights(3, 4)), lif(3), shape=(4,), output=(3,), T=5)
    graph.metadata["stdl.input"] = "repeat"
    x = np.array([[1, 0, 0, 1], [0, 1, 0, 0]], np.float32)
    found = measure(graph, x)
    layers = by_name(found)
    spikes = reference.run(graph, x).spikes["n2"]
    assert layers["n0"].sparsity == 5 / 8
    assert found.activation_sparsity == (5 * 5 + (spikes == 0).sum()) / (5 * 8 + spikes.size)
    assert layers["n1"].dense == 5 * 12
    used = np.count_nonzero(weights(3, 4), axis=0)
    assert layers["n1"].acs == 5 * (used[0] + used[3] + used[1]) / 2


def test_bytes_in_the_precision_of_the_graphs():
    graph, x = conv_net(), frames(2, 2, 6, 6)
    single = by_name(measure(graph, x))
    half = by_name(measure(graph, x, arithmetic=Arithmetic(precision="fp16", membrane="fp16", fp32_nodes=("readout",))))
    small = by_name(measure(graph, x, arithmetic=Arithmetic(precision="int8")))
    conv1, readout = 4 * 2 * 9, 5 * 36
    assert single["conv1"].stored_bytes == single["conv1"].parameter_bytes == 4 * (conv1 + 4)
    assert half["conv1"].stored_bytes == 2 * (conv1 + 4)
    assert half["readout"].stored_bytes == 4 * (readout + 5)
    assert small["conv1"].stored_bytes == conv1 + 4 * 4 + 4 * 4
    assert small["readout"].stored_bytes == readout + 4 * 5 + 4 * 5
    assert single["lif1"].state_bytes == 2 * half["lif1"].state_bytes == 4 * 4 * 36
    footprint = measure(graph, x, arithmetic=Arithmetic(precision="fp16", membrane="fp16")).footprint
    assert footprint == sum(layer.parameter_bytes + layer.state_bytes for layer in single.values())


def test_synapses_delays_and_feedback_are_states():
    small = full(0.5, 2)
    nodes = {
        "input": nir.Input(np.array([2])),
        "cuba": nir.CubaLIF(*(full(value, 2) for value in (2 * DT, 2 * DT, 1, 0, 0.25, 0, 1))),
        "late": nir.Delay(np.array([3 * DT, DT], np.float32)),
        "back": nir.Linear(np.diag(small)),
        "output": nir.Output(np.array([2])),
    }
    edges = [("input", "cuba"), ("cuba", "late"), ("late", "output"), ("cuba", "back"), ("back", "cuba")]
    graph = assemble(nodes, edges, T=4, input="sequence")
    layers = by_name(measure(graph, np.ones((4, 2, 2), np.float32)))
    assert layers["cuba"].updates == 2 * 2 * 4  # v and i
    assert layers["late"].state_bytes == 3 * 2 * 4
    fed_back = program(graph).fed_back
    assert sum(layers[path].state_bytes for path in {*fed_back, "cuba"}) == (2 + len(fed_back)) * 2 * 4


def test_a_network_that_never_spikes_and_one_without_weights():
    silent = chain(nir.Linear(full(0, 2, 2)), lif(2), shape=(2,), T=2, input="repeat")
    found = measure(silent, np.ones((1, 2), np.float32))
    assert (found.total.synops, found.activation_sparsity, found.connection_sparsity) == (0, 1, 1)
    bare = chain(nir.LI(full(DT, 2), full(1, 2), full(0, 2)), shape=(2,), T=2, input="repeat")
    found = measure(bare, np.ones((1, 2), np.float32))
    assert (found.activation_sparsity, found.connection_sparsity, found.total.dense) == (None, None, 0)
