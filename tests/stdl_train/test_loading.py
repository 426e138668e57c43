"""Batches from arrays, from sources and by worker processes: the same values in the same order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from registered import provide

from stdl_export.common.errors import BadInput
from stdl_models.network import InputSpec
from stdl_train.data.encoders import poisson
from stdl_train.data.samples import Samples
from stdl_train.loading import Data

CPU = torch.device("cpu")
COUNTS = np.random.default_rng(0).integers(0, 9, (12, 4, 2, 5, 5), dtype=np.uint8)
PICTURES = np.random.default_rng(1).integers(0, 256, (12, 2, 5, 5), dtype=np.uint8)
ORDER = [torch.tensor([3, 1, 7]), torch.tensor([11, 0]), torch.tensor([5, 5, 2])]


class OnDemand:
    """A source that counts what is read of it, with a damaged sample where one is wanted."""

    def __init__(self, array, damaged=None, epoch=None):
        self.array, self.damaged, self.epoch = array, damaged, epoch
        self.shape, self.dtype = array.shape, array.dtype

    def __len__(self):
        return len(self.array)

    def __getitem__(self, indices):
        if self.damaged in indices:
            raise BadInput(f"picture {self.damaged} is damaged")
        found = self.array[indices] if self.epoch is None else self.array[indices] + np.uint8(self.epoch)
        found.flags.writeable = False
        return found


class Anew(OnDemand):
    """A source that draws anew in each epoch."""

    def for_epoch(self, epoch):
        return Anew(self.array, epoch=epoch)


def samples(images, timed):
    return Samples("mine", images, np.arange(12) % 3, ("a", "b", "c"), (0.5, 0.25), (2.0, 4.0), timed)


def spec(encoding="direct", **more):
    return InputSpec(shape=(2, 5, 5), mean=(0.5, 0.25), std=(2.0, 4.0), encoding=encoding, **more)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("wrap", [lambda a: a, OnDemand], ids=["array", "source"])
@pytest.mark.parametrize(("images", "timed"), [(COUNTS, True), (PICTURES, False)], ids=["recordings", "pictures"])
def test_batches_are_the_samples_whoever_reads_them(images, timed, wrap, workers):
    data = Data.of(samples(wrap(images), timed), CPU, spec("frames" if timed else "direct"), 4, workers)
    state = torch.get_rng_state()
    found = list(data.read(ORDER))
    assert torch.equal(torch.get_rng_state(), state)
    for chosen, (x, labels) in zip(ORDER, found, strict=True):
        expected = images[chosen.numpy()].astype(np.float32)
        expected = np.moveaxis(expected, 1, 0) if timed else expected / np.float32(255)
        assert np.array_equal(x.numpy(), expected)
        assert labels.tolist() == (chosen % 3).tolist()
    frames = list(data.batches(5, limit=7))
    assert [len(labels) for _, labels in frames] == [5, 2]
    normalised = images[5:7].astype(np.float32)
    normalised = np.moveaxis(normalised, 1, 0) if timed else normalised / np.float32(255)
    mean, std = (np.array(v, np.float32).reshape(2, 1, 1) for v in ((0.5, 0.25), (2, 4)))
    assert np.array_equal(frames[1][0].numpy(), (normalised - mean) / std)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_sample_is_one_line_from_a_worker_too(workers):
    data = Data.of(samples(OnDemand(PICTURES, damaged=0), False), CPU, workers=workers)
    with pytest.raises(BadInput, match=r"^picture 0 is damaged$"):
        list(data.read(ORDER))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_source_may_draw_anew_in_each_epoch(workers):
    data = Data.of(samples(Anew(COUNTS), True), CPU, spec("frames"), 4, workers)
    values = {epoch: next(iter(data.read(ORDER, epoch)))[0] for epoch in (None, 1, 2)}
    assert torch.equal(values[1], values[None] + 1)
    assert torch.equal(values[2], values[None] + 2)


def test_training_draws_anew_in_each_epoch_and_evaluation_never(monkeypatch):
    provide(monkeypatch)
    encoding = {"encoding": "poisson", "encoding_options": {"gain": 0.5}, "encoding_seed": 9}
    source = InputSpec(shape=(2, 5, 5), mean=(0.0,) * 2, std=(1.0,) * 2, **encoding)
    data = Data.of(samples(PICTURES, False), CPU, source, T=6)
    images, _ = data.take(ORDER[0])
    first, again, second = (data.encoded(images, ORDER[0], epoch) for epoch in (1, 1, 2))
    assert first.shape == (6, 3, 2, 5, 5)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    whole = torch.cat([x for x, _ in data.batches(5)], 1)
    assert torch.equal(whole, torch.cat([x for x, _ in data.batches(12)], 1))  # batches do not matter
    expected = poisson(PICTURES / np.float32(255), 6, np.arange(12), (9,), gain=0.5)
    assert np.array_equal(whole.numpy(), expected)
