"""Auxiliary networks: copies of later units, adapted so that they compose. `plan_search` chooses them.

Behind subnetwork k (whose last unit is `start`) stands a fresh copy of a subset of the later units, in their order,
then global average pooling and a linear classifier. A copy keeps its unit's kind, width and kernel; its stride is the
full ratio of the network's own resolutions between it and its predecessor in the chain, so resolution follows the
network's, and what a copy is depends on its predecessor alone.

Source: Ma, Chen, Tan, Wu 2025 (STDL); composition after Ma, Wu, Si, Tan 2024 (AugLocal), with full-ratio strides
instead of halving at most once.
"""

from __future__ import annotations

from collections.abc import Sequence

from stdl_models.network import SpikingNetwork
from stdl_models.units.base import Spec, Unit
from stdl_models.units.registry import build_unit
from stdl_models.units.shapes import Shape
from stdl_models.units.simple import ReadoutSpec


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
    # a linear unit has no map of its own: its pool follows that of the map it reads
    followed = unit.out_shape if len(unit.out_shape) == 3 else _map_in_front(network, chosen)
    copied = unit.spec.resized(shape, _ratio(network, before, followed), width)
    return copied.model_copy(update={"name": f"aux.{unit.name}"})


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
