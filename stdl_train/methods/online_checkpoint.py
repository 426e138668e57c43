"""Learning without gradients through time, full depth, with activation checkpointing per unit.

The honest rival of STDL's spatial split: the gradients of `online`, no auxiliary networks, paid for with a second
forward pass. Each unit keeps its input and the potentials before the step, from which backward computes it again.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from stdl_models.network import SpikingNetwork
from stdl_models.units.base import Unit
from stdl_models.units.flows import State
from stdl_train.methods.base import Layout, MethodOptions
from stdl_train.methods.bptt_checkpoint import contexts
from stdl_train.methods.stdl import Stdl
from stdl_train.split import Subnetwork


class CheckpointedSubnetwork(Subnetwork):
    """Keeps the inputs and the states of units only."""

    def run_unit(self, unit: Unit, x: Tensor, state: State) -> tuple[Tensor, State]:
        """As in Subnetwork; the state that comes in stays as it is, for the second pass."""

        def run(x: Tensor, *before: Tensor | None) -> tuple[Any, ...]:
            y, after = unit.chunk(x, tuple(None if v is None else v.clone() for v in before))
            return y, *after

        y, *after = checkpoint(run, x, *state, use_reentrant=False, context_fn=contexts(unit))
        return y, tuple(after)


class OnlineCheckpoint(Stdl):
    """See the module."""

    def __init__(self, network: SpikingNetwork, layout: Layout, options: MethodOptions) -> None:
        whole = CheckpointedSubnetwork(network.chain[:-1], [network.readout])
        super().__init__(network, [whole], layout, options)
