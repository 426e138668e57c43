"""`train.compile`: the same losses, weights and statistics after two batches as without."""

from __future__ import annotations

import copy
import functools
import shutil

import pytest
import torch
from networks import make_spec, neuron
from training import batch

from stdl_models.nets.registry import build_network
from stdl_models.units.simple import LinearSpec
from stdl_train.methods.base import Layout, MethodOptions, OptimizerOptions, Part
from stdl_train.methods.registry import build_method

SGD = OptimizerOptions(name="sgd", lr=0.1, weight_decay=0.0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")  # PyTorch's
@pytest.mark.parametrize(
    ("method", "backend"),
    [
        ("online", "eager"),  # what is captured, without the time that it takes to compile it
        ("bptt", "eager"),
        pytest.param(
            "online",
            "inductor",
            marks=pytest.mark.skipif(shutil.which("c++") is None, reason="inductor needs a C++ compiler on a CPU"),
        ),
    ],
)
def test_compiled_equals_plain(method, backend, monkeypatch):
    """Three steps in chunks of one: no graph may be left behind the potentials that go from chunk to chunk."""
    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    spec = make_spec([LinearSpec(name="f1", features=8, neuron=neuron())], T=3)
    plain, compiled = (
        build_method(method, build_network(spec).train(), Layout((Part(0, 0),)), options)
        for options in (MethodOptions(optimizer=SGD), MethodOptions(optimizer=SGD, compile=True))
    )
    compiled.network.load_state_dict(copy.deepcopy(plain.network.state_dict()))
    start = copy.deepcopy(plain.network.state_dict())
    frame, labels = batch(spec)
    for _ in range(2):
        expected, result = plain.train_batch(frame, labels), compiled.train_batch(frame, labels)
        torch.testing.assert_close(result.loss, expected.loss)
        torch.testing.assert_close(result.logits, expected.logits)
    for name, value in plain.network.state_dict().items():
        torch.testing.assert_close(compiled.network.state_dict()[name], value, rtol=1e-4, atol=1e-6, msg=name)
        assert not torch.equal(value, start[name]) or "neuron" in name, name
