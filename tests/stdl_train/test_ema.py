"""Averaged weights: against a loop written out here over the weights of every step."""

from __future__ import annotations

import pytest
import torch
from rich.console import Console
from tiny_run import metrics, network, train
from torch import Tensor

from stdl_models.network import SpikingNetwork
from stdl_train import loop
from stdl_train.data.samples import load
from stdl_train.methods.base import BatchResult

EPOCHS, STEPS, DECAY = 4, 2, 0.3


@pytest.fixture
def weights(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    """The network's weights and statistics before the first step and after each one."""
    seen: list[dict[str, Tensor]] = []
    original = loop.Trainer.run

    def run(self: loop.Trainer, console: Console) -> None:
        step = self.method.train_batch

        def keep() -> None:
            seen.append({name: value.clone() for name, value in self.method.network.state_dict().items()})

        def train_batch(frame: Tensor, labels: Tensor) -> BatchResult:
            result = step(frame, labels)
            keep()
            return result

        keep()
        monkeypatch.setattr(self.method, "train_batch", train_batch)
        original(self, console)

    monkeypatch.setattr(loop.Trainer, "run", run)
    return seen


def averaged(weights: list[dict[str, Tensor]], name: str) -> Tensor:
    """a <- d a + (1 - d) w after each step, d = min(decay, (1 + n) / (10 + n))."""
    average = weights[0][name].double()
    for n, after in enumerate(weights[1:], start=1):
        decay = min(DECAY, (1 + n) / (10 + n))
        average = decay * average + (1 - decay) * after[name].double()
    return average.float()


def trained(name: str) -> bool:
    return name.endswith(("weight", "bias", "running_mean", "running_var"))


def test_the_merged_weights_are_the_average_over_all_steps(tmp_path, weights):
    """Statistics of batch normalisation too; the decay rises with the first steps; the plain weights are others."""
    assert train(tmp_path, f"train.epochs={EPOCHS}", f"train.ema_decay={DECAY}") == 0
    assert len(weights) == 1 + EPOCHS * STEPS
    assert 2 / 11 < DECAY < (1 + EPOCHS * STEPS) / (10 + EPOCHS * STEPS)  # both forms of d were taken
    for name, value in network(tmp_path).items():
        if trained(name):
            torch.testing.assert_close(value, averaged(weights, name), rtol=1e-5, atol=1e-7, msg=name)
            assert not torch.allclose(value, weights[-1][name], rtol=1e-5, atol=1e-7), name


def test_the_average_is_what_is_tested(tmp_path, weights):
    """Accuracy and firing rates of the last epoch are those of the merged network."""
    assert train(tmp_path, "train.epochs=12", f"train.ema_decay={DECAY}", "train.optimizer.lr=0.03") == 0
    merged, plain = (SpikingNetwork.load(tmp_path / "network.safetensors") for _ in range(2))
    plain.load_state_dict(weights[-1])
    test = loop.Data.of(load("digits", "test", None, 40, 0), torch.device("cpu"))
    said = metrics(tmp_path)[-1]["test_accuracy"]
    assert said == loop.evaluate(merged, test, 50)
    with loop.FiringRates(merged) as rates:
        loop.evaluate(merged, test, 50)
    assert metrics(tmp_path)[-1]["firing"] == rates.rates()
    with loop.FiringRates(plain) as rates:
        loop.evaluate(plain, test, 50)
    assert metrics(tmp_path)[-1]["firing"] != rates.rates()


def test_training_goes_on_from_the_plain_weights(tmp_path, weights):
    """After every step they are, bit for bit, those of a run without an average."""
    assert train(tmp_path / "averaged", "train.epochs=3", f"train.ema_decay={DECAY}") == 0
    assert train(tmp_path / "plain", "train.epochs=3") == 0
    half = len(weights) // 2
    for ours, theirs in zip(weights[:half], weights[half:], strict=True):
        assert all(torch.equal(ours[name], value) for name, value in theirs.items())


def test_with_the_best_epoch_kept_its_own_average_is_merged(tmp_path, weights, monkeypatch):
    accuracies = iter([0.1, 0.9, 0.2, 0.3])
    original = loop.evaluate
    monkeypatch.setattr(loop, "evaluate", lambda *args: original(*args) * 0 + next(accuracies))
    assert train(tmp_path, f"train.epochs={EPOCHS}", f"train.ema_decay={DECAY}", "train.keep=best") == 0
    del weights[1 + 2 * STEPS :]
    for name, value in network(tmp_path).items():
        if trained(name):
            torch.testing.assert_close(value, averaged(weights, name), rtol=1e-5, atol=1e-7, msg=name)
