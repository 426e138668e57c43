"""Auxiliary networks: whatever units are chosen, their copies compose."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import network_specs, plain_spec, residual_spec

from stdl_models.nets.registry import build_network, network_spec
from stdl_models.network import InputSpec
from stdl_train.auxiliary import build_head, copy_spec
from stdl_train.split import cut_points


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
