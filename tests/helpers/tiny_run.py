"""`stdl-train` on a network and data so small that a whole run takes a moment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from stdl_export.common.console import run
from stdl_train import cli

SETTINGS = (
    "model.options.hidden=[16,16]", "model.T=2", "train.subnetworks=2", "data.train_limit=100", "data.test_limit=40",
    "train.bn_samples=0",
)  # fmt: skip
TINY = ["digits-mlp", *(word for setting in SETTINGS for word in ("--set", setting))]
"""Two batches an epoch; layers fc1.if and fc2.if; merging leaves batch normalisation as it was trained."""


def train(folder: Path, *settings: str, resume: bool = False) -> int:
    """The exit code of a run with these `--set` settings."""
    words = [word for setting in settings for word in ("--set", setting)]
    return run(cli.main, [*TINY, *words, "--out", str(folder), *["--resume"] * resume])


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def network(folder: Path) -> dict[str, Tensor]:
    """The merged network's tensors."""
    return safetensors.torch.load_file(folder / "network.safetensors")
