"""From a `Form` to the NIR node that a peer reads as the same neuron, and what its input has to bear for that.

Given a row of a peer (`gain`, `starts`, `reset`), in this order:

    shift   a hard reset goes to 0, which every peer can say:            v = w + reset_to
    scale   the gain becomes the peer's, at the price of the threshold:  v = (gain / peer's gain) * w
    factor  one threshold for all, at the price of the weights:          x' = x / threshold
    leak    what v_leak cannot say is added to x, for it comes at every step:  x' = factor * (x + bias) + leak / gain
    spike   > of v_threshold is >= of the next float32, and the other way round
    tau     the float32 whose decay, computed as peers do, is nearest to ours
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import nir
import numpy as np

from stdl_export.interop.form import Form
from stdl_export.interop.peers import NeuronRow, Peer, Reading
from stdl_export.primitives import Refused, Shape
from stdl_export.semantics import GAIN_SNAP, Float32, Float64

KINDS = {
    "IF": ("IF", "LIF", "CubaLIF"),
    "LIF": ("LIF", "CubaLIF"),
    "CubaLIF": ("CubaLIF",),
    "LI": ("LI",),
    "I": ("LI",),
}
"""The NIR types that can say what a neuron of each type computes, the plainest first."""

RESETS = "its reset is"
FOREVER = 2.0**27  # steps: a decay of 1 - 2**-27 is 1 in float32
AT_ONCE = 2.0**-10  # steps: exp(-1024) is 0
TAU_STEPS = 4  # neighbours of the nearest tau that are tried on either side


@dataclass(frozen=True, eq=False)
class Made:
    """A node as a peer is to read it, and its input: x' = factor * x + bias. `remarks` are for the user."""

    node: Any
    factor: Float64
    bias: Float64
    remarks: tuple[str, ...]


def make(form: Form, peer: Peer, reading: Reading, strict: bool, dt: float, shape: Shape) -> Made:
    """The neuron as the peer says it; strict: does this reading fire above v_threshold only? Refused with reasons."""
    reasons = []
    for kind in KINDS.get(form.kind, ()):
        row = reading.neurons.get(kind)
        if row is None:
            continue
        try:
            return _made(form.with_synapse() if kind == "CubaLIF" else form, kind, row, peer, strict, dt, shape)
        except Refused as refusal:
            reasons.append(f"as {kind}: {refusal}")
    if not reasons:
        raise Refused(f"{peer.title} reads no {' or '.join(KINDS.get(form.kind, (form.kind,)))}")
    raise Refused("; ".join(reasons))


def _made(form: Form, kind: str, row: NeuronRow, peer: Peer, strict: bool, dt: float, shape: Shape) -> Made:
    _check(form, kind, row, peer)
    if row.reset == "zero":
        form = form.shifted(form.reset_to)
    gain = np.ones(()) if row.gain == "1" else 1 - form.decay
    factor = np.ones(())
    if row.reset == "none":
        factor = _snapped(form.gain / gain)
    else:
        form = form.scaled(_snapped(form.gain / gain))
        if "threshold" in peer.uniform and not _uniform(form.threshold):
            form, factor = _one_threshold(form)
    v_leak = form.start if row.starts == "v_leak" else np.zeros(())
    if row.starts == "0" and form.start.any():
        raise Refused("it starts at another potential than it resets to, and the peer does both at 0")
    rest = form.leak_beyond(v_leak)
    if form.syn_decay is not None and (rest.any() or v_leak.any()):
        raise Refused("its membrane leaks to a potential other than v_reset, and the peer's synapse would leak with it")
    form = replace(form, bias=factor * (form.bias if form.bias is not None else 0) + rest / gain)
    threshold, remarks = _threshold(form, strict)
    fields, off = _fields(form, kind, row, peer, dt, v_leak, threshold)
    if off:
        remarks.append(f"the peer's decay differs by up to {off:.2g}: float32 has no time constant nearer to it")
    assert form.bias is not None, "it was just set"
    return Made(_node(kind, fields, peer, shape), factor, form.bias, tuple(remarks))


def _check(form: Form, kind: str, row: NeuronRow, peer: Peer) -> None:
    """Refuse what no change of the potential brings about."""
    memoryless = not form.decay.any()  # what it resets to is then forgotten
    if row.reset != form.reset and not (memoryless and "none" not in (row.reset, form.reset)):
        said = {"zero": "to a value", "subtract": "by subtraction of the threshold", "none": "none"}
        raise Refused(f"{RESETS} {said[form.reset]}, the peer's {said[row.reset]}")
    if kind == "IF" and (form.decay != 1).any():
        raise Refused("it leaks")
    for name, decay in (("decay", form.decay), ("syn_decay", form.syn_decay)):
        if decay is None:
            continue
        if decay.min() < row.least_decay:
            raise Refused(f"its {name} is {decay.min():g} somewhere, the peer takes {row.least_decay:g} and more")
        if "decay" in peer.uniform and not _uniform(decay):
            raise Refused(f"its {name} differs from neuron to neuron, the peer takes one for all")
    if row.gain == "1-decay" and (form.decay >= 1).any():
        raise Refused("a neuron of it does not leak, and the peer would scale its input by 0")


def _one_threshold(form: Form) -> tuple[Form, Float64]:
    """Thresholds of 1 everywhere, and the factor that its input has to bear."""
    if not (form.threshold > 0).all():
        raise Refused("its thresholds differ and are not all above v_reset, the peer takes one for all")
    factor = 1 / form.threshold
    scaled = form.scaled(form.threshold)
    return replace(scaled, gain=form.gain), factor


def _threshold(form: Form, strict: bool) -> tuple[Float32, list[str]]:
    """v_threshold in float32, moved by one number where equality counts otherwise."""
    with np.errstate(over="ignore"):
        threshold = form.threshold.astype(np.float32)
    if (np.isinf(threshold) & np.isfinite(form.threshold)).any():
        raise Refused("its threshold is beyond what float32 holds, once scaled as the peer has it")
    if form.reset == "none" or strict == form.strict:
        return threshold, []
    direction = np.float32(np.inf if form.strict else -np.inf)
    moved = "up" if form.strict else "down"
    said = (
        f"v_threshold is the next float32 {moved}, since the peer {'does not fire' if strict else 'fires'} at equality"
    )
    return np.nextafter(threshold, direction), [said]


def _fields(
    form: Form, kind: str, row: NeuronRow, peer: Peer, dt: float, v_leak: Float64, threshold: Float32
) -> tuple[dict[str, Any], float]:
    """The fields of the node, and how far its decays are from ours."""
    zero = np.zeros(())
    if kind == "IF":
        return {"r": np.array(1 / dt), "v_threshold": threshold, "v_reset": zero}, 0.0
    tau, off = time_constant(form.decay, peer, dt)
    r = np.ones(()) if peer.decay == "exp" or row.gain == "1-decay" else tau / dt
    fields: dict[str, Any] = {"v_leak": v_leak}
    if form.syn_decay is not None:
        tau_syn, syn_off = time_constant(form.syn_decay, peer, dt)
        fields |= {"tau_syn": tau_syn, "tau_mem": tau, "r": r, "w_in": tau_syn / dt}
        off = max(off, syn_off)
    else:
        fields |= {"tau": tau, "r": r}
    if kind != "LI":
        fields |= {"v_threshold": threshold, "v_reset": zero}
    return fields, off


def time_constant(decay: Float64, peer: Peer, dt: float) -> tuple[Float64, float]:
    """tau whose decay is `decay` for the peer, and the largest difference that remains, 0 where there is none.

    Where a decay is below 1/2, float32 has numbers that 1 - dt / tau cannot give.
    """
    with np.errstate(divide="ignore"):
        steps = 1 / (1 - decay) if peer.decay == "euler" else -1 / np.log(decay)
    tau = dt * np.where(decay >= 1, FOREVER, np.maximum(steps, AT_ONCE if peer.decay == "exp" else 0))
    if peer.float64:
        return tau, 0.0
    tried = np.stack([*_neighbours(tau.astype(np.float32))])
    off = np.stack([_off(each, decay, peer, dt) for each in tried])
    best = np.argmin(off, axis=0)[None]
    chosen = np.take_along_axis(tried, best, axis=0)[0]
    return np.asarray(chosen, np.float64), float(np.take_along_axis(off, best, axis=0).max())


def _neighbours(tau: Float32) -> Iterator[Float32]:
    yield tau
    for towards in (np.float32(np.inf), np.float32(0)):
        near = tau
        for _ in range(TAU_STEPS):
            near = np.nextafter(near, towards)
            yield near


def _off(tau: Float32, wanted: Float64, peer: Peer, dt: float) -> Float64:
    """How far the decay is that a peer computes from tau in float32."""
    ratio = np.float32(dt) / tau
    found = 1 - ratio if peer.decay == "euler" else np.exp(-ratio)
    return np.asarray(np.abs(found.astype(np.float64) - wanted), np.float64)


def _node(kind: str, fields: dict[str, Any], peer: Peer, shape: Shape) -> Any:
    """The NIR node, its parameters in the layer's shape, or one a channel where the peer takes no more."""
    target = shape
    if peer.per_channel and len(shape) > 1:
        target = (shape[0], *[1] * (len(shape) - 1))
    dtype = np.float64 if peer.float64 else np.float32
    try:
        full = {key: np.array(per_channel(value, shape, target), dtype) for key, value in fields.items()}
    except Refused as refusal:
        raise Refused(f"its parameters differ {refusal}, the peer takes one a channel") from None
    return getattr(nir, kind)(**full)


def per_channel(value: Any, shape: Shape, target: Shape) -> Any:
    """A value of a layer's shape in a smaller one along whose axes of 1 it does not vary."""
    full = np.broadcast_to(value, shape)
    small = full[tuple(slice(0, size) for size in target)]
    if not (full == small).all():
        raise Refused("within a channel")
    return small


def _snapped(ratio: Float64) -> Float64:
    """Both gains were rounded to float32, so a ratio within that of 1 is meant to be 1."""
    return np.asarray(np.where(np.abs(ratio - 1) <= GAIN_SNAP, 1.0, ratio), np.float64)


def _uniform(array: Float64) -> bool:
    return bool((array == array.reshape(-1)[0]).all())
