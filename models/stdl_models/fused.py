"""Several time steps of normalisation and neuron as one node of the gradient's graph, for decoupled training.

    x[t] = what the synapse puts out
    u[t] = decay v[t-1] + gain norm(x[t]) + leak       norm: statistics of step t alone
    z[t] = 1 where u[t] > v_threshold else 0,  v[t] = reset(u[t], z[t])

No gradient crosses a step, so backward is element-wise: dL/dnorm(x[t]) = gain dL/dz[t] surrogate'(u[t] - v_threshold).
All that is kept for it is the surrogate's derivative, and x with its statistics for the normalisation. Potentials are
overwritten step by step, so the normalised x is gone when its step is done. Outputs equal the composed form bit for
bit.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from stdl_models.neurons import Coefficients, Neuron, wide
from stdl_models.surrogate import SURROGATES

Norm = nn.modules.batchnorm._BatchNorm

SLICE = 1 << 20
"""Neurons advanced at a time where there is no kernel: what is alive for a moment stays small, and in cache."""


def steps(x: Tensor, norm: nn.Module | None, neuron: Neuron, v: Tensor | None) -> tuple[Tensor, Tensor]:
    """c consecutive time steps: x [c, B, ...], the synapse's output -> output [c, B, ...], v [B, ...], detached.

    norm takes its statistics from each step on its own and follows them with its running ones, step by step. v is
    float32, whatever x is. The v that is handed in is used up: the new potentials may be written over it.
    """
    if neuron.plain and (norm is None or _known(norm)):
        affine = (None, None) if norm is None else (norm.weight, norm.bias)
        spikes, after = _Steps.apply(x, *affine, v, norm, neuron)  # type: ignore[no-untyped-call]
        return spikes, after
    return composed(x, norm, neuron, v)


def _known(norm: nn.Module) -> bool:
    """BatchNorm with all its parts. Subclasses compute something else, SyncBatchNorm for example: they are composed."""
    plain = type(norm) in (nn.BatchNorm1d, nn.BatchNorm2d)
    return plain and bool(norm.affine and norm.track_running_stats) and norm.momentum is not None


def composed(x: Tensor, norm: nn.Module | None, neuron: Neuron, v: Tensor | None) -> tuple[Tensor, Tensor]:
    """The same step by step, for every neuron and normalisation: the reference."""
    outputs = []
    for step in x:
        current = step if norm is None else norm(step)
        output, v = neuron(current, v)
        v = v.detach()
        outputs.append(output.to(x.dtype))
    assert v is not None
    return torch.stack(outputs), v


class _Steps(torch.autograd.Function):
    """See the module."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, v: Tensor | None, norm: Norm | None,
        neuron: Neuron,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        k, kernels = neuron.coefficients(), neuron.uses_kernels(x)
        if kernels:
            from stdl_models import triton_kernels
        spikes, slopes = torch.empty_like(x), torch.empty_like(x) if any(ctx.needs_input_grad[:3]) else None
        statistics: list[Tensor] = []
        for step, z, slope in zip(x, spikes, x if slopes is None else slopes, strict=True):
            current, *kept = _normalised(step, norm)
            statistics += kept
            if kernels:
                slope_ = None if slopes is None else slope[None]
                v = triton_kernels.advance(current[None], v, neuron, z[None], slope_, in_place=True)
            else:
                own = current if current is not step and current is wide(current) else None
                v = _advance(current, v, neuron, k, z, None if slopes is None else slope, own)
            del current
        ctx.neuron, ctx.kernels = neuron, kernels
        ctx.norm, ctx.training = norm, norm is not None and norm.training
        ctx.save_for_backward(None if norm is None else x, weight, k.gain, slopes, *statistics)
        assert v is not None
        after = v.detach()  # its own tensor object, over the same bytes as the v that came in
        ctx.mark_non_differentiable(after)
        return spikes, after

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        x, weight, gain, slopes, *statistics = ctx.saved_tensors
        if ctx.kernels:
            from stdl_models import triton_kernels

            grads, _ = triton_kernels.gradients(grad, None, slopes, slopes, ctx.neuron, through_time=False)
        else:
            grads = slopes.mul_(grad)  # over what was saved: PyTorch refuses a second backward pass by its own check
            if gain is not None:
                grads.mul_(gain)
        if x is None:
            return grads, None, None, None, None, None
        norm, d_weight, d_bias = ctx.norm, torch.zeros_like(weight), torch.zeros_like(weight)
        for d_step, step, mean, invstd in zip(grads, x, statistics[::2], statistics[1::2], strict=True):
            d_x, d_w, d_b = torch.ops.aten.native_batch_norm_backward(
                d_step, step, weight, norm.running_mean, norm.running_var, mean, invstd, ctx.training, norm.eps,
                [True, True, True],
            )  # fmt: skip
            d_step.copy_(d_x)  # the gradient in front of the normalisation is not needed again
            d_weight += d_w
            d_bias += d_b
            del d_x, d_w, d_b
        return grads, d_weight, d_bias, None, None, None


def _normalised(step: Tensor, norm: Norm | None) -> tuple[Tensor, ...]:
    """The neuron's input, a buffer of its own where there is a norm; mean and 1/deviation of the step."""
    if norm is None:
        return (step,)
    if norm.training:
        cast(Tensor, norm.num_batches_tracked).add_(1)
    current, mean, invstd = torch.native_batch_norm(
        step, norm.weight, norm.bias, norm.running_mean, norm.running_var,
        norm.training, cast(float, norm.momentum), norm.eps,
    )  # fmt: skip
    return current, mean, invstd


def _advance(
    current: Tensor, v: Tensor | None, neuron: Neuron, k: Coefficients, z: Tensor, slope: Tensor | None,
    own: Tensor | None,
) -> Tensor:  # fmt: skip
    """One step: writes spikes, derivatives and, over v, the potentials after the reset, which are returned.

    v None: at rest; the potentials are then written over `own`, where there is a buffer that nobody needs any more.
    The bits are those of neurons.integrate and neurons.reset.
    """
    dtype = wide(current[:0]).dtype
    rest = torch.empty_like(current, dtype=dtype) if v is None and own is None else own
    after = rest if v is None else v.to(dtype)
    assert after is not None
    rows = max(1, SLICE // max(1, current[:1].numel()))
    slopes = [None] * len(current) if slope is None else slope.split(rows)
    for i, u, spikes, slope_ in zip(current.split(rows), after.split(rows), z.split(rows), slopes, strict=False):
        if u.is_meta:
            _allocate_as_a_slice_does(wide(i), u, spikes, slope_, neuron, k, at_rest=v is None)
            break  # the other slices are like the first
        _integrate(wide(i), u, k, at_rest=v is None)
        torch.gt(u, neuron.fields["v_threshold"], out=spikes)
        if slope_ is not None:
            _write_slope(u, slope_, neuron)
        _reset(u, spikes, neuron)
    return after


def _integrate(i: Tensor, u: Tensor, k: Coefficients, at_rest: bool) -> None:
    """u = (decay u + gain i) + leak, in place."""
    if at_rest:
        torch.mul(i, k.gain, out=u) if k.gain is not None else u.copy_(i)
    else:
        if k.decay is not None:
            u.mul_(k.decay)
        u.add_(i if k.gain is None else i * k.gain)
    if k.leak is not None:
        u.add_(k.leak)


def _write_slope(u: Tensor, slope: Tensor, neuron: Neuron) -> None:
    """The surrogate's derivative at u - v_threshold."""
    derivative, usual = SURROGATES[neuron.spec.surrogate]
    alpha = usual if neuron.spec.alpha is None else neuron.spec.alpha
    threshold = neuron.fields["v_threshold"]
    if slope.dtype == u.dtype:
        derivative(torch.sub(u, threshold, out=slope), alpha)
    else:
        slope.copy_(derivative(u - threshold, alpha))


def _reset(u: Tensor, spikes: Tensor, neuron: Neuron) -> None:
    """neurons.reset, in place."""
    fields = neuron.fields
    if neuron.spec.reset == "v_reset":
        torch.where(spikes > 0, fields["v_reset"], u, out=u)
    else:
        u.sub_(spikes * fields["v_threshold"])


def _allocate_as_a_slice_does(
    i: Tensor, u: Tensor, spikes: Tensor, slope: Tensor | None, neuron: Neuron, k: Coefficients, at_rest: bool
) -> None:
    """In a dry run: what the operations below keep for a moment, and nothing else; twelve of them take long on `meta`.

    Tests hold that a dry run counts what the real step does.
    """
    if k.gain is not None and not at_rest:
        i * k.gain
    del i
    if slope is not None and slope.dtype != u.dtype:
        slope = torch.empty_like(u)
    if slope is not None and neuron.spec.surrogate == "sigmoid":
        torch.empty_like(slope)
    del slope
    spikes > 0 if neuron.spec.reset == "v_reset" else spikes * neuron.fields["v_threshold"]
