"""IF and LIF neurons over T time steps as one GPU kernel each way, with or without gradient through time (Triton).

The equations of `neurons`, one program per block of neurons, which walks through time with the potential in registers:

    forward    u = (decay v + gain x[t]) + leak;  z[t] = u > v_threshold;  v = reset(u, z[t]);  s[t] = surrogate'(u)
    backward   g = dz[t] s[t] + dv (0 where a hard reset cut it);  dx[t] = gain g;  dv = decay g

Without gradient through time dv is 0 in every step. Arithmetic is float32 in the order of the PyTorch form, and
contraction into fused multiply-adds is off, so that spikes are the same bit for bit. x, z, s may be half precision,
potentials are float32. Triton decides at import whether to compile or to interpret (TRITON_INTERPRET=1, on the CPU).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]
from torch import Tensor

from stdl_models.neurons import Neuron
from stdl_models.surrogate import SURROGATES

BLOCK = 1024
"""Neurons per program."""

NUMBERS = {name: index for index, name in enumerate(("atan", "sigmoid", "triangle", "rectangle"))}
"""How the kernel knows the surrogates."""

HALF_PI = tl.constexpr(math.pi / 2)


@triton.jit  # type: ignore[misc, untyped-decorator, unused-ignore]
def _slope(x, alpha: tl.constexpr, surrogate: tl.constexpr):  # type: ignore[no-untyped-def]
    """The derivatives of `surrogate`, by their number."""
    if surrogate == 0:
        a = (HALF_PI * alpha) * x
        slope = (alpha / 2) / (1 + a * a)
    elif surrogate == 1:
        s = 1 / (1 + tl.exp(-(alpha * x)))
        slope = alpha * s * (1 - s)
    elif surrogate == 2:
        slope = alpha * tl.maximum(1 - alpha * tl.abs(x), 0.0)
    else:
        slope = tl.where(tl.abs(x) < 1 / (2 * alpha), alpha, 0.0)
    return slope


@triton.jit  # type: ignore[misc, untyped-decorator, unused-ignore]
def _forward(  # type: ignore[no-untyped-def]
    x, z, slopes, v_before, v_after, parameters, n, steps, inner, size,
    has_v: tl.constexpr, has_slopes: tl.constexpr, has_decay: tl.constexpr, has_gain: tl.constexpr,
    has_leak: tl.constexpr, hard: tl.constexpr, surrogate: tl.constexpr, alpha: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    mask = at < n
    parameters += (at // inner) % size
    decay, gain = tl.load(parameters, mask=mask), tl.load(parameters + size, mask=mask)
    leak, threshold = tl.load(parameters + 2 * size, mask=mask), tl.load(parameters + 3 * size, mask=mask)
    v_reset = tl.load(parameters + 4 * size, mask=mask)
    v = tl.full((block,), 0.0, tl.float32)
    if has_v:
        v = tl.load(v_before + at, mask=mask, other=0.0)
    x += at
    z += at
    slopes += at
    for _ in range(steps):
        u = tl.load(x, mask=mask, other=0.0).to(tl.float32)
        if has_gain:
            u = u * gain
        u = (v * decay if has_decay else v) + u
        if has_leak:
            u = u + leak
        fired = u > threshold
        tl.store(z, tl.where(fired, 1.0, 0.0).to(z.dtype.element_ty), mask=mask)
        if has_slopes:
            tl.store(slopes, _slope(u - threshold, alpha, surrogate).to(slopes.dtype.element_ty), mask=mask)
        v = tl.where(fired, v_reset if hard else u - threshold, u)
        x += n
        z += n
        slopes += n
    tl.store(v_after + at, v, mask=mask)


@triton.jit  # type: ignore[misc, untyped-decorator, unused-ignore]
def _backward(  # type: ignore[no-untyped-def]
    dz, slopes, z, dv_after, dx, dv_before, parameters, n, steps, inner, size,
    has_dv: tl.constexpr, has_decay: tl.constexpr, has_gain: tl.constexpr, through_time: tl.constexpr,
    hard: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    mask = at < n
    parameters += (at // inner) % size
    decay, gain = tl.load(parameters, mask=mask), tl.load(parameters + size, mask=mask)
    dv = tl.full((block,), 0.0, tl.float32)
    if has_dv:
        dv = tl.load(dv_after + at, mask=mask, other=0.0)
    last = at + (steps - 1) * n
    dz += last
    slopes += last
    z += last
    dx += last
    for _ in range(steps):
        g = tl.load(dz, mask=mask, other=0.0).to(tl.float32) * tl.load(slopes, mask=mask, other=0.0).to(tl.float32)
        if through_time:
            if hard:
                dv = tl.where(tl.load(z, mask=mask, other=0.0).to(tl.float32) > 0, 0.0, dv)
            g = g + dv
            dv = g
            if has_decay:
                dv = g * decay
        if has_gain:
            g = g * gain
        tl.store(dx, g.to(dx.dtype.element_ty), mask=mask)
        dz -= n
        slopes -= n
        z -= n
        dx -= n
    if through_time:
        tl.store(dv_before + at, dv, mask=mask)


def sequence(x: Tensor, v: Tensor | None, neuron: Neuron) -> tuple[Tensor, Tensor]:
    """T steps with gradient through time: x [T, B, ...], v [B, ...] or None at rest -> spikes [T, B, ...], v [B, ...].

    Kept for backward: the surrogate's derivative and, with a hard reset, the spikes.
    """
    spikes, after = _Sequence.apply(x, v, neuron)  # type: ignore[no-untyped-call]
    return spikes, after


def advance(
    x: Tensor, v: Tensor | None, neuron: Neuron, spikes: Tensor, slopes: Tensor | None, in_place: bool = False
) -> Tensor:
    """T steps without a graph: x [T, B, ...] -> writes spikes and derivatives [T, B, ...], returns v [B, ...].

    spikes and slopes have the strides of x, which are dense: contiguous or channels_last. in_place: the potentials may
    be written over v; each program reads its own before it writes them.
    """
    layer, x = _Layer.of(neuron, x), dense(x)
    before = None if v is None else _as(v.float(), x[0])
    after = torch.empty_like(x[0], dtype=torch.float32) if before is None or not in_place else before
    before = after if before is None else before
    written = [spikes if spikes.stride() == x.stride() else torch.empty_like(x, dtype=spikes.dtype)]
    if slopes is not None:
        written.append(slopes if slopes.stride() == x.stride() else torch.empty_like(x, dtype=slopes.dtype))
    usual, spec = SURROGATES[neuron.spec.surrogate][1], neuron.spec
    _forward[layer.grid](
        x, written[0], written[-1], before, after, layer.parameters, layer.n, len(x), layer.inner, layer.size,
        has_v=v is not None, has_slopes=slopes is not None, has_leak=layer.has_leak, hard=spec.reset == "v_reset",
        has_decay=layer.has_decay, has_gain=layer.has_gain, surrogate=NUMBERS[spec.surrogate],
        alpha=float(usual if spec.alpha is None else spec.alpha), block=BLOCK, enable_fp_fusion=False,
    )  # fmt: skip
    for wanted, result in zip((spikes, slopes), written, strict=False):
        if wanted is not None and wanted is not result:
            wanted.copy_(result)
    return after


def gradients(
    dz: Tensor, dv: Tensor | None, slopes: Tensor, spikes: Tensor, neuron: Neuron, through_time: bool
) -> tuple[Tensor, Tensor]:
    """Backward of T steps: gradients [T, B, ...] of the spikes and [B, ...] of the last v -> those of x and first v.

    Without gradient through time, spikes are not read and the second result is not written.
    """
    layer, dz = _Layer.of(neuron, slopes), _as(dz, slopes)
    dx = torch.empty_like(slopes)
    dv_before = torch.empty_like(slopes[0], dtype=torch.float32) if through_time else dx[0]
    _backward[layer.grid](
        dz, slopes, _as(spikes, slopes), dv_before if dv is None else _as(dv, slopes[0]), dx, dv_before,
        layer.parameters, layer.n, len(slopes), layer.inner, layer.size, has_dv=dv is not None,
        has_decay=layer.has_decay, has_gain=layer.has_gain, through_time=through_time,
        hard=neuron.spec.reset == "v_reset", block=BLOCK, enable_fp_fusion=False,
    )  # fmt: skip
    return dx, dv_before


class _Sequence(torch.autograd.Function):
    """See `sequence`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, v: Tensor | None, neuron: Neuron) -> tuple[Tensor, Tensor]:
        x = dense(x)
        spikes, slopes = torch.empty_like(x), torch.empty_like(x) if any(ctx.needs_input_grad) else None
        after = advance(x, v, neuron, spikes, slopes)
        ctx.neuron = neuron
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(slopes, spikes if neuron.spec.reset == "v_reset" else None)
        return spikes, after

    @staticmethod
    def backward(ctx: Any, dz: Tensor | None, dv: Tensor | None) -> tuple[Tensor, Tensor | None, None]:
        slopes, spikes = ctx.saved_tensors
        dz = torch.zeros_like(slopes) if dz is None else dz
        dx, dv_before = gradients(dz, dv, slopes, slopes if spikes is None else spikes, ctx.neuron, True)
        return dx, dv_before if ctx.needs_input_grad[1] else None, None


@dataclass(frozen=True)
class _Layer:
    """A layer's constants as the kernels read them: rows decay, gain, leak, v_threshold, v_reset of [5, size].

    The element at memory offset i of one step has column (i // inner) % size: one column for scalars, one per channel,
    or one per neuron.
    """

    parameters: Tensor
    inner: int
    size: int
    n: int  # neurons times batch: elements of one step
    has_decay: bool
    has_gain: bool
    has_leak: bool

    @property
    def grid(self) -> tuple[int]:
        """Programs."""
        return (triton.cdiv(self.n, BLOCK),)

    @staticmethod
    def of(neuron: Neuron, x: Tensor) -> _Layer:
        """For x [T, B, ...], dense."""
        k, fields, shape = neuron.coefficients(), neuron.fields, x.shape[2:]
        rest = torch.ones_like(fields["v_threshold"])
        rows = [rest if k.decay is None else k.decay, rest if k.gain is None else k.gain]
        rows += [rest if k.leak is None else k.leak, fields["v_threshold"], fields["v_reset"]]
        parameters, inner = _columns(rows, shape, x)
        has = (value is not None for value in (k.decay, k.gain, k.leak))
        return _Layer(parameters, inner, parameters.shape[1], x[0].numel(), *has)


def _columns(rows: list[Tensor], shape: torch.Size, x: Tensor) -> tuple[Tensor, int]:
    """The rows over as few columns as hold them, in x's order in memory; and elements per column in a row of it."""
    last = not x.is_contiguous()
    if all(row.numel() == 1 for row in rows):
        return torch.stack([row.reshape(1) for row in rows]), 1
    channels, tail = shape[0], (1,) * (len(shape) - 1)
    if all(row.numel() == 1 or row.shape == (channels, *tail) for row in rows):
        return torch.stack([row.reshape(-1).expand(channels) for row in rows]), 1 if last else math.prod(shape[1:])
    full = torch.stack([row.expand(shape) for row in rows])
    return (full.movedim(1, -1) if last else full).reshape(len(rows), -1), 1


def dense(x: Tensor) -> Tensor:
    """x [T, B, ...] contiguous, or channels_last where it is that."""
    maps = x.dim() == 5 and x.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)
    return x if maps else x.contiguous()


def _as(tensor: Tensor, like: Tensor) -> Tensor:
    """With the strides of `like`, of the same shape."""
    return tensor if tensor.stride() == like.stride() else torch.empty_like(like, dtype=tensor.dtype).copy_(tensor)
