"""Early stopping: after which epoch, what is said, and which epoch is kept and merged."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from safetensors.torch import load_file
from tiny_run import metrics, network, train
from torch import Tensor

from stdl_train import checkpoint, loop

Script = Callable[[Sequence[float]], None]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    """Lets every epoch's evaluation run and then say the next one of these accuracies."""
    original = loop.evaluate

    def use(accuracies: Sequence[float]) -> None:
        rest = iter(accuracies)
        monkeypatch.setattr(loop, "evaluate", lambda *args: original(*args) * 0 + next(rest))

    return use


def bodies(path) -> dict[str, Tensor]:
    """The tensors of a checkpoint that are part of the merged network: two units and the readout."""
    names = {"part.0._body.0.": "units.0.", "part.1._body.0.": "units.1.", "part.1._head.0.": "readout."}
    tensors = load_file(path)
    return {
        ours + name.removeprefix(theirs): value
        for name, value in tensors.items()
        for theirs, ours in names.items()
        if name.startswith(theirs)
    }


@pytest.mark.parametrize(
    ("accuracies", "patience", "delta", "epochs"),
    [
        ((0.5, 0.6, 0.6, 0.5, 0.9), 2, 0.0, 4),  # as good is not better
        ((0.5, 0.75, 1.0), 1, 0.25, 2),  # by just min_delta is not by more
        ((0.5, 0.5625, 0.625, 0.6875, 0.6, 0.6), 3, 0.125, 6),  # three small steps together are one: from then on anew
        ((0.2, 0.1, 0.3, 0.1, 0.4, 0.1), 2, 0.0, 6),  # never twice in a row: to the end
        ((0.0, 0.0), 1, 0.0, 2),  # the first epoch is better than nothing
    ],
)
def test_it_stops_after_so_many_epochs_without_a_better_one(
    accuracies, patience, delta, epochs, script, tmp_path, capsys
):
    script(accuracies)
    assert train(tmp_path, "train.epochs=6", f"train.patience={patience}", f"train.min_delta={delta}") == 0
    assert [line["test_accuracy"] for line in metrics(tmp_path)] == list(accuracies[:epochs])
    line = f"stopped early: no better test accuracy in {patience} epochs"
    assert capsys.readouterr().err.splitlines().count(line) == (epochs < 6)


@pytest.mark.parametrize(("keep", "merged"), [("best", checkpoint.BEST), ("last", checkpoint.LAST)])
def test_the_best_epoch_stays_on_disk_and_what_keep_names_is_merged(keep, merged, script, tmp_path, capsys):
    """The best is the highest accuracy, also where it is too little better to train on for."""
    script((0.5, 0.6, 0.61, 0.4))
    assert train(tmp_path, "train.epochs=9", "train.patience=2", "train.min_delta=0.05", f"train.keep={keep}") == 0
    assert len(metrics(tmp_path)) == 4
    best, last = (bodies(tmp_path / "checkpoint" / name) for name in (checkpoint.BEST, checkpoint.LAST))
    assert any(not torch.equal(best[name], last[name]) for name in best)
    kept, found = {checkpoint.BEST: best, checkpoint.LAST: last}[merged], network(tmp_path)
    assert kept.keys() == found.keys()
    assert all(torch.equal(found[name], kept[name]) for name in found)
    said = "merging epoch 3, the best: test accuracy 61.00%" in capsys.readouterr().err.splitlines()
    assert said == (keep == "best")


def test_a_run_that_stopped_early_does_not_go_on_when_resumed(script, tmp_path):
    """Killed between the last epoch and the merged network: resuming merges, and trains nothing."""
    settings = ("train.epochs=9", "train.patience=1", "train.keep=best")
    script((0.5, 0.4))
    assert train(tmp_path, *settings) == 0
    before = network(tmp_path)
    (tmp_path / "network.safetensors").unlink()
    script(())
    assert train(tmp_path, *settings, resume=True) == 0
    assert len(metrics(tmp_path)) == 2
    assert all(torch.equal(before[name], value) for name, value in network(tmp_path).items())
