"""The fused node against the composed form: outputs bit for bit, gradients, statistics; no gradient through time."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from stdl_models import fused
from stdl_models.fused import composed, steps
from stdl_models.neurons import Neuron, NeuronSpec
from stdl_models.surrogate import SURROGATES
from stdl_train.memory import LiveBytes

SHAPES = {"maps": (3, 4, 5, 6, 7), "features": (3, 4, 6)}


def make(shape, norm, dtype=torch.float32, **spec):
    torch.manual_seed(0)
    x = (torch.randn(shape) * 2).to(dtype)
    size = shape[2:]
    neuron = Neuron(NeuronSpec(**spec), 1e-4, size)
    channel = (size[0], *(1,) * (len(size) - 1))
    neuron.set_fields(v_threshold=torch.rand(channel) + 0.3)
    layer = None
    if norm:
        layer = (nn.BatchNorm2d if len(size) == 3 else nn.BatchNorm1d)(size[0]).to(dtype).train()
        nn.init.uniform_(layer.weight, 0.5, 1.5)
        nn.init.uniform_(layer.bias, -0.5, 0.5)
    return x, layer, neuron, torch.rand(shape[1:]).to(torch.promote_types(dtype, torch.float32))


def run(function, x, norm, neuron, v):
    norm = copy.deepcopy(norm)
    x = x.clone().requires_grad_()
    out, after = function(x, norm, neuron, v.clone())
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)
    (out * weights).sum().backward()
    state = {} if norm is None else dict(norm.named_buffers()) | {n: p.grad for n, p in norm.named_parameters()}
    return out.detach(), after, x.grad, state


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("reset", ["v_reset", "subtract"])
@pytest.mark.parametrize(
    "spec",
    [
        {"kind": "IF"},
        {"beta": 0.7, "gain": 0.8, "v_leak": 0.2, "v_reset": -0.3},
        *({"surrogate": s} for s in SURROGATES),
    ],
    ids=str,
)
def test_fused_equals_composed(shape, norm, reset, spec):
    arguments = make(shape, norm, reset=reset, **spec)
    ours, theirs = run(steps, *arguments), run(composed, *arguments)
    assert 0.05 < float(ours[0].mean()) < 0.95
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[1])
    assert not ours[1].requires_grad
    torch.testing.assert_close(ours[2], theirs[2], rtol=1e-5, atol=1e-6)
    for name, value in theirs[3].items():
        torch.testing.assert_close(ours[3][name], value, rtol=1e-5, atol=1e-5, msg=name)


def test_gradients_are_exact_in_float64():
    arguments = make((4, 5, 3, 4, 4), True, torch.float64, beta=0.6)
    ours, theirs = run(steps, *arguments), run(composed, *arguments)
    torch.testing.assert_close(ours[2], theirs[2], rtol=1e-10, atol=1e-12)


def test_no_gradient_crosses_a_step():
    x, norm, neuron, v = make((3, 4, 5, 6, 7), True, beta=0.9)
    for t in range(3):
        leaf = x.clone().requires_grad_()
        out, _ = steps(leaf, norm, neuron, v)
        out[t].sum().backward()
        reached = leaf.grad.abs().flatten(1).sum(1) > 0
        assert reached.tolist() == [step == t for step in range(3)]


def test_channels_last_and_eval_mode():
    x, norm, neuron, v = make((3, 4, 5, 6, 7), True)
    last = x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, (3, 4))
    assert torch.equal(run(steps, last, norm, neuron, v)[0], run(composed, last, norm, neuron, v)[0])
    norm.eval()
    ours, theirs = run(steps, x, norm, neuron, v), run(composed, x, norm, neuron, v)
    assert torch.equal(ours[0], theirs[0])
    torch.testing.assert_close(ours[2], theirs[2])


def test_bfloat16_currents_keep_potentials_in_float32():
    x, norm, neuron, v = make((3, 4, 5, 6, 7), True)
    ours, theirs = run(steps, x.bfloat16(), norm, neuron, v), run(composed, x.bfloat16(), norm, neuron, v)
    assert ours[0].dtype == torch.bfloat16
    assert ours[1].dtype == torch.float32
    assert torch.equal(ours[0], theirs[0])
    torch.testing.assert_close(ours[2], theirs[2], rtol=0.05, atol=0.02)


def test_a_readouts_potential_is_composed_and_detached():
    neuron = Neuron(NeuronSpec(kind="LI"), 1e-4, (3,))
    x = torch.randn(2, 4, 3, requires_grad=True)
    out, v = steps(x, None, neuron, None)
    assert out.shape == (2, 4, 3)
    assert not v.requires_grad


def test_a_second_backward_pass_is_refused():
    x, norm, neuron, v = make((2, 4, 3), False)
    out, _ = steps(x.requires_grad_(), norm, neuron, v)
    out.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_the_input_stays_as_it_is_and_potentials_are_written_over_those_that_come_in():
    for norm in (True, False):
        x, layer, neuron, v = make((3, 4, 5, 6, 7), norm, beta=0.7)
        before = x.clone()
        at_rest = steps(x, layer, neuron, None)[1]
        after = steps(x, layer, neuron, v)[1]
        assert torch.equal(x, before)
        assert after.data_ptr() == v.data_ptr()
        assert at_rest.data_ptr() not in (x.data_ptr(), v.data_ptr())


def test_slices_change_nothing(monkeypatch):
    arguments = make((3, 7, 5, 6, 7), True, beta=0.7, gain=0.8, v_leak=0.2)
    whole = run(steps, *arguments)
    monkeypatch.setattr(fused, "SLICE", 2 * 5 * 6 * 7)
    for ours, theirs in zip(run(steps, *arguments)[:3], whole[:3], strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(5, affine=False), nn.BatchNorm2d(5, momentum=None), nn.Identity()])
def test_other_normalisations_are_composed(norm):
    x, _, neuron, v = make((3, 4, 5, 6, 7), False)
    assert torch.equal(steps(x, copy.deepcopy(norm), neuron, v)[0], composed(x, copy.deepcopy(norm), neuron, v)[0])


def test_a_dry_run_has_the_shapes_and_fewer_bytes_than_the_composed_form():
    peaks = {}
    for function in (steps, composed):
        with torch.device("meta"):
            x, norm, neuron, v = make((4, 8, 16, 6, 7), True)
            x.requires_grad_()
            grad = torch.empty(x.shape)
        known = [x, v, grad, *norm.parameters(), *norm.buffers(), *neuron.buffers()]
        with LiveBytes(known) as live:
            before = live.now
            out, after = function(x, norm, neuron, v)
            out.backward(grad)
        assert (out.shape, after.shape, x.grad.shape) == (x.shape, x.shape[1:], x.shape)
        peaks[function] = (live.peak - before) / x.numel()
    assert peaks[steps] < 11.6 < 13 < peaks[composed]  # bytes per neuron and step
