"""Bytes of a step: predicted equals measured, and what grows with T is what is kept at the borders."""

from __future__ import annotations

import pytest
import torch
from networks import plain_spec, residual_spec

from stdl_export.common.errors import BadInput
from stdl_models.nets.registry import build_network
from stdl_train.borders import packed_bytes
from stdl_train.loop import Data, evaluate
from stdl_train.memory import LiveBytes, SavedBytes, count_step, parse_bytes, show_bytes
from stdl_train.methods.base import OptimizerOptions
from stdl_train.methods.registry import METHODS, Part, build_method
from stdl_train.plan import PlanRequest, make_plan, predict
from stdl_train.split import border_values

BATCH = 3


def parts_for(spec, name):
    return make_plan(spec, PlanRequest(name, BATCH, 3, OptimizerOptions())).parts


def measure(spec, name, parts, options):
    torch.manual_seed(0)
    network = build_network(spec).train()
    method = build_method(name, network, parts, options)
    return count_step(method, torch.rand(BATCH, *spec.input.shape), torch.arange(BATCH) % 3)


@pytest.mark.parametrize("options", [OptimizerOptions(), OptimizerOptions(name="sgd")], ids=["adamw", "sgd"])
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("make", [plain_spec, residual_spec])
def test_predicted_bytes_equal_measured_bytes(make, name, options):
    spec = make(T=3)
    parts = parts_for(spec, name)
    assert predict(spec, name, parts, BATCH, options) == measure(spec, name, parts, options)


@pytest.mark.parametrize("make", [plain_spec, residual_spec])
def test_stdl_grows_with_t_by_the_spikes_at_the_borders_and_nothing_else(make):
    """Bytes saved for backward do not grow at all; live bytes grow by at most the packed borders of the extra steps."""
    parts = parts_for(make(T=4), "stdl")
    options = OptimizerOptions()
    steps = {T: measure(make(T=T), "stdl", parts, options) for T in (4, 8, 16)}
    assert steps[4].saved == steps[8].saved == steps[16].saved
    network = build_network(make(T=4))
    border = [
        packed_bytes(BATCH * torch.Size(network.units[part.last].out_shape).numel(), most)
        for part in parts[:-1]
        if (most := border_values(network.chain)[part.last])
    ]
    most_per_step = max(
        a + b for a, b in zip([0, *border], [*border, 0], strict=True)
    )  # one goes out while one comes in
    for longer in (8, 16):
        assert 0 <= steps[longer].live - steps[4].live <= (longer - 4) * most_per_step
    bptt = {T: measure(make(T=T), "bptt", (), options) for T in (4, 16)}
    assert bptt[16].saved > 3.5 * bptt[4].saved


def test_states_and_gradients_of_one_subnetwork_at_a_time():
    """When a subnetwork begins, nothing of the one before it is alive but its border."""
    spec = plain_spec(T=4)
    network = build_network(spec).train()
    method = build_method("stdl", network, parts_for(spec, "stdl"), OptimizerOptions())
    original = method.run_subnetwork
    alive = []

    def spy(subnetwork, inputs, labels, most):
        alive.append(sum(p.grad is not None for part in method.parts for p in part.parameters()))
        return original(subnetwork, inputs, labels, most)

    method.run_subnetwork = spy
    with SavedBytes([]) as saved:
        method.train_batch(torch.rand(BATCH, *spec.input.shape), torch.arange(BATCH) % 3)
    assert alive == [0] * len(method.subnetworks)
    assert saved.now == 0


def test_saved_bytes_count_a_storage_once_and_leave_weights_out():
    weight = torch.randn(10, 10, requires_grad=True)
    x = torch.randn(5, 10)
    with SavedBytes([weight]) as saved:
        y = x @ weight + (x * 2).exp() * 0 @ weight  # x once, exp's result is not saved: it needs no gradient
        assert saved.now == 2 * x.numel() * 4
        del y
    assert saved.now == 0


@pytest.mark.parametrize(
    ("text", "count"),
    [("4GiB", 4 << 30), ("512 MiB", 512 << 20), ("1.5GB", 1_500_000_000), ("1000", 1000), ("2kB", 2000)],
)
def test_sizes(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["4 gigs", "", "-1GiB", "0", "GiB"])
def test_bad_sizes(text):
    with pytest.raises(BadInput, match="write a size such as 4GiB"):
        parse_bytes(text)


def test_a_shown_size_is_enough():
    assert show_bytes(1536) == "1.50 KiB"
    for count in (1536, 1234567, 3 << 30):
        assert parse_bytes(show_bytes(count)) >= count


def test_evaluation_does_not_grow_with_t_either():
    peaks = {}
    for T in (4, 16):
        network = build_network(plain_spec(T=T)).eval()
        images, labels = torch.rand(20, 2, 6, 6), torch.zeros(20, dtype=torch.long)
        data = Data(images, labels, torch.zeros(2, 1, 1), torch.ones(2, 1, 1))
        with LiveBytes([*network.parameters(), images]) as live:
            evaluate(network, data, batch=10)
        peaks[T] = live.peak
    logits = 10 * 3 * 4
    assert peaks[16] - peaks[4] <= 3 * 12 * logits  # the logits of the steps, nothing else


@pytest.mark.parametrize(("name", "states"), [("adamw", 2), ("sgd", 1)])
def test_fixed_bytes_are_weights_optimizer_state_buffers_and_the_batch(name, states):
    spec = plain_spec()
    one = predict(spec, "online", (Part(0, 4),), BATCH, OptimizerOptions(name=name))
    network = build_network(spec)
    weights = sum(p.numel() * 4 for p in network.parameters())
    buffers = sum(b.numel() * b.element_size() for b in network.buffers())
    counters = 4 * len(list(network.parameters())) if name == "adamw" else 0  # AdamW counts its steps
    batch = BATCH * (2 * 6 * 6 * 4 + 8)
    assert one.fixed == (1 + states) * weights + buffers + counters + batch
    assert one.live > one.fixed
