"""The plan of a training run: where the network is cut, what each auxiliary network copies, what a step will cost.

A budget covers all that is alive at the peak of a step. Within it a plan prefers, in this order: whole batches (rather
than micro-batches), two auxiliary units for every subnetwork rather than one, their full width rather than half, few
subnetworks, then as many auxiliary units as fit (one more for each subnetwork in turn, up to the cap), and last the
longest time chunk, which costs memory and saves time. Cuts make the costliest subnetwork as cheap as it can be.

No byte is estimated: the real training step of a subnetwork runs on the `meta` device, where tensors have shapes and no
data. Subnetwork-major order allows this to be done for one subnetwork at a time,

    live = sum over k of (weights, optimizer state of k) + max over k of (what k's steps add at their peak) + the batch

so a search needs a dry run only for what it changes; the plan that is returned has been run as a whole.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from stdl_models.nets.registry import build_network
from stdl_models.network import NetworkSpec, SpikingNetwork
from stdl_train.auxiliary import build_head
from stdl_train.memory import PartBytes, StepBytes, count_part, count_step
from stdl_train.methods.base import Layout, Method, MethodOptions, Part
from stdl_train.methods.registry import METHODS, MethodName, build_method
from stdl_train.methods.stdl import Stdl

DEFAULT_SUBNETWORKS = 4
"""K where neither the recipe nor a budget says otherwise."""

GOOD_COPIES = 2
"""Copies per auxiliary network that a plan takes before it takes a larger width or fewer subnetworks."""

MOST_COPIES = 4
"""Cap on copies: with them the accuracy of full depth was reached (benchmarks/training_accuracy.py), and the weights of
more would outgrow the network."""

MOST_SUBNETWORKS = 8
"""The finest cut that a budget may lead to: more subnetworks cost accuracy and weights."""

WIDTHS = (1.0, 0.5)
"""Widths of auxiliary units that a budget may lead to."""


@dataclass(frozen=True)
class PlanRequest:
    """What a plan is made for; None: the plan decides (without a budget: the defaults above, one step at a time).

    budget: bytes of the whole training step, None: no limit. most_copies: cap per auxiliary network. width: factor on
    the width of auxiliary units. time_chunk: steps computed together. micro_batches: pieces of a batch.
    """

    method: MethodName
    batch: int
    options: MethodOptions = field(default_factory=MethodOptions)
    subnetworks: int | None = None
    budget: int | None = None
    most_copies: int | None = None
    width: float | None = None
    time_chunk: int | None = None
    micro_batches: int | None = None


@dataclass(frozen=True)
class Plan:
    """The layout and the predicted bytes of one training step."""

    request: PlanRequest
    layout: Layout
    predicted: StepBytes


def predict(
    spec: NetworkSpec, method: MethodName, layout: Layout, batch: int, options: MethodOptions, operations: bool = False
) -> StepBytes:
    """Bytes (and multiply-accumulates, where asked for) of one training step, counted in a dry run.

    Shapes only, nothing is allocated.
    """
    trainer, x, labels = _dry_run(spec, method, layout, batch, options)
    with torch.device("meta"):
        return count_step(trainer, x, labels, operations)


def predict_part(
    spec: NetworkSpec, method: MethodName, layout: Layout, index: int, batch: int, options: MethodOptions,
    operations: bool = False,
) -> PartBytes:  # fmt: skip
    """The same for one subnetwork of a layout on its own, the spikes in front of it and behind it included.

    Steps alike are not run again: beyond two chunks and two micro-batches, each one adds the spikes that it leaves
    at the wider of the two borders, and nothing else.
    """
    chunks, pieces = -(-spec.T // layout.time_chunk), max(1, min(layout.micro_batches, batch // 2))
    T, few, size = min(spec.T, 2 * layout.time_chunk), min(pieces, 2), -(-batch // pieces)
    short = replace(layout, micro_batches=few)
    trainer, x, labels = _dry_run(spec.model_copy(update={"T": T}), method, short, few * size, options)
    assert isinstance(trainer, Stdl)
    with torch.device("meta"):
        found = count_part(trainer, index, x, labels, operations)
        beside = [k for k in (index, index + 1) if 0 < k < len(trainer.parts)]
        borders = [trainer.border_in_front(k, size)[0].planes.nbytes for k in beside]
    more = chunks * pieces - -(-T // layout.time_chunk) * few
    scale = (batch * spec.T) / (few * size * T)
    return PartBytes(
        found.fixed,
        found.added + more * max(borders, default=0),
        batch * (input_bytes(spec) + torch.long.itemsize),
        found.saved,
        round(found.operations * scale),
    )


def _dry_run(
    spec: NetworkSpec, method: MethodName, layout: Layout, batch: int, options: MethodOptions
) -> tuple[Method, Tensor, Tensor]:
    with torch.device("meta"):
        network = build_network(spec).train()
        eager = options.model_copy(update={"compile": False, "subnetwork_lr": None})
        trainer = build_method(method, network, layout, eager)
        size = (batch, *spec.input.shape) if spec.input.repeated else (spec.T, batch, *spec.input.shape)
        return trainer, torch.empty(size), torch.zeros(batch, dtype=torch.long)


def input_bytes(spec: NetworkSpec) -> int:
    """Bytes of one sample as the network takes it, float32: one frame, or a sequence of T."""
    return math.prod(spec.input.shape) * torch.float32.itemsize * (1 if spec.input.repeated else spec.T)


@dataclass(frozen=True)
class Costs:
    """What `--plan` shows of a plan: each subnetwork's bytes (decoupled methods), the whole step's, and its rivals'."""

    parts: tuple[PartBytes, ...]
    step: StepBytes
    rivals: dict[MethodName, StepBytes]


def costs(spec: NetworkSpec, plan: Plan) -> Costs:
    """Predicted bytes and operations of a plan, with BPTT and checkpointed BPTT on the same network and batch."""
    request, layout = plan.request, plan.layout
    asked = (request.batch, request.options, True)
    whole = Layout((Part(0, len(spec.units) - 1),))
    rivals: tuple[MethodName, ...] = ("bptt", "bptt-checkpoint")
    decoupled = METHODS[request.method].chunks
    return Costs(
        tuple(predict_part(spec, request.method, layout, k, *asked) for k in range(len(layout.parts)) if decoupled),
        predict(spec, request.method, layout, *asked),
        {name: predict(spec, name, whole, *asked) for name in rivals},
    )


def describe_copies(network: SpikingNetwork, part: Part, width: float = 1.0) -> list[str]:
    """The copies of a part as people read them: name, width, stride or pool."""
    head = build_head(network, part.last, part.copies, width)[:-1]
    lines = []
    for unit in head:
        spec = unit.spec.model_dump()
        stride = spec.get("stride", spec.get("pool", 1))
        size = spec.get("channels", spec.get("features"))
        lines.append(f"{unit.name.removeprefix('aux.')} {size}" + (f" /{stride}" if stride > 1 else ""))
    return lines
