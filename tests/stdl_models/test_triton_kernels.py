"""The Triton kernels, interpreted on the CPU, against the PyTorch form: spikes bit for bit, gradients to 1e-6."""

from __future__ import annotations

import importlib
import os
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stdl_models import fused
from stdl_models.neurons import Neuron, NeuronSpec
from stdl_models.surrogate import SURROGATES

pytest.importorskip("triton", reason="Triton is not installed")


@pytest.fixture(scope="module", autouse=True)
def kernels():
    """Triton decides at import whether it interprets: this module's kernels do."""
    before = os.environ.get("TRITON_INTERPRET")
    os.environ["TRITON_INTERPRET"] = "1"
    sys.modules.pop("stdl_models.triton_kernels", None)
    yield importlib.import_module("stdl_models.triton_kernels")
    sys.modules.pop("stdl_models.triton_kernels", None)
    os.environ.pop("TRITON_INTERPRET") if before is None else os.environ.__setitem__("TRITON_INTERPRET", before)


@pytest.fixture
def on_kernels(monkeypatch):
    """Layers take the kernels here as they would on a GPU."""
    monkeypatch.setattr(Neuron, "uses_kernels", lambda self, _: self.spec.kind in ("IF", "LIF"))


@st.composite
def layers(draw):
    """A neuron layer of one of the ways to hold parameters, and the shape [T, B, ...] of its input."""
    maps = draw(st.booleans())
    size = tuple(draw(st.integers(1, 5)) for _ in range(3)) if maps else (draw(st.sampled_from([1, 7, 700])),)
    spec = NeuronSpec(
        kind=draw(st.sampled_from(["IF", "LIF"])),
        beta=draw(st.sampled_from([0.5, 0.7])),
        gain=draw(st.sampled_from([1.0, 0.8])),
        v_leak=draw(st.sampled_from([0.0, 0.2])),
        v_reset=draw(st.sampled_from([0.0, -0.3])),
        reset=draw(st.sampled_from(["v_reset", "subtract"])),
        surrogate=draw(st.sampled_from(list(SURROGATES))),
    )
    neuron = Neuron(spec, 1e-4, size)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    per = draw(st.sampled_from(["layer", "channel", "neuron"]))
    shape = {"layer": (), "channel": (size[0], *(1,) * (len(size) - 1)), "neuron": size}[per]
    neuron.set_fields(v_threshold=torch.rand(shape, generator=generator) + 0.3)
    if spec.kind == "LIF":
        neuron.set_fields(tau=(1.2 + torch.rand(shape, generator=generator)) * 1e-4)
    T, B = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    x = torch.randn(T, B, *size, generator=generator) * 2
    if maps and draw(st.booleans()):
        x = x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, (T, B))
    v = torch.rand(B, *size, generator=generator) if draw(st.booleans()) else None
    return neuron, x, v


def composed(x, v, neuron):
    outputs = []
    for step in x:
        output, v = neuron(step, v)
        outputs.append(output)
    return torch.stack(outputs), v


def run(function, x, v, neuron):
    """Outputs, and gradients of a sum that weighs spikes and last potential at random."""
    x = x.clone().requires_grad_()
    v = None if v is None else v.clone().requires_grad_()
    spikes, after = function(x, v, neuron)
    draw = torch.Generator().manual_seed(1)
    loss = (spikes.float() * torch.randn(spikes.shape, generator=draw)).sum()
    if after.requires_grad:
        loss = loss + (after * torch.randn(after.shape, generator=draw)).sum()
    loss.backward()
    return spikes.detach(), after.detach(), x.grad, None if v is None else v.grad


@given(layers())
@settings(max_examples=40, deadline=None)
def test_through_time(kernels, layer):
    neuron, x, v = layer
    ours, theirs = run(kernels.sequence, x, v, neuron), run(composed, x, v, neuron)
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[1])
    for mine, other in zip(ours[2:], theirs[2:], strict=True):
        torch.testing.assert_close(mine, other, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("reset", ["v_reset", "subtract"])
def test_without_gradient_through_time(on_kernels, monkeypatch, norm, reset):
    torch.manual_seed(0)
    neuron = Neuron(NeuronSpec(reset=reset, gain=0.8), 1e-4, (5, 3, 7))
    x, v = torch.randn(4, 2, 5, 3, 7) * 2, torch.rand(2, 5, 3, 7)
    layer = torch.nn.BatchNorm2d(5) if norm else None

    def with_norm(function):
        return lambda x, v, neuron: function(x, layer, neuron, v)

    ours = run(with_norm(fused.steps), x, v, neuron)
    monkeypatch.undo()
    theirs = run(with_norm(fused.composed), x, v, neuron)
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[1])
    torch.testing.assert_close(ours[2], theirs[2], rtol=1e-5, atol=1e-6)


def test_backward_without_gradient_through_time(kernels):
    torch.manual_seed(0)
    neuron = Neuron(NeuronSpec(gain=0.8), 1e-4, (5, 3, 7))
    dz, slopes = torch.randn(4, 2, 5, 3, 7), torch.rand(4, 2, 5, 3, 7)
    dx, _ = kernels.gradients(dz, None, slopes, slopes, neuron, through_time=False)
    torch.testing.assert_close(dx, dz * slopes * neuron.coefficients().gain)


def test_half_precision_keeps_potentials_in_float32(kernels):
    torch.manual_seed(0)
    neuron, x = Neuron(NeuronSpec(), 1e-4, (33,)), (torch.randn(4, 3, 33) * 2).bfloat16()
    ours, theirs = run(kernels.sequence, x, None, neuron), run(composed, x, None, neuron)
    assert (ours[0].dtype, ours[1].dtype, ours[2].dtype) == (torch.bfloat16, torch.float32, torch.bfloat16)
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[1])
    torch.testing.assert_close(ours[2], theirs[2], rtol=0.05, atol=0.02)


def test_layers_take_the_kernels_in_training_only(on_kernels, monkeypatch):
    neuron = Neuron(NeuronSpec(), 1e-4, (9,))
    x = torch.randn(4, 3, 9, generator=torch.Generator().manual_seed(0)) * 2
    step, v = neuron(x[0])
    spikes = neuron.sequence(x)
    monkeypatch.undo()
    assert torch.equal(step, neuron(x[0])[0])
    assert torch.equal(v, neuron(x[0])[1])
    assert torch.equal(spikes, neuron.sequence(x))
    assert not neuron.uses_kernels(x)  # not on a GPU
    gpu = type("OnGpu", (), {"is_cuda": True, "dtype": torch.float32})()
    assert neuron.uses_kernels(gpu)
    monkeypatch.setenv("STDL_TRITON", "0")
    assert not neuron.uses_kernels(gpu)
    monkeypatch.delenv("STDL_TRITON")
    assert not neuron.eval().uses_kernels(gpu)
    assert not Neuron(NeuronSpec(kind="PLIF"), 1e-4, (9,)).uses_kernels(gpu)
