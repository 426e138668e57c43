"""The training loop: epochs of batches, learning rate, evaluation, metrics, checkpoints; then merging.

Everything random in an epoch (order, augmentation) is drawn from one generator that is seeded by (seed, epoch), so a
run that is resumed behind an epoch ends, on a CPU, with the same weights bit for bit as one that was never stopped.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from stdl_export.common.errors import CheckFailed
from stdl_export.common.files import atomic_file
from stdl_models.network import SpikingNetwork, decode
from stdl_train.augment import Augment
from stdl_train.checkpoint import save_checkpoint
from stdl_train.data.samples import Samples
from stdl_train.methods.base import Method
from stdl_train.recipe import TrainTable


@dataclass(frozen=True)
class Data:
    """Images [N, C, H, W] in [0, 1] and labels [N] of one split in main memory; batches come on the training device."""

    images: Tensor
    labels: Tensor
    mean: Tensor  # [C, 1, 1], on the training device
    std: Tensor  # [C, 1, 1], on the training device

    @classmethod
    def of(cls, samples: Samples, device: torch.device) -> Data:
        """From a data set's arrays."""
        mean, std = (torch.tensor(values).view(-1, 1, 1).to(device) for values in (samples.mean, samples.std))
        return cls(torch.from_numpy(samples.images), torch.from_numpy(samples.labels), mean, std)

    def take(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Images [B, C, H, W] in [0, 1] and labels [B] at these indices, on the training device."""
        device = self.mean.device
        return self.images[chosen].to(device), self.labels[chosen].to(device)

    def normalise(self, images: Tensor) -> Tensor:
        """What the network takes, from images on the training device."""
        return (images - self.mean) / self.std

    def batches(self, size: int, limit: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised frames and labels of the first `limit` samples (None: all) in order, without augmentation."""
        for chosen in torch.arange(len(self.labels))[:limit].split(size):
            images, labels = self.take(chosen)
            yield self.normalise(images), labels


@dataclass(frozen=True)
class EpochMetrics:
    """One line of metrics.jsonl.

    loss: mean local loss of each part; accuracies are fractions; seconds: wall time.
    """

    epoch: int
    loss: list[float]
    train_accuracy: float
    test_accuracy: float
    learning_rate: float
    seconds: float


class Trainer:
    """Trains `method` on `train`, looks at `test` after each epoch, and leaves metrics and checkpoints in `folder`."""

    def __init__(
        self, method: Method, train: Data, test: Data, augment: Augment, options: TrainTable, folder: Path
    ) -> None:
        self.method, self.train, self.test, self.augment = method, train, test, augment
        self.options, self.folder = options, folder
        # a batch of one has no statistics: the rest of an epoch that holds a single sample is left out
        self.steps = len(train.labels) // options.batch_size + (len(train.labels) % options.batch_size > 1)

    def run(self, console: Console, done: int = 0) -> None:
        """Epochs done + 1 to the last. `done`: epochs that a checkpoint has behind it."""
        columns = (
            TextColumn("epoch {task.fields[epoch]}"), BarColumn(), MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.3f}"), TimeRemainingColumn(),
        )  # fmt: skip
        with Progress(*columns, console=console, transient=True) as progress:
            self._cut_metrics(done)
            total = self.options.epochs * self.steps
            task = progress.add_task(
                "training", total=total, completed=done * self.steps, epoch=done + 1, loss=math.nan
            )
            for epoch in range(done + 1, self.options.epochs + 1):
                metrics = self.epoch(epoch, lambda loss, e=epoch: progress.update(task, advance=1, epoch=e, loss=loss))  # type: ignore[misc]
                save_checkpoint(self.method, epoch, self.folder / "checkpoint" / "last.safetensors")
                self._write(metrics)
                progress.console.print(describe_epoch(metrics, self.options.epochs), highlight=False, soft_wrap=True)

    def epoch(self, epoch: int, tick: Callable[[float], None]) -> EpochMetrics:
        """One pass over the training set and an evaluation; `tick(loss)` after each batch."""
        begun = time.perf_counter()
        torch.manual_seed(epoch_seed(self.options.seed, epoch))
        for part in self.method.parts:
            part.train()
        order = torch.randperm(len(self.train.labels))
        losses, correct, seen = [], 0, 0
        for step, chosen in enumerate(order.split(self.options.batch_size)[: self.steps]):
            rate = self._learning_rate((epoch - 1) * self.steps + step)
            images, labels = self.train.take(chosen)
            frames = self.train.normalise(self.augment(images))
            result = self.method.train_batch(frames, labels)
            losses.append(result.loss)
            correct += int((result.logits.argmax(1) == labels).sum())
            seen += len(labels)
            self._require_finite(result.loss, epoch, step)
            tick(float(result.loss.mean()))
        accuracy = evaluate(self.method.network, self.test, self.options.batch_size)
        return EpochMetrics(
            epoch=epoch,
            loss=torch.stack(losses).mean(0).tolist(),
            train_accuracy=correct / seen,
            test_accuracy=accuracy,
            learning_rate=rate,
            seconds=time.perf_counter() - begun,
        )

    def _learning_rate(self, step: int) -> float:
        """Set the rate of a step, counted over the whole run: linear warm-up, then a cosine to zero."""
        warmup, total = self.options.warmup_epochs * self.steps, self.options.epochs * self.steps
        rise = min(1.0, (step + 1) / warmup) if warmup > 0 else 1.0
        rate = self.options.optimizer.lr * rise * 0.5 * (1 + math.cos(math.pi * step / total))
        for optimizer in self.method.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        return rate

    def _require_finite(self, loss: Tensor, epoch: int, step: int) -> None:
        if not bool(torch.isfinite(loss).all()):
            raise CheckFailed(
                f"the loss became {loss.tolist()} in epoch {epoch}, batch {step + 1}: lower train.optimizer.lr; "
                f"the state behind the last whole epoch, if there is one, is in '{self.folder / 'checkpoint'}'"
            )

    def _cut_metrics(self, done: int) -> None:
        """Drop lines of epochs that no checkpoint holds: they are trained again."""
        path = self.folder / "metrics.jsonl"
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[:done]
            with atomic_file(path) as part:
                part.write_text("".join(lines), encoding="utf-8")

    def _write(self, metrics: EpochMetrics) -> None:
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(metrics)) + "\n")


def describe_epoch(metrics: EpochMetrics, epochs: int) -> str:
    """The epoch's line for people."""
    losses = " ".join(f"{loss:.3f}" for loss in metrics.loss)
    return (
        f"epoch {metrics.epoch:>3}/{epochs}  loss {losses}  train {metrics.train_accuracy:.2%}  "
        f"test {metrics.test_accuracy:.2%}  {metrics.seconds:.1f} s"
    )


def epoch_seed(seed: int, epoch: int) -> int:
    """A seed for one epoch of one run."""
    return (seed * 1_000_003 + epoch) % 2**63


def evaluate(network: SpikingNetwork, data: Data, batch: int) -> float:
    """Fraction of samples whose decoded output is largest at their label."""
    correct = 0
    network.eval()
    with torch.no_grad():
        for frames, labels in data.batches(batch):
            logits = network(frames)  # step by step: memory does not grow with T here either
            correct += int((decode(logits, network.spec.output).argmax(1) == labels).sum())
    return correct / len(data.labels)
