"""Two processes of one tiny run, forked from one that has imported everything already."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from tiny_run import train

from stdl_train import loop

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tiny_run", "torch._dynamo"])  # the latter comes with the first dry run


def train_together(
    folder: Path, *settings: str, resume: bool = False, kill: tuple[int, int] | None = None
) -> list[int]:
    """Exit codes of both. kill: the epoch and the number of batches behind which each of them gets SIGKILL.

    Each leaves the history that it knows as rankN.json beside the folder.
    """
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    processes = [FORKS.Process(target=_one, args=(rank, port, folder, settings, resume, kill)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        process.kill()
        process.join()
    return [process.exitcode or 0 for process in processes]


def histories(folder: Path) -> list[list[dict[str, Any]]]:
    """What each process wrote last."""
    return [json.loads((folder.parent / f"rank{rank}.json").read_text()) for rank in range(2)]


def _one(
    rank: int, port: int, folder: Path, settings: tuple[str, ...], resume: bool, kill: tuple[int, int] | None
) -> None:
    os.environ |= {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    results, run = loop.Trainer._results, loop.Trainer.run

    def mortal(self: loop.Trainer, batches: Any) -> Any:
        for number, result in enumerate(results(self, batches), start=1):
            yield result
            if (self.progress.epoch + 1, number) == kill:
                os.kill(os.getpid(), signal.SIGKILL)

    def told(self: loop.Trainer, console: Any) -> None:
        run(self, console)
        (folder.parent / f"rank{rank}.json").write_text(json.dumps(self.progress.history))

    loop.Trainer._results, loop.Trainer.run = mortal, told  # type: ignore[method-assign]
    sys.exit(train(folder, *settings, "train.device=cpu", resume=resume))
