"""From a data set's samples to batches on the training device: read, converted, encoded over time, normalised.

What lies in memory is indexed there. What is read when it is asked for (`data.samples.Source`) can be read ahead by
worker processes: `workers` of them. Order and content of batches do not depend on how many there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from stdl_export.common.errors import BadInput
from stdl_models.network import FRAMES, InputSpec
from stdl_train.data import encoders
from stdl_train.data.encoders import Encoder
from stdl_train.data.samples import EpochSource, Samples, Source


@dataclass(frozen=True)
class Encoding:
    """An encoder with its options and seed, for T time steps."""

    encoder: Encoder
    T: int
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, source: InputSpec, T: int) -> Encoding | None:
        """What makes a network's input of samples; None where they go in as they are."""
        if source.repeated or source.encoding == FRAMES:
            return None
        return cls(encoders.find(source.encoding), T, source.encoding_seed, source.encoding_options)

    def shape(self, sample: tuple[int, ...]) -> tuple[int, ...]:
        """What the network is given in one step of pictures of this shape."""
        return encoders.shape_of(self.encoder, sample, self.options)

    def __call__(self, images: Tensor, chosen: Tensor, epoch: int | None = None) -> Tensor:
        """Pictures [B, C, H, W] with their indices [B] -> [T, B, C, H, W] on the same device.

        epoch: each one of training draws anew; None: what evaluation, golden samples and validation draw.
        """
        seed = (self.seed,) if epoch is None else (self.seed, epoch)
        x = self.encoder(images.cpu().numpy(), self.T, chosen.numpy(), seed, **self.options)
        if x.shape != (self.T, len(images), *self.shape(tuple(images.shape[1:]))) or x.dtype != np.float32:
            raise BadInput(
                f"an encoder made {x.shape} of {x.dtype} out of pictures {tuple(images.shape)}: it must give float32 "
                "[T, n, C, H, W], see stdl_train.data.encoders"
            )
        return _tensor(x).to(images.device)


@dataclass(frozen=True)
class Data:
    """Samples of one split in main memory or behind a source; batches come on the training device.

    images: pictures [N, C, H, W], float32 in [0, 1] or uint8 in 255ths; where `timed`, recordings [N, T, C, H, W].
    """

    images: Tensor | Source
    labels: Tensor  # [N]
    mean: Tensor  # [C, 1, 1], on the training device
    std: Tensor  # [C, 1, 1], on the training device
    timed: bool = False
    encoding: Encoding | None = None
    workers: int = 0

    @classmethod
    def of(
        cls, samples: Samples, device: torch.device, source: InputSpec | None = None, T: int = 1, workers: int = 0
    ) -> Data:
        """From a data set's arrays, for the network input that `source` describes (None: normalised pictures)."""
        statistics = (samples.mean, samples.std) if source is None else (source.mean, source.std)
        mean, std = (torch.tensor(values).view(-1, 1, 1).to(device) for values in statistics)
        images = samples.images
        return cls(
            _tensor(images) if type(images) is np.ndarray else images,  # a memory map stays one
            torch.from_numpy(samples.labels),
            mean,
            std,
            samples.timed,
            None if source is None else Encoding.of(source, T),
            workers,
        )

    def take(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures [B, C, H, W] in [0, 1] or recordings [T, B, C, H, W], and labels [B], at these indices."""
        return self._delivered(_picked(self.images, chosen)), self.labels[chosen].to(self.mean.device)

    def read(self, order: Sequence[Tensor], epoch: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """The same for one batch of indices after the other, read ahead by the workers, if there are any.

        epoch: of training, for a source that draws anew in each.
        """
        images = self.images
        found: Iterator[Tensor]
        if epoch is not None and isinstance(images, EpochSource):
            images = images.for_epoch(epoch)
        if isinstance(images, Tensor) or not self.workers:
            found = map(partial(_picked, images), order)
        else:
            found = self._read_ahead(images, order)
        for chosen, picked in zip(order, found, strict=True):
            yield self._delivered(picked), self.labels[chosen].to(self.mean.device)

    def _read_ahead(self, source: Source, order: Sequence[Tensor]) -> Iterator[Tensor]:
        """Samples [B, ...] of each batch of indices, by worker processes."""
        loader = DataLoader(
            _Reads(source),
            batch_size=None,  # an item is a whole batch: its indices are what the sampler gives
            sampler=order,
            num_workers=min(self.workers, len(order)),
            pin_memory=self.mean.device.type == "cuda",
            generator=torch.Generator(),  # its own: the run's random numbers are the same with and without workers
        )
        for found in loader:
            if isinstance(found, str):
                raise BadInput(found)
            yield found

    def encoded(self, images: Tensor, chosen: Tensor, epoch: int | None = None) -> Tensor:
        """What the network takes, from what `take` gives: a frame [B, C, H, W] or a sequence [T, B, C, H, W]."""
        x = images if self.encoding is None else self.encoding(images, chosen, epoch)
        return (x - self.mean).div_(self.std)  # in place: fresh memory costs more than the arithmetic

    def batches(self, size: int, limit: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Network input and labels of the first `limit` samples (None: all) in order, without augmentation."""
        order = torch.arange(len(self.labels))[:limit].split(size)
        for chosen, (images, labels) in zip(order, self.read(order), strict=True):
            yield self.encoded(images, chosen), labels

    def _delivered(self, images: Tensor) -> Tensor:
        """As it was read -> float32 on the training device, time in front."""
        moved = images.to(self.mean.device, non_blocking=True)
        whole = moved.dtype == torch.uint8
        values = moved.float()
        if self.timed:
            return values.transpose(0, 1).contiguous()
        return values.div_(255) if whole else values


class _Reads(Dataset[Any]):
    """What workers do: indices [B] in, samples [B, ...] out, or what is wrong with them in words."""

    def __init__(self, source: Source) -> None:
        self._read = partial(_picked, source)

    def __getitem__(self, chosen: Tensor) -> Tensor | str:
        try:
            return self._read(chosen)
        except BadInput as error:  # raised here it would reach the trainer with a worker's traceback in its text
            return str(error)


def _picked(images: Tensor | Source, chosen: Tensor) -> Tensor:
    """Samples [B, ...] at these indices, as they are stored."""
    if isinstance(images, Tensor):
        return images[chosen]
    return _tensor(images[chosen.numpy()])


def _tensor(array: npt.NDArray[Any]) -> Tensor:
    """The same memory as a tensor; a copy where it is read-only or not in order."""
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))
