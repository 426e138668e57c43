"""Several time steps of normalisation and neuron as one node of the gradient's graph, for decoupled training.

    x[t] = what the synapse puts out
    u[t] = decay v[t-1] + gain norm(x[t]) + leak       norm: statistics of step t alone
    z[t] = 1 where u[t] > v_threshold else 0,  v[t] = reset(u[t], z[t])

No gradient crosses a step, so backward is element-wise: dL/dnorm(x[t]) = gain dL/dz[t] surrogate'(u[t] - v_threshold).
All that is kept for it is the surrogate's derivative, and x with its statistics for the normalisation; u, the
normalised x and the reset's masks are gone when the node is done. Outputs equal the composed form bit for bit.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from stdl_models.neurons import Coefficients, Neuron, integrate, reset, wide
from stdl_models.surrogate import SURROGATES

Norm = nn.modules.batchnorm._BatchNorm


def steps(x: Tensor, norm: nn.Module | None, neuron: Neuron, v: Tensor | None) -> tuple[Tensor, Tensor]:
    """c consecutive time steps: x [c, B, ...], the synapse's output -> output [c, B, ...], v [B, ...], detached.

    norm takes its statistics from each step on its own and follows them with its running ones, step by step. v is
    float32, whatever x is.
    """
    if neuron.spec.kind in ("IF", "LIF") and (norm is None or _known(norm)):
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
        k, spec, kernels = neuron.coefficients(), neuron.spec, neuron.uses_kernels(x)
        if kernels:
            from stdl_models import triton_kernels
        threshold, v_reset = neuron.fields["v_threshold"], neuron.fields["v_reset"]
        derivative, usual = SURROGATES[spec.surrogate]
        first = v
        spikes, slopes = torch.empty_like(x), torch.empty_like(x) if any(ctx.needs_input_grad[:3]) else None
        statistics: list[Tensor] = []
        for step, z, slope in zip(x, spikes, x if slopes is None else slopes, strict=True):
            current, *kept = _normalised(step, norm)
            statistics += kept
            if kernels:
                v = triton_kernels.advance(current[None], v, neuron, z[None], None if slopes is None else slope[None])
                continue
            u = _integrated(current, v, k, norm is not None, v is not first)
            del current, v
            torch.gt(u, threshold, out=z)
            if slopes is not None:
                alpha = usual if spec.alpha is None else spec.alpha
                if slope.dtype == u.dtype:
                    derivative(torch.sub(u, threshold, out=slope), alpha)
                else:
                    slope.copy_(derivative(u - threshold, alpha))
            v = reset(u, z, threshold, v_reset, spec.reset)
            del u
        ctx.neuron, ctx.kernels = neuron, kernels
        ctx.norm, ctx.training = norm, norm is not None and norm.training
        ctx.save_for_backward(None if norm is None else x, weight, k.gain, slopes, *statistics)
        assert v is not None
        ctx.mark_non_differentiable(v)
        return spikes, v

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


def _integrated(current: Tensor, v: Tensor | None, k: Coefficients, own_current: bool, own_v: bool) -> Tensor:
    """neurons.integrate, the same bits, in place where current and v are ours to overwrite."""
    u = wide(current)
    if not own_current and u is current:
        return integrate(current, v, k)
    if k.gain is not None:
        u.mul_(k.gain)
    if v is not None:
        decayed = v if k.decay is None else v.mul_(k.decay) if own_v else v * k.decay
        u.add_(decayed)
    if k.leak is not None:
        u.add_(k.leak)
    return u
