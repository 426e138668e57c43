"""What a neuron computes, freed of how it was written, and what of that can be said otherwise.

    i = syn_decay * i + syn_gain * x                            with a synapse; else i = x
    u = decay * v + gain * i + leak
    s = u > threshold;   v = reset where s                      hard;  v = u - s * threshold    soft

Two changes of the potential leave all spikes as they are. With v = scale * w + shift, scale > 0:

    w_u = decay * w + (gain / scale) * i + (leak - (1 - decay) * shift) / scale
    threshold, reset and start become (. - shift) / scale

A soft reset takes off the threshold itself, so it allows no shift; what does not spike puts out its potential and
allows neither. A synapse needs only one gain, since i may be scaled as well. All in float64.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from stdl_export.primitives import Refused
from stdl_export.semantics import Discrete, Float64

CANCELLED = 2.0**-22


@dataclass(frozen=True, eq=False)
class Form:
    """The numbers of one layer, each of the layer's shape or one that broadcasts to it.

    kind: the NIR type that it was. reset: "zero" for a hard one, to the value `reset_to`; "subtract"; "none". strict:
    is a potential that meets its threshold no spike yet? bias: of what is added to x for lack of a leak.
    """

    kind: str
    decay: Float64
    gain: Float64
    leak: Float64
    start: Float64
    threshold: Float64
    reset_to: Float64
    reset: str
    strict: bool
    syn_decay: Float64 | None = None
    bias: Float64 | None = None

    def shifted(self, shift: Float64) -> Form:
        """v = w + shift."""
        return replace(
            self,
            leak=self.leak_beyond(shift),
            start=self.start - shift,
            threshold=self.threshold - shift,
            reset_to=self.reset_to - shift,
        )

    def leak_beyond(self, v_leak: Float64) -> Float64:
        """What of the leak a leak towards `v_leak` does not bring: 0 where it is the rounding of both to float32."""
        rest = self.leak - (1 - self.decay) * v_leak
        return np.asarray(np.where(np.abs(rest) <= CANCELLED * np.abs(self.leak), 0.0, rest), np.float64)

    def scaled(self, scale: Float64) -> Form:
        """v = scale * w, scale > 0."""
        names = ("gain", "leak", "start", "threshold", "reset_to")
        return replace(self, **{name: getattr(self, name) / scale for name in names})

    def with_synapse(self) -> Form:
        """The same with a synapse that forgets at once: syn_decay 0."""
        return self if self.syn_decay is not None else replace(self, kind="CubaLIF", syn_decay=np.zeros(()))


def form(numbers: Discrete) -> Form:
    """What a neuron computes; Refused with every reason where it is none of the above."""
    reasons = [*_reasons(numbers)]
    if reasons:
        raise Refused("; ".join(reasons))
    hard = "zero" if numbers.reset == "v_reset" else numbers.reset
    gain, bias = _wide(numbers.gain), np.zeros(())
    synapse = numbers.synapse
    if synapse is not None:
        syn_gain = _wide(synapse.gain) * (_wide(synapse.decay) if synapse.order == "jump_decay_use" else 1)
        if not (syn_gain > 0).all():
            raise Refused("its synapse has a gain that is not positive: fold it into the weights")
        gain, bias = gain * syn_gain, _wide(synapse.leak) / syn_gain
    return Form(
        kind=numbers.kind,
        decay=_wide(numbers.decay),
        gain=gain,
        leak=_wide(numbers.leak),
        start=_wide(numbers.v_init),
        threshold=_wide(numbers.v_threshold),
        reset_to=_wide(numbers.v_reset),
        reset=hard if numbers.spikes else "none",
        strict=numbers.spike == ">",
        syn_decay=None if synapse is None else _wide(synapse.decay),
        bias=bias,
    )


def _reasons(numbers: Discrete) -> list[str]:
    """What a dialect computes that no peer can be told in NIR."""
    synapse = numbers.synapse
    wrong = {
        f"it puts out {np.max(numbers.out_scale):g} for a spike, not 1": (numbers.out_scale != 1).any(),
        "it puts out several spikes a step (spike 'floor')": numbers.spike == "floor",
        "its potential has a lower bound (v_min)": numbers.v_min is not None,
        "it is a step late": numbers.late,
        f"it resets one step late or not twice (reset_when '{numbers.reset_when}')": numbers.reset_when != "now",
        "it spikes and does not reset": numbers.spikes and numbers.reset == "none",
        "its gain is not positive: fold it into the weights": not (numbers.gain > 0).all(),
        "its synapse is used before it decays": synapse is not None and synapse.order == "jump_use_decay",
        "its synapse does not start at 0": synapse is not None and (synapse.i_init != 0).any(),
        "its synapse leaks and decays before use": synapse is not None
        and synapse.order == "jump_decay_use"
        and (synapse.leak != 0).any(),
    }
    return [reason for reason, true in wrong.items() if true]


def _wide(array: object) -> Float64:
    return np.asarray(array, np.float64)
