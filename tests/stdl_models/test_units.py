"""Units: one computation, three ways to run it; blocks by their definition."""

from __future__ import annotations

import copy
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import BLOCKS, blocks_spec, lively, make_spec, network_specs, neuron, plain_spec
from torch import nn

from stdl_models.nets.registry import build_network
from stdl_models.network import batchnorms, chunk_chain, step_chain
from stdl_models.neurons import NeuronKind, NeuronSpec
from stdl_models.units.registry import UNITS, UnitSpec, build_unit
from stdl_models.units.residual import SpikingResidualSpec
from stdl_models.units.simple import LinearSpec, ModuleSpec, PoolSpec, ReadoutSpec


def test_the_registrys_tables_agree():
    union = get_args(get_args(UnitSpec)[0])
    assert {*union, ReadoutSpec} == set(UNITS)


def detached(states):
    return [tuple(None if v is None else v.detach() for v in state) for state in states]


def by_steps(network, x, states=None):
    """What a chunk is defined by: steps with the state detached in between."""
    outputs = []
    for frame in x:
        y, states = step_chain(network.chain, frame, states)
        states = detached(states)
        outputs.append(y)
    return torch.stack(outputs), states


def gradients(network, y, x):
    weights = list(network.parameters())
    loss = (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum()
    return torch.autograd.grad(loss, [x, *weights], allow_unused=True)


def same_states(a, b):
    return all(
        (v is None and w is None) or torch.equal(v, w)
        for one, other in zip(a, b, strict=True)
        for v, w in zip(one, other, strict=True)
    )


@given(spec=network_specs(), c=st.integers(1, 3), seed=st.integers(0, 99), train=st.booleans())
@settings(max_examples=25, deadline=None)
def test_a_chunk_is_its_steps(spec, c, seed, train):
    """Outputs, states and running statistics of two chunks in a row; float64, so that sums in any order agree."""
    chunked = lively(build_network(spec), seed=seed).double().train(train)
    stepped = copy.deepcopy(chunked)
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(2 * c, 3, *spec.input.shape, dtype=torch.float64, generator=generator).requires_grad_()
    want, want_states = by_steps(stepped, x)
    first, states = chunk_chain(chunked.chain, x[:c], None)
    second, states = chunk_chain(chunked.chain, x[c:], states)
    got = torch.cat([first, second])
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    for state, other in zip(states, want_states, strict=True):
        for v, w in zip(state, other, strict=True):
            assert v is None or not v.requires_grad
            torch.testing.assert_close(v, w, rtol=1e-12, atol=1e-12)
    ours, theirs = gradients(chunked, got, x), gradients(stepped, want, x)
    # norms over features that hardly vary make gradients of 1e6, whose sums cancel in layers in front of them:
    # rounding is measured against the largest of all
    largest = max((float(b.abs().max()) for b in theirs if b is not None), default=0.0)
    for a, b in zip(ours, theirs, strict=True):
        if a is not None or b is not None:
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12 * max(1.0, largest))
    for norm, other in zip(batchnorms(chunked), batchnorms(stepped), strict=True):
        torch.testing.assert_close(norm.running_var, other.running_var, rtol=1e-12, atol=1e-12)
        assert norm.num_batches_tracked == other.num_batches_tracked


@pytest.mark.parametrize("kind", [kind for kind in get_args(NeuronKind) if kind != "LI"])
@pytest.mark.parametrize("block", BLOCKS)
def test_a_chunk_of_one_step_is_the_step_bit_for_bit(block, kind):
    chunked = build_network(blocks_spec(block, neuron_spec=NeuronSpec(kind=kind, v_threshold=0.4))).train()
    stepped = copy.deepcopy(chunked)
    x = torch.rand(3, 4, 2, 6, 6, requires_grad=True)
    states = other = None
    for frame in x:
        y, other = step_chain(stepped.chain, frame, other)
        other = detached(other)
        z, states = chunk_chain(chunked.chain, frame[None], states)
        assert torch.equal(z[0], y)
        assert same_states(states, other)
        for a, b in zip(gradients(chunked, z, x), gradients(stepped, y, x), strict=True):
            assert (a is None and b is None) or torch.equal(a, b)


def test_no_gradient_crosses_the_steps_of_a_chunk():
    network = build_network(plain_spec(neuron_spec=neuron(v_threshold=0.4))).eval()
    x = torch.rand(3, 2, 2, 6, 6, requires_grad=True)
    y, _ = chunk_chain(network.chain, x, None)
    (grad,) = torch.autograd.grad(y[1].sum(), x)
    assert grad[1].abs().sum() > 0
    assert grad[0].abs().sum() == grad[2].abs().sum() == 0
    (through_time,) = torch.autograd.grad(network.sequence(x)[1].sum(), x)
    assert through_time[0].abs().sum() > 0


def test_a_smoothing_readout_has_chunks():
    readout = ReadoutSpec(classes=3, neuron=NeuronSpec(kind="LI", beta=0.5))
    network = build_network(plain_spec().model_copy(update={"readout": readout})).eval()
    x = torch.rand(4, 2, 2, 6, 6)
    with torch.no_grad():
        got, states = chunk_chain(network.chain, x, None)
        want, other = by_steps(network, x)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(states[-1][0], other[-1][0])


def test_a_spiking_residual_adds_currents_in_front_of_the_last_neuron():
    """By hand: threshold 1, both currents 0.6: neither fires alone, the sum does, and only binary spikes come out."""
    unit = build_unit(
        SpikingResidualSpec(name="r", channels=1, norm=False, neuron=NeuronSpec(kind="IF")), (1, 1, 1), 1e-4
    )
    for layer, weight in ((unit.a, 3.0), (unit.b, 0.6)):
        layer.synapse.weight.data.zero_()
        layer.synapse.weight.data[..., 1, 1] = weight
        layer.synapse.bias.data.zero_()
    y, state = unit.step(torch.full((1, 1, 1, 1), 0.6), unit.rest)  # a fires: 1.8 > 1, b's current 0.6, shortcut 0.6
    assert y.item() == 1.0
    y, state = unit.step(torch.full((1, 1, 1, 1), 0.1), state)  # a: 0.3, b: 0, shortcut 0.1
    assert y.item() == 0.0
    assert state[1].item() == pytest.approx(0.1)
    assert unit.most(3) == 1
    assert len(unit.layers) == len(unit.rest) == 2


@pytest.mark.parametrize("block", BLOCKS)
def test_what_a_border_can_carry_is_never_exceeded(block):
    network = lively(build_network(blocks_spec(block)))
    most, x, states = None, torch.rand(4, 2, 6, 6), None
    seen = {}
    for _ in range(4):
        y, states, after = x, states or [unit.rest for unit in network.chain], []
        for unit, state in zip(network.chain, states, strict=True):
            y, state = unit.step(y, state)
            after.append(state)
            seen[unit.name] = max(seen.get(unit.name, 0), y.max().item())
        states = after
    for unit in network.units:
        most = unit.most(most)
        assert most is not None
        assert seen[unit.name] <= most


def test_a_bottleneck_is_four_times_narrower_inside():
    network = build_network(blocks_spec(BLOCKS[1]))
    unit = network.units[2]
    assert [layer.synapse.weight.shape[0] for layer in unit.layers] == [3, 3, 12, 12]
    assert [layer.synapse.kernel_size[0] for layer in unit.layers] == [1, 3, 1, 1]
    assert [layer.synapse.stride[0] for layer in unit.layers] == [1, 2, 1, 2]


def test_a_global_pool_fits_maps_that_are_not_square():
    unit = build_unit(LinearSpec(name="f", features=3, pool="global"), (2, 4, 6), 1e-4)
    assert unit.flat(torch.ones(5, 2, 4, 6)).shape == (5, 2)
    with pytest.raises(ValueError, match="unit 'f'"):
        build_unit(LinearSpec(name="f", features=3, pool=8), (2, 4, 6), 1e-4)


def test_a_module_runs_in_all_three_ways_and_a_copy_is_its_own():
    pool = nn.MaxPool2d(2)
    units = [*plain_spec().units[:2], ModuleSpec(name="m", what="MaxPool2d(2)", module=pool), *plain_spec().units[3:]]
    network = lively(build_network(make_spec(units)))
    x = torch.rand(3, 2, 2, 6, 6)
    with torch.no_grad():
        steps, _ = by_steps(network, x)
        chunk, _ = chunk_chain(network.chain, x, None)
        torch.testing.assert_close(chunk, steps)
        torch.testing.assert_close(network.sequence(x), steps)
    assert network.units[2].module is not pool
    assert network.units[2].out_shape == (6, 1, 1)
    with torch.device("meta"):
        assert build_network(network.spec).units[2].out_shape == (6, 1, 1)


def test_a_module_must_give_one_tensor_a_sample():
    spec = ModuleSpec(name="m", what="Flatten", module=nn.Flatten(0))
    with pytest.raises(ValueError, match="does not give one tensor"):
        build_unit(spec, (2, 3, 3), 1e-4)
    assert build_unit(PoolSpec(name="p"), (2, 4, 4), 1e-4).out_shape == (2, 2, 2)
