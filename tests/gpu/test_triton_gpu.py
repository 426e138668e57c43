"""The Triton kernels compiled, on a GPU, against the PyTorch form on the same device. `pytest -m gpu`."""

from __future__ import annotations

import pytest
import torch

from stdl_models import fused
from stdl_models.neurons import Neuron, NeuronSpec
from stdl_models.surrogate import SURROGATES

pytest.importorskip("triton", reason="Triton is not installed")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no CUDA device here"),
]


def both(monkeypatch, function, x):
    """Output and gradient with the kernels, then without."""
    results = []
    for wanted in ("1", "0"):
        monkeypatch.setenv("STDL_TRITON", wanted)
        leaf = x.clone().requires_grad_()
        output = function(leaf)
        output.backward(torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(output))
        results.append((output.detach(), leaf.grad))
    return results


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("reset", ["v_reset", "subtract"])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("through_time", [False, True])
def test_spikes_bit_for_bit(monkeypatch, surrogate, reset, per_channel, last, through_time):
    torch.manual_seed(0)
    spec = NeuronSpec(beta=0.7, gain=0.8, v_leak=0.2, v_reset=-0.3, reset=reset, surrogate=surrogate)
    neuron = Neuron(spec, 1e-4, (5, 33, 17))
    if per_channel:
        neuron.set_fields(tau=(1.2 + torch.rand(5, 1, 1)) * 1e-4, v_threshold=torch.rand(5, 1, 1) + 0.3)
    neuron.cuda()
    assert neuron.uses_kernels(torch.zeros(1, device="cuda"))
    x = torch.randn(6, 3, 5, 33, 17, device="cuda") * 2
    if last:
        x = x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, (6, 3))
    run = neuron.sequence if through_time else lambda x: fused.steps(x, None, neuron, None)[0]
    ours, theirs = both(monkeypatch, run, x)
    assert 0.05 < float(ours[0].mean()) < 0.95
    assert torch.equal(ours[0], theirs[0])
    torch.testing.assert_close(ours[1], theirs[1], rtol=2e-6, atol=2e-6)


def test_bfloat16(monkeypatch):
    torch.manual_seed(0)
    neuron = Neuron(NeuronSpec(), 1e-4, (1000,)).cuda()
    ours, theirs = both(monkeypatch, neuron.sequence, (torch.randn(6, 3, 1000, device="cuda") * 2).bfloat16())
    assert ours[0].dtype == torch.bfloat16
    assert torch.equal(ours[0], theirs[0])
    torch.testing.assert_close(ours[1], theirs[1], rtol=0.05, atol=0.02)


def test_batchnorm_and_neuron_on_the_kernels(monkeypatch):
    torch.manual_seed(0)
    neuron, norm = Neuron(NeuronSpec(), 1e-4, (8, 9, 9)).cuda(), torch.nn.BatchNorm2d(8).cuda()
    x = torch.randn(4, 16, 8, 9, 9, device="cuda") * 2
    ours, theirs = both(monkeypatch, lambda x: fused.steps(x, norm, neuron, None)[0], x)
    assert torch.equal(ours[0], theirs[0])
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-5, atol=1e-6)
