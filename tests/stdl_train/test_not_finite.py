"""A loss or a weight that is not a number: one line, and the run goes on from the last good checkpoint."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load_file
from tiny_run import metrics, network, train

from stdl_train.checkpoint import LAST
from stdl_train.loop import Trainer

EPOCHS = "train.epochs=4"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    assert train(folder, EPOCHS) == 0
    return network(folder)


def poison(monkeypatch, layer, value, step):
    """Before batch `step` of epoch 3, counted from 0, one weight of a layer becomes `value`; 2: behind the last one."""
    original = Trainer._results

    def results(self, batches):
        for number, result in enumerate(original(self, batches)):
            if self.progress.epoch == 2 and number + 1 == step:
                strike(self)
            yield result

    def strike(trainer):
        with torch.no_grad():
            dict(trainer.method.parts[0].named_parameters())[layer].view(-1)[0] = value

    def epoch(self, number, tick, run=Trainer.epoch):
        if step == 0 and number == 3:
            strike(self)
        return run(self, number, tick)

    monkeypatch.setattr(Trainer, "_results", results)
    monkeypatch.setattr(Trainer, "epoch", epoch)


@pytest.mark.parametrize(
    ("layer", "value", "step", "what"),
    [
        ("_head.1.linear.weight", math.nan, 0, "the loss became [nan, "),
        ("_head.1.linear.bias", math.inf, 1, "the loss became [nan, "),
        ("_body.0.layer.synapse.weight", math.nan, 1, "'part.0._body.0.layer."),  # silent then: a finite loss
        ("_head.1.linear.weight", -math.inf, 2, "'part.0._head.1.linear.weight' is not finite any more"),
    ],
)
def test_the_run_stops_with_one_line_and_resumes_to_the_same_weights(
    tmp_path, monkeypatch, capsys, undisturbed, layer, value, step, what
):
    """In the loss or only in a weight, inside an epoch or at its end."""
    last = tmp_path / "checkpoint" / LAST
    with monkeypatch.context() as patch:
        poison(patch, layer, value, step)
        assert train(tmp_path, EPOCHS) == 1
    *before, line = capsys.readouterr().err.splitlines()
    assert before == ["device: cpu"]
    assert line.startswith(f"error: {what}")
    assert "lower train.optimizer.lr" in line
    assert line.endswith(f"'{last}' is still whole")
    assert all(torch.isfinite(tensor).all() for tensor in load_file(last).values())
    assert [entry["epoch"] for entry in metrics(tmp_path)] == [1, 2]
    assert not (tmp_path / "network.safetensors").exists()
    assert train(tmp_path, EPOCHS, resume=True) == 0
    assert [entry["epoch"] for entry in metrics(tmp_path)] == [1, 2, 3, 4]
    assert all(torch.equal(undisturbed[name], value) for name, value in network(tmp_path).items())


def test_an_absurd_learning_rate_stops_before_a_checkpoint_is_written(tmp_path, capsys):
    assert train(tmp_path, EPOCHS, "train.optimizer.lr=1e30") == 1
    *before, line = capsys.readouterr().err.splitlines()
    assert before == ["device: cpu"]
    assert "lower train.optimizer.lr" in line
    assert line.endswith("there is no checkpoint before it")
    assert {path.name for path in tmp_path.iterdir()} == {"recipe.toml", "metrics.jsonl"}


@pytest.mark.parametrize("settings", [("lr=1e38",), ("lr=1e-3", "name=sgd")])
def test_a_learning_rate_that_float32_can_not_hold_is_bad_input(tmp_path, capsys, settings):
    """Beyond that the optimizer itself would fail; a factor on a subnetwork's rate counts too."""
    words = [f"train.optimizer.{setting}" for setting in settings]
    words += ["train.subnetwork_lr=[1.0,1e41]"] * (len(settings) > 1)
    assert train(tmp_path / "run", *words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("a learning rate of 1e+38 does not fit float32: lower optimizer.lr")
    assert not (tmp_path / "run").exists()
