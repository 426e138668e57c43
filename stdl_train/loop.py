"""The training loop: epochs of batches, learning rate, evaluation, metrics, checkpoints; then merging.

Everything random in an epoch (order, augmentation) is drawn from one generator that is seeded by (seed, epoch), so a
run that is resumed behind or inside an epoch ends, on a CPU, with the same weights bit for bit as one that was
never stopped.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from torch import Tensor

from stdl_export.common.errors import BadInput, CheckFailed, Unavailable
from stdl_export.common.files import atomic_file
from stdl_models.network import SpikingNetwork, decode
from stdl_models.units.layers import spiking_neurons
from stdl_train.augment import Augment
from stdl_train.checkpoint import BEST, LAST, Progress, load_checkpoint, load_last, save_checkpoint, whole
from stdl_train.distributed import World, average_buffers, average_tensors
from stdl_train.loading import Data
from stdl_train.memory import show_bytes
from stdl_train.methods.base import Batch, BatchResult, Method, set_rate
from stdl_train.monitor import Average, FiringRates, RateWarnings, peak_memory
from stdl_train.placement import Pipeline
from stdl_train.recipe import TrainTable

log = logging.getLogger("stdl")


@dataclass(frozen=True)
class EpochMetrics:
    """One line of metrics.jsonl.

    loss: mean local loss of each part; accuracies are fractions; learning_rate: of the last step; seconds: wall time;
    memory: most bytes in use so far (monitor.peak_memory); firing: spikes per neuron and time step of each layer over
    the test set; silent: fraction of its neurons that never fired there.
    """

    epoch: int
    loss: list[float]
    train_accuracy: float
    test_accuracy: float
    learning_rate: float
    seconds: float
    memory: int
    firing: dict[str, float]
    silent: dict[str, float]


class Trainer:
    """Trains `method` on `train`, looks at `test` after each epoch, and leaves metrics and checkpoints in `folder`."""

    def __init__(
        self, method: Method, train: Data, test: Data, augment: Augment, options: TrainTable, folder: Path,
        world: World | None = None, pipeline: Pipeline | None = None,
    ) -> None:  # fmt: skip
        """world: the processes that train together; pipeline: the method's, where subnetworks have own devices."""
        self.method, self.train, self.test, self.augment = method, train, test, augment
        self.options, self.folder = options, folder
        self.world, self.pipeline = world or World(), pipeline
        # a batch of one has no statistics: what is left of an epoch and gives a process a single sample is left out
        rest = len(train.labels) % options.batch_size // self.world.size
        self.steps = len(train.labels) // options.batch_size + (rest > 1)
        self.progress = Progress()
        self.average = Average(method.network, options.ema_decay) if options.ema_decay is not None else None
        self._device = train.mean.device
        self._losses = torch.zeros(len(method.parts), device=self._device)  # sums over the epoch's batches so far
        self._correct = torch.zeros((), dtype=torch.long, device=self._device)
        self._random: Tensor | None = None  # random state inside an epoch that is gone on with
        layers = spiking_neurons(method.network)
        self._warnings = RateWarnings([name for name, neuron in layers if neuron.most is None])
        self._events = open_events(folder) if options.tensorboard and self.world.first else None

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.folder / "checkpoint"

    def resume(self) -> None:
        """Take up the state of the last whole checkpoint; from the start where there is none yet."""
        self.progress, extra = load_last(self.method, self.checkpoints)
        if extra:
            self._restore(extra)

    def run(self, console: Console) -> None:
        """Every epoch that is not behind the run yet, or until early stopping."""
        columns = (
            TextColumn("epoch {task.fields[epoch]}"), BarColumn(), MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.3f}"), TimeRemainingColumn(), TextColumn("{task.fields[memory]}"),
        )  # fmt: skip
        if self.world.first:
            self._write_metrics()
        total, done = self.options.epochs * self.steps, self.progress.epoch * self.steps + self.progress.batch
        with Bar(*columns, console=console, transient=True, disable=not self.world.first) as bar:
            task = bar.add_task("training", total=total, completed=done, epoch=1, loss=math.nan, memory="")

            def tick(epoch: int, batch: int, loss: float) -> None:
                memory = show_bytes(peak_memory(self._device))
                bar.update(task, completed=(epoch - 1) * self.steps + batch, epoch=epoch, loss=loss, memory=memory)

            while self.progress.epoch < self.options.epochs and not self._stopped():
                metrics = self.epoch(self.progress.epoch + 1, tick)
                self._finish_epoch(metrics)
                if self.world.first:
                    console.print(describe_epoch(metrics, self.options.epochs), highlight=False, soft_wrap=True)
                    self._warnings.look(metrics.epoch, metrics.firing, metrics.silent)
        if self._stopped() and self.progress.epoch < self.options.epochs:
            log.info("stopped early: no better test accuracy in %d epochs", self.progress.stale)
        if self._events is not None:
            self._events.close()

    def epoch(self, epoch: int, tick: Callable[[int, int, float], None]) -> EpochMetrics:
        """One pass over the training set, or what is left of it, and an evaluation; `tick(epoch, batch, loss)`."""
        begun = time.perf_counter()
        torch.manual_seed(epoch_seed(self.options.seed, epoch))
        for part in self.method.parts:
            part.train()
        order = torch.randperm(len(self.train.labels)).split(self.options.batch_size)[: self.steps]
        if self.world.size > 1:
            torch.manual_seed(epoch_seed(self.options.seed, epoch) + self.world.rank)  # each augments its own share
        if self._random is not None:
            torch.set_rng_state(self._random)
            self._random = None
        steps = range(self.progress.batch, self.steps)
        for step, loss in zip(steps, self._losses_of(order, epoch), strict=True):
            if (step + 1) % self._look_every() == 0 or step + 1 == self.steps:
                self._require_finite(loss, epoch, step)
                tick(epoch, step + 1, float(loss.mean()))
            every = self.options.checkpoint_every
            if every is not None and (step + 1) % every == 0 and step + 1 < self.steps:
                self._require_finite(loss, epoch, step)
                self._save_inside(step + 1, begun)
        average_buffers(self.method.parts, self.world)
        if self.average is not None:
            average_tensors(self.average.statistics, self.world)
        with self.averaged(), FiringRates(self.method.network) as firing:
            accuracy = evaluate(self.method.network, self.test, self.options.batch_size)
        return EpochMetrics(
            epoch=epoch,
            loss=[self.world.total(loss) / self.world.size for loss in (self._losses / self.steps).tolist()],
            train_accuracy=self.world.total(int(self._correct))
            / sum(self.world.size * len(self.world.share(chosen)) for chosen in order),
            test_accuracy=accuracy,
            learning_rate=self._learning_rate(epoch * self.steps - 1),
            seconds=self.progress.seconds + time.perf_counter() - begun,
            memory=peak_memory(self._device),
            firing=firing.rates(),
            silent=firing.silent(),
        )

    def settle(self) -> None:
        """Give the network the weights that are merged: of the last or the best epoch, averaged if asked for."""
        if self.options.keep == "best" and self.progress.best_epoch != self.progress.epoch:
            path = self.checkpoints / BEST
            best, extra = load_checkpoint(self.method, path)
            if best.epoch != self.progress.best_epoch:
                raise BadInput(
                    f"checkpoint '{path}' is of epoch {best.epoch}, not {self.progress.best_epoch}: train again"
                )
            self._restore(extra)
            log.info("merging epoch %d, the best: test accuracy %.2f%%", best.epoch, best.best * 100)
        if self.average is not None:
            self.average.apply()

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """While the block runs, the network has its averaged weights, if there are any."""
        return contextlib.nullcontext() if self.average is None else self.average.applied()

    def _losses_of(self, order: Sequence[Tensor], epoch: int) -> Iterator[Tensor]:
        """Train on this process's share of each batch that is left of the epoch; the losses of each."""
        waiting: deque[Tensor] = deque()  # labels of batches that are on their way

        def batches() -> Iterator[Batch]:
            mine = [self.world.share(chosen) for chosen in order[self.progress.batch :]]
            step = (epoch - 1) * self.steps + self.progress.batch
            for chosen, (images, labels) in zip(mine, self.train.read(mine, epoch), strict=True):
                images, labels = self.augment(images, labels)
                waiting.append(labels if labels.dim() == 1 else labels.argmax(1))  # of a mixed sample the larger share
                yield Batch(self.train.encoded(images, chosen, epoch), labels, self._learning_rate(step))
                step += 1

        for number, result in enumerate(self._results(batches()), start=self.progress.batch + 1):
            self._losses += result.loss
            self._correct += (result.logits.argmax(1) == waiting.popleft()).sum()
            if self.average is not None:
                self.average.update((epoch - 1) * self.steps + number)
            yield result.loss

    def _results(self, batches: Iterator[Batch]) -> Iterator[BatchResult]:
        """One batch after the other, or, in a pipeline, several on their way at a time."""
        if self.pipeline is not None:
            yield from self.pipeline.train_batches(batches)
            return
        for batch in batches:
            for optimizer in self.method.optimizers:
                set_rate(optimizer, batch.rate)
            yield self.method.train_batch(batch.x, batch.labels)

    def _look_every(self) -> int:
        """Batches between two looks at the loss: on a GPU each look waits until all work is done."""
        return 1 if self._device.type == "cpu" else 20

    def _finish_epoch(self, metrics: EpochMetrics) -> None:
        """Count, then write: best, last, metrics. Stopped anywhere here, the epoch or its writing is done again."""
        before, accuracy = self.progress, metrics.test_accuracy
        better = accuracy > before.reference + self.options.min_delta
        best = accuracy > before.best
        self.progress = Progress(
            epoch=metrics.epoch,
            best=accuracy if best else before.best,
            best_epoch=metrics.epoch if best else before.best_epoch,
            reference=accuracy if better else before.reference,
            stale=0 if better else before.stale + 1,
            history=[*before.history, asdict(metrics)],
        )
        self._losses.zero_()
        self._correct.zero_()
        if self.world.first:
            for name in [BEST] * best + [LAST]:
                save_checkpoint(self.method, self._extra(), self.progress, self.checkpoints / name)
            self._write_metrics()
        self.world.wait()
        if self._events is not None:
            write_events(self._events, asdict(metrics))

    def _save_inside(self, batch: int, begun: float) -> None:
        """A checkpoint inside an epoch, `batch` of whose batches are done."""
        seconds = self.progress.seconds + time.perf_counter() - begun
        inside = replace(self.progress, batch=batch, seconds=seconds)
        extra = self._extra() | {"random": torch.get_rng_state()}
        if self.world.first:
            save_checkpoint(self.method, extra, inside, self.checkpoints / LAST)

    def _extra(self) -> dict[str, Tensor]:
        averages = self.average.tensors if self.average is not None else {}
        return {f"average.{n}": v for n, v in averages.items()} | {"losses": self._losses, "correct": self._correct}

    def _restore(self, extra: dict[str, Tensor]) -> None:
        self._losses.copy_(extra["losses"])
        self._correct.copy_(extra["correct"])
        self._random = extra.get("random")
        if self.average is not None:
            self.average.restore({n.removeprefix("average."): v for n, v in extra.items() if n.startswith("average.")})

    def _stopped(self) -> bool:
        return self.options.patience is not None and self.progress.stale >= self.options.patience

    def _learning_rate(self, step: int) -> float:
        """The rate of a step, counted over the whole run: linear warm-up, then a cosine to zero."""
        warmup, total = self.options.warmup_epochs * self.steps, self.options.epochs * self.steps
        rise = min(1.0, (step + 1) / warmup) if warmup > 0 else 1.0
        return self.options.optimizer.lr * rise * 0.5 * (1 + math.cos(math.pi * step / total))

    def _require_finite(self, loss: Tensor, epoch: int, step: int) -> None:
        if not bool(torch.isfinite(loss).all() & torch.isfinite(self._losses).all()):
            raise CheckFailed(
                f"the loss became {loss.tolist()} in epoch {epoch}, batch {step + 1}: "
                "lower train.optimizer.lr (of a fine-tune quantize.lr); "
                f"{whole(self.checkpoints / LAST)}"
            )

    def _write_metrics(self) -> None:
        """metrics.jsonl from the checkpoint's history, so that both always tell of the same epochs."""
        with atomic_file(self.folder / "metrics.jsonl") as part:
            part.write_text("".join(json.dumps(line) + "\n" for line in self.progress.history), encoding="utf-8")


def describe_epoch(metrics: EpochMetrics, epochs: int) -> str:
    """The epoch's line for people."""
    losses = " ".join(f"{loss:.3f}" for loss in metrics.loss)
    firing = " ".join(f"{rate:.1%}" for rate in metrics.firing.values())
    return (
        f"epoch {metrics.epoch:>3}/{epochs}  loss {losses}  train {metrics.train_accuracy:.2%}  "
        f"test {metrics.test_accuracy:.2%}  firing {firing}  {show_bytes(metrics.memory)}  {metrics.seconds:.1f} s"
    )


def event_writer() -> Any:
    """TensorBoard's class that writes event files; Unavailable where the package is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise Unavailable("train.tensorboard: pip install tensorboard, or set it to false") from None
    return SummaryWriter


def open_events(folder: Path) -> Any:
    """A writer of TensorBoard's event files in the run folder."""
    return event_writer()(str(folder / "tensorboard"))


def write_events(writer: Any, metrics: dict[str, Any]) -> None:
    """One epoch's numbers, each under its name in metrics.jsonl."""
    for key, value in metrics.items():
        named = dict(enumerate(value, start=1)) if isinstance(value, list) else value
        for name, number in named.items() if isinstance(named, dict) else [("", named)]:
            writer.add_scalar(f"{key}/{name}" if name else key, number, metrics["epoch"])
    writer.flush()


def epoch_seed(seed: int, epoch: int) -> int:
    """A seed for one epoch of one run."""
    return (seed * 1_000_003 + epoch) % 2**63


def evaluate(network: SpikingNetwork, data: Data, batch: int) -> float:
    """Fraction of samples whose decoded output is largest at their label."""
    correct = 0
    network.eval()
    with torch.no_grad():
        for x, labels in data.batches(batch):
            logits = network(x)  # step by step: memory does not grow with T here either
            correct += int((decode(logits, network.spec.output).argmax(1) == labels).sum())
    return correct / len(data.labels)
