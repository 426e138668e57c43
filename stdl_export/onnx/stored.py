"""Potentials and synapses stored as float16: a cell that computes in float32 between loading and storing its states.

    v (float16) -> Cast -> v (float32) -> one step -> v' (float32) -> Cast -> v' (float16)

Half the memory and bandwidth of states; each step rounds the potential to 11 bits. Compares are in float32. Spikes of
the step before (s), delays and feedback stay float32: they are read by whatever computes in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from stdl_export.graph import NodeName
from stdl_export.onnx.cell import Cell, Held, Maybe, Moment, Port
from stdl_export.onnx.emitter import Emitter
from stdl_export.onnx.precision import FLOAT, FLOAT16, Plan
from stdl_export.program import Source

HALF = np.dtype(np.float16)
ROUNDED = ("v", "i")


def stored(cell: Cell, plan: Plan) -> Cell:
    """The cell with its states as the plan says."""
    return HalfStates(cell) if plan.half_states else cell


@dataclass(frozen=True, eq=False)
class HalfStates:
    """A cell whose v and i are float16 between steps."""

    cell: Cell

    @property
    def name(self) -> NodeName:
        """As it was."""
        return self.cell.name

    @cached_property
    def held(self) -> list[Held]:
        """The same states, some of them float16."""
        return [replace(each, dtype=HALF) if each.var in ROUNDED else each for each in self.cell.held]

    @property
    def reads(self) -> Sequence[tuple[Source, ...]]:
        """As it was."""
        return self.cell.reads

    @property
    def inputs(self) -> Sequence[Port]:
        """As they were."""
        return self.cell.inputs

    @property
    def outputs(self) -> Sequence[Port]:
        """As they were."""
        return self.cell.outputs

    def prepare(self, emit: Emitter, arriving: Sequence[str]) -> list[str]:
        """As it was."""
        return self.cell.prepare(emit, arriving)

    def step(self, at: Moment, arriving: Sequence[Maybe], state: Sequence[Maybe]) -> tuple[list[str], Sequence[Maybe]]:
        """Load, step, store."""
        loaded = [self._cast(at, each, x, FLOAT) for each, x in zip(self.held, state, strict=True)]
        outputs, after = self.cell.step(at, arriving, loaded)
        kept = zip(self.held, after, strict=True) if after else ()
        return outputs, [self._cast(at, each, x, FLOAT16) for each, x in kept]

    def finish(self, emit: Emitter, outputs: Sequence[str]) -> dict[NodeName, str]:
        """As it was."""
        return self.cell.finish(emit, outputs)

    def _cast(self, at: Moment, held: Held, x: Maybe, to: int) -> Maybe:
        if x is None or held.dtype != HALF:
            return x
        what = "loaded" if to == FLOAT else "stored"
        return at.emit.node("Cast", [x], at.name(held.path, f"/{held.var}_{what}"), to=to)
