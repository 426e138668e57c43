"""Several processes that train one network: what torchrun starts.

Every process holds all subnetworks and their auxiliary networks; each subnetwork with its auxiliary network is a
replica of its own (DistributedDataParallel), whose gradients are exchanged once per batch, while its last chunk of time
steps goes backward. `train.batch_size` is that of all processes together: each takes its share of the same batches, so
two processes do what one would do with two micro-batches. Batch normalisation uses each process's own share, unless
`train.sync_batchnorm` joins them; then two processes do what one does.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed.nn.functional
from torch import Tensor, nn

from stdl_export.common.errors import BadInput, Unavailable
from stdl_models.network import batchnorms


@dataclass(frozen=True)
class World:
    """This process among all: 0 <= rank < size; local_rank: on its own machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def share(self, chosen: Tensor) -> Tensor:
        """This process's part of a batch; what does not divide equally is left out, so that all shares weigh the same.

        chosen: indices [B]. Shares hold two samples at least: one has no statistics.
        """
        if self.size == 1:
            return chosen
        each = len(chosen) // self.size
        return chosen[self.rank * each : (self.rank + 1) * each] if each > 1 else chosen[:0]

    def total(self, value: float) -> float:
        """The sum over all processes."""
        if self.size == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64, device=_exchange_device())
        torch.distributed.all_reduce(tensor)
        return float(tensor)

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            torch.distributed.barrier()


@contextlib.contextmanager
def joined(device: str) -> Iterator[World]:
    """While the block runs, one of the processes that torchrun started, or the only one.

    device: "cuda" exchanges by nccl, "cpu" by gloo.
    """
    if "WORLD_SIZE" not in os.environ or int(os.environ["WORLD_SIZE"]) == 1:
        yield World()
        return
    world = World(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
    if not torch.distributed.is_available():
        raise Unavailable("torchrun started several processes, but this PyTorch has no torch.distributed: run one")
    if device == "cuda":
        if world.local_rank >= torch.cuda.device_count():
            raise Unavailable(
                f"torchrun started process {world.local_rank} on a machine with {torch.cuda.device_count()} CUDA "
                "devices: use --nproc-per-node with at most as many"
            )
        torch.cuda.set_device(world.local_rank)
    torch.distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield world
    finally:
        torch.distributed.destroy_process_group()


def check_batch(batch: int, world: World) -> None:
    """BadInput where a batch does not divide into equal shares of two samples or more."""
    if batch % world.size or batch // world.size < 2:
        raise BadInput(
            f"train.batch_size = {batch} does not divide into {world.size} equal shares of at least 2: "
            f"use a multiple of {world.size}"
        )


def average_buffers(modules: list[nn.Module], world: World) -> None:
    """Running statistics of every process, averaged: what is evaluated and saved is the same everywhere."""
    norms = [norm for module in modules for norm in batchnorms(module)]
    average_tensors([b for norm in norms for b in (norm.running_mean, norm.running_var) if b is not None], world)


def average_tensors(tensors: Iterable[Tensor], world: World) -> None:
    """Give each tensor, in place, its mean over all processes."""
    if world.size == 1:
        return
    for tensor in tensors:
        torch.distributed.all_reduce(tensor)
        tensor /= world.size


def join_batchnorms(module: nn.Module) -> None:
    """Replace every batch normalisation, in place, by one whose statistics are those of all processes."""
    for name, child in module.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            joint = JointBatchNorm(child.num_features, child.eps, child.momentum)
            for kind in ("_parameters", "_buffers"):  # the same objects: optimizers and checkpoints know them
                setattr(joint, kind, getattr(child, kind))
            setattr(module, name, joint)
        else:
            join_batchnorms(child)


class JointBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation over the shares of all processes; on every device, PyTorch's own is for GPUs only.

    [N, C, ...] -> the same shape. Statistics and their gradients are exchanged.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Any shape with channels."""

    def forward(self, input: Tensor) -> Tensor:
        """See the class; in eval mode the running statistics, as ever."""
        if not self.training:
            return super().forward(input)
        x = input.float()
        axes = [0, *range(2, x.dim())]
        count = x.numel() // x.shape[1] * torch.distributed.get_world_size()
        exact = x.double()  # a variance as a difference of sums needs the digits
        sums = torch.stack([exact.sum(axes), exact.square().sum(axes)])
        mean, square = torch.distributed.nn.functional.all_reduce(sums) / count
        mean, var = mean.float(), (square - mean.square()).clamp(min=0).float()
        self._follow(mean.detach(), var.detach() * (count / max(1, count - 1)))
        shape = (1, -1, *(1,) * (x.dim() - 2))
        scale = self.weight * (var + self.eps).rsqrt()
        normalised: Tensor = (x - mean.view(shape)) * scale.view(shape) + self.bias.view(shape)
        return normalised.to(input.dtype)

    def _follow(self, mean: Tensor, var: Tensor) -> None:
        """Running statistics move towards the batch's."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum or 0.0)
        self.running_var.lerp_(var, self.momentum or 0.0)


def _exchange_device() -> Any:
    return "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
