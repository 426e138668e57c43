"""Surrogates against the functions whose derivatives they are, and the spike's forward and backward."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch

from stdl_models.neurons import NeuronSpec
from stdl_models.surrogate import SURROGATES, spike

STAND_INS = {
    "atan": lambda x, alpha: torch.atan(math.pi / 2 * alpha * x) / math.pi,
    "sigmoid": lambda x, alpha: torch.sigmoid(alpha * x),
    "triangle": lambda x, alpha: torch.where(
        (alpha * x).abs() < 1, alpha * x - (alpha * x) * (alpha * x).abs() / 2, torch.sign(x) / 2
    ),
    "rectangle": lambda x, alpha: (alpha * x).clamp(-0.5, 0.5),
}


@pytest.mark.parametrize("name", SURROGATES)
@pytest.mark.parametrize("alpha", [0.7, 2.0, 5.0])
def test_derivative_is_that_of_its_stand_in(name, alpha):
    x = torch.linspace(-1.91, 1.87, 101, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(STAND_INS[name](x, alpha).sum(), x)
    torch.testing.assert_close(SURROGATES[name][0](x.detach().clone(), alpha), expected)


@pytest.mark.parametrize("name", SURROGATES)
def test_spike_is_a_strict_step_forward_and_the_surrogate_backward(name):
    u = torch.tensor([0.2, 0.99, 1.0, 1.01, 3.0], requires_grad=True)
    threshold = torch.tensor(1.0)
    z = spike(u, threshold, name)
    assert z.tolist() == [0, 0, 0, 1, 1]  # at the threshold a neuron stays silent
    z.backward(torch.arange(1.0, 6.0))
    derivative, alpha = SURROGATES[name]
    torch.testing.assert_close(u.grad, torch.arange(1.0, 6.0) * derivative(u.detach() - 1, alpha))


def test_a_spec_may_name_every_surrogate():
    assert set(get_args(NeuronSpec.model_fields["surrogate"].annotation)) == set(SURROGATES)


def test_only_the_derivative_is_saved_and_nothing_without_a_gradient():
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        spike(torch.randn(7), torch.tensor(1.0))
        assert saved == []
        spike(torch.randn(7, requires_grad=True), torch.tensor(1.0))
    assert [t.shape for t in saved] == [(7,)]
