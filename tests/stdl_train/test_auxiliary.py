"""Auxiliary networks: the search is exact, and what it finds composes."""

from __future__ import annotations

import random
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import network_specs, plain_spec, residual_spec

from stdl_models.nets.registry import build_network, network_spec
from stdl_models.network import InputSpec
from stdl_train.auxiliary import build_head, copy_spec, largest_subset
from stdl_train.split import cut_points


def brute_force(start, candidates, end, cost, budget, most):
    """Every subset, tried: the largest that fits, of these the most uniformly spread, of these the cheapest."""
    best = None
    for size in range(min(most, len(candidates)) + 1):
        for subset in combinations(candidates, size):
            chain = (start, *subset)
            total = sum(cost(i, j) for i, j in zip(chain, subset, strict=False))
            if total <= budget:
                spread = sum((b - a) ** 2 for a, b in zip(chain, (*subset, end), strict=True))
                key = (-size, spread, total)
                best = min(best, (key, subset)) if best else (key, subset)
    return best


@given(seed=st.integers(0, 10_000), count=st.integers(1, 9), most=st.integers(1, 9), share=st.floats(0, 1))
@settings(max_examples=300)
def test_the_search_equals_brute_force(seed, count, most, share):
    draw = random.Random(seed)
    start, candidates = 2, sorted(draw.sample(range(3, 14), count))
    table = {(i, j): draw.randint(1, 30) for i in (start, *candidates) for j in candidates}
    cost = lambda i, j: table[i, j]  # noqa: E731
    budget = share * sum(table.values()) / count
    found = largest_subset(start, candidates, 14, cost, budget, most)
    (size, spread, total), _ = brute_force(start, candidates, 14, cost, budget, most)
    chain = (start, *found)
    assert len(found) == -size
    if found:
        assert sum((b - a) ** 2 for a, b in zip(chain, (*found, 14), strict=True)) == spread
        assert sum(cost(i, j) for i, j in zip(chain, found, strict=False)) == total


def test_copies_follow_the_networks_resolution_and_widths():
    network = build_network(network_spec("vgg11", InputSpec(shape=(3, 32, 32)), ("x", "y"), T=2))
    names = [unit.name for unit in network.chain]
    before, conv3, fc2 = names.index("conv1"), names.index("conv3"), names.index("fc2")
    shape = network.chain[before].out_shape
    assert copy_spec(network, before, conv3, shape).stride == 4  # 32 -> 8
    assert copy_spec(network, before, conv3, shape).channels == 256
    assert copy_spec(network, before, fc2, shape).pool == 16  # 32 -> the 2x2 map that the linear layers read
    head = build_head(network, before, (conv3, fc2))
    assert [unit.out_shape for unit in head] == [(256, 8, 8), (512,), (2,)]


@pytest.mark.parametrize("make", [plain_spec, residual_spec])
def test_copies_have_weights_of_their_own(make):
    network = build_network(make())
    head = build_head(network, 0, (1,))
    copied, original = (list(unit.parameters()) for unit in (head[0], network.units[1]))
    assert {p.data_ptr() for p in copied}.isdisjoint(p.data_ptr() for p in original)


@given(spec=network_specs(), data=st.data())
@settings(max_examples=30)
def test_any_subset_composes_behind_any_cut(spec, data):
    network = build_network(spec)
    cuts = cut_points(network)
    if not cuts:
        return
    cut = data.draw(st.sampled_from(cuts))
    later = [i for i in range(cut + 1, len(network.units)) if network.units[i].layers]
    copies = sorted(data.draw(st.sets(st.sampled_from(later))))
    x = torch.rand(2, *network.units[cut].out_shape)
    for unit in build_head(network, cut, copies):
        x, _ = unit.step(x, unit.rest)
    assert x.shape == (2, len(spec.classes))
