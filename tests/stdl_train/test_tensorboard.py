"""TensorBoard: the event files hold what metrics.jsonl holds, and a missing package is said before anything begins."""

from __future__ import annotations

import sys

import pytest
from tiny_run import metrics, train

from stdl_train import loop

SETTINGS = ("train.epochs=3", "train.tensorboard=true")


def scalars(folder):
    """Tag -> [(step, value)], read by TensorBoard itself."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator").EventAccumulator
    events = accumulator(str(folder / "tensorboard"))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def expected(folder):
    """The same from metrics.jsonl: a list's entries are counted from 1, a table's go by their names."""
    tags = {}
    for line in metrics(folder):
        for key, value in line.items():
            flat = {key: value}
            if isinstance(value, list):
                flat = {f"{key}/{number}": entry for number, entry in enumerate(value, start=1)}
            elif isinstance(value, dict):
                flat = {f"{key}/{name}": entry for name, entry in value.items()}
            for tag, number in flat.items():
                tags.setdefault(tag, []).append((line["epoch"], pytest.approx(number, rel=1e-6)))
    return tags


def test_event_files_hold_every_number_of_every_epoch(tmp_path):
    pytest.importorskip("tensorboard")
    assert train(tmp_path, *SETTINGS) == 0
    found = scalars(tmp_path)
    assert {"loss/1", "loss/2", "train_accuracy", "test_accuracy", "learning_rate", "memory", "seconds"} < found.keys()
    assert {"firing/fc1.if", "firing/fc2.if", "silent/fc1.if", "silent/fc2.if"} < found.keys()
    assert found == expected(tmp_path)
    assert [step for step, _ in found["loss/1"]] == [1, 2, 3]


def test_a_resumed_run_adds_the_epochs_that_were_missing(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    original = loop.Trainer.epoch

    def stopped(self, epoch, tick):
        if epoch == 2:
            raise KeyboardInterrupt
        return original(self, epoch, tick)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "epoch", stopped)
        assert train(tmp_path, *SETTINGS) == 130
    assert [step for step, _ in scalars(tmp_path)["loss/1"]] == [1]
    assert train(tmp_path, *SETTINGS, resume=True) == 0
    assert scalars(tmp_path) == expected(tmp_path)


def test_without_the_switch_there_are_no_event_files(tmp_path):
    assert train(tmp_path, "train.epochs=1") == 0
    assert not (tmp_path / "tensorboard").exists()


def test_a_missing_package_is_one_line_and_no_run_begins(tmp_path, monkeypatch, capsys):
    """What is there after `pip install tensorboard` must be able to begin: no folder stands in its way."""
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    assert train(tmp_path / "run", *SETTINGS) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: train.tensorboard: pip install tensorboard, or set it to false"
    ]
    assert not (tmp_path / "run").exists()
