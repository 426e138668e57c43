"""Subnetworks on devices of their own: the same weights, bit for bit, as one after the other; errors come through."""

from __future__ import annotations

import pytest
import torch
from networks import plain_spec, residual_spec
from training import layout_of

from stdl_export.common.errors import BadInput, Unavailable
from stdl_models.nets.registry import build_network
from stdl_train.methods.base import Batch, MethodOptions, set_rate
from stdl_train.methods.registry import build_method
from stdl_train.placement import Pipeline, Stage, parse_placement

CPU = torch.device("cpu")


def method_of(spec):
    torch.manual_seed(0)
    network = build_network(spec).train()
    return build_method("stdl", network, layout_of(network, micro_batches=2), MethodOptions())


def batches(spec, count=5):
    generator = torch.Generator().manual_seed(3)
    for step in range(count):
        frame = torch.rand(6, *spec.input.shape, generator=generator) * 3
        yield Batch(frame, torch.randint(0, len(spec.classes), (6,), generator=generator), 0.01 / (step + 1))


@pytest.mark.parametrize("make", [plain_spec, residual_spec])
@pytest.mark.parametrize("stages", [[(0,), (1,), (2,)], [(0, 1), (2,)]])
def test_a_pipeline_equals_one_after_the_other_bit_for_bit(make, stages):
    spec = make(T=3)
    ours, theirs = method_of(spec), method_of(spec)
    pipeline = Pipeline(ours, [Stage(CPU, stage) for stage in stages])
    results = list(pipeline.train_batches(batches(spec)))
    for batch, result in zip(batches(spec), results, strict=True):
        for optimizer in theirs.optimizers:
            set_rate(optimizer, batch.rate)
        expected = theirs.train_batch(batch.x, batch.labels)
        assert torch.equal(result.loss, expected.loss)
        assert torch.equal(result.logits, expected.logits)
    for a, b in zip(ours.parts, theirs.parts, strict=True):
        for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
            assert torch.equal(x, y), name


def test_an_error_in_a_stage_or_in_the_data_comes_through():
    spec = plain_spec(T=2)
    method = method_of(spec)
    pipeline = Pipeline(method, [Stage(CPU, (k,)) for k in range(3)])

    def broken():
        yield from batches(spec, 1)
        raise OSError("no more data")

    with pytest.raises(OSError, match="no more data"):
        list(pipeline.train_batches(broken()))
    method.train_part = lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        list(pipeline.train_batches(batches(spec)))


def test_leaving_early_stops_the_threads():
    import threading

    spec = plain_spec(T=2)
    pipeline = Pipeline(method_of(spec), [Stage(CPU, (k,)) for k in range(3)])
    before = threading.active_count()
    results = pipeline.train_batches(batches(spec, 50))
    next(results)
    results.close()
    assert threading.active_count() == before


def test_placement_names_devices():
    assert parse_placement("cpu,cpu", 4) == [Stage(CPU, (0, 1)), Stage(CPU, (2, 3))]
    with pytest.raises(BadInput, match="3 devices for 2 subnetworks"):
        parse_placement("cpu,cpu,cpu", 2)
    with pytest.raises(BadInput, match="'gpu1' is no device"):
        parse_placement("cpu,gpu1", 2)
    with pytest.raises(BadInput, match="only cpu and cuda"):
        parse_placement("meta", 2)
    if not torch.cuda.is_available():
        with pytest.raises(Unavailable, match="finds 0 CUDA devices"):
            parse_placement("cuda:0", 2)
