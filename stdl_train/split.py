"""Subnetworks: where a network may be cut, where it is best cut, and what a subnetwork is."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from stdl_models.network import SpikingNetwork, chunk_chain
from stdl_models.units.base import Unit
from stdl_models.units.flows import State


class Subnetwork(nn.Module):
    """Consecutive units of the network (`body`) and what turns their spikes into logits (`head`).

    The head is an auxiliary network (copies of later units and a classifier), in the last subnetwork the network's
    own readout.
    """

    def __init__(self, body: Sequence[Unit], head: Sequence[Unit]) -> None:
        super().__init__()
        self._body, self._head = nn.ModuleList(body), nn.ModuleList(head)

    @property
    def body(self) -> list[Unit]:
        """The network's units here, in order."""
        return list(self._body)  # type: ignore[arg-type]

    @property
    def head(self) -> list[Unit]:
        """The auxiliary units and the classifier, in order."""
        return list(self._head)  # type: ignore[arg-type]

    def forward(
        self, x: Tensor, body: list[State] | None, head: list[State] | None
    ) -> tuple[Tensor, Tensor, list[State], list[State]]:
        """Consecutive time steps, x [c, B, ...], no gradient across them.

        Returns the spikes at the border [c, B, ...], logits [c, B, classes], and the states of body and head, detached.
        """
        spikes, body = chunk_chain(self.body, x, body, self.run_unit)
        logits, head = chunk_chain(self.head, spikes, head, self.run_unit)
        return spikes, logits, _detached(body), _detached(head)

    def run_unit(self, unit: Unit, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Consecutive time steps of one unit."""
        return unit.chunk(x, state)


def _detached(states: list[State]) -> list[State]:
    """The same potentials without a graph: a compiled forward pass leaves one behind them."""
    return [tuple(None if v is None else v.detach() for v in state) for state in states]


def border_values(units: Sequence[Unit]) -> list[int | None]:
    """Behind each unit: the largest value that can stand there if values are whole numbers (spikes: 1), else None."""
    most: int | None = None  # in front of the first unit stands the image
    values = []
    for unit in units:
        most = unit.most(most)
        values.append(most)
    return values


def cut_points(network: SpikingNetwork) -> list[int]:
    """Indices of the units behind which a cut may stand.

    Behind a unit that puts out spikes or sums of spikes (so that the border can be kept in bits and a pool stays with
    what follows it), and not behind the last such unit: the last subnetwork has neurons of its own.
    """
    units = network.chain[:-1]
    whole = [index for index, most in enumerate(border_values(units)) if most is not None and units[index].layers]
    spiking = [index for index, unit in enumerate(units) if unit.layers]
    return [index for index in whole if index != spiking[-1]]


def balanced_cuts(costs: Sequence[float], candidates: Sequence[int], count: int) -> list[int]:
    """The `count` cuts (ascending indices out of `candidates`) that make the costliest part as cheap as it can be.

    costs[i]: cost of unit i; a part's cost is the sum over its units. Dynamic program over contiguous parts:
    best[c][j] is the smallest possible largest part of units 0..candidates[j] with c cuts, the last one at j.
    """
    sums = [0.0]
    for cost in costs:
        sums.append(sums[-1] + cost)

    best: list[tuple[float, list[int]]] = [(sums[cut + 1], [cut]) for cut in candidates]
    for _ in range(count - 1):
        longer: list[tuple[float, list[int]]] = []
        for j, cut in enumerate(candidates):
            options = [
                (max(largest, sums[cut + 1] - sums[candidates[i] + 1]), [*cuts, cut])
                for i, (largest, cuts) in enumerate(best[:j])
                if cuts
            ]
            longer.append(min(options, default=(float("inf"), [])))
        best = longer
    closed = [(max(largest, sums[-1] - sums[cuts[-1] + 1]), cuts) for largest, cuts in best if cuts]
    return min(closed)[1] if count and closed else []
