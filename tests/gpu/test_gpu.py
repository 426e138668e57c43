"""What only a GPU can show: engines that run, memory of a step on a device. `pytest -m gpu`; skipped without one."""

from __future__ import annotations

import chains
import numpy as np
import pytest
import torch
from networks import plain_spec

from stdl_export import graph as graphs
from stdl_export.assemble import create
from stdl_export.common.errors import Unavailable
from stdl_export.golden import choose
from stdl_export.onnx.time import TimeForm
from stdl_export.source import Source
from stdl_export.targets import Job
from stdl_export.tensorrt import Profile
from stdl_models.nets.registry import build_network, network_spec
from stdl_models.network import InputSpec
from stdl_runtimes import base, reference
from stdl_train.methods.base import MethodOptions, OptimizerOptions
from stdl_train.methods.registry import build_method
from stdl_train.plan import PlanRequest
from stdl_train.plan_search import make_plan

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no CUDA device here"),
]


@pytest.mark.parametrize("form", ["unroll", "scan"])
def test_an_engine_gives_the_references_spikes(tmp_path, form: TimeForm):
    graph = chains.small_network()
    source = Source(graph=graph, name="small")
    golden, origin = choose(graph, None, None, 4)
    job = Job(graph, ("sequence", "step"), form, Profile(1, 4, 16), "fp32")
    bundle, _ = create(tmp_path / "b", source, job, ["onnx", "tensorrt"], golden, origin)
    try:
        runtime = base.load(bundle, "tensorrt")
    except Unavailable as reason:
        pytest.skip(str(reason))
    with runtime:
        expected = reference.run(bundle.graph(), golden.input, T=len(golden.output)).output
        np.testing.assert_allclose(runtime.run(golden.input), expected, rtol=1e-3, atol=1e-3)
        assert graphs.settings(graph).input == "repeat"
        with runtime.session(4) as session:
            steps = np.stack([session.step(golden.input) for _ in range(len(expected))])
        np.testing.assert_allclose(steps, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", ["stdl", "bptt"])
def test_predicted_bytes_are_within_ten_percent_of_the_devices_peak(method):
    spec = network_spec("vgg11", InputSpec(shape=(3, 32, 32)), tuple("0123456789"), T=4)
    options = MethodOptions()
    plan = make_plan(spec, PlanRequest(method, 64, options, subnetworks=4))
    trainer = build_method(method, build_network(spec).train(), plan.layout, options)
    for part in trainer.parts:
        part.cuda()
    frame, labels = torch.rand(64, 3, 32, 32, device="cuda"), torch.zeros(64, dtype=torch.long, device="cuda")
    trainer.train_batch(frame, labels)
    torch.cuda.reset_peak_memory_stats()
    trainer.train_batch(frame, labels)
    assert torch.cuda.max_memory_allocated() == pytest.approx(plan.predicted.live, rel=0.1)


def test_a_device_trains_what_the_cpu_trains():
    spec = plain_spec()
    options = MethodOptions(optimizer=OptimizerOptions(name="sgd", lr=0.1))
    plan = make_plan(spec, PlanRequest("stdl", 4, options, subnetworks=3))
    losses = {}
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        trainer = build_method("stdl", build_network(spec).train(), plan.layout, options)
        for part in trainer.parts:
            part.to(device)
        frame = torch.rand(4, 2, 6, 6, generator=torch.Generator().manual_seed(1)).to(device)
        losses[device] = trainer.train_batch(frame, torch.arange(4, device=device) % 3).loss.cpu()
    torch.testing.assert_close(losses["cuda"], losses["cpu"], rtol=1e-3, atol=1e-3)
