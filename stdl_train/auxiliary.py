"""Auxiliary networks: copies of later units, chosen exactly, adapted so that they compose.

Behind subnetwork k (whose last unit is `start`) stands a fresh copy of a subset of the later units, in their order,
then global average pooling and a linear classifier. A copy keeps its unit's kind, width and kernel; its stride is the
full ratio of the network's own resolutions between it and its predecessor in the chain, so resolution follows the
network's, and the cost of a copy depends on its predecessor alone. That makes the largest subset under a budget a
search over chains:

    labels[d][j] = Pareto-best (spread, cost) over chains of d copies that end in unit j

with spread = the sum of squared gaps (smallest where the copies are spread most uniformly). Source: Ma, Chen, Tan, Wu
2025 (STDL); composition after Ma, Wu, Si, Tan 2024 (AugLocal), with full-ratio strides instead of halving at most once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from stdl_models.network import SpikingNetwork
from stdl_models.units import (
    BottleneckSpec,
    ConvSpec,
    LinearSpec,
    ReadoutSpec,
    ResidualSpec,
    Shape,
    Spec,
    SpikingResidualSpec,
    Unit,
    build_unit,
)

MAPS = (ConvSpec, ResidualSpec, BottleneckSpec, SpikingResidualSpec)
"""Specs with `channels` and `stride`."""

Cost = Callable[[int, int], float]
"""cost(i, j): bytes that a copy of unit j takes behind unit i, or behind a copy of it.

Infinite where it does not fit.
"""


class Chain(NamedTuple):
    """One way to choose copies; compares by (spread, cost)."""

    spread: int
    cost: float
    units: tuple[int, ...]


def largest_subset(
    start: int, candidates: Sequence[int], end: int, cost: Cost, budget: float, most: int | None = None
) -> tuple[int, ...] | None:
    """The largest subset of `candidates` whose chain costs no more than `budget`; exact.

    start: the subnetwork's last unit; end: the position of the classifier (one behind the last unit); most: cap on
    the number of copies. Of subsets of the same size the most uniformly spread wins, then the cheapest. Empty where
    no copy fits; None where the budget is negative.
    """
    if budget < 0:
        return None
    labels: dict[int, list[Chain]] = {start: [Chain(0, 0.0, ())]}
    best: tuple[int, ...] = ()
    for _ in range(len(candidates) if most is None else min(most, len(candidates))):
        longer: dict[int, list[Chain]] = {}
        for j in candidates:
            extended = [
                Chain(chain.spread + (j - i) ** 2, chain.cost + cost(i, j), (*chain.units, j))
                for i, chains in labels.items()
                if i < j
                for chain in chains
            ]
            kept = _pareto(chain for chain in extended if chain.cost <= budget and chain.cost < math.inf)
            if kept:
                longer[j] = kept
        if not longer:
            break
        labels = longer
        closed = [
            chain._replace(spread=chain.spread + (end - j) ** 2) for j, chains in labels.items() for chain in chains
        ]
        best = min(closed).units
    return best


def _pareto(chains: object) -> list[Chain]:
    """Chains that no other beats in both spread and cost, in ascending spread."""
    kept: list[Chain] = []
    for chain in sorted(chains):  # type: ignore[call-overload]
        if not kept or chain.cost < kept[-1].cost:
            kept.append(chain)
    return kept


def uniform_subset(start: int, candidates: Sequence[int], end: int, count: int) -> tuple[int, ...]:
    """At most `count` candidates, evenly spaced from behind `start` to the last one (AugLocal's rule).

    The i-th of d stands next to start + (end - 1 - start) / d * i. Fewer where two would be the same unit.
    """
    wanted = [start + (end - 1 - start) / count * i for i in range(1, count + 1)]
    return tuple(sorted({min(candidates, key=lambda j, w=w: (abs(j - w), j)) for w in wanted})) if candidates else ()  # type: ignore[misc]


def copy_spec(network: SpikingNetwork, before: int, chosen: int, shape: Shape, width: float = 1.0) -> Spec:
    """The spec of a copy of unit `chosen` behind unit `before`, or behind its copy, with its stride or pool adapted.

    shape: what stands in front of the copy puts out. width: factor on its channels or features.
    """
    unit = network.chain[chosen]
    name = f"aux.{unit.name}"
    if isinstance(unit.spec, LinearSpec):
        pool: int | str = unit.spec.pool
        if pool != "global":
            pool = min((_ratio(network, before, _map_in_front(network, chosen)), *shape[1:]))
        features = scaled(unit.spec.features, width)
        return unit.spec.model_copy(update={"name": name, "pool": pool, "features": features})
    spec = unit.spec
    assert isinstance(spec, MAPS), "only units with neurons are copied"
    channels = scaled(spec.channels, width, getattr(spec, "groups", 1))
    stride = _ratio(network, before, unit.out_shape)
    return spec.model_copy(update={"name": name, "stride": stride, "channels": channels})


def scaled(size: int, width: float, groups: int = 1) -> int:
    """A number of channels times `width`, at least one for each group and a multiple of the groups."""
    return max(1, round(size * width / groups)) * groups


def _ratio(network: SpikingNetwork, before: int, chosen: Shape | None) -> int:
    """How many times smaller the chosen map is than the one put out by unit `before`, at least 1."""
    shape = network.chain[before].out_shape
    if chosen is None or len(shape) != 3 or len(chosen) != 3:
        return 1
    return max(1, round(shape[1] / chosen[1]))


def _map_in_front(network: SpikingNetwork, index: int) -> Shape | None:
    """Shape of the last map (C, H, W) that the network has in front of unit `index`."""
    shapes = [unit.in_shape for unit in network.chain[: index + 1] if len(unit.in_shape) == 3]
    return shapes[-1] if shapes else None


def build_head(network: SpikingNetwork, last: int, copies: Sequence[int], width: float = 1.0) -> list[Unit]:
    """The auxiliary network behind unit `last`: copies with newly drawn weights, global average pool, classifier."""
    shape, before, dt = network.chain[last].out_shape, last, network.spec.dt
    head: list[Unit] = []
    for index in copies:
        head.append(build_unit(copy_spec(network, before, index, shape, width), shape, dt))
        shape, before = head[-1].out_shape, index
    classifier = ReadoutSpec(name="aux.readout", classes=network.spec.readout.classes, pool="global")
    return [*head, build_unit(classifier, shape, dt)]
