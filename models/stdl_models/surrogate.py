"""The spike function and the surrogate gradients that training puts in place of its derivative.

A spike is a step, z = 1 where u > v_threshold else 0, so its derivative is zero almost everywhere. Backward takes the
derivative of a smooth stand-in at x = u - v_threshold instead (Neftci, Mostafa, Zenke 2019, "Surrogate gradient
learning in spiking neural networks").
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

SpikeRule = Literal[">", ">=", "floor"]
"""Where a neuron fires: above its threshold, at it too, or as often as the threshold fits into u (several spikes)."""

Derivative = Callable[[Tensor, float], Tensor]
"""(x = u - v_threshold, alpha) -> derivative of the stand-in at x, written over x to save memory."""


def atan_(x: Tensor, alpha: float) -> Tensor:
    """Derivative of arctan(pi/2 * alpha * x) / pi: alpha/2 at the threshold, falls with the square of the distance."""
    return x.mul_(math.pi / 2 * alpha).square_().add_(1).reciprocal_().mul_(alpha / 2)


def sigmoid_(x: Tensor, alpha: float) -> Tensor:
    """Derivative of sigmoid(alpha * x): alpha/4 at the threshold, falls exponentially."""
    s = x.mul_(alpha).sigmoid_()
    rest = 1 - s
    return s.mul_(alpha).mul_(rest)


def triangle_(x: Tensor, alpha: float) -> Tensor:
    """A triangle of height alpha over |x| < 1/alpha, area 1."""
    return x.abs_().mul_(-alpha).add_(1).clamp_(min=0).mul_(alpha)


def rectangle_(x: Tensor, alpha: float) -> Tensor:
    """A rectangle of height alpha over |x| < 1/(2 alpha), area 1."""
    return x.abs_().lt_(1 / (2 * alpha)).mul_(alpha)


SURROGATES: dict[str, tuple[Derivative, float]] = {
    "atan": (atan_, 2.0),
    "sigmoid": (sigmoid_, 4.0),
    "triangle": (triangle_, 1.0),
    "rectangle": (rectangle_, 1.0),
}
"""Name -> (derivative, the alpha that is usual for it)."""


class _Spike(torch.autograd.Function):
    """Forward: the step. Backward: the surrogate. Only the surrogate's derivative is kept for backward, not u."""

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, v_threshold: Tensor, derivative: Derivative, alpha: float, rule: SpikeRule
    ) -> Tensor:
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(derivative(u - _nearest(u, v_threshold, rule), alpha))
        if rule == ">":
            return (u > v_threshold).to(u.dtype)
        fired = (u >= v_threshold).to(u.dtype)
        return fired * torch.floor(u / v_threshold) if rule == "floor" else fired

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (derivative,) = ctx.saved_tensors
        return grad * derivative, None, None, None, None


def _nearest(u: Tensor, v_threshold: Tensor, rule: SpikeRule) -> Tensor:
    """The potential at which the next decision falls: of several spikes the nearest multiple of the threshold."""
    return v_threshold * torch.round(u / v_threshold).clamp(min=1) if rule == "floor" else v_threshold


def spike(
    u: Tensor, v_threshold: Tensor, surrogate: str = "atan", alpha: float | None = None, rule: SpikeRule = ">"
) -> Tensor:
    """Spikes in u's dtype, same shape as `u`: {0, 1}, 1 where u > v_threshold, strictly, as NIR says, or by `rule`.

    u: membrane potential before the reset. v_threshold: broadcasts against u. alpha: sharpness of the surrogate
    (None: the usual one), which of several spikes has its middle at each multiple of the threshold. The gradient
    reaches u only; thresholds are not trained.
    """
    derivative, usual = SURROGATES[surrogate]
    spikes: Tensor = _Spike.apply(u, v_threshold, derivative, usual if alpha is None else alpha, rule)  # type: ignore[no-untyped-call]
    return spikes
