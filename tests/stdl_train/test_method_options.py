"""What a method can be told: chunks, micro-batches, order, traces, losses, rates, precision, compilation."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace

import pytest
import torch
from networks import blocks_spec, plain_spec, residual_spec
from training import batch, gradients_of, layout_of

from stdl_export.common.errors import BadInput
from stdl_models.nets.registry import build_network
from stdl_models.network import batchnorms
from stdl_models.units.residual import SpikingResidualSpec
from stdl_train.methods.base import Layout, MethodOptions, OptimizerOptions, Part
from stdl_train.methods.losses import StepLoss
from stdl_train.methods.registry import build_method
from stdl_train.plan import PlanRequest
from stdl_train.plan_search import make_plan

SGD = OptimizerOptions(name="sgd", lr=0.1, weight_decay=0.0)
OPTIONS = MethodOptions(optimizer=SGD)
MAKES = pytest.mark.parametrize("make", [plain_spec, residual_spec])


def without_norm(spec):
    """Nothing is normalised, and thresholds are low, so that spikes reach the last layer all the same."""

    def changed(unit):
        return unit.model_copy(
            update={"norm": False, "neuron": unit.neuron.model_copy(update={"v_threshold": 0.02, "v_leak": 0.03})}
        )

    return spec.model_copy(update={"units": tuple(changed(u) if hasattr(u, "norm") else u for u in spec.units)})


def pair(spec, layout, other, options=OPTIONS, theirs=None, double=False):
    """Gradients and results of one batch under two layouts or options, from the same weights."""
    torch.manual_seed(0)
    ours = build_method("stdl", build_network(spec).train(), layout, options)
    twin = build_method("stdl", build_network(spec).train(), other, theirs or options)
    for a, b in zip(ours.parts, twin.parts, strict=True):
        b.load_state_dict(copy.deepcopy(a.state_dict()))
    frame, labels = batch(spec)
    return gradients_of(ours, frame, labels), gradients_of(twin, frame, labels), ours, twin


def assert_near(a, b, rtol=2e-4, atol=2e-6):
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=rtol, atol=atol, msg=name)
    assert all(value.abs().max() > 0 for name, value in a.items() if name.endswith("synapse.weight"))


@MAKES
@pytest.mark.parametrize("chunk", [2, 3, 5])
def test_time_chunk_does_not_change_gradients(make, chunk):
    spec = make(T=5)
    layout = layout_of(build_network(spec))
    (a, first), (b, second), ours, twin = pair(spec, layout, replace(layout, time_chunk=chunk))
    assert_near(a, b)
    torch.testing.assert_close(first.loss, second.loss)
    for x, y in zip(ours.parts, twin.parts, strict=True):
        for m, n in zip(batchnorms(x), batchnorms(y), strict=True):
            torch.testing.assert_close(m.running_mean, n.running_mean)
            assert torch.equal(m.num_batches_tracked, n.num_batches_tracked)


@MAKES
def test_time_major_order_gives_the_same_gradients_bit_for_bit(make):
    spec = make(T=4)
    layout = layout_of(build_network(spec), time_chunk=2)
    theirs = OPTIONS.model_copy(update={"order": "time"})
    (a, first), (b, second), *_ = pair(spec, layout, layout, theirs=theirs)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert torch.equal(first.logits, second.logits)
    torch.testing.assert_close(first.loss, second.loss)


@MAKES
def test_micro_batches_add_up_to_the_batch_where_nothing_is_normalised(make):
    spec = without_norm(make(T=3))
    layout = layout_of(build_network(spec))
    for pieces in (2, 3):
        (a, first), (b, second), *_ = pair(spec, layout, replace(layout, micro_batches=pieces))
        assert_near(a, b)
        torch.testing.assert_close(first.loss, second.loss)
        torch.testing.assert_close(first.logits, second.logits)


def test_bptt_in_micro_batches_adds_up_too():
    spec = without_norm(plain_spec(T=3))
    frame, labels = batch(spec)
    found = []
    for pieces in (1, 3):
        torch.manual_seed(0)
        layout = Layout((Part(0, 4),), micro_batches=pieces)
        found.append(gradients_of(build_method("bptt", build_network(spec).train(), layout, OPTIONS), frame, labels)[0])
    assert_near(*found)


def test_a_micro_batch_never_holds_a_single_sample():
    spec = plain_spec(T=2)
    layout = layout_of(build_network(spec), micro_batches=50)
    method = build_method("stdl", build_network(spec).train(), layout, OPTIONS)
    frame, labels = batch(spec, 5)
    assert len(method.train_batch(frame, labels).logits) == 5  # two pieces: batch normalisation takes no single sample


def test_traces_remember_earlier_spikes_in_weight_gradients_only():
    """Against the formula, on one layer: dL/dW = sum over t of dL/dcurrent[t] a[t]^T, a[t] = decay a[t-1] + x[t]."""
    spec = without_norm(plain_spec(T=3))
    layout = layout_of(build_network(spec))
    theirs = OPTIONS.model_copy(update={"traces": True})
    (plain, first), (traced, second), ours, _ = pair(spec, layout, layout, theirs=theirs)
    assert torch.equal(first.logits, second.logits)  # the forward pass is untouched
    name = "0._body.0.layer.synapse"
    decay = ours.subnetworks[0].body[0].layer.neuron.coefficients().decay
    torch.testing.assert_close(traced[f"{name}.bias"], plain[f"{name}.bias"])
    readout = "0._head.1.linear.weight"
    torch.testing.assert_close(
        traced[readout], plain[readout]
    )  # what reaches the layers is untouched, readout included

    frame, labels = batch(spec)
    neuron = ours.subnetworks[0].body[0].layer
    currents = []
    neuron.synapse.register_forward_hook(lambda _m, _i, y: currents.append(y) or y.retain_grad())
    ours.train_batch(frame, labels)
    expected, trace = torch.zeros_like(plain[f"{name}.weight"]), torch.zeros_like(frame)
    for current in currents:
        trace = decay * trace + frame
        expected += torch.nn.grad.conv2d_weight(
            trace, expected.shape, current.grad, neuron.synapse.stride, neuron.synapse.padding
        )
    torch.testing.assert_close(traced[f"{name}.weight"], expected, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(traced[f"{name}.weight"], plain[f"{name}.weight"], rtol=1e-2)


def test_a_shortcuts_current_has_traces_too():
    """It reaches the block's last neurons, whose leak the trace has."""
    spec = blocks_spec(SpikingResidualSpec, T=3)
    layout = layout_of(build_network(spec))
    (plain, _), (traced, _), *_ = pair(spec, layout, layout, theirs=OPTIONS.model_copy(update={"traces": True}))
    shortcuts = [name for name in plain if name.endswith("shortcut.synapse.weight")]
    assert shortcuts
    for name in shortcuts:
        assert not torch.allclose(traced[name], plain[name], rtol=1e-2)


@pytest.mark.parametrize("method", ["bptt", "bptt-checkpoint", "online-checkpoint"])
def test_methods_that_cannot_take_traces_say_so(method):
    options = OPTIONS.model_copy(update={"traces": True})
    with pytest.raises(BadInput, match=f"method {method} cannot take traces: leave them out, or use stdl, auglocal"):
        make_plan(plain_spec(), PlanRequest(method=method, batch=4, options=options))


@MAKES
def test_traces_do_not_depend_on_chunks(make):
    spec = make(T=4)
    layout = layout_of(build_network(spec))
    options = OPTIONS.model_copy(update={"traces": True})
    (a, _), (b, _), *_ = pair(spec, layout, replace(layout, time_chunk=3), options)
    assert_near(a, b)


def test_loss_on_running_means_equals_the_formula_for_every_chunk_size():
    torch.manual_seed(0)
    T, B, classes = 5, 4, 3
    logits, labels = torch.randn(T, B, classes), torch.arange(B) % classes
    options = MethodOptions(loss_on="mean", label_smoothing=0.2)
    leaf = logits.clone().requires_grad_()
    expected = torch.zeros(())
    for t in range(T):
        mean = (leaf[:t].detach().sum(0) + leaf[t]) / (t + 1)
        expected = expected + torch.nn.functional.cross_entropy(mean, labels, label_smoothing=0.2) / T
    expected.backward()
    for chunk in (1, 2, 5):
        judge, x = StepLoss(options, labels, T), logits.clone().requires_grad_()
        total = sum(judge(part) for part in x.split(chunk))
        total.backward()
        torch.testing.assert_close(total, expected)
        torch.testing.assert_close(x.grad, leaf.grad)
        torch.testing.assert_close(judge.sum, logits.sum(0))


def test_subnetworks_have_their_own_learning_rates():
    spec = plain_spec(T=2)
    options = MethodOptions(optimizer=SGD, subnetwork_lr=(1.0, 0.5, 2.0))
    method = build_method("stdl", build_network(spec).train(), layout_of(build_network(spec)), options)
    assert [o.param_groups[0]["lr"] for o in method.optimizers] == pytest.approx([0.1, 0.05, 0.2])
    with pytest.raises(BadInput, match="2 factors for 3 subnetworks"):
        make_plan(spec, PlanRequest("stdl", 4, MethodOptions(subnetwork_lr=(1.0, 2.0)), subnetworks=3))


@pytest.mark.parametrize("name", ["stdl", "bptt"])
def test_bfloat16_learns_and_keeps_weights_in_float32(name):
    spec = plain_spec(T=3)
    torch.manual_seed(0)
    network = build_network(spec).train()
    layout = layout_of(network) if name == "stdl" else Layout((Part(0, 4),))
    options = MethodOptions(optimizer=OptimizerOptions(lr=1e-2), precision="bf16")
    method = build_method(name, network, layout, options)
    seen = set()
    network.units[1].layer.synapse.register_forward_hook(lambda _m, _i, y: seen.add(y.dtype))
    frame, labels = batch(spec)
    losses = [float(method.train_batch(frame, labels).loss[-1]) for _ in range(40)]
    assert losses[-1] < 0.6 * losses[0]
    assert seen == {torch.bfloat16}
    assert {p.dtype for p in network.parameters()} == {torch.float32}


@MAKES
def test_auglocal_spreads_its_copies_evenly(make):
    spec = make()
    plan = make_plan(spec, PlanRequest("auglocal", 4, subnetworks=2, most_copies=2))
    assert plan.layout.parts[0].copies[-1] == max(
        i for i, unit in enumerate(build_network(spec).units) if unit.layers
    )  # the last copy is of the last unit
    assert all(a < b for part in plan.layout.parts for a, b in itertools.pairwise(part.copies))
