"""Which node's state goes wrong first, and when: two sessions on one sample, step by step, state by state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import nir
import numpy as np

from stdl_export.common.errors import BadInput, Unavailable
from stdl_export.graph import NodeName
from stdl_export.manifest import StateInfo
from stdl_export.program import program
from stdl_runtimes import reference
from stdl_runtimes.base import Array, Runtime
from stdl_runtimes.ends import Arrays
from stdl_runtimes.results import Difference
from stdl_runtimes.session import Session, States


def first_state(
    network: nir.NIRGraph,
    runtime: Runtime,
    x: Arrays,
    timesteps: int,
    infos: Sequence[StateInfo],
    tolerance: float,
    sample: int,
) -> Difference | None:
    """The first state that is not the reference's, with how near its node was to the threshold in that step.

    x: inputs of a run with one sample, which is called `sample`. None where no state differs by more than the
    tolerance, relative to the largest, or the runtime does not show its states.
    """
    frames = runtime.ends.steps(x, timesteps)
    try:
        with reference.Session(network, 1) as judge, runtime.session(1) as session:
            found = _walk(judge, session, frames, _in_order(infos, network), tolerance)
    except (BadInput, Unavailable):  # a session of one, or its states, cannot be had: there is nothing to tell
        return None
    if found is None:
        return None
    t, info, index, expected, value = found
    margins = reference.run(network, x, T=timesteps, margins=True).margins
    return Difference(info.node, t, sample, index, expected, value, _distance(margins, info, t, index))


def _walk(
    judge: Session, session: Session, frames: Sequence[Arrays], infos: Sequence[StateInfo], tolerance: float
) -> tuple[int, StateInfo, tuple[int, ...], float, float] | None:
    for t, frame in enumerate(frames):
        judge.advance(frame)
        session.advance(frame)
        wanted, states = judge.state, session.state
        for info in infos:
            if (index := _differs(info, wanted, states, tolerance)) is not None:
                place = (0, *index)
                expected, value = (float(each[info.input][place]) for each in (wanted, states))
                return t, info, index, expected, value
    return None


def _differs(info: StateInfo, wanted: States, found: States, tolerance: float) -> tuple[int, ...] | None:
    """Where a state of the one sample is off most, if by more than rounding."""
    name = info.input
    if name not in wanted or name not in found:
        return None
    off = np.abs(wanted[name][0].astype(np.float32) - found[name][0].astype(np.float32))
    scale = max(1.0, float(np.abs(wanted[name]).max(initial=0)))
    wrong = ~(off <= tolerance * scale)  # true for NaN
    if not wrong.any():
        return None
    return tuple(int(i) for i in np.unravel_index(int(wrong.argmax()), wrong.shape))


def _in_order(infos: Sequence[StateInfo], network: nir.NIRGraph) -> list[StateInfo]:
    """The states in the order of the network: what is wrong in one node is so in all behind it."""
    order = {path: number for number, path in enumerate(program(network).nodes)}
    return sorted(infos, key=lambda info: order.get(info.node, len(order)))


def _distance(margins: Mapping[NodeName, Array], info: StateInfo, t: int, index: tuple[int, ...]) -> float | None:
    """Of nodes that spike; None for a state of another shape, as a Delay's."""
    if info.node not in margins or margins[info.node].shape[2:] != info.shape:
        return None
    place = (t, 0, *index)
    return float(margins[info.node][place])
