"""The spike function and the surrogate gradients that training puts in place of its derivative.

A spike is a step, z = 1 where u > v_threshold else 0, so its derivative is zero almost everywhere. Backward takes the
derivative of a smooth stand-in at x = u - v_threshold instead (Neftci, Mostafa, Zenke 2019, "Surrogate gradient
learning in spiking neural networks").
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

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
    def forward(ctx: Any, u: Tensor, v_threshold: Tensor, derivative: Derivative, alpha: float) -> Tensor:
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(derivative(u - v_threshold, alpha))
        return (u > v_threshold).to(u.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (derivative,) = ctx.saved_tensors
        return grad * derivative, None, None, None


def spike(u: Tensor, v_threshold: Tensor, surrogate: str = "atan", alpha: float | None = None) -> Tensor:
    """Spikes {0, 1} in u's dtype: 1 where u > v_threshold, strictly, as NIR says. Same shape as `u`.

    u: membrane potential before the reset. v_threshold: broadcasts against u. alpha: sharpness of the surrogate
    (None: the usual one). The gradient reaches u only; thresholds are not trained.
    """
    derivative, usual = SURROGATES[surrogate]
    spikes: Tensor = _Spike.apply(u, v_threshold, derivative, usual if alpha is None else alpha)  # type: ignore[no-untyped-call]
    return spikes
