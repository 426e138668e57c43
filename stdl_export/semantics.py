"""From a NIR neuron and dt to the numbers of one step: the only place where tau, r and v_leak become code.

Every lowering and the NumPy reference call `discretise` and then compute, in float32 and in exactly this order,

    u[t] = (decay * v[t-1] + gain * x[t]) + leak
    z[t] = 1 if u[t] > v_threshold else 0
    v[t] = v_reset where z[t] else u[t]          reset "v_reset"
    v[t] = u[t] - z[t] * v_threshold             reset "subtract"

with v[-1] = 0. An IF or LIF puts out z, an LI puts out u and keeps it (no threshold, no reset).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from stdl_export.common.errors import BadInput
from stdl_export.dialects import Dialect

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Kind = Literal["IF", "LIF", "LI"]
Reset = Literal["v_reset", "subtract"]

RESETS: tuple[Reset, ...] = ("v_reset", "subtract")
GAIN_SNAP = 1e-6  # tau is stored in float32, so an intended gain of 1 comes back as 1 +- 1e-7


@dataclass(frozen=True, eq=False)
class Discrete:
    """One neuron layer in discrete time.

    The arrays are float32 and have the layer's shape, collapsed to size 1 along every axis on which they do not vary
    and to 0-d where they are uniform; they broadcast against [B, ...]. For an LI, reset is "none", and v_threshold and
    v_reset are 0-d zeros that nobody reads.
    """

    kind: Kind
    decay: Float32
    gain: Float32
    leak: Float32
    v_threshold: Float32
    v_reset: Float32
    reset: Literal["v_reset", "subtract", "none"]
    spike: Literal[">"]


Expression = Callable[[Any, float], "Float64 | float"]

# Evaluated in float64 from the parameters as stored; the order of the operations is part of the meaning.
EXPRESSIONS: Mapping[str, Expression] = {
    "0": lambda node, dt: 0.0,
    "1": lambda node, dt: 1.0,
    "1-dt/tau": lambda node, dt: 1.0 - dt / _float64(node.tau),
    "dt*r": lambda node, dt: dt * _float64(node.r),
    "dt/tau*r": lambda node, dt: dt / _float64(node.tau) * _float64(node.r),
    "dt/tau*v_leak": lambda node, dt: dt / _float64(node.tau) * _float64(node.v_leak),
}


def discretise(node: Any, dt: float, reset: str, dialect: Dialect) -> Discrete:
    """The coefficients of one step of `dt` seconds of a NIR IF, LIF or LI node under a dialect.

    Computed in float64, rounded to float32 once; a gain within 1e-6 of 1 is 1. `reset` is "v_reset" or "subtract" and
    has no effect on an LI. Raises BadInput where a coefficient does not fit float32.
    """
    kind = cast(Kind, type(node).__name__)
    rule = dialect.types[kind]
    gain = np.asarray(EXPRESSIONS[rule.gain](node, dt))
    spiking = kind != "LI"
    if spiking and reset not in RESETS:
        raise BadInput(f"reset '{reset}' is not known: use {' or '.join(RESETS)}")
    return Discrete(
        kind=kind,
        decay=_coefficient(kind, "decay", EXPRESSIONS[rule.decay](node, dt)),
        gain=_coefficient(kind, "gain", np.where(np.abs(gain - 1.0) <= GAIN_SNAP, 1.0, gain)),
        leak=_coefficient(kind, "leak", EXPRESSIONS[rule.leak](node, dt)),
        v_threshold=_coefficient(kind, "v_threshold", node.v_threshold if spiking else 0.0),
        v_reset=_coefficient(kind, "v_reset", node.v_reset if spiking else 0.0),
        reset=cast(Reset, reset) if spiking else "none",
        spike=dialect.spike,
    )


def collapse(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Size 1 along every axis on which the values do not vary; 0-d where they are all the same."""
    for axis in range(array.ndim):
        first = array.take([0], axis=axis)
        if (array == first).all():
            array = first
    return array.reshape(()) if array.size == 1 else array


def _coefficient(kind: str, name: str, value: Any) -> Float32:
    with np.errstate(over="ignore"):
        rounded = np.asarray(value, dtype=np.float64).astype(np.float32)
    if not np.isfinite(rounded).all():
        raise BadInput(f"the {name} of an {kind} does not fit float32: check tau, r, v_leak, v_threshold and dt")
    return collapse(rounded)


def _float64(value: Any) -> Float64:
    return np.asarray(value, dtype=np.float64)
