"""Two gloo processes against one with the same total batch; `torchrun` from the command line; shares of a batch."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from share_of_batch import train

from stdl_export.common.errors import BadInput
from stdl_train.distributed import World, check_batch, joined

HELPERS = Path(__file__).parents[1] / "helpers"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def two_processes(*arguments):
    together = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(HELPERS / "share_of_batch.py"), *arguments],
            env=os.environ | together | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in processes:
        _, error = process.communicate(timeout=300)
        assert process.returncode == 0, error


@pytest.mark.parametrize(
    ("method", "join"), [("stdl", "own"), ("stdl", "join"), ("bptt", "join")], ids=lambda value: value
)
def test_two_processes_equal_one_with_the_same_batch(method, join, tmp_path):
    """Statistics of its own share each: equal to two micro-batches; joint statistics: equal to the whole batch."""
    two_processes(method, join, str(tmp_path / "two.safetensors"))
    two = safetensors.torch.load_file(tmp_path / "two.safetensors")
    one = train(method, False, World(), pieces=1 if join == "join" else 2)
    assert two.keys() == one.keys()
    for name, value in one.items():
        if "running" in name and join == "own":
            continue  # micro-batches move them twice a batch, processes once each and then average
        if "num_batches" not in name:
            torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-5, msg=name)
    start = train(method, False, World(), pieces=1)
    if join == "own":  # able to fail: statistics of halves are not those of the whole
        assert any(not torch.allclose(two[n], v, rtol=1e-3, atol=1e-5) for n, v in start.items() if "weight" in n)


def test_torchrun_trains_from_the_command_line(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "1", "--nproc-per-node", "2"]
    command += ["--master-addr", "127.0.0.1", "--master-port", str(free_port()), "-m", "stdl_train", "digits-mlp"]
    command += ["--out", str(tmp_path / "run"), "--device", "cpu", "--set", "train.epochs=1"]
    command += ["--set", "data.train_limit=201"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch   1/1") == 1
    assert done.stdout.count("run folder:") == 1
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"network.safetensors", "golden.npz", "metrics.jsonl", "report.html"} <= names


def test_shares_are_equal_and_cover_a_batch():
    chosen = torch.arange(10)
    shares = [World(rank, 3).share(chosen) for rank in range(3)]
    assert torch.cat(shares).tolist() == list(range(9))  # the tenth is left out: shares must weigh the same
    assert World(0, 4).share(torch.arange(7)).tolist() == []  # one sample has no statistics
    check_batch(8, World(0, 4))
    for batch, size in ((8, 3), (4, 4)):
        with pytest.raises(BadInput, match=r"does not divide into \d equal shares"):
            check_batch(batch, World(0, size))


def test_alone_without_torchrun():
    with joined("cpu") as world:
        assert world == World()
        assert world.total(3.0) == 3.0
