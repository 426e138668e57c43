"""A disk that is full at a later checkpoint: what was written before it stays, and the run goes on from there."""

from __future__ import annotations

import dataclasses
import json
import resource

import pytest
import safetensors
import torch
from tiny_run import metrics, network, train

from stdl_train import loop
from stdl_train.checkpoint import BEST, LAST, PREVIOUS, save_checkpoint

SETTINGS = (
    "data.train_limit=150", "train.epochs=3", "train.checkpoint_every=1", "train.keep=best", "train.ema_decay=0.9",
)  # fmt: skip
ROOM = 10_000  # bytes of one file


@pytest.fixture(autouse=True, scope="module")
def better_each_epoch():
    """So that the best checkpoint is written each time."""
    original = loop.Trainer.epoch

    def epoch(self, number, tick):
        return dataclasses.replace(original(self, number, tick), test_accuracy=number / 10)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Trainer, "epoch", epoch)
        yield


@pytest.fixture(scope="module")
def undisturbed(better_each_epoch, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    assert train(folder, *SETTINGS) == 0
    return folder


def fill(monkeypatch, name, epoch, batch):
    """While the checkpoint of this name and moment is written, the operating system takes no more than ROOM bytes."""

    def save(method, extra, progress, path):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        full = (path.name, progress.epoch, progress.batch) == (name, epoch, batch)
        resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM if full else soft, hard))
        try:
            save_checkpoint(method, extra, progress, path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    monkeypatch.setattr(loop, "save_checkpoint", save)


def moment(path):
    """Epochs and batches behind a checkpoint, as its header says."""
    with safetensors.safe_open(str(path), framework="pt") as file:
        progress = json.loads(file.metadata()["progress"])
    return progress["epoch"], progress["batch"]


@pytest.mark.parametrize(
    ("name", "epoch", "batch", "stands", "before", "best"),
    [
        (LAST, 1, 1, (1, 0), (0, 2), (1, 0)),  # inside the second epoch
        (BEST, 2, 0, (1, 2), (1, 1), (1, 0)),  # at its end
        (LAST, 2, 0, (1, 2), (1, 1), (2, 0)),  # behind the best one, which is further on then
    ],
)
def test_the_checkpoints_before_stay_and_resuming_ends_with_the_same_weights(
    tmp_path, monkeypatch, capsys, undisturbed, name, epoch, batch, stands, before, best
):
    folder = tmp_path / "run"
    checkpoints = folder / "checkpoint"
    capsys.readouterr()
    with monkeypatch.context() as patch:
        fill(patch, name, epoch, batch)
        assert train(folder, *SETTINGS) == 1
    device, line = capsys.readouterr().err.splitlines()
    assert device == "device: cpu"
    assert line.startswith(f"error: checkpoint '{checkpoints / name}' could not be written (")
    assert line.endswith(f"make room and use --resume; '{checkpoints / LAST}' is still whole")
    assert {path.name for path in checkpoints.iterdir()} == {LAST, PREVIOUS, BEST}  # and nothing half written
    assert [moment(checkpoints / kind) for kind in (LAST, PREVIOUS, BEST)] == [stands, before, best]
    assert len(metrics(folder)) == 1
    assert train(folder, *SETTINGS, resume=True) == 0
    ours, theirs = network(folder), network(undisturbed)
    assert all(torch.equal(theirs[name], value) for name, value in ours.items())
    assert [line["loss"] for line in metrics(folder)] == [line["loss"] for line in metrics(undisturbed)]
