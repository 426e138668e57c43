"""The methods: gradients against independent formulations, and that nothing crosses a step or a border."""

from __future__ import annotations

import copy

import pytest
import torch
from networks import plain_spec, residual_spec
from torch import nn
from training import batch, layout_of

from stdl_models.nets.registry import build_network
from stdl_models.network import batchnorms, step_chain
from stdl_train.memory import SavedBytes
from stdl_train.methods.base import Layout, MethodOptions, OptimizerOptions, Part, make_optimizer
from stdl_train.methods.registry import METHODS, build_method, build_subnetworks
from stdl_train.methods.stdl import Stdl

SGD = MethodOptions(optimizer=OptimizerOptions(name="sgd", lr=0.1, weight_decay=0.0))
WHOLE = Layout((Part(0, 4),))


def run_without_step(method, frame, labels, monkeypatch):
    """Train one batch, keep the gradients, take no step."""
    kept = {}

    def keep(optimizer, clip):
        kept.update({id(p): p.grad.clone() for group in optimizer.param_groups for p in group["params"]})
        optimizer.zero_grad()

    monkeypatch.setattr("stdl_train.methods.stdl.finish_step", keep)
    monkeypatch.setattr("stdl_train.methods.bptt.finish_step", keep)
    result = method.train_batch(frame, labels)
    return kept, result


@pytest.mark.parametrize("make", [plain_spec, residual_spec])
def test_one_subnetwork_and_one_step_is_backpropagation(make, monkeypatch):
    spec = make(T=1)
    torch.manual_seed(0)
    network = build_network(spec).train()
    twin = copy.deepcopy(network)
    frame, labels = batch(spec)
    online = build_method("online", network, Layout((Part(0, len(network.units) - 1),)), SGD)
    ours, result = run_without_step(online, frame, labels, monkeypatch)
    theirs, expected = run_without_step(build_method("bptt", twin, WHOLE, SGD), frame, labels, monkeypatch)
    torch.testing.assert_close(result.loss, expected.loss)
    torch.testing.assert_close(result.logits, expected.logits)
    for (name, p), q in zip(network.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours[id(p)], theirs[id(q)], rtol=1e-4, atol=1e-6, msg=name)
    assert any(ours[id(p)].abs().max() > 0 for p in network.units[0].parameters())


def detached(states):
    return [tuple(None if v is None else v.detach() for v in state) for state in states]


@pytest.mark.parametrize("make", [plain_spec, residual_spec])
def test_subnetwork_major_equals_time_major_bit_for_bit(make, monkeypatch):
    """The order of work is free: the same loops the other way round, written out here, give the same bits."""
    spec = make(T=4)
    torch.manual_seed(0)
    network = build_network(spec).train()
    method = build_method("stdl", network, layout_of(network), SGD)
    twins = copy.deepcopy(method.subnetworks)
    frame, labels = batch(spec)
    ours, _ = run_without_step(method, frame, labels, monkeypatch)

    states = [[None, None] for _ in twins]
    for _ in range(spec.T):
        x = frame
        for twin, state in zip(twins, states, strict=True):
            spikes, body = step_chain(twin.body, x.detach(), state[0])
            logits, head = step_chain(twin.head, spikes, state[1])
            state[:] = [detached(body), detached(head)]
            (nn.functional.cross_entropy(logits, labels) / spec.T).backward()
            x = spikes
    for subnetwork, twin in zip(method.subnetworks, twins, strict=True):
        for (name, p), q in zip(subnetwork.named_parameters(), twin.parameters(), strict=True):
            assert torch.equal(ours[id(p)], q.grad), name
        for a, b in zip(batchnorms(subnetwork), batchnorms(twin), strict=True):
            assert torch.equal(a.running_mean, b.running_mean)
            assert torch.equal(a.running_var, b.running_var)


def test_local_losses_reach_their_own_subnetwork_only():
    spec = plain_spec()
    network = build_network(spec).train()
    method = build_method("stdl", network, layout_of(network), SGD)
    frame, labels = batch(spec)
    first, second, third = method.subnetworks
    _, _, border = method.run_subnetwork(0, frame, labels)
    assert len(border) == spec.T
    assert all(p.grad is not None for p in first.parameters())
    first.zero_grad(set_to_none=True)
    method.run_subnetwork(1, border, labels)
    assert border == []  # each step's spikes are dropped once used
    assert all(p.grad is None for p in first.parameters())
    assert all(p.grad is None for p in third.parameters())
    assert all(p.grad is not None for p in second.parameters())


def test_no_gradient_crosses_time_steps():
    """The potential comes in without a graph behind it, from the second step on."""
    spec = plain_spec(T=2)
    network = build_network(spec).train()
    method = build_method("stdl", network, layout_of(network), SGD)
    seen = []
    unit = network.units[0]
    original = unit.chunk
    unit.chunk = lambda x, state: seen.append(state) or original(x, state)
    method.train_batch(*batch(spec))
    assert seen[0] == (None,)
    assert not seen[1][0].requires_grad


@pytest.mark.parametrize("make", [plain_spec, residual_spec])
def test_checkpointed_bptt_has_bptts_gradients_and_statistics(make, monkeypatch):
    spec = make(T=3)
    torch.manual_seed(0)
    network = build_network(spec).train()
    twin = copy.deepcopy(network)
    frame, labels = batch(spec)
    ours, _ = run_without_step(build_method("bptt-checkpoint", network, WHOLE, SGD), frame, labels, monkeypatch)
    theirs, _ = run_without_step(build_method("bptt", twin, WHOLE, SGD), frame, labels, monkeypatch)
    for (name, p), q in zip(network.named_parameters(), twin.named_parameters(), strict=True):
        assert torch.equal(ours[id(p)], theirs[id(q[1])]), name
    for a, b in zip(batchnorms(network), batchnorms(twin), strict=True):
        assert torch.equal(a.running_mean, b.running_mean)
        assert torch.equal(a.num_batches_tracked, b.num_batches_tracked)
        assert a.momentum == 0.1


@pytest.mark.parametrize("chunk", [1, 2])
@pytest.mark.parametrize("make", [plain_spec, residual_spec])
def test_checkpointed_online_has_onlines_gradients_and_statistics(make, chunk, monkeypatch):
    spec = make(T=3)
    torch.manual_seed(0)
    network = build_network(spec).train()
    twin = copy.deepcopy(network)
    frame, labels = batch(spec)
    layout = Layout((Part(0, len(spec.units) - 1),), time_chunk=chunk)
    ours, _ = run_without_step(build_method("online-checkpoint", network, layout, SGD), frame, labels, monkeypatch)
    theirs, _ = run_without_step(build_method("online", twin, layout, SGD), frame, labels, monkeypatch)
    for (name, p), q in zip(network.named_parameters(), twin.named_parameters(), strict=True):
        assert torch.equal(ours[id(p)], theirs[id(q[1])]), name
    for a, b in zip(batchnorms(network), batchnorms(twin), strict=True):
        assert torch.equal(a.running_mean, b.running_mean)
        assert torch.equal(a.num_batches_tracked, b.num_batches_tracked)


def test_bptt_does_carry_gradients_through_time():
    """What sets the methods apart: BPTT keeps all steps for backward, STDL one."""
    saved = {}
    for T in (2, 6):
        for name in ("bptt", "stdl"):
            network = build_network(plain_spec(T=T)).train()
            method = build_method(name, network, layout_of(network), SGD)
            with SavedBytes([p for part in method.parts for p in part.parameters()]) as count:
                method.train_batch(*batch(network.spec))
            saved[name, T] = count.peak
    assert saved["bptt", 6] > 2.5 * saved["bptt", 2]
    assert saved["stdl", 6] == saved["stdl", 2]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_learns_a_batch_by_heart(name):
    torch.manual_seed(0)
    spec = plain_spec(T=3)
    network = build_network(spec).train()
    options = MethodOptions(optimizer=OptimizerOptions(lr=1e-2))
    layout = layout_of(network, copies=0 if METHODS[name].copies == "none" else 1) if METHODS[name].splits else WHOLE
    method = build_method(name, network, layout, options)
    frame, labels = batch(spec)
    first = method.train_batch(frame, labels).loss[-1]
    for _ in range(40):
        last = method.train_batch(frame, labels).loss[-1]
    assert last < 0.5 * first
    assert all(p.grad is None for part in method.parts for p in part.parameters())


def test_subnetworks_share_the_networks_units_and_cover_them():
    network = build_network(plain_spec())
    subnetworks = build_subnetworks(network, layout_of(network))
    assert [unit for s in subnetworks for unit in s.body] == network.chain[:-1]
    assert subnetworks[-1].head == [network.readout]
    assert isinstance(build_method("stdl", network, layout_of(network), SGD), Stdl)


def test_clipping_and_decay_groups():
    network = build_network(plain_spec())
    optimizer = make_optimizer(OptimizerOptions(weight_decay=0.1), network.parameters())
    by_decay = {group["weight_decay"]: group["params"] for group in optimizer.param_groups}
    assert all(p.dim() > 1 for p in by_decay[0.1])
    assert all(p.dim() == 1 for p in by_decay[0.0])
    method = build_method(
        "bptt",
        network.train(),
        WHOLE,
        MethodOptions(optimizer=OptimizerOptions(name="sgd", lr=1.0, clip=1e-9, weight_decay=0)),
    )
    before = [p.detach().clone() for p in network.parameters()]
    method.train_batch(*batch(network.spec))
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(before, network.parameters(), strict=True))
