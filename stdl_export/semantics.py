"""From a NIR neuron, a rule of a dialect and dt to the numbers of one step: the only place where tau and r become code.

Every lowering and the NumPy reference call `discretise` and then compute, in float32 and in exactly this order (x is
the sum of the incoming edges, v and i on the right are stored values, s the spike):

    c = x                                                 IF, LIF, LI, I; with a synapse:
        i = (decay_i * i + gain_i * x) + leak_i;  c = i                     update_then_use
        c = i + gain_i * x;  i = decay_i * c + leak_i                       jump_use_decay
        i = decay_i * (i + gain_i * x);  c = i                              jump_decay_use
        c = i;  i = (decay_i * i + gain_i * x) + leak_i                     use_then_update
    u = (decay * v + gain * c) + leak
    s = 1 if u > v_threshold else 0                       ">="; "floor": floor(u / v_threshold) from 1 on, else 0
    v = v_reset where s > 0 else u                        reset "v_reset" (to that value)
    v = u - s * v_threshold                               reset "subtract"
    v = max(v, v_min)                                     where there is a v_min

An IF, LIF or CubaLIF puts out s * out_scale; an LI, CubaLI or I puts out u and keeps it. The other ways to reset:

    next_sub       u = ((decay * v + gain * c) + leak) - v_threshold * s_prev;  v = u
    next_drop      u = 0 in the step that follows a spike (its synapse still takes its input);  v = u
    now_nodouble   p = (v > v_threshold);  u = ((decay * v + gain * c) + leak) - p * v_threshold;
                   v = u - (s - p) * v_threshold

What a neuron that is `late` puts out depends on its stored state alone: with spike_from "prev" s is read from v at the
start of the step, and then v = reset(v, s), v = (decay * v + gain * c) + leak; with next_sub, v = ((decay * v +
gain * c) + leak) - v_threshold * s. An LI with output "prev" gives the stored v. A synapse that is used before it is
updated makes a neuron late, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from stdl_export import expressions
from stdl_export.common.errors import BadInput, join_reasons
from stdl_export.dialects import COEFFICIENTS, FIELDS, PARAMETERS, ResetWhen, Rule, Spike, SpikeFrom, SynapseOrder

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Kind = Literal["IF", "LIF", "CubaLIF", "LI", "CubaLI", "I"]
Reset = Literal["v_reset", "subtract", "none"]

GAIN_SNAP = 1e-6  # tau is stored in float32, so an intended gain of 1 comes back as 1 +- 1e-7
MAX_STEPS = 1 << 28  # of a delay
WHOLE = 1e-6  # how far a delay may be from a whole number of steps, relative to that number where it is above 1


@dataclass(frozen=True, eq=False)
class Synapse:
    """The synapse in front of a CubaLIF or CubaLI: see `order` in the module's table. Arrays as in `Discrete`."""

    decay: Float32
    gain: Float32
    leak: Float32
    order: SynapseOrder
    i_init: Float32


@dataclass(frozen=True, eq=False)
class Discrete:
    """One neuron layer in discrete time.

    The arrays are float32 and have the layer's shape, collapsed to size 1 along every axis on which they do not vary
    and to 0-d where they are uniform; they broadcast against [B, ...]. v_init (and the synapse's i_init) is what is
    stored before the first step. v_reset is the value that reset "v_reset" sets, whatever it was called. What does not
    spike has reset "none", and v_threshold, v_reset 0 and out_scale 1 that nobody reads.
    """

    kind: Kind
    decay: Float32
    gain: Float32
    leak: Float32
    v_init: Float32
    v_threshold: Float32
    v_reset: Float32
    out_scale: Float32
    v_min: Float32 | None = None
    synapse: Synapse | None = None
    spike: Spike = ">"
    spike_from: SpikeFrom = "new"
    reset: Reset = "none"
    reset_when: ResetWhen = "now"
    output: Literal["new", "prev"] = "new"

    @property
    def spikes(self) -> bool:
        """Does it spike, or put out a potential?"""
        return self.kind in ("IF", "LIF", "CubaLIF")

    @property
    def late(self) -> bool:
        """Does what it puts out depend on the stored state alone? Such a neuron needs no delay in a loop."""
        unused = self.synapse is not None and self.synapse.order == "use_then_update"
        return self.spike_from == "prev" or self.output == "prev" or unused

    @property
    def remembers_spikes(self) -> bool:
        """Is the spike of the step before part of its state?"""
        return self.reset_when in ("next_sub", "next_drop") and self.spike_from == "new"

    @property
    def initial(self) -> dict[str, Float32]:
        """The states by name, each as it is before the first step: v, i (synapse), s (the spike of the step before)."""
        states = {"v": self.v_init}
        if self.synapse is not None:
            states["i"] = self.synapse.i_init
        if self.remembers_spikes:
            states["s"] = np.zeros((), np.float32)
        return states


def discretise(node: Any, rule: Rule, dt: float) -> Discrete:
    """The numbers of one step of `dt` of a NIR neuron under a complete rule of its type.

    Computed in float64, rounded to float32 once; a gain within 1e-6 of 1 is 1. BadInput with every reason where a
    coefficient does not fit float32, or where the step would be unstable (|decay| > 1).
    """
    kind = cast(Kind, type(node).__name__)
    values = coefficients(node, rule, dt)
    reasons = [*_reasons(kind, rule, values, dt)]
    if reasons:
        raise BadInput(join_reasons(reasons))
    rounded = {name: collapse(value.astype(np.float32)) for name, value in values.items()}
    spiking = "spike" in FIELDS[kind]
    zero, one = np.zeros((), np.float32), np.ones((), np.float32)
    return Discrete(
        kind=kind,
        decay=rounded["decay"],
        gain=rounded["gain"],
        leak=rounded["leak"],
        v_init=rounded["v_init"],
        v_threshold=rounded.get("v_threshold", zero),
        v_reset=rounded.get("reset", zero),
        out_scale=rounded.get("out_scale", one),
        v_min=rounded.get("v_min"),
        synapse=_synapse(rule, rounded) if "syn_decay" in rounded else None,
        spike=rule.spike or ">",
        spike_from=rule.spike_from or "new",
        reset=_reset(rule) if spiking else "none",
        reset_when=rule.reset_when or "now",
        output=rule.output or "new",
    )


def coefficients(node: Any, rule: Rule, dt: float) -> dict[str, Float64]:
    """Every coefficient of a rule in float64, in the order of `dialects.COEFFICIENTS`, and v_threshold.

    Computed on collapsed parameters, so a layer whose neurons are all alike costs no more than one of them.
    """
    kind = type(node).__name__
    known: dict[str, Any] = {name: collapse(_float64(getattr(node, name))) for name in PARAMETERS[kind]} | {"dt": dt}
    found: dict[str, Float64] = {}
    for name in COEFFICIENTS:
        text = getattr(rule, name) if name in FIELDS[kind] else None
        if text is None or (name == "reset" and text in ("subtract", "none")):
            continue
        value = expressions.evaluate("0" if text == "zero" else text, known)
        if name in ("gain", "syn_gain"):
            value = np.where(np.abs(value - 1.0) <= GAIN_SNAP, 1.0, value)
        found[name] = known[name] = value
    if "v_threshold" in known:
        found["v_threshold"] = known["v_threshold"]
    return found


def remarks(node: Any, rule: Rule, dt: float) -> list[str]:
    """What is accepted, but hardly meant: an Euler step that overshoots."""
    values = coefficients(node, rule, dt)
    return [
        f"its {name} is {values[name].min():.4g}: a step of {dt:g} is longer than its time constant, so its sign flips"
        for name in ("decay", "syn_decay")
        if name in values and values[name].min() < 0
    ]


def steps(delay: npt.ArrayLike, dt: float) -> npt.NDArray[np.int64]:
    """A delay in whole steps, per element and collapsed. BadInput where it is negative or between two steps."""
    exact = _float64(delay) / dt
    whole = np.round(exact)
    if not (whole >= 0).all():
        raise BadInput(f"its delay is negative, {float(_float64(delay).min()):g}: accepted are 0 and more")
    if (whole >= MAX_STEPS).any():
        raise BadInput(f"its delay is {float(whole.max()):g} steps of {dt:g}: accepted are less than {MAX_STEPS}")
    off = np.abs(exact - whole) > WHOLE * np.maximum(1, whole)
    if off.any():
        worst = float(exact.reshape(-1)[int(off.reshape(-1).argmax())])
        raise BadInput(f"its delay is {worst:g} steps of {dt:g}: accepted are whole numbers of steps; change dt")
    return collapse(whole.astype(np.int64))


def collapse(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Size 1 along every axis on which the values do not vary; 0-d where they are all the same."""
    for axis in range(array.ndim):
        first = array.take([0], axis=axis)
        if (array == first).all():
            array = first
    return array.reshape(()) if array.size == 1 else array


def _synapse(rule: Rule, rounded: Mapping[str, Float32]) -> Synapse:
    assert rule.syn_order is not None, "the rule is complete"
    decay, gain, leak = rounded["syn_decay"], rounded["syn_gain"], rounded["syn_leak"]
    return Synapse(decay, gain, leak, rule.syn_order, rounded["i_init"])


def _reset(rule: Rule) -> Reset:
    return cast(Reset, rule.reset) if rule.reset in ("subtract", "none") else "v_reset"


def _reasons(kind: Kind, rule: Rule, values: Mapping[str, Float64], dt: float) -> Iterator[str]:
    """Why these coefficients cannot be computed with."""
    for name, value in values.items():
        with np.errstate(over="ignore"):
            fits = np.isfinite(value.astype(np.float32)).all()
        if not fits:
            yield f"the {name} of an {kind} does not fit float32: check tau, r, v_leak, v_threshold and dt"
        elif name in ("decay", "syn_decay") and np.abs(value).max() > 1:
            decay = float(value.reshape(-1)[int(np.abs(value).argmax())])
            tau = "tau" if kind in ("LIF", "LI") else "tau_syn" if name == "syn_decay" else "tau_mem"
            yield (
                f"its {name}, {getattr(rule, name)}, is {decay:.6g}: the step of {dt:g} is unstable, what it holds "
                f"grows without end; take a dt of at most 2 {tau}, or a dialect with exact decay"
            )

    if rule.spike == "floor" and not (values["v_threshold"] > 0).all():
        yield "v_threshold is not positive everywhere: spike 'floor' counts how often it fits into the potential"


def _float64(value: Any) -> Float64:
    return np.asarray(value, dtype=np.float64)
