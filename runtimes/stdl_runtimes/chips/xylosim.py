"""The package xylosim run on a specification: SynSense's own model of Xylo, equal to the chip by their word."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stdl_export.chips.xylo_file import Specification, each_list, plain_lists
from stdl_export.common.errors import Unavailable

Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Trace:
    """What xylosim recorded of a sequence of one sample: spikes and states [T, N] of the hidden neurons (synapses
    [T, S, N]), [T, O] of the outputs.
    """

    hidden: Integers
    output: Integers
    i: Integers
    v: Integers
    i_out: Integers
    v_out: Integers


class Simulator:
    """One network in xylosim. `run` goes on from where it was until `reset`."""

    def __init__(self, network: Specification) -> None:
        """Unavailable where xylosim is not installed."""
        try:
            from xylosim.v2 import XyloLayer, XyloSynapse
        except ImportError as error:
            raise Unavailable(f"xylosim cannot be imported ({error}): pip install 'stdl-toolchain[chips]'") from None
        self.network = network
        # XyloLayer stores plain pointers to its synapses: they must live as long as it does, or it reads freed memory.
        self._synapses = [
            _synapses(XyloSynapse, matrix) for matrix in (network.weights_in, network.weights_rec, network.weights_out)
        ]
        dashes = [network.dash_syn, network.dash_syn_2][: network.synapses]
        self._layer = XyloLayer(
            synapses_in=self._synapses[0],
            synapses_rec=self._synapses[1],
            synapses_out=self._synapses[2],
            aliases=[list(targets) for targets in network.copies],
            threshold=plain_lists(network.threshold),
            threshold_out=plain_lists(network.threshold_out),
            has_bias=network.biased,
            bias=plain_lists(network.bias),
            bias_out=plain_lists(network.bias_out),
            weight_shift_inp=network.weight_shift_in,
            weight_shift_rec=network.weight_shift_rec,
            weight_shift_out=network.weight_shift_out,
            dash_mem=plain_lists(network.dash_mem),
            dash_mem_out=plain_lists(network.dash_mem_out),
            dash_syns=[list(row) for row in zip(*map(plain_lists, dashes), strict=True)],
            dash_syns_out=[[dash] for dash in plain_lists(network.dash_syn_out)],
            name="stdl",
        )

    def reset(self) -> None:
        """Everything back to rest."""
        self._layer.reset_all()

    def run(self, inputs: Integers) -> Integers:
        """Spikes [T, I] of each channel -> spikes [T, O]."""
        return np.array(self._layer.evolve(each_list(list(inputs))), np.int64).reshape(len(inputs), -1)

    @property
    def spikes(self) -> Integers:
        """Those of the hidden neurons in the last run, [T, N]."""
        return np.array(self._layer.rec_recurrent_spikes, np.int64).reshape(-1, self.network.hidden)

    def trace(self, inputs: Integers) -> Trace:
        """A run with everything that xylosim records."""
        output, layer, steps = self.run(inputs), self._layer, len(inputs)
        i = [layer.rec_i_syn, layer.rec_i_syn2][: self.network.synapses]
        return Trace(
            hidden=self.spikes,
            output=output,
            i=np.stack([_by_step(each, steps) for each in i], axis=1),
            v=_by_step(layer.rec_v_mem, steps),
            i_out=_by_step(layer.rec_i_syn_out, steps),
            v_out=_by_step(layer.rec_v_mem_out, steps),
        )


def _by_step(recorded: Any, steps: int) -> Integers:
    """What xylosim records neuron by neuron, [T, neurons]."""
    by_step: Integers = np.array(recorded, np.int64).reshape(-1, steps).T
    return by_step


def _synapses(kind: Any, matrix: NDArray[np.int8]) -> list[list[Any]]:
    """For each source its synapses that are not 0; matrix [sources, targets, synapses] or [sources, targets]."""
    weights = matrix if matrix.ndim == 3 else matrix[:, :, None]
    return [
        [kind(int(target), int(s), int(row[target, s])) for target, s in zip(*np.nonzero(row), strict=True)]
        for row in weights
    ]
