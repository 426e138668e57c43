"""`stdl-train` as a user runs it: a run folder, resuming, and one line with exit code 2 for each mistake."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import safetensors.torch
import torch

from stdl_export.common.console import run
from stdl_models.network import SpikingNetwork
from stdl_train import cli
from stdl_train.loop import Trainer, epoch_seed
from stdl_train.recipe import read_recipe

QUICK = ["digits-vgg5", "--set", "data.train_limit=120", "--set", "data.test_limit=40", "--set", "train.epochs=3"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert run(cli.main, [*QUICK, "--out", str(folder)]) == 0
    return folder


def fails(capsys, *args) -> str:
    """Run a command that must exit with 2 and one line on stderr; returns the line."""
    capsys.readouterr()
    assert run(cli.main, [str(arg) for arg in args]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]


def test_a_run_folder_holds_all_that_design_says(finished):
    assert {path.name for path in finished.iterdir()} == {
        "recipe.toml", "network.safetensors", "golden.npz", "metrics.jsonl", "checkpoint", "report.html",
    }  # fmt: skip
    metrics = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in metrics] == [1, 2, 3]
    assert all(len(line["loss"]) == 3 for line in metrics)
    rates = [line["learning_rate"] for line in metrics]  # of each epoch's last step, on a cosine over the whole run
    assert rates[0] > rates[1] > rates[2] > 0
    assert rates[2] < 0.2 * rates[0]
    network = SpikingNetwork.load(finished / "network.safetensors")
    with np.load(finished / "golden.npz", allow_pickle=False) as golden, torch.no_grad():
        logits = network(torch.from_numpy(golden["input"]))
        np.testing.assert_allclose(golden["output"], logits.numpy(), atol=1e-4)
        assert golden["input"].shape == (40, 1, 8, 8)


@pytest.mark.parametrize("method", ["stdl", "bptt"])
def test_resumed_equals_undisturbed_bit_for_bit(tmp_path, monkeypatch, method):
    args = [*QUICK, "--method", method]
    assert run(cli.main, [*args, "--out", str(tmp_path / "whole")]) == 0
    original = Trainer.epoch

    def stop_in_the_third(self, epoch, tick):
        if epoch == 3:
            raise KeyboardInterrupt
        return original(self, epoch, tick)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "epoch", stop_in_the_third)
        assert run(cli.main, [*args, "--out", str(tmp_path / "part")]) == 130
    assert not (tmp_path / "part" / "network.safetensors").exists()
    assert run(cli.main, [*args, "--out", str(tmp_path / "part"), "--resume"]) == 0
    whole, part = (safetensors.torch.load_file(tmp_path / name / "network.safetensors") for name in ("whole", "part"))
    assert whole.keys() == part.keys()
    assert all(torch.equal(whole[name], part[name]) for name in whole)


def test_seeds_differ_by_run_and_epoch():
    assert len({epoch_seed(seed, epoch) for seed in range(5) for epoch in range(50)}) == 250


def test_plan_prints_bytes_and_trains_nothing(tmp_path, capsys):
    assert run(cli.main, ["digits-vgg5", "--plan", "--out", str(tmp_path / "x"), "--memory-budget", "16MiB"]) == 0
    out = capsys.readouterr().out
    assert "predicted bytes of a training step" in out
    assert "bptt-checkpoint" in out
    assert "16.00 MiB" in out
    assert not (tmp_path / "x").exists()


def test_list_names_every_recipe(capsys):
    assert run(cli.main, ["--list"]) == 0
    said = capsys.readouterr().out
    assert "digits-vgg5" in said
    assert "98% to 100%" in said
    assert "92.92%" in said  # what others report for cifar10-resnet19


def test_what_others_report_is_said_and_nothing_fails_for_it(caplog):
    caplog.set_level("INFO", logger="stdl")
    cli._check_band(read_recipe("cifar10-resnet19"), accuracy=0.1, changed=False)
    assert "published: 92.92% (Zheng et al. 2021, BPTT)" in caplog.text


def test_bad_input(tmp_path, capsys, finished):
    out = tmp_path / "out"
    assert "did you mean 'digits-vgg5'" in fails(capsys, "digits-vg5", "--out", out)
    assert "did you mean 'epochs'" in fails(capsys, "digits-vgg5", "--out", out, "--set", "train.epoch=1")
    assert "the smallest that works is" in fails(capsys, "digits-vgg5", "--out", out, "--memory-budget", "100kB")
    assert "write a size such as" in fails(capsys, "digits-vgg5", "--out", out, "--memory-budget", "lots")
    assert "--method" in fails(capsys, "digits-vgg5", "--out", out, "--method", "magic")
    assert "give a recipe" in fails(capsys)
    assert "is not empty" in fails(capsys, *QUICK, "--out", finished)
    assert "holds no run" in fails(capsys, *QUICK, "--out", out, "--resume")
    assert "is complete" in fails(capsys, *QUICK, "--out", finished, "--resume")
    assert "1 to 4 subnetworks" in fails(capsys, "digits-vgg5", "--out", out, "--set", "train.subnetworks=12")
    assert "does not exist" in fails(capsys, "cifar10-vgg11", "--out", out, "--set", "data.path=./no/where")
    assert "options of network 'vgg5'" in fails(capsys, "digits-vgg5", "--out", out, "--set", "model.options.depth=3")
    assert "one training sample is too few" in fails(capsys, "digits-vgg5", "--out", out, "--set", "data.train_limit=1")
    assert "greater than or equal to 2" in fails(capsys, "digits-mlp", "--out", out, "--set", "train.batch_size=1")
    assert "does not spike" in fails(capsys, "digits-vgg5", "--out", out, "--set", "model.neuron.kind=LI")
    assert "does not fit float32" in fails(capsys, "digits-vgg5", "--out", out, "--set", "model.dt=1e-300")
    assert "a window of 2 does not fit" in fails(capsys, "digits-vgg5", "--out", out, "--set", "model.network=vgg11")
    assert "'name'" in fails(capsys, "digits-vgg5", "--set", 'name="../elsewhere"')
    assert "hidden" in fails(capsys, "digits-mlp", "--out", out, "--set", "model.options.hidden=[]")
    assert "weight_decay" in fails(capsys, "digits-mlp", "--out", out, "--set", "train.optimizer.weight_decay=-1")
    assert "--seed" in fails(capsys, "digits-vgg5", "--out", out, "--seed", 10**20)
    assert "known keys: machine, memory" in fails(capsys, "digits-vgg5", "--out", out, "--set", "expect.zzz=1")
    if not torch.cuda.is_available():
        assert "no CUDA device" in fails(capsys, *QUICK, "--out", out, "--device", "cuda")
    assert not out.exists()


def test_a_broken_checkpoint_is_named_and_left_as_it_is(tmp_path, capsys, finished):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (folder / "network.safetensors").unlink()
    (folder / "checkpoint" / "previous.safetensors").unlink()
    checkpoint = folder / "checkpoint" / "last.safetensors"
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[: len(whole) // 2])
    assert "is damaged" in fails(capsys, *QUICK, "--out", folder, "--resume")
    edited = bytearray(whole)
    edited[-10] ^= 1
    checkpoint.write_bytes(edited)
    assert "was edited" in fails(capsys, *QUICK, "--out", folder, "--resume")
    assert checkpoint.read_bytes() == edited
    checkpoint.write_bytes(whole)
    assert "begun with data.train_limit = 120" in fails(
        capsys, *QUICK, "--out", folder, "--resume", "--set", "data.train_limit=100"
    )


def test_a_band_that_is_missed_is_a_failed_check(tmp_path, capsys):
    recipe = tmp_path / "low.toml"
    recipe.write_text(
        '[model]\nnetwork = "vgg5"\nT = 2\n[data]\nname = "digits"\ntrain_limit = 60\ntest_limit = 40\n'
        "[train]\nepochs = 1\n[expect]\ntest_accuracy = [0.99, 1.0]\n"
    )
    assert run(cli.main, [str(recipe), "--out", str(tmp_path / "run")]) == 1
    assert "outside the recipe's band" in capsys.readouterr().err
