"""Nothing is lost: killed at any moment, on a full disk, or with a damaged checkpoint."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time

import pytest
import safetensors.torch
import torch

from stdl_export.common.console import run
from stdl_train import checkpoint, cli

SETTINGS = (
    "data.train_limit=300", "data.test_limit=60", "train.epochs=3", "train.ema_decay=0.9", "train.keep=best",
    "train.checkpoint_every=2", "train.patience=3", "train.bn_samples=100",
)  # fmt: skip
QUICK = ["digits-vgg5", *(word for setting in SETTINGS for word in ("--set", setting))]
COMMAND = [sys.executable, "-m", "stdl_train"]


def tensors(folder):
    return safetensors.torch.load_file(folder / "network.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def lines(folder):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "memory")} for line in found]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    torch.set_num_threads(1)
    assert run(cli.main, [*QUICK, "--out", str(folder)]) == 0
    return folder


def test_killed_at_random_moments_it_ends_with_the_same_weights(tmp_path, whole, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    folder, draw = tmp_path / "killed", random.Random(3)
    last = folder / "checkpoint" / "last.safetensors"
    kills = 0
    while not (folder / "network.safetensors").exists() and kills < 4:
        resume = ["--resume"] if (folder / "recipe.toml").exists() else []
        before = last.stat().st_mtime_ns if last.exists() else 0
        process = subprocess.Popen([*COMMAND, *QUICK, "--out", str(folder), *resume], stderr=subprocess.PIPE)
        while process.poll() is None and not (last.exists() and last.stat().st_mtime_ns != before):
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.8))
        process.kill()
        process.communicate()
        kills += 1
    if not (folder / "network.safetensors").exists():
        assert run(cli.main, [*QUICK, "--out", str(folder), "--resume"]) == 0
    assert same(tensors(folder), tensors(whole))
    assert lines(folder) == lines(whole)
    assert not list(folder.rglob("*.part"))


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, whole, caplog, monkeypatch):
    import logging
    import shutil

    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    (folder / "network.safetensors").unlink()
    last = folder / "checkpoint" / checkpoint.LAST
    last.write_bytes(last.read_bytes()[:1000])
    said = []
    monkeypatch.setattr(logging.getLogger("stdl"), "warning", lambda text, *args: said.append(text % args))
    assert run(cli.main, [*QUICK, "--out", str(folder), "--resume"]) == 0
    assert any("previous.safetensors" in text for text in said)
    assert (folder / "checkpoint" / checkpoint.DAMAGED).stat().st_size == 1000
    assert same(tensors(folder), tensors(whole))


def test_a_full_disk_is_one_line_and_the_checkpoint_before_it_stays(tmp_path, whole, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    folder = tmp_path / "full"
    limit = "import resource,sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000)); "
    code = limit + "from stdl_train.cli import entry; entry()"
    done = subprocess.run([sys.executable, "-c", code, *QUICK, "--out", str(folder)], capture_output=True, text=True)
    assert done.returncode == 1
    assert "could not be written" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert run(cli.main, [*QUICK, "--out", str(folder), "--resume"]) == 0
    assert same(tensors(folder), tensors(whole))
