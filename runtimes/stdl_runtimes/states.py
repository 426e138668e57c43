"""How the states of a bundle's step graph begin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stdl_export.arrays import read_arrays
from stdl_export.bundle import Bundle
from stdl_export.common.errors import BadInput, Unavailable
from stdl_export.manifest import StateInfo

FILE = "states.npz"


def initial(bundle: Bundle, batch: int) -> dict[str, NDArray[Any]]:
    """The states before the first step, [batch, ...], by the name of the step graph's input, each in its type."""
    infos = bundle.manifest.states
    stored = read_arrays(bundle.file(FILE)) if infos else {}
    for info in infos:
        if info.input not in stored or stored[info.input].shape != info.shape:
            reason = f"{FILE} does not hold the state '{info.input}' {info.shape} that the manifest names"
            raise BadInput(f"bundle '{bundle.path}': {reason}: export it again")
    return {
        info.input: np.broadcast_to(stored[info.input], (batch, *info.shape)).astype(info.dtype, order="C")
        for info in infos
    }


def given(infos: Sequence[StateInfo], states: Mapping[str, NDArray[Any]], batch: int) -> dict[str, NDArray[Any]]:
    """The states that a session is to begin with, checked, by the same names."""
    for info in infos:
        shape = (batch, *info.shape)
        if info.input not in states or np.shape(states[info.input]) != shape:
            raise BadInput(f"there is no state '{info.input}' {shape}: give all that run_to_states gave, of this batch")
    return {info.input: np.asarray(states[info.input], info.dtype, order="C") for info in infos}


def check_final(shown: bool, bundle: Bundle) -> None:
    """Refuse where the sequence graph does not put out its states."""
    if not shown:
        raise Unavailable(f"the sequence in '{bundle.path}' keeps its states: export it with --final-states")
