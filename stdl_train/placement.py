"""Subnetworks on devices of their own, working on different batches at the same time.

    device 0:  batch 1 | batch 2 | batch 3 | ...
    device 1:          | batch 1 | batch 2 | ...      reads the spikes that device 0 put out, as bits

No gradient crosses a border, so nothing has to come back: each subnetwork takes its batches in the same order, and from
the same weights, as if it had waited for the others. The result is that of one device, bit for bit where the devices
compute alike; only the spikes at the borders travel.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stdl_export.common.errors import BadInput, Unavailable
from stdl_train.borders import PackedSpikes
from stdl_train.methods.base import Batch, BatchResult, set_rate, split_batch
from stdl_train.methods.stdl import Border, Stdl

AHEAD = 2
"""Batches that may wait in front of a stage."""


@dataclass
class _Work:
    """A batch on its way: what stands in front of the next subnetwork, and what the ones before have found."""

    inputs: list[Tensor | Border]
    labels: list[Tensor]
    rate: float
    losses: list[Tensor]
    logits: Tensor


@dataclass(frozen=True)
class Stage:
    """Neighbouring subnetworks that share a device and a thread."""

    device: torch.device
    subnetworks: tuple[int, ...]


class Pipeline:
    """Runs a decoupled method stage by stage, a thread each."""

    def __init__(self, method: Stdl, stages: Sequence[Stage]) -> None:
        """stages: cover the method's subnetworks in order."""
        self.method, self.stages = method, list(stages)
        self.home = stages[0].device
        self.threads = torch.get_num_threads()

    def train_batches(self, batches: Iterable[Batch]) -> Iterator[BatchResult]:
        """Results of the batches, in their order; several are on their way at a time.

        Subnetworks are on their devices meanwhile, and all on the first one afterwards, for evaluation and merging.
        """
        for stage in self.stages:
            for index in stage.subnetworks:
                self.method.subnetworks[index].to(stage.device)
        queues = [queue.Queue[Any](AHEAD) for _ in range(len(self.stages) + 1)]
        stop = threading.Event()
        threads = [
            threading.Thread(target=self._feed, args=(batches, queues[0], stop), daemon=True),
            *(
                threading.Thread(target=self._stage, args=(stage, queues[i], queues[i + 1], stop), daemon=True)
                for i, stage in enumerate(self.stages)
            ),
        ]
        for thread in threads:
            thread.start()
        try:
            while (work := queues[-1].get()) is not None:
                if isinstance(work, BaseException):
                    raise work
                losses = torch.stack([loss.to(self.home) for loss in work.losses])
                yield BatchResult(losses, work.logits.to(self.home))
        finally:
            stop.set()
            for thread in threads:
                thread.join()
            for subnetwork in self.method.subnetworks:
                subnetwork.to(self.home)

    def _feed(self, batches: Iterable[Batch], out: queue.Queue[Any], stop: threading.Event) -> None:
        """Batches into the first stage, in micro-batches; None at the end, the error if one is raised."""
        try:
            for batch in batches:
                pieces = split_batch(*batch[:2], self.method.layout.micro_batches, self.method.network.spec.input.shape)
                inputs: list[Tensor | Border] = [x for x, _ in pieces]
                work = _Work(inputs, [labels for _, labels in pieces], batch.rate, [], torch.empty(0))
                if not _put(out, work, stop):
                    return
            _put(out, None, stop)
        except BaseException as error:  # goes to whoever waits for results
            _put(out, error, stop)

    def _stage(self, stage: Stage, front: queue.Queue[Any], out: queue.Queue[Any], stop: threading.Event) -> None:
        """One thread's life: take, train, hand on."""
        torch.set_flush_denormal(True)  # this and the number of threads hold for a thread only
        torch.set_num_threads(self.threads)
        try:
            while not stop.is_set():
                try:
                    work = front.get(timeout=0.1)
                except queue.Empty:
                    continue
                if isinstance(work, _Work):
                    self._train(stage, work)
                if not _put(out, work, stop) or not isinstance(work, _Work):
                    return
        except BaseException as error:
            _put(out, error, stop)

    def _train(self, stage: Stage, work: _Work) -> None:
        """The stage's subnetworks on one batch, each with an optimizer step."""
        work.inputs = [_move(piece, stage.device) for piece in work.inputs]
        work.labels = [labels.to(stage.device) for labels in work.labels]
        for index in stage.subnetworks:
            set_rate(self.method.optimizers[index], work.rate)
            loss, work.logits, work.inputs = self.method.train_part(index, work.inputs, work.labels)
            work.losses.append(loss)


def _move(piece: Tensor | Border, device: torch.device) -> Tensor | list[PackedSpikes]:
    return piece.to(device) if isinstance(piece, Tensor) else [entry.to(device) for entry in piece]


def _put(out: queue.Queue[Any], item: object, stop: threading.Event) -> bool:
    """Whether the item went in; False once everybody stops."""
    while not stop.is_set():
        with contextlib.suppress(queue.Full):
            out.put(item, timeout=0.1)
            return True
    return False


def parse_placement(text: str, subnetworks: int) -> list[Stage]:
    """Stages from 'cuda:0,cuda:1', a device each; neighbouring subnetworks fill them in equal runs."""
    devices = []
    for name in text.split(","):
        try:
            device = torch.device(name.strip())
        except RuntimeError:
            raise BadInput(f"--placement: '{name}' is no device: write devices such as cuda:0,cuda:1") from None
        if device.type not in ("cpu", "cuda"):
            raise BadInput(f"--placement: '{name}': only cpu and cuda devices are known")
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise Unavailable(f"--placement {name}: PyTorch finds {torch.cuda.device_count()} CUDA devices here")
        devices.append(device)
    if len(devices) > subnetworks:
        raise BadInput(f"--placement names {len(devices)} devices for {subnetworks} subnetworks: name at most as many")
    stage_of = [index * len(devices) // subnetworks for index in range(subnetworks)]
    return [
        Stage(device, tuple(index for index in range(subnetworks) if stage_of[index] == number))
        for number, device in enumerate(devices)
    ]
