"""BPTT with activation checkpointing per unit: what a unit keeps for backward is computed again when backward needs it.

The honest rival of STDL in memory: the same gradients as BPTT, paid for with a second forward pass. State is explicit
and starts from rest inside each unit, so a recomputation leaves nothing behind.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import cast

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from stdl_models.network import batchnorms
from stdl_models.units.base import Unit
from stdl_train.methods.base import arithmetic_now
from stdl_train.methods.bptt import Bptt, Unrolled

Context = contextlib.AbstractContextManager[object]


class CheckpointedUnits(Unrolled):
    """Keeps the inputs of units only."""

    def run_unit(self, unit: Unit, x: Tensor) -> Tensor:
        """As in BPTT, keeping the unit's input only."""
        return cast(Tensor, checkpoint(unit.sequence, x, use_reentrant=False, context_fn=contexts(unit)))


class BpttCheckpoint(Bptt):
    """See the module."""

    unrolled = CheckpointedUnits


def contexts(unit: Unit) -> Callable[[], tuple[Context, Context]]:
    """What stands around a unit's first and second forward pass."""
    again = arithmetic_now()
    return lambda: (contextlib.nullcontext(), _again(unit, again))


@contextlib.contextmanager
def _again(unit: Unit, arithmetic: Context) -> Iterator[None]:
    """Around the second forward pass of a unit."""
    with arithmetic, _same_running_statistics(unit):
        yield


@contextlib.contextmanager
def _same_running_statistics(unit: Unit) -> Iterator[None]:
    """A recomputation sees the same batch, but must not count it twice in the running statistics."""
    norms = list(batchnorms(unit))
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked = norm.num_batches_tracked.clone()  # the copy is counted up, and dropped
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, batches
