"""IF, LIF, PLIF, CubaLIF and LI: a pure step function and a thin module with the parameters. No state is remembered.

Forward Euler of the NIR primitives, per time step (all element-wise, float32):

    u[t] = v[t-1] + (dt/tau) (v_leak - v[t-1] + r i[t])      LIF, LI
    u[t] = v[t-1] + dt r i[t]                                IF
    i[t] = i[t-1] + (dt/tau_syn) (w_in x[t] - i[t-1])        CubaLIF, a synapse with a memory of its own; then as LIF
    z[t] = 1 where u[t] > v_threshold else 0                 strictly greater; LI puts out u itself instead
    v[t] = v_reset where z[t] else u[t]                      reset "v_reset" (NIR's own)
    v[t] = u[t] - z[t] v_threshold                           reset "subtract" (metadata `stdl.reset`)

computed as u = (decay v + gain i) + leak with decay = 1 - dt/tau, gain = r dt/tau (IF: r dt), leak = v_leak dt/tau. A
neuron stores what NIR stores (tau, r, v_threshold, v_leak, v_reset in float32); the three coefficients follow from
them by `coefficients`, in float64, rounded once. `stdl_export.semantics` has the same formula on the other side of NIR.

Chips fire otherwise, which `spike` says: ">=" fires at the threshold too, "floor" as often in a step as the threshold
fits into u, z[t] = floor(u[t] / v_threshold) from 1 on. A graph carries that in its dialect.

A PLIF is a LIF whose time constant is trained, dt/tau = sigmoid(w) with one w per layer (Fang, Yu, Chen, Masquelier,
Huang, Tian 2021, "Incorporating learnable membrane time constant to enhance learning of spiking neural networks"). Its
tau and r are computed from w and rounded to float32, and the step from those: the LIF that is exported is the neuron
that was trained, bit for bit. While tau moves, gain stays: r = gain tau/dt follows. In the paper r stays (r = 1).
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from stdl_export.common.config import FiniteFloat, Fraction, PositiveFloat, Table
from stdl_models.surrogate import SpikeRule, spike

NeuronKind = Literal["IF", "LIF", "PLIF", "CubaLIF", "LI"]
Reset = Literal["v_reset", "subtract"]

FIELDS: dict[NeuronKind, tuple[str, ...]] = {
    "IF": ("r", "v_threshold", "v_reset"),
    "LIF": ("tau", "r", "v_leak", "v_threshold", "v_reset"),
    "PLIF": ("tau", "r", "v_leak", "v_threshold", "v_reset"),
    "CubaLIF": ("tau_syn", "tau_mem", "r", "v_leak", "w_in", "v_threshold", "v_reset"),
    "LI": ("tau", "r", "v_leak"),
}
"""The fields of each kind: those of the NIR primitive of the same name, of LIF for PLIF."""

TRAINED = ("tau", "r")
"""The fields of a PLIF that follow from its w."""

GAIN_SNAP = 1e-6
"""A gain this near to 1 is 1.

Tau and r are rounded to float32 one by one, so r dt/tau of a unit gain is not quite 1.
"""


class NeuronSpec(Table):
    """How a layer's neurons start out.

    beta = 1 - dt/tau is how people write the leak; tau and r follow from it and gain. A PLIF trains its beta and keeps
    its gain. beta_syn: that of a CubaLIF's synapse, i = beta_syn i + x. spike: see the module.
    """

    kind: NeuronKind = "LIF"
    beta: Fraction = 0.5
    gain: FiniteFloat = 1.0
    v_threshold: PositiveFloat = 1.0
    v_leak: FiniteFloat = 0.0
    v_reset: FiniteFloat = 0.0
    reset: Reset = "v_reset"
    beta_syn: Fraction = 0.5
    spike: SpikeRule = ">"
    surrogate: Literal["atan", "sigmoid", "triangle", "rectangle"] = "atan"
    alpha: PositiveFloat | None = None

    def values(self, dt: float) -> dict[str, float]:
        """The NIR fields of this kind; dt and tau in seconds."""
        tau, tau_syn = dt / (1 - self.beta), dt / (1 - self.beta_syn)
        values = {
            "tau": tau,
            "tau_mem": tau,
            "tau_syn": tau_syn,
            "w_in": tau_syn / dt,
            "r": self.gain / dt if self.kind == "IF" else self.gain * tau / dt,
            "v_threshold": self.v_threshold,
            "v_leak": self.v_leak,
            "v_reset": self.v_reset,
        }
        return {name: values[name] for name in FIELDS[self.kind]}


@dataclass(frozen=True)
class Coefficients:
    """One step's constants, float32, scalar or broadcastable to the layer's shape; None where it changes nothing."""

    decay: Tensor | None  # None: 1
    gain: Tensor | None  # None: 1
    leak: Tensor | None  # None: 0
    syn_decay: Tensor | None = None  # of a CubaLIF's synapse, i = syn_decay i + syn_gain x; None: as above
    syn_gain: Tensor | None = None


def coefficients(kind: NeuronKind, fields: dict[str, Tensor], dt: float) -> Coefficients:
    """decay, gain and leak of one forward Euler step (design: float64 from the stored float32 values, rounded once).

    fields: what FIELDS[kind] names, float32. dt in seconds.
    """
    r = fields["r"].double()
    if kind == "IF":
        return Coefficients(None, _unless(_snap(dt * r), 1.0), None)
    rate = dt / fields["tau_mem" if kind == "CubaLIF" else "tau"].double()
    membrane = Coefficients(
        _unless((1 - rate).float(), 1.0),
        _unless(_snap(rate * r), 1.0),
        _unless((rate * fields["v_leak"].double()).float(), 0.0),
    )
    if kind != "CubaLIF":
        return membrane
    rate = dt / fields["tau_syn"].double()
    syn_gain = _unless(_snap(rate * fields["w_in"].double()), 1.0)
    return replace(membrane, syn_decay=_unless((1 - rate).float(), 1.0), syn_gain=syn_gain)


def _snap(gain: Tensor) -> Tensor:
    """Rounded to float32, and exactly 1 where it is next to 1."""
    return torch.where((gain - 1).abs() <= GAIN_SNAP, torch.ones_like(gain), gain).float()


def _unless(value: Tensor, neutral: float) -> Tensor | None:
    """None where a coefficient is neutral for every neuron: the operation is then left out, which changes no bit."""
    return None if bool((value == neutral).all()) else value


def wide(current: Tensor) -> Tensor:
    """In float32 at least: potentials are never kept in half precision."""
    return current.float() if current.dtype in (torch.bfloat16, torch.float16) else current


def _triton_wanted() -> bool:
    return os.environ.get("STDL_TRITON") != "0" and importlib.util.find_spec("triton") is not None


def broadcasts(shape: Sequence[int], to: Sequence[int]) -> bool:
    """Whether an array of `shape` broadcasts to a layer of shape `to` (without batch) and no further."""
    pairs = zip(reversed(shape), reversed(to), strict=False)
    return len(shape) <= len(to) and all(size in (1, wanted) for size, wanted in pairs)


def integrate(current: Tensor, v: Tensor | None, k: Coefficients) -> Tensor:
    """Membrane potential before the reset, u = (decay v + gain i) + leak. current, v: [B, ...]; v None: at rest, 0."""
    u = current if k.gain is None else current * k.gain
    if v is not None:
        u = (v if k.decay is None else v * k.decay) + u
    return u if k.leak is None else u + k.leak


def synapse(x: Tensor, i: Tensor | None, k: Coefficients) -> Tensor:
    """Current of a CubaLIF's synapse, i = syn_decay i + syn_gain x. x, i: [B, ...]; i None: at rest, 0."""
    new = x if k.syn_gain is None else x * k.syn_gain
    return new if i is None else (i if k.syn_decay is None else i * k.syn_decay) + new


def reset(u: Tensor, spikes: Tensor, v_threshold: Tensor, v_reset: Tensor, rule: Reset) -> Tensor:
    """Membrane potential after the reset. No gradient passes through the decision to reset."""
    fired = spikes.detach()
    return torch.where(fired > 0, v_reset, u) if rule == "v_reset" else u - fired * v_threshold


class Neuron(nn.Module):
    """A layer of neurons with explicit state: `spikes, v = neuron(current, v)`.

    current: [B, ...], the layer's input in this step. v: [B, ...] of the step before, or None before the first (rest,
    0). Returns the layer's output (IF, LIF: spikes {0, 1}; LI: the potential) and v after the reset, both [B, ...].
    A CubaLIF keeps its synapse's current too: its v is [2, B, ...], the current and the potential.
    Parameters are buffers named as in NIR, scalars or broadcastable to the layer's shape without batch. Change them
    with `set_fields`, which also renews the coefficients. A PLIF has the parameter w, a scalar, in place of tau and r.

    Potentials are float32 at least, also where the current is half precision; spikes have the current's dtype.
    Training on CUDA uses the kernels of `triton_kernels` where Triton is installed: the same spikes in one launch.
    STDL_TRITON=0 in the environment turns that off.
    """

    def __init__(self, spec: NeuronSpec, dt: float, shape: tuple[int, ...]) -> None:
        """dt in seconds; shape: the layer's, [C, H, W] or [N]."""
        super().__init__()
        self.spec, self.dt, self.shape = spec, dt, shape
        for name, value in spec.values(dt).items():
            if name in self.stored:
                self.register_buffer(name, torch.tensor(value, dtype=torch.float32))
        if spec.kind == "PLIF":
            self.w = nn.Parameter(torch.tensor(math.log((1 - spec.beta) / spec.beta), dtype=torch.float32))
        self._coefficients: Coefficients | None = None

    @property
    def stored(self) -> tuple[str, ...]:
        """The fields that are buffers: all but a PLIF's tau and r."""
        names = FIELDS[self.spec.kind]
        return tuple(name for name in names if name not in TRAINED) if self.spec.kind == "PLIF" else names

    @property
    def fields(self) -> dict[str, Tensor]:
        """The NIR fields of this layer, float32; those of a PLIF carry the gradient to w."""
        buffers = {name: cast(Tensor, getattr(self, name)) for name in self.stored}
        if self.spec.kind != "PLIF":
            return buffers
        tau = (self.dt / torch.sigmoid(self.w.double())).float()
        return {"tau": tau, "r": (self.spec.gain / self.dt * tau.double()).float(), **buffers}

    def set_fields(self, **values: Tensor) -> None:
        """Replace fields, for example with one value per channel [C, 1, 1] or per neuron."""
        for name, value in values.items():
            if name not in FIELDS[self.spec.kind]:
                raise KeyError(f"{self.spec.kind} has no field '{name}'")
            if name not in self.stored:
                raise KeyError(f"field '{name}' of a PLIF follows from its parameter w")
            if not broadcasts(value.shape, self.shape):
                raise ValueError(f"field '{name}' of shape {tuple(value.shape)} does not broadcast to {self.shape}")
            self.register_buffer(name, value.to(getattr(self, name).device, torch.float32))
        self._coefficients = None

    @property
    def spiking(self) -> bool:
        """Whether the output is spikes; an LI puts out its potential."""
        return self.spec.kind != "LI"

    @property
    def plain(self) -> bool:
        """An IF or LIF that fires at most once a step, above its threshold: what the kernels and `fused` know."""
        return self.spec.kind in ("IF", "LIF") and self.spec.spike == ">"

    @property
    def most(self) -> int | None:
        """The most spikes of a step; None where there is no limit, or where it does not spike."""
        return None if not self.spiking or self.spec.spike == "floor" else 1

    def coefficients(self) -> Coefficients:
        """The constants of one step, computed when first asked for and after each change of fields or device.

        A PLIF's are computed each time: w changes unseen, and each backward pass needs their graph once.
        """
        if self.spec.kind == "PLIF":
            return self._trained_coefficients()
        if self._coefficients is None:
            self._coefficients = self._fixed_coefficients(self.fields)
        return self._coefficients

    def _fixed_coefficients(self, fields: dict[str, Tensor]) -> Coefficients:
        to = fields["r"].device
        if fields["r"].is_meta:  # a dry run has no values: take those of the spec, so that the same operations run
            fields = {name: torch.tensor(value, device="cpu") for name, value in self.spec.values(self.dt).items()}
        k = coefficients(self.spec.kind, fields, self.dt)
        return Coefficients(**{name: None if c is None else c.to(to) for name, c in vars(k).items()})

    def _trained_coefficients(self) -> Coefficients:
        """The same numbers with a gradient to w: decay and leak have one, gain does not depend on w."""
        fields = self.fields
        k = self._fixed_coefficients({name: value.detach() for name, value in fields.items()})
        rate = self.dt / fields["tau"].double()
        leak = None if k.leak is None else (rate * fields["v_leak"].double()).float()
        return Coefficients((1 - rate).float(), k.gain, leak)

    def forward(self, current: Tensor, v: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One time step; see the class."""
        if self.uses_kernels(current):
            from stdl_models import triton_kernels

            spikes, after = triton_kernels.sequence(current[None], v, self)
            return spikes[0], after
        if self.spec.kind == "CubaLIF":
            return self._with_synapse(current, v)
        u = integrate(wide(current), v, self.coefficients())
        if not self.spiking:
            return u, u
        spikes, v = self._fire(u)
        return spikes.to(current.dtype), v

    def _with_synapse(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """A CubaLIF's step: x [B, ...] -> spikes [B, ...] and the state [2, B, ...]."""
        i, v = (None, None) if state is None else state.unbind(0)
        i = synapse(wide(x), i, self.coefficients())
        spikes, v = self._fire(integrate(i, v, self.coefficients()))
        return spikes.to(x.dtype), torch.stack([i, v])

    def _fire(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Spikes, and v after the reset."""
        threshold, v_reset = cast(Tensor, self.v_threshold), cast(Tensor, self.v_reset)
        spikes = spike(u, threshold, self.spec.surrogate, self.spec.alpha, self.spec.spike)
        return spikes, reset(u, spikes, threshold, v_reset, self.spec.reset)

    def sequence(self, current: Tensor) -> Tensor:
        """All time steps from rest: current [T, B, ...] -> output [T, B, ...]."""
        if self.uses_kernels(current):
            from stdl_models import triton_kernels

            return triton_kernels.sequence(current, None, self)[0]
        v, outputs = None, []
        for step in current:
            output, v = self(step, v)
            outputs.append(output)
        return torch.stack(outputs)

    def uses_kernels(self, current: Tensor) -> bool:
        """Whether the Triton kernels take this layer; see the class."""
        known = self.plain and current.dtype in (torch.float32, torch.bfloat16, torch.float16)
        return current.is_cuda and self.training and known and _triton_wanted()

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self._coefficients = None
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Stored fields may be scalars or arrays: take their shape, provided that it broadcasts to the layer's."""
        stored = {name: state_dict[prefix + name] for name in self.stored if prefix + name in state_dict}
        self.set_fields(**{name: torch.empty_like(value) for name, value in stored.items()})
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_repr(self) -> str:
        """What `print(network)` shows."""
        return f"{self.spec.kind}, beta={self.spec.beta}, reset={self.spec.reset}, surrogate={self.spec.surrogate}"
