"""The plan of a training run: where the network is cut, what each auxiliary network copies, what a step will cost.

Cuts make the costliest subnetwork as cheap as possible. Copies are chosen by an exact search under an additive cost
(`auxiliary.largest_subset`) and accepted only by a dry run of the real training step on the `meta` device, so a
plan's bytes are counted, not estimated, and a budget is never exceeded by the prediction. Every subnetwork gets one
copy, then two, and so on: not all of the budget goes to the first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from stdl_export.common.errors import BadInput
from stdl_models.nets.registry import build_network
from stdl_models.network import NetworkSpec, SpikingNetwork
from stdl_models.units import Shape, Unit, build_unit
from stdl_train.auxiliary import build_head, copy_spec, largest_subset
from stdl_train.memory import SavedBytes, StepBytes, count_step, show_bytes
from stdl_train.methods.base import OptimizerOptions
from stdl_train.methods.registry import METHODS, MethodName, Part, build_method
from stdl_train.split import balanced_cuts, cut_points

DEFAULT_COPIES = 2
"""Copies per auxiliary network where no budget says otherwise: enough to reach the accuracy of full depth."""

FLOAT_BYTES = 4


@dataclass(frozen=True)
class PlanRequest:
    """What a plan is made for.

    budget: bytes of the whole training step, None: no limit. most_copies: cap per auxiliary network, None: two, or as
    many as a budget allows.
    """

    method: MethodName
    batch: int
    subnetworks: int
    optimizer: OptimizerOptions
    budget: int | None = None
    most_copies: int | None = None


@dataclass(frozen=True)
class Plan:
    """The parts of the network and the predicted bytes of one training step."""

    request: PlanRequest
    parts: tuple[Part, ...]
    predicted: StepBytes


def make_plan(spec: NetworkSpec, request: PlanRequest) -> Plan:
    """The plan for a network; BadInput where the budget is too small, naming the smallest that works."""
    return _Planner(spec, request).plan()


def predict(
    spec: NetworkSpec, method: MethodName, parts: tuple[Part, ...], batch: int, options: OptimizerOptions
) -> StepBytes:
    """Bytes of one training step, counted in a dry run on the `meta` device: shapes only, nothing is allocated."""
    with torch.device("meta"):
        network = build_network(spec).train()
        trainer = build_method(method, network, parts, options)
        frame = torch.empty(batch, *spec.input.shape)
        labels = torch.empty(batch, dtype=torch.long)
    return count_step(trainer, frame, labels)


class _Planner:
    """The search, with a dry network to ask for shapes and costs."""

    def __init__(self, spec: NetworkSpec, request: PlanRequest) -> None:
        self.spec, self.request = spec, request
        with torch.device("meta"):
            self.network = build_network(spec).train()
        self.units = self.network.chain[:-1]
        self.cost = lru_cache(maxsize=None)(self._copy_cost)
        self.judge = lru_cache(maxsize=None)(self._judge)

    def plan(self) -> Plan:
        """See make_plan."""
        entry = METHODS[self.request.method]
        parts = self._cut() if entry.splits else (Part(0, len(self.units) - 1),)
        if entry.copies:
            parts = self._with_copies(parts)
        predicted = self.judge(parts)
        if self.request.budget is not None and predicted.live > self.request.budget:
            raise self._too_small(predicted.live)
        return Plan(self.request, parts, predicted)

    def _judge(self, parts: tuple[Part, ...]) -> StepBytes:
        return predict(self.spec, self.request.method, parts, self.request.batch, self.request.optimizer)

    def _fits(self, parts: tuple[Part, ...]) -> bool:
        return self.request.budget is None or self.judge(parts).live <= self.request.budget

    def _cut(self) -> tuple[Part, ...]:
        """Contiguous parts, balanced by what their units keep for backward in a time step."""
        candidates, count = cut_points(self.network), self.request.subnetworks
        if not 1 <= count <= len(candidates) + 1:
            raise BadInput(
                f"network '{self.spec.name}' can be split into 1 to {len(candidates) + 1} subnetworks, not {count}: "
                "change train.subnetworks"
            )
        costs = [_saved_bytes(unit, self.request.batch) for unit in self.units]
        cuts = balanced_cuts(costs, candidates, count - 1)
        firsts, lasts = [0, *(cut + 1 for cut in cuts)], [*cuts, len(self.units) - 1]
        return tuple(Part(first, last) for first, last in zip(firsts, lasts, strict=True))

    def _with_copies(self, parts: tuple[Part, ...]) -> tuple[Part, ...]:
        """Copies for every part but the last, level by level, each step accepted by the judge."""
        parts = self._least(parts)
        if not self._fits(parts):
            raise self._too_small(self.judge(parts).live)
        later = max((len(self._candidates(part)) for part in parts[:-1]), default=0)
        cap = self.request.most_copies or (later if self.request.budget is not None else DEFAULT_COPIES)
        growing = list(range(len(parts) - 1))
        for level in range(1, min(cap, later) + 1):
            for index in list(growing):
                parts = self._improve(parts, index, level)
                if len(parts[index].copies) < level:
                    growing.remove(index)  # the others only take more from here on: no second try
        return parts

    def _least(self, parts: tuple[Part, ...]) -> tuple[Part, ...]:
        """The cheapest plan that still is STDL: one copy each, the one that takes the fewest bytes."""
        cheapest = [min((self.cost(part.last, j), j) for j in self._candidates(part))[1] for part in parts[:-1]]
        return (*(replace(part, copies=(j,)) for part, j in zip(parts[:-1], cheapest, strict=True)), parts[-1])

    def _improve(self, parts: tuple[Part, ...], index: int, level: int) -> tuple[Part, ...]:
        """The largest subset of at most `level` copies for one part that the judge accepts, else what it has.

        Where the judge finds a plan too large, the search goes on below that plan's additive cost, by a quarter of
        what it was too large: dropping a byte that is kept also drops what is only alive for a moment, so a full jump
        could skip too far.
        """
        part, limit = parts[index], math.inf
        while True:
            copies = largest_subset(part.last, self._candidates(part), len(self.units), self.cost, limit, level)
            if not copies or len(copies) < len(part.copies):
                return parts
            better = (*parts[:index], replace(part, copies=copies), *parts[index + 1 :])
            if self._fits(better):
                return better
            excess = self.judge(better).live - (self.request.budget or 0)
            limit = self._chain_cost(part.last, copies) - max(1, excess / 4)

    def _candidates(self, part: Part) -> list[int]:
        return [index for index in range(part.last + 1, len(self.units)) if self.units[index].layers]

    def _chain_cost(self, start: int, copies: tuple[int, ...]) -> float:
        return sum(self.cost(i, j) for i, j in zip((start, *copies), copies, strict=False))

    def _copy_cost(self, before: int, chosen: int) -> float:
        """Bytes of a copy: what it keeps for backward, its weights, their gradients, their optimizer state."""
        shape: Shape = self.units[before].out_shape
        try:
            with torch.device("meta"):
                unit = build_unit(copy_spec(self.network, before, chosen, shape), shape, self.spec.dt).train()
        except ValueError:  # a kernel without padding that is larger than the map
            return math.inf
        per_weight = FLOAT_BYTES * (4 if self.request.optimizer.name == "adamw" else 3)
        return _saved_bytes(unit, self.request.batch) + per_weight * sum(p.numel() for p in unit.parameters())

    def _too_small(self, needed: int) -> BadInput:
        budget = self.request.budget or 0
        return BadInput(
            f"memory budget {show_bytes(budget)} is too small for {self.request.method} on '{self.spec.name}' with "
            f"batches of {self.request.batch}: the smallest that works is {show_bytes(needed)} ({needed} bytes); "
            "raise --memory-budget or lower train.batch_size"
        )


def _saved_bytes(unit: Unit, batch: int) -> int:
    """Bytes that one time step of a unit keeps for backward."""
    with torch.device("meta"):
        x = torch.empty(batch, *unit.in_shape, requires_grad=True)
    with SavedBytes(unit.parameters()) as saved:
        y, _ = unit.step(x, unit.rest)
        del y
    return saved.peak


def describe_copies(network: SpikingNetwork, part: Part) -> list[str]:
    """The copies of a part as people read them: name, width, stride or pool."""
    head = build_head(network, part.last, part.copies)[:-1]
    lines = []
    for unit in head:
        spec = unit.spec.model_dump()
        stride = spec.get("stride", spec.get("pool", 1))
        size = spec.get("channels", spec.get("features"))
        lines.append(f"{unit.name.removeprefix('aux.')} {size}" + (f" /{stride}" if stride > 1 else ""))
    return lines
