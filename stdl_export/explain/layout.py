"""Where the boxes and edges of a picture lie: layers from top to bottom, after Sugiyama, Tagawa and Toda (1981).

    layers      each box below all that it reads; an edge that leads back up takes a lane beside its boxes
    order       within a layer, by the mean place of the neighbours, up and down until nothing crosses less
    places      each box at the median of its neighbours, as near as those beside it let it: sums of squares with
                least distances are solved exactly by merging neighbours (pool adjacent violators)

An edge over several layers holds a narrow place in each of those between. Lengths are in pixels.
"""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from stdl_export.common.errors import BadInput

Point = tuple[float, float]

BETWEEN_LAYERS, BETWEEN_BOXES, LANE, WIRE = 30.0, 24.0, 14.0, 5.0
SWEEPS = 12
MAX_PLACES = 40_000
FIRM, LOOSE = 1.0, 1e-6  # boxes stay where they want to be, wires make way


@dataclass(frozen=True)
class Layout:
    """Where everything lies, and the size of the whole.

    centres: of the boxes; bands: top and bottom of the layer that each lies in. routes: points of the edges between
    their boxes, passed vertically. back: the edges that begin and end at the right side of their boxes.
    """

    centres: list[Point]
    routes: list[list[Point]]
    back: set[int]
    bands: list[Point]
    width: float
    height: float


class _Link(NamedTuple):
    """A neighbour above or below, how strongly it is followed, and how far beside the middle the edge leaves it, and
    reaches this place: 0, or a lane.
    """

    place: _Place
    weight: float
    there: float
    here: float


@dataclass(eq=False)
class _Place:
    """A box, or a wire's place in a layer: room to the left and right of x, and its neighbours."""

    layer: int
    left: float
    right: float
    weight: float
    x: float = 0.0
    above: list[_Link] = field(default_factory=list)
    below: list[_Link] = field(default_factory=list)


def layout(sizes: Sequence[Point], edges: Sequence[tuple[int, int]], ranks: Sequence[int]) -> Layout:
    """Lay out boxes of these (width, height); ranks break ties, and cycles: what comes first stands above."""
    levels = _levels(len(sizes), edges, ranks)
    back = {at for at, (source, target) in enumerate(edges) if levels[source] >= levels[target]}
    boxes = [_Place(level, width / 2, width / 2, FIRM) for level, (width, _) in zip(levels, sizes, strict=True)]
    lanes = _lanes(boxes, edges, back)
    wires = _wires(boxes, edges, lanes)
    layers = _layers(boxes, wires, ranks)
    _order(layers)
    _place(layers)
    _straighten(layers, wires)
    shift = min(place.x - place.left for layer in layers for place in layer)
    for layer in layers:
        for place in layer:
            place.x -= shift
    tops, heights = _heights(levels, sizes)
    centres = [(box.x, tops[box.layer] + heights[box.layer] / 2) for box in boxes]
    routes = []
    for at, (source, target) in enumerate(edges):
        through = [
            (wire.x, y) for wire in wires[at] for y in (tops[wire.layer], tops[wire.layer] + heights[wire.layer])
        ]
        if at in back:
            out = (lanes[at][0] + boxes[source].x, centres[source][1])
            into = (lanes[at][1] + boxes[target].x, centres[target][1])
            through = [out, *reversed(through), into]
        routes.append(through)
    width = max(place.x + place.right for layer in layers for place in layer)
    bands = [(tops[level], tops[level] + heights[level]) for level in levels]
    return Layout(centres, routes, back, bands, width, tops[-1] + heights[-1])


def _levels(count: int, edges: Sequence[tuple[int, int]], ranks: Sequence[int]) -> list[int]:
    """The layer of each box: below all that it reads, but for what stands behind it on a cycle."""
    into: dict[int, set[int]] = {at: set() for at in range(count)}
    for source, target in edges:
        if source != target:
            into[target].add(source)
    out: dict[int, list[int]] = defaultdict(list)
    for at, sources in into.items():
        for source in sources:
            out[source].append(at)
    left = {at: len(sources) for at, sources in into.items()}
    level: dict[int, int] = {}
    while left:
        ready = [at for at, missing in left.items() if not missing] or [*left]
        at = min(ready, key=lambda at: (ranks[at], at))
        del left[at]
        level[at] = 1 + max((level[source] for source in into[at] if source in level), default=-1)
        for target in out[at]:
            if target in left:
                left[target] -= 1
    return [level[at] for at in range(count)]


def _lanes(boxes: list[_Place], edges: Sequence[tuple[int, int]], back: set[int]) -> dict[int, Point]:
    """Room at the right of boxes for edges that lead back up: how far from the centres their lanes are."""
    found = {}
    for at in sorted(back, key=lambda at: boxes[edges[at][0]].layer - boxes[edges[at][1]].layer):  # short ones inside
        source, target = (boxes[end] for end in edges[at])
        source.right += LANE
        if target is not source:
            target.right += LANE
        found[at] = (source.right, target.right)
    return found


def _wires(boxes: list[_Place], edges: Sequence[tuple[int, int]], lanes: Mapping[int, Point]) -> list[list[_Place]]:
    """The places of each edge in the layers between its boxes, from top to bottom, all neighbours linked."""
    total = sum(1 + abs(boxes[target].layer - boxes[source].layer) for source, target in edges)
    if total > MAX_PLACES:
        raise BadInput("its edges are too long for an SVG to be laid out: take --target dot and Graphviz")
    found = []
    for at, (source, target) in enumerate(edges):
        upper, lower = (boxes[target], boxes[source]) if at in lanes else (boxes[source], boxes[target])
        wires = [_Place(layer, WIRE, WIRE, LOOSE) for layer in range(upper.layer + 1, lower.layer)]
        found.append(wires)
        if upper.layer < lower.layer:
            into_lower, into_upper = lanes.get(at, (0.0, 0.0))
            _link([upper, *wires, lower], into_upper, into_lower)
    return found


def _link(chain: list[_Place], upper: float, lower: float) -> None:
    """Make neighbours of the places of an edge. A lane (`upper`, `lower` away from its box) follows the box, not the
    box the lane; straight wires come before straight edges between boxes, and those before where a wire begins.
    """
    for at, (above, below) in enumerate(pairwise(chain)):
        first, last = at == 0, at == len(chain) - 2
        weight = (8.0, 1.0, 4.0)[first + last]
        there, here = upper if first else 0.0, lower if last else 0.0
        below.above.append(_Link(above, 0.0 if here else weight, there, here))
        above.below.append(_Link(below, 0.0 if there else weight, here, there))


def _layers(boxes: list[_Place], wires: list[list[_Place]], ranks: Sequence[int]) -> list[list[_Place]]:
    layers: list[list[_Place]] = [[] for _ in range(1 + max(box.layer for box in boxes))]
    for _, box in sorted(zip(ranks, boxes, strict=True), key=lambda pair: pair[0]):
        layers[box.layer].append(box)
    for chain in wires:
        for wire in chain:
            layers[wire.layer].append(wire)
    return layers


def _order(layers: list[list[_Place]]) -> None:
    """Sort each layer by the mean place of its neighbours, down and up in turn, and keep the best order seen."""
    best, fewest = [[*layer] for layer in layers], _crossings(layers)
    for sweep in range(SWEEPS):
        if not fewest:
            break
        down = sweep % 2 == 0
        at = {id(place): i for each in layers for i, place in enumerate(each)}
        for layer in layers if down else reversed(layers):
            means = [_mean(place.above if down else place.below, at, at[id(place)]) for place in layer]
            order = sorted(range(len(layer)), key=means.__getitem__)
            layer[:] = [layer[i] for i in order]
            at |= {id(place): i for i, place in enumerate(layer)}
        if (crossings := _crossings(layers)) < fewest:
            best, fewest = [[*layer] for layer in layers], crossings
    for layer, kept in zip(layers, best, strict=True):
        layer[:] = kept


def _mean(beside: Sequence[_Link], at: Mapping[int, int], otherwise: float) -> float:
    return sum(at[id(link.place)] + _aside(link.there) for link in beside) / len(beside) if beside else otherwise


def _aside(lane: float) -> float:
    """Where a lane is in the order: at the right of its box."""
    return 0.4 if lane else 0.0


def _crossings(layers: list[list[_Place]]) -> int:
    """How many pairs of edges between neighbouring layers cross."""
    total = 0
    at = {id(place): i for layer in layers for i, place in enumerate(layer)}
    for layer in layers[1:]:
        ends = sorted(
            (at[id(link.place)] + _aside(link.there), at[id(place)] + _aside(link.here))
            for place in layer
            for link in place.above
        )
        seen: list[float] = []
        for _, end in ends:
            total += len(seen) - bisect.bisect_right(seen, end)
            bisect.insort(seen, end)
    return total


def _place(layers: list[list[_Place]]) -> None:
    """Give each place its x."""
    for layer in layers:
        for before, place in pairwise(layer):
            place.x = before.x + _apart(before, place)
        middle = (layer[0].x + layer[-1].x) / 2
        for place in layer:
            place.x -= middle
    for _ in range(SWEEPS // 2):
        for layer in reversed(layers):
            _settle(layer, [_median(place.below, place.x) for place in layer])
        for layer in layers:
            _settle(layer, [_median(place.above, place.x) for place in layer])


def _apart(left: _Place, right: _Place) -> float:
    thin = WIRE if LOOSE in (left.weight, right.weight) else BETWEEN_BOXES
    return left.right + thin + right.left


def _median(beside: Sequence[_Link], otherwise: float) -> float:
    """The weighted median of the neighbours' x, the middle of two where it lies between them."""
    known = sorted((link.place.x + link.there, link.weight) for link in beside if link.weight)
    half = sum(weight for _, weight in known) / 2
    reached = 0.0
    for at, (x, weight) in enumerate(known):
        reached += weight
        if reached > half:
            return x
        if reached == half:
            return (x + known[at + 1][0]) / 2
    return otherwise


def _settle(layer: list[_Place], wanted: list[float]) -> None:
    """Move each place as near to where it is wanted as the distances allow, by weighted least squares."""
    offsets = [0.0]
    for before, place in pairwise(layer):
        offsets.append(offsets[-1] + _apart(before, place))
    groups: list[tuple[float, float, int]] = []  # mean, weight, members
    for place, want, offset in zip(layer, wanted, offsets, strict=True):
        mean, weight, members = want - offset, place.weight, 1
        while groups and groups[-1][0] > mean:
            other, heavy, more = groups.pop()
            mean = (mean * weight + other * heavy) / (weight + heavy)
            weight, members = weight + heavy, members + more
        groups.append((mean, weight, members))
    means = [mean for mean, _, members in groups for _ in range(members)]
    for place, mean, offset in zip(layer, means, offsets, strict=True):
        place.x = mean + offset


def _straighten(layers: list[list[_Place]], wires: list[list[_Place]]) -> None:
    """Put all places of a wire above each other where there is room, at the x of one of them."""
    beside: dict[int, tuple[_Place | None, _Place | None]] = {}
    for layer in layers:
        for before, place, behind in zip([None, *layer], layer, [*layer[1:], None], strict=False):
            beside[id(place)] = before, behind

    def free(place: _Place, x: float) -> bool:
        before, behind = beside[id(place)]
        after = before is None or x >= before.x + _apart(before, place) - 1e-6
        return after and (behind is None or x <= behind.x - _apart(place, behind) + 1e-6)

    for _ in range(2):  # those outside make room for those inside
        for wire in wires:
            known = sorted({place.x for place in wire})
            fits = [x for x in known[:1] + known[-1:] + known[1:-1][:8] if all(free(place, x) for place in wire)]
            for place in wire if fits else ():
                place.x = min(fits, key=lambda x: sum(abs(other - x) for other in known))


def _heights(levels: Sequence[int], sizes: Sequence[Point]) -> tuple[list[float], list[float]]:
    """Where each layer begins, and how high it is."""
    heights = [0.0] * (1 + max(levels))
    for level, (_, height) in zip(levels, sizes, strict=True):
        heights[level] = max(heights[level], height)
    tops = [0.0]
    for height in heights[:-1]:
        tops.append(tops[-1] + height + BETWEEN_LAYERS)
    return tops, heights
