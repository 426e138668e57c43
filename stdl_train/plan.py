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

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial

import torch
from torch import Tensor

from stdl_export.common.errors import BadInput
from stdl_models.nets.registry import build_network
from stdl_models.network import NetworkSpec, SpikingNetwork
from stdl_models.units import Shape, Unit, build_unit
from stdl_train.auxiliary import build_head, copy_spec, largest_subset, scaled, uniform_subset
from stdl_train.memory import PartBytes, SavedBytes, StepBytes, count_part, count_step, show_bytes
from stdl_train.methods.base import Layout, Method, MethodOptions, Part
from stdl_train.methods.registry import METHODS, MethodName, build_method
from stdl_train.methods.stdl import Stdl
from stdl_train.split import balanced_cuts, cut_points

DEFAULT_SUBNETWORKS = 4
"""K where neither the recipe nor a budget says otherwise."""

DEFAULT_COPIES = 2
"""Copies per auxiliary network where no budget says otherwise: enough to reach the accuracy of full depth."""

MOST_COPIES = 4
"""Cap on copies where a budget decides: more brought no accuracy, and their weights outgrow the network."""

MOST_SUBNETWORKS = 8
"""The finest cut that a budget may lead to: more subnetworks cost accuracy and weights."""

WIDTHS = (1.0, 0.5)
"""Widths of auxiliary units that a budget may lead to."""

TRIES = 16
"""Subsets of one size that the judge looks at in order of preference before it asks for the cheapest ones.

Every subset is looked at where a subnetwork has so few.
"""

FLOAT_BYTES = 4


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


def make_plan(spec: NetworkSpec, request: PlanRequest) -> Plan:
    """The plan for a network; BadInput where the budget is too small, naming the smallest that works."""
    return _Planner(spec, request).plan()


def predict(
    spec: NetworkSpec, method: MethodName, layout: Layout, batch: int, options: MethodOptions, operations: bool = False
) -> StepBytes:
    """Bytes (and multiply-accumulates, where asked for) of one training step, counted in a dry run.

    Shapes only, nothing is allocated.
    """
    trainer, frame, labels = _dry_run(spec, method, layout, batch, options)
    with torch.device("meta"):
        return count_step(trainer, frame, labels, operations)


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
    trainer, frame, labels = _dry_run(spec.model_copy(update={"T": T}), method, short, few * size, options)
    assert isinstance(trainer, Stdl)
    with torch.device("meta"):
        found = count_part(trainer, index, frame, labels, operations)
        beside = [k for k in (index, index + 1) if 0 < k < len(trainer.parts)]
        borders = [trainer.border_in_front(k, size)[0].planes.nbytes for k in beside]
    more = chunks * pieces - -(-T // layout.time_chunk) * few
    scale = (batch * spec.T) / (few * size * T)
    return PartBytes(
        found.fixed,
        found.added + more * max(borders, default=0),
        batch * (found.batch // (few * size)),
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
        return trainer, torch.empty(batch, *spec.input.shape), torch.zeros(batch, dtype=torch.long)


class _Planner:
    """The search, with a dry network to ask for shapes and costs."""

    def __init__(self, spec: NetworkSpec, request: PlanRequest) -> None:
        self.spec, self.request = spec, request
        self.entry = METHODS[request.method]
        with torch.device("meta"):
            self.network = build_network(spec).train()
        self.units = self.network.chain[:-1]
        self.limit: float = math.inf if request.budget is None else request.budget
        self.cost = lru_cache(maxsize=None)(self._copy_cost)
        self.judge = lru_cache(maxsize=None)(self._judge)
        self.cut = lru_cache(maxsize=None)(self._cut)
        self.alone = lru_cache(maxsize=None)(self._alone)

    def plan(self) -> Plan:
        """See make_plan."""
        self._check()
        slack = 0
        while True:  # parts on their own miss what is a few bytes in the whole step: then the search goes on below
            layout = self._search()
            predicted = self.judge(layout)
            excess = predicted.live - (self.request.budget or math.inf)
            if excess <= 0:
                return Plan(self.request, layout, predicted)
            slack += int(excess)
            self.limit = (self.request.budget or 0) - slack

    def _search(self) -> Layout:
        """The preferred layout whose bytes are within the limit."""
        least: list[tuple[float, Layout]] = []
        for pieces in self._pieces():
            second: Layout | None = None
            for width, count in itertools.product(self._widths(), self._counts()):
                layout = self._least(count, width, pieces)
                least.append((self.total(layout), layout))
                if least[-1][0] > self.limit:
                    continue
                layout = self._with_copies(layout)
                if self._enough(layout):
                    return self._with_chunk(layout)
                second = second or layout
            if second is not None:
                return self._with_chunk(second)
        raise self._too_small(min(least, key=lambda found: found[0])[1])

    def total(self, layout: Layout) -> float:
        """Bytes alive at the peak; without a budget nobody asks."""
        if self.request.budget is None:
            return 0.0
        if not self.entry.chunks or self.request.options.order == "time":
            return self.judge(layout).live
        parts = [self._part(layout, index) for index in range(len(layout.parts))]
        return sum(part.fixed for part in parts) + max(part.added for part in parts) + parts[0].batch

    def _judge(self, layout: Layout) -> StepBytes:
        return predict(self.spec, self.request.method, layout, self.request.batch, self.request.options)

    def _part(self, layout: Layout, index: int) -> PartBytes:
        """Bytes of one part; how those in front and behind look does not matter, so it is left out."""
        part, last = layout.parts[index], index == len(layout.parts) - 1
        front = (Part(0, part.first - 1),) if index else ()
        behind = () if last else (Part(part.last + 1, len(self.units) - 1),)
        return self.alone(replace(layout, parts=(*front, part, *behind)), len(front))

    def _alone(self, layout: Layout, index: int) -> PartBytes:
        request = self.request
        return predict_part(self.spec, request.method, layout, index, request.batch, request.options)

    def _pieces(self) -> Iterator[int]:
        """Numbers of micro-batches to try, each of two samples at least."""
        if self.request.micro_batches is not None or self.request.budget is None:
            yield self.request.micro_batches or 1
            return
        pieces = 1
        while pieces <= max(1, self.request.batch // 2):
            yield pieces
            pieces *= 2

    def _widths(self) -> tuple[float, ...]:
        if self.request.width is not None:
            return (self.request.width,)
        return WIDTHS if self.entry.copies != "none" and self.request.budget is not None else (1.0,)

    def _counts(self) -> list[int]:
        """Numbers of subnetworks to try."""
        most = len(cut_points(self.network)) + 1
        if not self.entry.splits:
            return [1]
        if self.request.subnetworks is not None:
            return [self.request.subnetworks]
        if self.request.budget is None:
            return [min(DEFAULT_SUBNETWORKS, most)]
        return list(range(min(2, most), min(MOST_SUBNETWORKS, most) + 1))

    def _check(self) -> None:
        """What was asked for must be possible for this network."""
        request, most = self.request, len(cut_points(self.network)) + 1
        if self.entry.splits and request.subnetworks is not None and not 1 <= request.subnetworks <= most:
            raise BadInput(
                f"network '{self.spec.name}' can be split into 1 to {most} subnetworks, not {request.subnetworks}: "
                "change train.subnetworks"
            )
        factors = request.options.subnetwork_lr
        wanted = (request.subnetworks or DEFAULT_SUBNETWORKS) if self.entry.splits else 1
        if factors is not None and len(factors) != wanted:
            raise BadInput(
                f"train.subnetwork_lr has {len(factors)} factors for {wanted} subnetworks: give one for each, and "
                "train.subnetworks"
            )
        if request.time_chunk is not None and request.time_chunk > self.spec.T:
            raise BadInput(
                f"train.time_chunk = {request.time_chunk} is longer than T = {self.spec.T}: use 1 to {self.spec.T}"
            )

    def _least(self, count: int, width: float, pieces: int) -> Layout:
        """The cheapest layout that still is the method: one copy each, the one that takes the fewest bytes."""
        parts = self.cut(count)
        if self.entry.copies != "none":
            parts = (
                tuple(replace(part, copies=self._first_copy(part, width, pieces)) for part in parts[:-1]) + parts[-1:]
            )
        return Layout(parts, width, self.request.time_chunk or 1, pieces)

    def _first_copy(self, part: Part, width: float, pieces: int) -> tuple[int, ...]:
        candidates = self._candidates(part)
        if self.entry.copies == "uniform":
            return uniform_subset(part.last, candidates, len(self.units), 1)
        return (min((self.cost(part.last, j, width, pieces), j) for j in candidates)[1],)

    def _cut(self, count: int) -> tuple[Part, ...]:
        """Contiguous parts, balanced by what their units keep for backward in a time step."""
        costs = [_saved_bytes(unit, self.request.batch) for unit in self.units]
        cuts = balanced_cuts(costs, cut_points(self.network), count - 1)
        firsts, lasts = [0, *(cut + 1 for cut in cuts)], [*cuts, len(self.units) - 1]
        return tuple(Part(first, last) for first, last in zip(firsts, lasts, strict=True))

    def _with_copies(self, layout: Layout) -> Layout:
        """More copies for every part but the last, level by level, each step accepted by the judge."""
        if self.entry.copies == "none":
            return layout
        later = max((len(self._candidates(part)) for part in layout.parts[:-1]), default=0)
        growing = list(range(len(layout.parts) - 1))
        for level in range(1, min(self._cap(), later) + 1):
            for index in list(growing):
                layout = self._improve(layout, index, level)
                if len(layout.parts[index].copies) < min(level, len(self._candidates(layout.parts[index]))):
                    growing.remove(index)  # the others only take more from here on: no second try
        return layout

    def _cap(self) -> int:
        usual = MOST_COPIES if self.request.budget is not None else DEFAULT_COPIES
        return self.request.most_copies or usual

    def _enough(self, layout: Layout) -> bool:
        """Whether every auxiliary network has the depth that reached the accuracy of full depth."""
        if self.entry.copies == "none":
            return True
        wanted = min(DEFAULT_COPIES, self._cap())
        return all(len(part.copies) >= min(wanted, len(self._candidates(part))) for part in layout.parts[:-1])

    def _improve(self, layout: Layout, index: int, level: int) -> Layout:
        """`level` copies for one part, the preferred ones that the judge accepts, else what it has."""
        part = layout.parts[index]
        for copies in self._subsets(part, level, layout):
            parts = (*layout.parts[:index], replace(part, copies=copies), *layout.parts[index + 1 :])
            better = replace(layout, parts=parts)
            if self.total(better) <= self.limit:
                return better
        return layout

    def _subsets(self, part: Part, size: int, layout: Layout) -> Iterator[tuple[int, ...]]:
        """Copies to try: the most uniformly spread of this size, then others, at last the cheapest ones."""
        candidates, end = self._candidates(part), len(self.units)
        if self.entry.copies == "uniform":
            yield uniform_subset(part.last, candidates, end, size)
            return
        cost = partial(self.cost, width=layout.width, pieces=layout.micro_batches)
        first = largest_subset(part.last, candidates, end, cost, self.limit, size)
        if not first or len(first) < size:
            return
        yield first
        ranked = []
        for copies in itertools.combinations(candidates, size):
            stops = (part.last, *copies, end)
            spread = sum((b - a) ** 2 for a, b in itertools.pairwise(stops))
            ranked.append((spread, sum(cost(i, j) for i, j in itertools.pairwise(stops[:-1])), copies))
        ranked = sorted(chain for chain in ranked if chain[1] <= self.limit and chain[2] != first)
        yield from (copies for _, _, copies in ranked[:TRIES])
        yield from (copies for _, _, copies in sorted(ranked[TRIES:], key=lambda chain: chain[1])[:TRIES])

    def _with_chunk(self, layout: Layout) -> Layout:
        """The longest time chunk that fits, where a budget leaves the choice."""
        if self.request.budget is None or self.request.time_chunk is not None or not self.entry.chunks:
            return layout
        T = self.spec.T
        for chunk in sorted({-(-T // n) for n in range(1, T)}, reverse=True):
            longer = replace(layout, time_chunk=chunk)
            if self.total(longer) <= self.limit:
                return longer
        return layout

    def _candidates(self, part: Part) -> list[int]:
        return [index for index in range(part.last + 1, len(self.units)) if self.units[index].layers]

    def _copy_cost(self, before: int, chosen: int, width: float, pieces: int) -> float:
        """Bytes that a copy takes in any case: what it keeps for backward in a step, weights, optimizer state.

        A bound from below, to rank subsets and to leave out hopeless ones: what is alive for a moment comes on top, and
        in front of the first copy stands a unit of full width.
        """
        channels, *size = self.units[before].out_shape
        shape: Shape = (scaled(channels, width), *size)
        try:
            with torch.device("meta"):
                unit = build_unit(copy_spec(self.network, before, chosen, shape, width), shape, self.spec.dt).train()
        except ValueError:  # a kernel without padding that is larger than the map
            return math.inf
        per_weight = FLOAT_BYTES * (3 if self.request.options.optimizer.name == "adamw" else 2)
        saved = _saved_bytes(unit, max(2, self.request.batch // pieces))
        saved = saved // 2 if self.request.options.precision == "bf16" else saved
        return saved + per_weight * sum(p.numel() for p in unit.parameters())

    def _too_small(self, layout: Layout) -> BadInput:
        budget, needed = self.request.budget or 0, self.judge(layout).live
        return BadInput(
            f"memory budget {show_bytes(budget)} is too small for {self.request.method} on '{self.spec.name}' with "
            f"batches of {self.request.batch}: the smallest that works is {show_bytes(needed)} ({needed} bytes); "
            "raise --memory-budget or lower train.batch_size"
        )


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


def _saved_bytes(unit: Unit, batch: int) -> int:
    """Bytes that one time step of a unit keeps for backward."""
    with torch.device("meta"):
        x = torch.empty(1, batch, *unit.in_shape, requires_grad=True)
    with SavedBytes(unit.parameters()) as saved:
        y, _ = unit.chunk(x, unit.rest)
        del y
    return saved.peak


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
