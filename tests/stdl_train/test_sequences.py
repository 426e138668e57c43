"""Input that changes over time: every method against plain definitions, its bytes, merging and golden samples."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import lively, plain_spec, residual_spec
from torch import nn
from training import gradients_of, layout_of

from stdl_models.nets.registry import build_network
from stdl_models.network import batchnorms, step_chain
from stdl_train.memory import count_step
from stdl_train.merge import merge, prove_equal, reestimate_batchnorm, run_chained, write_golden
from stdl_train.methods.base import Layout, MethodOptions, OptimizerOptions, Part
from stdl_train.methods.registry import METHODS, build_method
from stdl_train.plan import predict, predict_part

BATCH = 6
SGD = MethodOptions(optimizer=OptimizerOptions(name="sgd", lr=0.1, weight_decay=0.0))
MAKES = pytest.mark.parametrize("make", [plain_spec, residual_spec])


def timed(spec):
    """The same network for sequences."""
    return spec.model_copy(update={"input": spec.input.model_copy(update={"encoding": "frames"})})


def sequence_of(spec, size=BATCH):
    """Counts that differ from step to step, on which neurons spike, and labels."""
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(spec.T, size, *spec.input.shape, generator=generator) * 6
    return x.floor(), torch.arange(size) % len(spec.classes)


def made(name, spec, options=SGD, **layout):
    torch.manual_seed(0)
    network = build_network(spec).train()
    shape = layout_of(network) if METHODS[name].splits else Layout((Part(0, len(spec.units) - 1),))
    return build_method(name, network, replace(shape, **layout), options)


def same(ours, theirs, exactly=True):
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        if exactly:
            assert torch.equal(value, theirs[name]), name
        else:
            torch.testing.assert_close(value, theirs[name], rtol=2e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("options", [SGD, SGD.model_copy(update={"order": "time"})], ids=["subnetwork", "time"])
@pytest.mark.parametrize("name", list(METHODS))
def test_a_sequence_that_repeats_a_frame_is_that_frame_bit_for_bit(name, options):
    spec = plain_spec(T=3)
    frame = sequence_of(spec)[0][0]
    labels = torch.arange(BATCH) % 3
    ours, result = gradients_of(made(name, spec, options), frame.repeat(3, 1, 1, 1, 1), labels)
    theirs, expected = gradients_of(made(name, spec, options), frame, labels)
    same(ours, theirs)
    assert torch.equal(result.logits, expected.logits)


@MAKES
@pytest.mark.parametrize("name", ["stdl", "auglocal", "local", "online", "online-checkpoint"])
@pytest.mark.parametrize("order", ["subnetwork", "time"])
def test_decoupled_methods_equal_the_plain_loop_over_steps(make, name, order):
    """Step t shows x[t]; potentials come in detached; written out here, the same bits."""
    spec = timed(make(T=4))
    method = made(name, spec, SGD.model_copy(update={"order": order}))
    twins = copy.deepcopy(method.subnetworks)
    x, labels = sequence_of(spec)
    ours, result = gradients_of(method, x, labels)
    states, logits = [(None, None) for _ in twins], []
    for shown in x:
        for k, twin in enumerate(twins):
            spikes, body = step_chain(twin.body, shown.detach(), states[k][0])
            y, head = step_chain(twin.head, spikes, states[k][1])
            (nn.functional.cross_entropy(y, labels) / spec.T).backward()
            states[k] = tuple([tuple(None if v is None else v.detach() for v in s) for s in a] for a in (body, head))
            shown = spikes
        logits.append(y.detach())
    same(ours, {f"{k}.{n}": p.grad for k, twin in enumerate(twins) for n, p in twin.named_parameters()})
    torch.testing.assert_close(result.logits, torch.stack(logits).mean(0))
    for a, b in zip(batchnorms(nn.ModuleList(method.subnetworks)), batchnorms(nn.ModuleList(twins)), strict=True):
        assert torch.equal(a.running_mean, b.running_mean)
    again, _ = gradients_of(made(name, spec), x.flip(0), labels)
    assert any(not torch.equal(again[n], value) for n, value in ours.items())  # the order of the steps counts


@pytest.mark.parametrize("order", ["subnetwork", "time"])
@pytest.mark.parametrize("name", list(METHODS))
def test_labels_may_be_shares_of_the_classes(name, order):
    """Whole shares are the labels; mixed ones weigh the gradients of both."""
    spec, options = timed(plain_spec(T=3)), SGD.model_copy(update={"order": order})
    x, labels = sequence_of(spec)
    rows = torch.eye(3)
    hard, _ = gradients_of(made(name, spec, options, micro_batches=2), x, labels)
    soft, _ = gradients_of(made(name, spec, options, micro_batches=2), x, rows[labels])
    same(soft, hard, exactly=False)
    other, _ = gradients_of(made(name, spec, options, micro_batches=2), x, labels.flip(0))
    mixed, _ = gradients_of(
        made(name, spec, options, micro_batches=2), x, 0.25 * rows[labels] + 0.75 * rows[labels.flip(0)]
    )
    same(mixed, {n: 0.25 * hard[n] + 0.75 * other[n] for n in hard}, exactly=False)


@MAKES
@pytest.mark.parametrize("name", ["bptt", "bptt-checkpoint"])
def test_bptt_is_the_gradient_of_the_whole_sequence(make, name):
    spec = timed(make(T=4))
    method = made(name, spec)
    twin = copy.deepcopy(method.network)
    x, labels = sequence_of(spec)
    ours, _ = gradients_of(method, x, labels)
    sum(nn.functional.cross_entropy(y, labels) / spec.T for y in twin.sequence(x)).backward()
    same(ours, {f"0.{n}": p.grad for n, p in twin.named_parameters()}, exactly=False)


@MAKES
@pytest.mark.parametrize("name", ["stdl", "local", "online", "online-checkpoint"])
def test_chunks_of_steps_do_not_change_gradients(make, name):
    spec = timed(make(T=5))
    x, labels = sequence_of(spec)
    one, first = gradients_of(made(name, spec), x, labels)
    for chunk in (2, 5):
        more, result = gradients_of(made(name, spec, time_chunk=chunk), x, labels)
        same(more, one, exactly=False)
        torch.testing.assert_close(result.loss, first.loss)


@pytest.mark.parametrize("name", ["stdl", "online", "bptt"])
def test_micro_batches_split_samples_and_not_steps(name):
    """Pieces are normalised on their own, so their gradients are those of two batches, each weighed by its share."""
    spec = timed(plain_spec(T=6))  # as many steps as samples
    x, labels = sequence_of(spec)
    ours, result = gradients_of(made(name, spec, micro_batches=2), x, labels)
    pieces = [gradients_of(made(name, spec), x[:, part], labels[part])[0] for part in (slice(3), slice(3, 6))]
    same(ours, {n: (pieces[0][n] + pieces[1][n]) / 2 for n in ours}, exactly=False)
    assert result.logits.shape == (BATCH, 3)


@pytest.mark.parametrize("name", list(METHODS))
@pytest.mark.parametrize("more", [{}, {"micro_batches": 2}, {"time_chunk": 2}], ids=["plain", "pieces", "chunks"])
def test_predicted_bytes_are_counted_bytes(name, more):
    if "time_chunk" in more and not METHODS[name].chunks:
        pytest.skip("this method has no time chunks")
    spec = timed(plain_spec(T=5))
    method = made(name, spec, **more)
    measured = count_step(method, *sequence_of(spec))
    predicted = predict(spec, name, method.layout, BATCH, SGD)
    assert (predicted.saved, predicted.live, predicted.fixed) == (measured.saved, measured.live, measured.fixed)
    repeated = predict(plain_spec(T=5), name, method.layout, BATCH, SGD)
    assert predicted.fixed - repeated.fixed == 4 * BATCH * 2 * 6 * 6 * 4  # four frames more of float32


@pytest.mark.parametrize(("chunk", "pieces"), [(1, 1), (2, 1), (1, 2), (2, 3)])
def test_bytes_of_parts_add_up_to_those_of_the_step(chunk, pieces):
    spec = timed(plain_spec(T=6))
    layout = layout_of(build_network(spec), time_chunk=chunk, micro_batches=pieces)
    parts = [predict_part(spec, "stdl", layout, k, BATCH, SGD) for k in range(3)]
    whole = predict(spec, "stdl", layout, BATCH, SGD)
    assert {part.batch for part in parts} == {6 * BATCH * 2 * 6 * 6 * 4 + 8 * BATCH}
    total = sum(p.fixed for p in parts) + max(p.added for p in parts) + parts[0].batch
    assert abs(total - whole.live) <= 0.005 * whole.live


@MAKES
def test_merging_is_proved_on_sequences(make):
    spec = timed(make(T=4))
    method = made("stdl", spec)
    lively(method.network)
    x, _ = sequence_of(spec)
    merged = merge(method, x)
    with torch.no_grad():
        bodies = [part.body for part in method.subnetworks]
        for part in method.subnetworks:
            part.eval()
        expected = run_chained(bodies, method.network.readout, x)
        assert torch.equal(merged(x), expected)
        assert not torch.equal(merged(x), merged(x[0]))
        torch.testing.assert_close(merged.sequence(x), merged(x))
    prove_equal(bodies, method.network.readout, merged, x)
    with pytest.raises(ValueError, match="a sequence of 3 time steps was given to a network of 4"):
        merged(x[:3])


def test_statistics_are_estimated_again_over_every_step():
    spec = timed(plain_spec(T=3))
    network = lively(build_network(spec))
    x, _ = sequence_of(spec)
    reestimate_batchnorm(network, [x, x[:, :1]])  # a batch of one has no statistics, however many steps
    first = next(batchnorms(network))
    with torch.no_grad():
        current = network.units[0].layers[0].synapse(x.flatten(0, 1))
    torch.testing.assert_close(first.running_mean, current.mean((0, 2, 3)))


def test_golden_samples_keep_time_in_front(tmp_path):
    spec = timed(plain_spec(T=4))
    network = lively(build_network(spec))
    x, labels = sequence_of(spec, 5)
    write_golden(network, x, labels, tmp_path / "golden.npz", batch=2)
    with np.load(tmp_path / "golden.npz") as golden, torch.no_grad():
        assert golden["input"].shape == (4, 5, 2, 6, 6)
        np.testing.assert_array_equal(golden["input"], x.numpy())
        np.testing.assert_allclose(golden["output"], network(x).numpy(), atol=1e-5)
        assert golden["count:c1.lif"].shape[0] == 5
        assert golden["count:c1.lif"].sum() > 0
