"""How the states of a bundle's step graph begin."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stdl_export.bundle import Bundle, read_arrays
from stdl_export.common.errors import BadInput

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
