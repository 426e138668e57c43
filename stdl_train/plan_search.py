"""The search behind a plan: of all layouts within the budget the one that `plan` prefers.

Subnetwork-major order makes bytes additive,

    live = sum over k of (weights, optimizer state of k) + max over k of (what k's steps add at their peak) + the batch

so, for a number of auxiliary units per subnetwork, the layout that takes the fewest bytes is exact: for each bound on
what a subnetwork may add, every subnetwork takes the lightest copies under the bound. Whether sizes fit is asked of
that layout, never of one choice made early. Dry runs (`plan.predict_part`) are shared between subnetworks of the same
content, and a bound from below, weights and what units keep for backward, leaves out what is hopeless.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import torch

from stdl_export.common.errors import BadInput
from stdl_models.nets.registry import build_network
from stdl_models.network import NetworkSpec
from stdl_models.units.base import Spec
from stdl_models.units.registry import build_unit
from stdl_models.units.shapes import Shape
from stdl_train import plan as plans
from stdl_train.auxiliary import copy_spec, uniform_subset
from stdl_train.memory import PartBytes, SavedBytes, StepBytes, show_bytes
from stdl_train.methods.base import Layout, Part
from stdl_train.methods.registry import METHODS
from stdl_train.plan import Plan, PlanRequest
from stdl_train.split import balanced_cuts, border_values, cut_points

TRIES = 16
"""Subsets of one size that are judged, the most evenly spread, and as many again, the lightest by their bounds.

Every subset is judged where a subnetwork has no more than both; those of the same content count as one.
"""

MOST_SUBSETS = 20_000
"""Where there are more subsets of a size, only every other unit may be copied."""

FLOAT_BYTES = 4

Copies = tuple[int, ...]


def make_plan(spec: NetworkSpec, request: PlanRequest) -> Plan:
    """The plan for a network; BadInput where the budget is too small, naming the smallest that works."""
    return _Search(spec, request).plan()


class Judged(NamedTuple):
    """A layout and the bytes alive at its peak."""

    total: float
    layout: Layout


class Link(NamedTuple):
    """A copy in its place: its spec without its name, the shape that comes in and the one that goes out."""

    spec: Spec
    in_shape: Shape
    out_shape: Shape


class UnitBytes(NamedTuple):
    """Of one time step of a unit: bytes kept for backward, bytes of its potentials; and how many weights it has."""

    saved: int
    states: int
    weights: int


class Bound(NamedTuple):
    """A bound from below for PartBytes."""

    fixed: int
    added: int


class _Search:
    """The search, with a dry network to ask for shapes and costs."""

    def __init__(self, spec: NetworkSpec, request: PlanRequest) -> None:
        self.spec, self.request = spec, request
        self.entry = METHODS[request.method]
        with torch.device("meta"):
            self.network = build_network(spec).train()
        self.units = self.network.chain[:-1]
        self.most = border_values(self.units)
        self.limit: float = math.inf if request.budget is None else request.budget
        self.given = request.batch * plans.input_bytes(spec)
        self.frame = request.batch * math.prod(spec.input.shape) * FLOAT_BYTES  # of a single step
        self.additive = self.entry.chunks and request.options.order == "subnetwork"
        self.alike: dict[tuple[object, ...], PartBytes] = {}  # what parts of the same content take
        self.judge = lru_cache(maxsize=None)(self._judge)
        self.cut = lru_cache(maxsize=None)(self._cut)
        self.options = lru_cache(maxsize=None)(self._options)
        self.content = lru_cache(maxsize=None)(self._content)
        self.link = lru_cache(maxsize=None)(self._link)
        self.unit_bytes = lru_cache(maxsize=None)(self._unit_bytes)

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

    # --- the order of preference --------------------------------------------------------------------------------------

    def _search(self) -> Layout:
        """The preferred layout whose bytes are within the limit."""
        for pieces in self._pieces():
            second: Layout | None = None
            for bare in self._bare(pieces):
                wanted = self._sizes(bare, min(plans.GOOD_COPIES, self._cap()))
                if self.fit(bare, wanted):
                    return self._settled(bare, self._grown(bare, wanted))
                few = self._sizes(bare, 1)
                if second is None and self.fit(bare, few):
                    second = self._settled(bare, self._grown(bare, few))
            if second is not None:
                return second
        raise self._too_small()

    def _bare(self, pieces: int) -> Iterator[Layout]:
        """Layouts without copies, preferred widths and numbers of subnetworks first."""
        chunk = self.request.time_chunk or 1
        for width, count in itertools.product(self._widths(), self._counts()):
            yield Layout(self.cut(count), width, chunk, pieces)

    def _sizes(self, bare: Layout, size: int) -> tuple[int, ...]:
        """That many copies for each part but the last, or as many as there can be."""
        if self.entry.copies == "none":
            return (0,) * (len(bare.parts) - 1)
        sizes = [range(min(size, len(self._candidates(part))), -1, -1) for part in bare.parts[:-1]]
        return tuple(next(n for n in row if self.options(bare, index, n)) for index, row in enumerate(sizes))

    def _grown(self, bare: Layout, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """One more copy for each part in turn, as long as it fits."""
        growing = set(range(len(sizes))) if self.entry.copies != "none" else set()
        for level in range(2, self._cap() + 1):
            for index in sorted(growing):
                more = (*sizes[:index], level, *sizes[index + 1 :])
                if sizes[index] >= level:
                    continue
                if self.options(bare, index, level) and self.fit(bare, more):
                    sizes = more
                else:
                    growing.discard(index)  # the others only take more from here on: no second try
        return sizes

    def _settled(self, bare: Layout, sizes: tuple[int, ...]) -> Layout:
        """The most evenly spread copies of these sizes that still fit, part by part, then the longest time chunk."""
        chosen: tuple[Copies, ...] = ()
        for index, size in enumerate(sizes):
            for copies in self.options(bare, index, size):
                if self.fit(bare, sizes, (*chosen, copies)):
                    chosen = (*chosen, copies)
                    break
        layout = _with_copies(bare, chosen)
        for chunk in sorted(self._chunks(layout), reverse=True):
            if self.total(replace(layout, time_chunk=chunk), self.limit) <= self.limit:
                return replace(layout, time_chunk=chunk)
        return layout

    def _too_small(self) -> BadInput:
        """Names the smallest budget that works: of all layouts with the fewest copies the one that takes least."""
        least: Judged | None = None
        for pieces in reversed(list(self._pieces())):
            for bare in self._bare(pieces):
                most = least.total if least else math.inf
                few = self._sizes(bare, 1)
                if self.below(bare, few) < most:
                    found = self.lightest(bare, few, (), most)
                    least = found if found and found.total < most else least
        assert least is not None
        request, needed = self.request, self.judge(least.layout).live
        return BadInput(
            f"memory budget {show_bytes(request.budget or 0)} is too small for {request.method} on '{self.spec.name}' "
            f"with batches of {request.batch}: the smallest that works is {show_bytes(needed)} ({needed} bytes); "
            "raise --memory-budget or lower train.batch_size"
        )

    # --- bytes --------------------------------------------------------------------------------------------------------

    def fit(self, bare: Layout, sizes: tuple[int, ...], chosen: tuple[Copies, ...] = ()) -> bool:
        """Whether a layout with so many copies is within the limit; `chosen` are the copies of the first parts."""
        if self.request.budget is None:
            return True
        first = _with_copies(bare, [row[0] for row in self._ways(bare, sizes, chosen)[:-1]])
        if self.total(first, self.limit) <= self.limit:
            return True
        found = self.lightest(bare, sizes, chosen, self.limit)
        return found is not None and found.total <= self.limit

    def lightest(self, bare: Layout, sizes: tuple[int, ...], chosen: tuple[Copies, ...], most: float) -> Judged | None:
        """The layout with so many copies that takes the fewest bytes; None where all are known to take over `most`."""
        best: Judged | None = None
        chunks = self._chunks(bare)
        for chunk in sorted({chunks[0], chunks[-1]}):  # several chunks add gradients up, one chunk does not
            layout = replace(bare, time_chunk=chunk)
            if not chosen and self.below(layout, sizes) > most:
                continue
            found = self._lightest(layout, sizes, chosen, most) if self.additive else self._first(layout, sizes, chosen)
            best = min((entry for entry in (best, found) if entry), key=lambda entry: entry.total, default=None)
        return best

    def _first(self, bare: Layout, sizes: tuple[int, ...], chosen: tuple[Copies, ...]) -> Judged:
        """Where bytes are not additive: the preferred copies, and the lightest by their bounds; not exact."""
        ways = self._ways(bare, sizes, chosen)[:-1]
        bounds = ([sum(self._below(bare, index, copies)) for copies in row] for index, row in enumerate(ways))
        light = tuple(row[bound.index(min(bound))] for row, bound in zip(ways, bounds, strict=True))
        tries = {tuple(row[0] for row in ways), light}
        layouts = [_with_copies(bare, copies) for copies in sorted(tries)]
        return min((Judged(self.judge(layout).live, layout) for layout in layouts), key=lambda entry: entry.total)

    def _lightest(self, bare: Layout, sizes: tuple[int, ...], chosen: tuple[Copies, ...], most: float) -> Judged | None:
        """Exact for one time chunk. What the bounds from below leave open is judged by dry runs, part by part."""
        ways = self._ways(bare, sizes, chosen)
        bounds = [[self._below(bare, index, copies) for copies in row] for index, row in enumerate(ways)]
        others = sum(min(bound.fixed for bound in row) for row in bounds)
        table: list[list[PartBytes]] = []
        for index, row in enumerate(bounds):
            own = min(bound.fixed for bound in row)
            open_ = [i for i, bound in enumerate(row) if others - own + sum(bound) + self.given <= most]
            ways[index] = [ways[index][i] for i in open_]
            if not open_:
                return None
        for index, copies in enumerate(ways):
            table.append([self._part(bare, index, each) for each in copies])
            if min(part.fixed + part.added + part.batch for part in table[-1]) > most:
                return None
        total, taken = _fewest(table)
        return Judged(total + table[0][0].batch, _with_copies(bare, [ways[k][i] for k, i in enumerate(taken[:-1])]))

    def _ways(self, bare: Layout, sizes: tuple[int, ...], chosen: tuple[Copies, ...]) -> list[list[Copies]]:
        """The copies that each part may have."""
        free = (list(self.options(bare, index, sizes[index])) for index in range(len(chosen), len(sizes)))
        return [*([copies] for copies in chosen), *free, [()]]

    def total(self, layout: Layout, most: float) -> float:
        """Bytes alive at the peak; without a budget nobody asks. Above `most` any bound from below is enough."""
        if self.request.budget is None:
            return 0.0
        if not self.additive:
            return self.judge(layout).live
        bounds = [[self._below(layout, k, part.copies)] for k, part in enumerate(layout.parts)]
        if (bound := _fewest(bounds)[0] + self.given) > most:
            return bound
        fixed = added = total = 0
        for index, part in enumerate(layout.parts):  # the first parts have the large maps: the bound grows fast
            found = self._part(layout, index, part.copies)
            fixed, added = fixed + found.fixed, max(added, found.added)
            total = fixed + added + found.batch
            if total > most:
                break
        return total

    def below(self, bare: Layout, sizes: tuple[int, ...]) -> float:
        """A bound from below for every layout with these parts and so many copies: no dry run of a step."""
        if self.request.budget is None or not self.entry.chunks:
            return 0.0
        ways = self._ways(bare, sizes, ())
        return _fewest([[self._below(bare, k, copies) for copies in row] for k, row in enumerate(ways)])[0] + self.given

    def _below(self, bare: Layout, index: int, copies: Copies) -> Bound:
        """Of one part: weights and optimizer state; what is alive when a time step's forward pass ends."""
        batch, part = max(2, self.request.batch // bare.micro_batches), bare.parts[index]
        units = [(nameless(unit.spec), unit.in_shape) for unit in self.units[part.first : part.last + 1]]
        units += [(spec, shape) for spec, shape, _ in self._chain(part.last, copies, bare.width) or ()]
        sizes = [self.unit_bytes(spec, shape, batch) for spec, shape in units]
        weights = FLOAT_BYTES * sum(size.weights for size in sizes)
        saved = sum(size.saved for size in sizes)
        if index == 0:
            saved -= self.frame * batch // self.request.batch  # what is given is counted as the batch
        saved = max(0, saved) // (2 if self.request.options.precision == "bf16" else 1)
        alive = saved * bare.time_chunk + sum(size.states for size in sizes)
        alive = 0 if self.entry.checkpoints else alive
        once = bare.time_chunk >= self.spec.T and bare.micro_batches == 1
        optimizer = self.request.options.optimizer
        kept = 2 if optimizer.name == "adamw" else int(optimizer.momentum > 0)
        return Bound(weights * (1 + kept), max(alive, weights) if once else alive + weights)

    def _judge(self, layout: Layout) -> StepBytes:
        request = self.request
        return plans.predict(self.spec, request.method, layout, request.batch, request.options)

    def _part(self, layout: Layout, index: int, copies: Copies) -> PartBytes:
        """Bytes of one part; how those in front and behind look does not matter, so it is left out."""
        part, last = replace(layout.parts[index], copies=copies), index == len(layout.parts) - 1
        content = (self.content(part, layout.width, last), layout.time_chunk, layout.micro_batches)
        if content not in self.alike:
            front = (Part(0, part.first - 1),) if index else ()
            behind = () if last else (Part(part.last + 1, len(self.units) - 1),)
            alone, request = replace(layout, parts=(*front, part, *behind)), self.request
            self.alike[content] = plans.predict_part(
                self.spec, request.method, alone, len(front), request.batch, request.options
            )
        return self.alike[content]

    def _content(self, part: Part, width: float, last: bool) -> tuple[object, ...]:
        """All of a part that decides its bytes: its units without their names, its copies, what stands at borders."""
        units = self.units[part.first : part.last + 1]
        borders = (self.most[part.first - 1] if part.first else None, None if last else self.most[part.last])
        inside = [(nameless(u.spec), u.in_shape, sum(p.numel() for p in u.parameters())) for u in units]
        copies = [(spec, shape) for spec, shape, _ in self._chain(part.last, part.copies, width) or ()]
        return (str(inside), str(copies), borders, last)

    def _chain(self, last: int, copies: Copies, width: float) -> list[Link] | None:
        """The copies behind unit `last`; None where one cannot stand there."""
        shape, before, links = self.units[last].out_shape, last, list[Link]()
        for chosen in copies:
            link = self.link(before, chosen, shape, width)
            if link is None:
                return None
            links.append(link)
            shape, before = link.out_shape, chosen
        return links

    def _link(self, before: int, chosen: int, shape: Shape, width: float) -> Link | None:
        """A copy of unit `chosen` behind unit `before`, or behind its copy, which puts out `shape`."""
        spec = nameless(copy_spec(self.network, before, chosen, shape, width))
        try:
            with torch.device("meta"):
                return Link(spec, shape, build_unit(spec, shape, self.spec.dt).out_shape)
        except ValueError:  # a kernel without padding that is larger than the map
            return None

    def _unit_bytes(self, spec: Spec, shape: Shape, batch: int) -> UnitBytes:
        with torch.device("meta"):
            unit = build_unit(spec, shape, self.spec.dt).train()
            x = torch.empty(1, batch, *shape, requires_grad=True)
        with SavedBytes(unit.parameters()) as saved:
            y, states = unit.chunk(x, unit.rest)
            del y
        potentials = sum(v.numel() * v.element_size() for v in states if v is not None)
        return UnitBytes(saved.peak, potentials, sum(p.numel() for p in unit.parameters()))

    # --- what there is to choose from ---------------------------------------------------------------------------------

    def _options(self, bare: Layout, index: int, size: int) -> tuple[Copies, ...]:
        """Copies of one size for a part, the most evenly spread first; one of each content. See TRIES."""
        part, end = bare.parts[index], len(self.units)
        candidates = self._candidates(part)
        if size > len(candidates):
            return ()
        if self.entry.copies == "uniform":
            return (uniform_subset(part.last, candidates, end, size),)
        while math.comb(len(candidates), size) > MOST_SUBSETS:
            candidates = candidates[::-2][::-1]  # every other one, the last included
        ranked = []
        for copies in itertools.combinations(candidates, size):
            stops = (part.last, *copies, end)
            ranked.append((sum((b - a) ** 2 for a, b in itertools.pairwise(stops)), copies))
        kinds: dict[tuple[object, ...], Copies] = {}
        for _, copies in sorted(ranked):
            if self._chain(part.last, copies, bare.width) is not None:
                kinds.setdefault(self.content(replace(part, copies=copies), bare.width, False), copies)
        every = list(kinds.values())
        even, rest = every[:TRIES], every[TRIES:]
        return (*even, *sorted(rest, key=lambda copies: sum(self._below(bare, index, copies)))[:TRIES])

    def _candidates(self, part: Part) -> list[int]:
        return [index for index in range(part.last + 1, len(self.units)) if self.units[index].layers]

    def _cap(self) -> int:
        return self.request.most_copies or plans.MOST_COPIES

    def _chunks(self, bare: Layout) -> list[int]:
        """Time chunks there are, the shortest first."""
        if self.request.budget is None or self.request.time_chunk is not None or not self.entry.chunks:
            return [bare.time_chunk]
        return sorted({-(-self.spec.T // n) for n in range(1, self.spec.T + 1)})

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
        return plans.WIDTHS if self.entry.copies != "none" and self.request.budget is not None else (1.0,)

    def _counts(self) -> list[int]:
        """Numbers of subnetworks to try."""
        most = len(cut_points(self.network)) + 1
        if not self.entry.splits:
            return [1]
        if self.request.subnetworks is not None:
            return [self.request.subnetworks]
        if self.request.budget is None:
            return [min(plans.DEFAULT_SUBNETWORKS, most)]
        return list(range(min(2, most), min(plans.MOST_SUBNETWORKS, most) + 1))

    def _cut(self, count: int) -> tuple[Part, ...]:
        """Contiguous parts, balanced by what their units keep for backward in a time step."""
        costs = [self.unit_bytes(nameless(u.spec), u.in_shape, self.request.batch).saved for u in self.units]
        cuts = balanced_cuts(costs, cut_points(self.network), count - 1)
        firsts, lasts = [0, *(cut + 1 for cut in cuts)], [*cuts, len(self.units) - 1]
        return tuple(Part(first, last) for first, last in zip(firsts, lasts, strict=True))

    def _check(self) -> None:
        """What was asked for must be possible for this network."""
        request, most = self.request, len(cut_points(self.network)) + 1
        if self.entry.splits and request.subnetworks is not None and not 1 <= request.subnetworks <= most:
            raise BadInput(
                f"network '{self.spec.name}' can be split into 1 to {most} subnetworks, not {request.subnetworks}: "
                "change train.subnetworks"
            )
        if request.options.traces and not self.entry.traces:
            able = ", ".join(name for name, entry in METHODS.items() if entry.traces)
            raise BadInput(f"train.traces: method {request.method} cannot take traces: leave them out, or use {able}")
        factors = request.options.subnetwork_lr
        wanted = (request.subnetworks or plans.DEFAULT_SUBNETWORKS) if self.entry.splits else 1
        if factors is not None and len(factors) != wanted:
            raise BadInput(
                f"train.subnetwork_lr has {len(factors)} factors for {wanted} subnetworks: give one for each, and "
                "train.subnetworks"
            )
        if request.time_chunk is not None and request.time_chunk > self.spec.T:
            raise BadInput(
                f"train.time_chunk = {request.time_chunk} is longer than T = {self.spec.T}: use 1 to {self.spec.T}"
            )


def _fewest(table: Sequence[Sequence[Bound | PartBytes]]) -> tuple[int, list[int]]:
    """One entry of each row such that sum of fixed + max of added is smallest; and the entries' places. Exact.

    For each bound on what is added, the lightest entries under it.
    """
    best: tuple[int, list[int]] | None = None
    for bound in sorted({entry.added for row in table for entry in row}):
        under = [[i for i, entry in enumerate(row) if entry.added <= bound] for row in table]
        if not all(under):
            continue
        taken = [min(places, key=lambda i, row=row: row[i].fixed) for places, row in zip(under, table, strict=True)]  # type: ignore[misc]
        entries = [row[i] for i, row in zip(taken, table, strict=True)]
        total = sum(entry.fixed for entry in entries) + max(entry.added for entry in entries)
        if best is None or total < best[0]:
            best = total, taken
    assert best is not None, "the largest bound leaves every row whole"
    return best


def nameless(spec: Spec) -> Spec:
    """The same spec whatever its name, so that units alike are counted once."""
    return spec.model_copy(update={"name": "x"})


def _with_copies(bare: Layout, chosen: Sequence[Copies]) -> Layout:
    """The layout with the copies of all parts but the last."""
    parts = (replace(part, copies=copies) for part, copies in zip(bare.parts, chosen, strict=False))
    return replace(bare, parts=(*parts, *bare.parts[len(chosen) :]))
