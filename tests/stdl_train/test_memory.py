"""Bytes of a step: predicted equals measured, and what grows with T is what is kept at the borders."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from networks import plain_spec, residual_spec

from stdl_export.common.errors import BadInput
from stdl_models.nets.registry import build_network
from stdl_train.borders import packed_bytes
from stdl_train.loading import Data
from stdl_train.loop import evaluate
from stdl_train.memory import LiveBytes, SavedBytes, count_step, parse_bytes, show_bytes
from stdl_train.methods.base import Layout, MethodOptions, OptimizerOptions, Part
from stdl_train.methods.registry import METHODS, build_method
from stdl_train.plan import PlanRequest, predict, predict_part
from stdl_train.plan_search import make_plan
from stdl_train.split import border_values

BATCH = 3


WHOLE = Layout((Part(0, 4),))
SGD = MethodOptions(optimizer=OptimizerOptions(name="sgd"))


def layout_for(spec, name, **more):
    return make_plan(spec, PlanRequest(name, BATCH, subnetworks=3, **more)).layout


def measure(spec, name, layout, options, batch=BATCH):
    torch.manual_seed(0)
    network = build_network(spec).train()
    method = build_method(name, network, layout, options)
    return count_step(method, torch.rand(batch, *spec.input.shape), torch.arange(batch) % 3)


OPTIONS = {
    "adamw": MethodOptions(),
    "sgd": SGD,
    "time-major": MethodOptions(order="time"),
    "bf16": MethodOptions(precision="bf16"),
    "traces": MethodOptions(traces=True, loss_on="mean", label_smoothing=0.1),
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("make", [plain_spec, residual_spec])
def test_predicted_bytes_equal_measured_bytes(make, name, options):
    spec = make(T=3)
    layout = layout_for(spec, name)
    assert predict(spec, name, layout, BATCH, options) == measure(spec, name, layout, options)


@pytest.mark.parametrize("order", ["subnetwork", "time"])
@pytest.mark.parametrize("make", [plain_spec, residual_spec])
def test_predicted_bytes_of_chunks_micro_batches_and_thin_copies(make, order):
    spec, options = make(T=5), MethodOptions(order=order)
    layout = layout_for(spec, "stdl", time_chunk=2, micro_batches=1, width=0.5)
    assert predict(spec, "stdl", layout, BATCH, options) == measure(spec, "stdl", layout, options)
    layout = replace(layout, micro_batches=2)
    predicted = predict(spec, "stdl", layout, 5, options)
    assert predicted == measure(spec, "stdl", layout, options, batch=5)
    assert predicted.live < predict(spec, "stdl", replace(layout, micro_batches=1), 5, options).live


@pytest.mark.parametrize(("pieces", "T", "chunk"), [(1, 4, 1), (2, 4, 1), (3, 4, 1), (1, 11, 1), (2, 7, 2)])
@pytest.mark.parametrize("make", [plain_spec, residual_spec])
def test_a_step_is_the_sum_of_what_is_fixed_and_the_largest_turn(make, pieces, T, chunk):
    """What the search relies on: subnetworks counted one by one give the bytes of the whole step."""
    spec, options = make(T=T), MethodOptions()
    layout = replace(layout_for(spec, "stdl"), micro_batches=pieces, time_chunk=chunk)
    parts = [predict_part(spec, "stdl", layout, k, 6, options) for k in range(3)]
    whole = predict(spec, "stdl", layout, 6, options)
    total = sum(p.fixed for p in parts) + max(p.added for p in parts) + parts[0].batch
    assert abs(total - whole.live) <= 0.005 * whole.live
    assert max(p.saved for p in parts) == whole.saved


def test_operations_are_counted_and_chunks_do_not_change_them():
    spec, options = plain_spec(T=4), MethodOptions()
    layout = layout_for(spec, "stdl")
    one = predict(spec, "stdl", layout, BATCH, options, operations=True).operations
    assert one == predict(spec, "stdl", replace(layout, time_chunk=4), BATCH, options, operations=True).operations
    assert one > predict(spec, "online", WHOLE, BATCH, options, operations=True).operations > 0


@pytest.mark.parametrize("make", [plain_spec, residual_spec])
def test_stdl_grows_with_t_by_the_spikes_at_the_borders_and_nothing_else(make):
    """Bytes saved for backward do not grow at all; live bytes grow by at most the packed borders of the extra steps."""
    layout, options = layout_for(make(T=4), "stdl"), MethodOptions()
    steps = {T: measure(make(T=T), "stdl", layout, options) for T in (4, 8, 16)}
    assert steps[4].saved == steps[8].saved == steps[16].saved
    network = build_network(make(T=4))
    border = [
        packed_bytes(BATCH * torch.Size(network.units[part.last].out_shape).numel(), most)
        for part in layout.parts[:-1]
        if (most := border_values(network.chain)[part.last])
    ]
    most_per_step = max(
        a + b for a, b in zip([0, *border], [*border, 0], strict=True)
    )  # one goes out while one comes in
    for longer in (8, 16):
        assert 0 <= steps[longer].live - steps[4].live <= (longer - 4) * most_per_step
    bptt = {T: measure(make(T=T), "bptt", WHOLE, options) for T in (4, 16)}
    assert bptt[16].saved > 3.5 * bptt[4].saved


def test_states_and_gradients_of_one_subnetwork_at_a_time():
    """When a subnetwork begins, nothing of the one before it is alive but its border."""
    spec = plain_spec(T=4)
    network = build_network(spec).train()
    method = build_method("stdl", network, layout_for(spec, "stdl"), MethodOptions())
    original = method.run_subnetwork
    alive = []

    def spy(*arguments):
        alive.append(sum(p.grad is not None for part in method.parts for p in part.parameters()))
        return original(*arguments)

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
    one = predict(spec, "online", WHOLE, BATCH, MethodOptions(optimizer=OptimizerOptions(name=name)))
    network = build_network(spec)
    weights = sum(p.numel() * 4 for p in network.parameters())
    buffers = sum(b.numel() * b.element_size() for b in network.buffers())
    counters = 4 * len(list(network.parameters())) if name == "adamw" else 0  # AdamW counts its steps
    batch = BATCH * (2 * 6 * 6 * 4 + 8)
    assert one.fixed == (1 + states) * weights + buffers + counters + batch
    assert one.live > one.fixed
