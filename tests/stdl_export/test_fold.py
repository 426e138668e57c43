"""Folding batch normalisation keeps the function, within rounding."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import lively, network_specs, residual_spec
from torch import nn

from stdl_export.fold import fold, fold_layer
from stdl_models.nets.registry import build_network
from stdl_models.network import batchnorms
from stdl_models.recorder import SpikeRecorder
from stdl_models.units.layers import spiking_neurons

MARGIN = 1e-4


@given(spec=network_specs(), seed=st.integers(0, 1000))
@settings(max_examples=30)
def test_folding_any_network_keeps_every_layer(spec, seed):
    """Layer by layer, each fed the same input: outputs agree wherever no potential is next to its threshold."""
    network = lively(build_network(spec), seed=seed)
    folded = fold(network)
    assert not list(batchnorms(folded))
    frame = torch.rand(3, *spec.input.shape, generator=torch.Generator().manual_seed(seed)) * 2
    with torch.no_grad():
        x, state = frame, None
        for unit, other in zip(network.chain, folded.chain, strict=True):
            y, state = unit.step(x, unit.rest)
            z, other_state = other.step(x, other.rest)
            # a potential next to its threshold may fall on either side; no test network has 1 % of them there
            assert (y - z).abs().gt(MARGIN).float().mean() < 0.01
            for v, w in zip(state, other_state, strict=True):
                if v is not None:
                    assert (v - w).abs().gt(MARGIN).float().mean() < 0.01
            x = y


def test_folding_is_computed_in_double_precision():
    """gamma/sqrt(var + eps) is applied in float64 and rounded once: no entry is further than half a unit from exact."""
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5).eval()
    norm.running_var.uniform_(0.01, 3)
    norm.running_mean.normal_()
    norm.weight.data.normal_()
    norm.bias.data.normal_()
    weight, bias = fold_layer(conv, norm)
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    exact = conv.weight.double() * scale.view(-1, 1, 1, 1)
    assert torch.equal(weight, exact.float())
    assert torch.equal(bias, ((conv.bias.double() - norm.running_mean.double()) * scale + norm.bias.double()).float())
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(nn.functional.conv2d(x, weight, bias), norm(conv(x)), rtol=1e-4, atol=1e-5)


def test_a_network_without_normalisation_and_its_original_are_left_alone():
    network = lively(build_network(residual_spec()))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    again = fold(fold(network))
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    frame = torch.rand(2, 2, 6, 6)
    with torch.no_grad():
        assert torch.equal(again(frame), fold(network)(frame))


def test_folding_keeps_neurons_and_names():
    network = lively(build_network(residual_spec()))
    folded = fold(network)
    pairs = zip(spiking_neurons(network), spiking_neurons(folded), strict=True)
    for (name, neuron), (other_name, other) in pairs:
        assert name == other_name
        assert all(torch.equal(neuron.fields[field], other.fields[field]) for field in neuron.fields)
    with SpikeRecorder(folded) as recorder:
        folded(torch.rand(2, 2, 6, 6))
    assert len(recorder.spikes) == 8
