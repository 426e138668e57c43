"""What every training method is: parts with an optimizer each, and one batch at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from stdl_export.common.config import Fraction, NaturalFloat, PositiveFloat, Table
from stdl_models.network import SpikingNetwork


class OptimizerOptions(Table):
    """One optimizer for every part. `clip`: largest gradient norm of a part; none: no clipping."""

    name: Literal["adamw", "sgd"] = "adamw"
    lr: PositiveFloat = 3e-3
    weight_decay: NaturalFloat = 0.01
    momentum: Fraction = 0.9
    clip: PositiveFloat | None = None


class BatchResult(NamedTuple):
    """What one batch gave, on the training device."""

    loss: Tensor  # [parts], mean over the batch and the time steps, the local loss of each part
    logits: Tensor  # [B, classes], the last part's mean over T, detached


class Method(Protocol):
    """A way to train a network. `network` is the plain network whose units are being trained."""

    network: SpikingNetwork
    parts: list[nn.Module]
    optimizers: list[torch.optim.Optimizer]

    def train_batch(self, frame: Tensor, labels: Tensor) -> BatchResult:
        """Gradients and one optimizer step for every part.

        frame: [B, *shape], shown in every time step; labels: [B].
        """


def make_optimizer(options: OptimizerOptions, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer of one part; weight decay applies to weights, not to biases and normalisation."""
    kept = list(parameters)
    groups = [
        {"params": [p for p in kept if p.dim() > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in kept if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if options.name == "adamw":
        return torch.optim.AdamW(groups, lr=options.lr)
    return torch.optim.SGD(groups, lr=options.lr, momentum=options.momentum, nesterov=True)


def finish_step(optimizer: torch.optim.Optimizer, clip: float | None) -> None:
    """Clip, step, and drop the gradients so that they do not live on."""
    if clip is not None:
        nn.utils.clip_grad_norm_(list(parameters_of(optimizer)), clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def parameters_of(optimizer: torch.optim.Optimizer) -> Iterator[nn.Parameter]:
    """Every parameter that an optimizer trains."""
    return (parameter for group in optimizer.param_groups for parameter in group["params"])
