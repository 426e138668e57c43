"""Where a network is cut."""

from __future__ import annotations

from itertools import combinations, pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import make_spec, neuron, plain_spec, residual_spec

from stdl_models.nets.registry import build_network
from stdl_models.recorder import SpikeRecorder
from stdl_models.units.residual import ResidualSpec
from stdl_models.units.simple import ConvSpec, PoolSpec
from stdl_train.split import balanced_cuts, border_values, cut_points


def largest(costs, cuts):
    edges = [0, *(cut + 1 for cut in cuts), len(costs)]
    return max(sum(costs[a:b]) for a, b in pairwise(edges))


@given(
    costs=st.lists(st.integers(0, 20), min_size=2, max_size=9),
    count=st.integers(0, 4),
    data=st.data(),
)
def test_balanced_cuts_equal_brute_force(costs, count, data):
    candidates = sorted(data.draw(st.sets(st.integers(0, len(costs) - 2), min_size=1)))
    count = min(count, len(candidates))
    cuts = balanced_cuts(costs, candidates, count)
    assert len(cuts) == count
    assert set(cuts) <= set(candidates)
    assert cuts == sorted(set(cuts))
    best = min(largest(costs, option) for option in combinations(candidates, count))
    assert largest(costs, cuts) == best


def test_cuts_stand_behind_spikes_and_leave_neurons_to_the_last_part():
    network = build_network(plain_spec())
    assert [network.units[i].name for i in cut_points(network)] == ["c1", "c2", "c3"]  # not the pool, not f1
    network = build_network(residual_spec())
    assert border_values(network.chain) == [1, 2, 3, 2, None]


def test_no_cut_where_averages_flow_through_a_shortcut():
    units = [
        ConvSpec(name="c", channels=2, neuron=neuron()),
        PoolSpec(name="p"),
        ResidualSpec(name="identity", channels=2, neuron=neuron()),  # a spike plus an average: not a whole number
        ResidualSpec(name="wider", channels=4, neuron=neuron()),
        ConvSpec(name="d", channels=2, neuron=neuron()),
    ]
    network = build_network(make_spec(units, shape=(1, 8, 8)))
    assert [network.units[i].name for i in cut_points(network)] == ["c", "wider"]


def test_border_values_bound_what_really_comes_out():
    network = build_network(residual_spec()).train()
    x = torch.rand(8, 2, 6, 6) * 4
    with SpikeRecorder(network):
        for unit, most in zip(network.units, border_values(network.chain), strict=False):
            x, _ = unit.step(x, unit.rest)
            assert x.max() <= most
            assert torch.equal(x, x.round())
