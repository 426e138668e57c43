"""Single layers of a network in an engine that runs its probe graph, which is cut behind every spiking node.

Fed the reference's spikes, the graph shows what each layer does by itself. Fed its own, it shows the spikes of the
network as a whole.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stdl_export import graph as graphs
from stdl_export.arrays import Values
from stdl_export.common.errors import CheckFailed
from stdl_export.program import Program, program
from stdl_runtimes import base
from stdl_runtimes.base import Recorded, Spikes
from stdl_runtimes.ends import Arrays

if TYPE_CHECKING:
    import nir

    from stdl_export.bundle import Bundle


def names(node: graphs.NodeName) -> tuple[str, str]:
    """What a spiking node is called in the probe graph, where it is fed and where it is shown."""
    return f"probe_in.{node}", f"probe_out.{node}"


class Probing(base.Runtime):
    """A runtime of a bundle that writes `fired`; where it has no probe graph, `shows_spikes` is False."""

    _bundle: Bundle

    @abc.abstractmethod
    def fired(self, x: Arrays, spikes: Arrays, length: int) -> tuple[Arrays, Arrays]:
        """One run of the probe graph, fed with spikes [T, B, ...] by node: outputs, and what each node puts out."""

    def run_recorded(
        self, x: Values, timesteps: int | None = None, guess: Mapping[str, Spikes] | None = None
    ) -> Recorded:
        """The spikes which the probe graph, fed with them, gives back: those of the network as a whole.

        Whatever the guess, the first i layers are right after i rounds; with a good one most samples are right at once,
        and only the others go on.
        """
        arrays, length = self.ends.sequence(x, timesteps)
        given = guess or self._silent(self.ends.samples(arrays), length)
        found = self._layers(arrays, given, length)
        open_samples = np.flatnonzero(_differing(given, found.spikes))
        for _ in given:
            if not open_samples.size:
                break
            given = {node: spikes[:, open_samples] for node, spikes in found.spikes.items()}
            again = self._layers(self.ends.taken(arrays, open_samples), given, length)
            for node, output in again.outputs.items():
                found.outputs[node][:, open_samples] = output
            for node, spikes in again.spikes.items():
                found.spikes[node][:, open_samples] = spikes
            open_samples = open_samples[_differing(given, again.spikes)]
        return found

    def layers(self, x: Values, spikes: Mapping[str, Spikes], timesteps: int | None = None) -> Recorded:
        """The probe graph fed with the given spikes."""
        arrays, length = self.ends.sequence(x, timesteps)
        return self._layers(arrays, spikes, length)

    @cached_property
    def _network(self) -> nir.NIRGraph:
        return self._bundle.graph()

    @cached_property
    def _program(self) -> Program:
        return program(self._network)

    def _layers(self, x: Arrays, spikes: Mapping[str, Spikes], length: int) -> Recorded:
        fed = {node: spikes[node].astype(np.float32) for node in graphs.neurons(self._network)}
        outputs, raw = self.fired(x, fed, length)
        return Recorded(outputs, {node: self._spikes(node, array) for node, array in raw.items()})

    def _spikes(self, node: graphs.NodeName, values: npt.NDArray[Any]) -> Spikes:
        """As booleans, or of a node that may fire several times in a step as counts."""
        numbers = self._program.nodes[node].numbers
        if numbers is not None and numbers.spike == "floor":
            counts: Any = values.astype(np.int32)
            if not (counts == values).all() or (counts < 0).any():
                raise CheckFailed(
                    f"{self.name}: node '{node}' puts out values other than 0, 1, 2, ..., how often it fired"
                )
            return counts  # type: ignore[no-any-return]
        fired: Spikes = values == 1
        if not (fired | (values == 0)).all():
            raise CheckFailed(f"{self.name}: node '{node}' puts out values other than 0 and 1, a spike is 1")
        return fired

    def _silent(self, batch: int, length: int) -> dict[str, Spikes]:
        shapes = graphs.shapes(self._network)
        return {node: np.zeros((length, batch, *shapes[node]), np.bool_) for node in graphs.neurons(self._network)}


def _differing(given: Mapping[str, Spikes], found: Mapping[str, Spikes]) -> npt.NDArray[np.bool_]:
    """Samples [B] in which some spike differs."""
    differs = [(given[node] != found[node]).any(axis=(0, *range(2, given[node].ndim))) for node in given]
    return np.asarray(np.any(differs, axis=0))
