"""Two processes: killed and resumed they end as if they had not been, and both know the same of every epoch."""

from __future__ import annotations

import signal

import pytest
import torch
from tiny_run import metrics, network
from two_processes import histories, train_together

SETTINGS = ("train.epochs=3", "data.shift=1", "train.keep=best", "train.ema_decay=0.9")


def told(lines):
    """What does not depend on the machine."""
    return [{key: value for key, value in line.items() if key not in ("seconds", "memory")} for line in lines]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert train_together(folder, *SETTINGS) == [0, 0]
    return folder


def test_killed_and_resumed_equals_undisturbed_bit_for_bit(tmp_path, whole):
    """Both get SIGKILL inside the second epoch; each process augments its own share, before and after."""
    part = tmp_path / "part"
    assert train_together(part, *SETTINGS, kill=(2, 1))[0] == -signal.SIGKILL
    assert len(metrics(part)) == 1
    assert not (part / "network.safetensors").exists()
    assert train_together(part, *SETTINGS, resume=True) == [0, 0]
    ours, theirs = network(part), network(whole)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(theirs[name], value) for name, value in ours.items())
    assert told(metrics(part)) == told(metrics(whole))


def test_both_processes_measure_the_same(whole):
    """Of averaged weights too: else one would stop early, and the other would wait for it for ever."""
    first, second = histories(whole)
    assert told(first) == told(second) == told(metrics(whole))
