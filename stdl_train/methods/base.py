"""What every training method is: parts with an optimizer each, and one batch at a time."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from stdl_export.common.config import Fraction, NaturalFloat, PositiveFloat, Table
from stdl_models.network import SpikingNetwork, batch_axis
from stdl_models.units.shapes import Shape

Precision = Literal["fp32", "bf16"]


class OptimizerOptions(Table):
    """One optimizer for every part. `clip`: largest gradient norm of a part; none: no clipping."""

    name: Literal["adamw", "sgd"] = "adamw"
    lr: PositiveFloat = 3e-3
    weight_decay: NaturalFloat = 0.01
    momentum: Fraction = 0.9
    clip: PositiveFloat | None = None


class MethodOptions(Table):
    """What a method can be told; all of it can be said in a recipe's `[train]`.

    `label_smoothing`: of the cross-entropy. `loss_on`: the logits of each step, or their running mean. `traces`: weight
    gradients from presynaptic traces instead of the step's own spikes (OTTT; Xiao et al. 2022). `order`: of work,
    subnetwork by subnetwork or step by step through all of them. `subnetwork_lr`: a factor on the learning rate for
    each subnetwork. `precision`: of convolutions and linear maps; potentials and thresholds stay float32. `compile`:
    forward passes by torch.compile. `logit_scale`: factor on logits in the loss, for readouts that fire: what spikes
    can say in a few steps is else too little for the cross-entropy.
    """

    optimizer: OptimizerOptions = OptimizerOptions()
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    loss_on: Literal["instantaneous", "mean"] = "instantaneous"
    logit_scale: PositiveFloat = 1.0
    traces: bool = False
    order: Literal["subnetwork", "time"] = "subnetwork"
    subnetwork_lr: tuple[PositiveFloat, ...] | None = None
    precision: Precision = "fp32"
    compile: bool = False


@dataclass(frozen=True)
class Part:
    """Units first..last of the network and the units behind them that its auxiliary network copies."""

    first: int
    last: int
    copies: tuple[int, ...] = ()


@dataclass(frozen=True)
class Layout:
    """How a method works through a batch; what a plan decides.

    width: factor on the width of auxiliary units. time_chunk: steps whose stateless parts are computed together.
    micro_batches: pieces of a batch that are worked on one after the other before an optimizer step; each normalises by
    its own statistics.
    """

    parts: tuple[Part, ...]
    width: float = 1.0
    time_chunk: int = 1
    micro_batches: int = 1


class Batch(NamedTuple):
    """x and labels as in Method.train_batch; rate: the learning rate of its optimizer steps."""

    x: Tensor
    labels: Tensor
    rate: float


class BatchResult(NamedTuple):
    """What one batch gave, on the training device."""

    loss: Tensor  # [parts], mean over the batch and the time steps, the local loss of each part
    logits: Tensor  # [B, classes], the last part's mean over T, detached


class Method(Protocol):
    """A way to train a network. `network` is the plain network whose units are being trained."""

    network: SpikingNetwork
    parts: list[nn.Module]
    optimizers: list[torch.optim.Optimizer]

    def train_batch(self, x: Tensor, labels: Tensor) -> BatchResult:
        """Gradients and one optimizer step for every part.

        x: a frame [B, *shape], shown in every time step, or a sequence [T, B, *shape]; labels: [B], or shares of the
        classes [B, classes].
        """


def make_optimizer(
    options: OptimizerOptions, parameters: Iterable[nn.Parameter], factor: float = 1.0
) -> torch.optim.Optimizer:
    """The optimizer of one part; weight decay applies to weights, not to biases, normalisation and trained tau.

    factor: on the learning rate; kept in every group as `factor`, so that a schedule can go on from it.
    """
    kept = list(parameters)
    groups = [
        {"params": [p for p in kept if p.dim() > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in kept if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group | {"factor": factor, "lr": options.lr * factor} for group in groups if group["params"]]
    if options.name == "adamw":
        return torch.optim.AdamW(groups, lr=options.lr)
    return torch.optim.SGD(groups, lr=options.lr, momentum=options.momentum, nesterov=options.momentum > 0)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """A schedule's learning rate, times the part's own factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


def finish_step(optimizer: torch.optim.Optimizer, clip: float | None) -> None:
    """Clip, step, and drop the gradients so that they do not live on."""
    if clip is not None:
        nn.utils.clip_grad_norm_(list(parameters_of(optimizer)), clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def parameters_of(optimizer: torch.optim.Optimizer) -> Iterator[nn.Parameter]:
    """Every parameter that an optimizer trains."""
    return (parameter for group in optimizer.param_groups for parameter in group["params"])


def arithmetic(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[object]:
    """Where forward passes and losses are computed: autocast to bfloat16, or as it stands."""
    if precision == "fp32":
        return contextlib.nullcontext()
    if device.type == "meta":
        return _AutocastOnMeta()
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)  # each weight is cast once anyway


class _AutocastOnMeta(TorchFunctionMode):
    """What autocast to bfloat16 does to convolutions and linear maps, for dry runs: it knows no `meta` device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Cast what the two multiply; everything else runs in its inputs' precision."""
        if func in (torch.conv2d, nn.functional.linear):
            args = [a.to(torch.bfloat16) if isinstance(a, Tensor) else a for a in args]
        return func(*args, **(kwargs or {}))


def arithmetic_now() -> contextlib.AbstractContextManager[object]:
    """The same arithmetic again inside backward, for what is computed anew there: a mode is off in its own handlers."""
    mode = torch.overrides._get_current_function_mode()
    return _AutocastOnMeta() if isinstance(mode, _AutocastOnMeta) else contextlib.nullcontext()


def replica(module: nn.Module, options: MethodOptions) -> nn.Module:
    """The module as it is called in training: compiled, and one of several replicas where processes train together.

    Replicas are DistributedDataParallel; buffers are each process's own (`distributed.average_buffers` joins them).
    """
    called: nn.Module = torch.compile(module, dynamic=False) if options.compile else module  # type: ignore[assignment]
    device = next(module.parameters()).device
    if device.type != "meta" and torch.distributed.is_available() and torch.distributed.is_initialized():
        ids = [device] if device.type == "cuda" else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of a name that PyTorch 2.9 does not know yet
            called = nn.parallel.DistributedDataParallel(called, device_ids=ids, broadcast_buffers=False)
    return called


def gradients_stay_here(called: nn.Module, stay: bool) -> contextlib.AbstractContextManager[object]:
    """Around forward and backward: replicas add up gradients without exchanging them, except the batch's last time."""
    if stay and isinstance(called, nn.parallel.DistributedDataParallel):
        return called.no_sync()
    return contextlib.nullcontext()


def split_batch(x: Tensor, labels: Tensor, pieces: int, shape: Shape) -> list[tuple[Tensor, Tensor]]:
    """A batch in at most `pieces` micro-batches, none of a single sample: that has no statistics.

    x: a frame [B, *shape] or a sequence [T, B, *shape].
    """
    pieces = max(1, min(pieces, len(labels) // 2))
    return list(zip(x.tensor_split(pieces, batch_axis(x, shape)), labels.tensor_split(pieces), strict=True))
