"""`--quantize`: weights on a chip's grid, learned past the rounding, in a run that can be killed like any other."""

from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import lively, residual_spec
from torch import nn

from stdl_export import cli as export
from stdl_export.chips.quantise import TRAINABLE, Grid, best_scale, error
from stdl_export.common.console import run
from stdl_models.nets.registry import build_network
from stdl_models.network import SpikingNetwork
from stdl_train import cli
from stdl_train.loop import Trainer
from stdl_train.quantize import Rounded, prepared, settled, weighted

QUICK = [
    "digits-vgg5", "--set", "data.train_limit=120", "--set", "data.test_limit=40", "--set", "train.epochs=2",
    "--set", "quantize.epochs=2", "--set", "quantize.lr=0.002", "--quantize", "loihi2",
]  # fmt: skip


def off_grid(weight: torch.Tensor, grid: Grid) -> float:
    """What rounding to the grid again changes, relative to the weights."""
    values = weight.detach().double().numpy()
    return error(values, best_scale(values, grid, np.inf), grid)


@given(st.integers(0, 999), st.sampled_from(sorted(TRAINABLE)), st.floats(1e-3, 1e3))
def test_rounded_weights_are_few_whole_numbers_times_one_step(seed: int, chip: str, size: float) -> None:
    grid = TRAINABLE[chip]
    weight = torch.randn(6, 5, generator=torch.Generator().manual_seed(seed)) * size
    made = Rounded(grid)(weight)
    levels = (made / made.abs().max() * (grid.high // grid.step)).double()
    assert float((levels - levels.round()).abs().max()) < 1e-4 * grid.high
    assert 0 < float((made - weight).norm() / weight.norm()) < 0.1
    assert off_grid(made, grid) < 1e-6, "an export has nothing left to round"


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_weights_that_are_not_finite_stay_so(value: float) -> None:
    """So that training sees it and stops."""
    weight = torch.ones(3, 2)
    weight[1, 1] = value
    assert not Rounded(Grid(2, 254))(weight).isfinite().all()


def test_gradients_go_past_the_rounding() -> None:
    layer = nn.Linear(4, 3, bias=False)
    rounded = Rounded(Grid(2, 254))
    x = torch.randn(7, 4)
    (rounded(layer.weight) @ x.T).square().sum().backward()
    made = rounded(layer.weight).detach().requires_grad_()
    (made @ x.T).square().sum().backward()
    torch.testing.assert_close(layer.weight.grad, made.grad)


def test_the_scale_follows_the_weights() -> None:
    layer, rounded = nn.Linear(4, 3, bias=False), Rounded(Grid(1, 127))
    before = rounded(layer.weight).detach()
    with torch.no_grad():
        layer.weight.mul_(5)
    torch.testing.assert_close(rounded(layer.weight).detach(), before * 5)


def test_prepared_and_settled_compute_the_same_without_normalisation() -> None:
    network = lively(build_network(residual_spec()))
    x = torch.randn(3, *network.spec.input.shape)
    tuned = prepared(network, "loihi2")
    with torch.no_grad():
        expected = tuned(x)
        found = settled(tuned)
        assert torch.equal(found(x), expected)
        assert not torch.equal(network(x), expected), "rounding changes something"
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in found.modules())
    assert all(off_grid(module.weight, TRAINABLE["loihi2"]) < 1e-6 for module in weighted(found))
    SpikingNetwork(found.spec).load_state_dict(found.state_dict())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quantized") / "run"
    assert run(cli.main, [*QUICK, "--out", str(folder)]) == 0
    return folder


def test_a_run_ends_with_weights_on_the_grid(finished) -> None:
    network = SpikingNetwork.load(finished / "network.safetensors")
    assert all(off_grid(module.weight, TRAINABLE["loihi2"]) < 1e-6 for module in weighted(network))
    assert len((finished / "quantize" / "metrics.jsonl").read_text().splitlines()) == 2
    with np.load(finished / "golden.npz", allow_pickle=False) as golden, torch.no_grad():
        logits = network(torch.from_numpy(golden["input"]))
        np.testing.assert_allclose(golden["output"], logits.numpy(), atol=1e-4)


@pytest.mark.parametrize("stopped_in", ["training", "fine-tune"])
def test_resumed_equals_undisturbed_bit_for_bit(tmp_path, monkeypatch, finished, stopped_in) -> None:
    original = Trainer.epoch
    calls = iter(range(9))

    def killed(self, *args):
        if next(calls) == {"training": 1, "fine-tune": 3}[stopped_in]:
            raise KeyboardInterrupt
        return original(self, *args)

    monkeypatch.setattr(Trainer, "epoch", killed)
    assert run(cli.main, [*QUICK, "--out", str(tmp_path / "run")]) not in (0, 2)
    monkeypatch.undo()
    assert run(cli.main, [*QUICK, "--out", str(tmp_path / "run"), "--resume"]) == 0
    ours, theirs = (
        safetensors.torch.load_file(folder / "network.safetensors") for folder in (tmp_path / "run", finished)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_an_unknown_chip_is_told_before_anything_is_trained(tmp_path, capsys) -> None:
    assert run(cli.main, [*QUICK[:-1], "loihi", "--out", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "unknown chip to quantize for 'loihi': did you mean 'loihi2'" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("recipe", "chip"), [("digits-rows-xylo", "xylo"), ("digits-speck", "speck")])
def test_what_was_trained_for_a_chip_is_exported_as_it_is(recipe, chip, tmp_path):
    """The whole way by the commands: all that rounding still changes is the threshold's last digit."""
    few = ("data.train_limit=120", "data.test_limit=40", "train.epochs=2", "quantize.epochs=1", "quantize.lr=0.002")
    words = [word for setting in few for word in ("--set", setting)]
    assert run(cli.main, [recipe, *words, "--quantize", chip, "--out", str(tmp_path / "run")]) == 0
    given = [str(tmp_path / "run"), "--target", chip, "--out", str(tmp_path / "bundle")]
    assert run(export.command, given) == 0
    (about,) = (path for path in (tmp_path / "bundle" / "chips" / chip).glob("*.json"))
    lost = json.loads(about.read_text())["lost"]
    assert len(lost) == {"xylo": 3, "speck": 5}[chip]
    assert all(layer["clipped"] == 0 for layer in lost)
    assert all(layer["weight_error"] < 0.006 for layer in lost), [layer["weight_error"] for layer in lost]


def test_what_was_trained_for_loihi2_has_nothing_left_to_round(finished, tmp_path) -> None:
    assert run(export.command, [str(finished), "--target", "loihi2", "--out", str(tmp_path / "bundle")]) == 0
    report = json.loads((tmp_path / "bundle" / "chips" / "loihi2" / "report.json").read_text())["loss"]
    assert [layer["node"] for layer in report["layers"]] == [
        "conv1.lif",
        "conv2.lif",
        "conv3.lif",
        "conv4.lif",
        "output",
    ]
    assert all(layer["weight_error"] < 2e-3 for layer in report["layers"])
    assert report["agreement"] > 0.9


def test_a_rate_beyond_float32_is_one_line(tmp_path, capsys) -> None:
    assert run(cli.main, [*QUICK, "--set", "quantize.lr=1e99", "--out", str(tmp_path / "run")]) == 2
    assert "a learning rate of 1e+99 does not fit float32: lower quantize.lr" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
