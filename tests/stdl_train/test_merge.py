"""Merging keeps the function bit for bit, and refuses when it would not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import lively, network_specs, plain_spec, residual_spec

from stdl_export.common.errors import CheckFailed
from stdl_models.nets.registry import build_network
from stdl_models.network import batchnorms
from stdl_models.recorder import SpikeRecorder
from stdl_train.merge import chain, merge, prove_equal, reestimate_batchnorm, run_chained, write_golden
from stdl_train.methods.base import Layout, MethodOptions, Part
from stdl_train.methods.registry import build_method
from stdl_train.plan import PlanRequest
from stdl_train.plan_search import make_plan
from stdl_train.split import cut_points


def trained(spec, method="stdl"):
    """A method after two batches, with lively units."""
    torch.manual_seed(1)
    network = build_network(spec)
    layout = make_plan(spec, PlanRequest(method, 4, subnetworks=3)).layout
    m = build_method(method, network, layout, MethodOptions())
    lively(network)
    for part in m.parts:
        part.train()
    frame = torch.rand(4, *spec.input.shape) * 2
    for _ in range(2):
        m.train_batch(frame, torch.arange(4) % 3)
    return m, frame


@pytest.mark.parametrize("method", ["stdl", "bptt", "local"])
@pytest.mark.parametrize("make", [plain_spec, residual_spec])
def test_merged_network_is_plain_and_equal(make, method):
    m, frame = trained(make(), method)
    merged = merge(m, frame)
    assert not any("aux" in name for name in merged.state_dict())
    with torch.no_grad(), SpikeRecorder(merged) as recorder:
        merged(frame)
    assert all(0 < torch.stack(steps).mean() < 1 for steps in recorder.spikes.values())


@given(spec=network_specs(), data=st.data())
@settings(max_examples=25)
def test_merging_any_cuts_keeps_logits_and_spikes_bit_for_bit(spec, data):
    network = lively(build_network(spec), seed=2)
    cuts = sorted(data.draw(st.sets(st.sampled_from(cut_points(network)))) if cut_points(network) else [])
    firsts, lasts = [0, *(c + 1 for c in cuts)], [*cuts, len(network.units) - 1]
    bodies = [network.chain[a : b + 1] for a, b in zip(firsts, lasts, strict=True)]
    frame = torch.rand(3, *spec.input.shape) * 2
    merged = chain(spec, bodies, network.readout)
    modes = [module.training for module in network.modules()]
    prove_equal(bodies, network.readout, merged, frame)
    assert [module.training for module in network.modules()] == modes
    with torch.no_grad():
        assert torch.equal(run_chained(bodies, network.readout, frame.expand(spec.T, *frame.shape)), network(frame))


def test_a_merged_network_that_differs_is_refused_by_name():
    m, frame = trained(plain_spec())
    bodies = [part.body for part in m.subnetworks]
    merged = chain(m.network.spec, bodies, m.network.readout)
    merged.units[3].layer.synapse.weight.data *= 1.5
    with pytest.raises(CheckFailed, match=r"differs from its subnetworks at 'c3\.lif', step"):
        prove_equal(bodies, m.network.readout, merged, frame)
    merged = chain(m.network.spec, bodies, m.network.readout)
    merged.readout.linear.bias.data += 1e-3
    with pytest.raises(CheckFailed, match="logits differ"):
        prove_equal(bodies, m.network.readout, merged, frame)


def test_reestimated_statistics_are_those_of_the_pooled_sequence():
    spec = plain_spec()
    network = lively(build_network(spec))
    frames = torch.rand(8, *spec.input.shape) * 2
    reestimate_batchnorm(network, [frames])
    seen = []
    first = network.units[1].layer  # the second layer's currents differ from step to step
    first.norm.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    network.train()
    with torch.no_grad():
        network.sequence(frames.expand(spec.T, *frames.shape))
    network.eval()
    pooled = seen[0]
    torch.testing.assert_close(first.norm.running_mean, pooled.mean((0, 2, 3)))
    torch.testing.assert_close(first.norm.running_var, pooled.transpose(0, 1).flatten(1).var(1))
    assert all(norm.momentum == 0.1 for norm in batchnorms(network))


def test_golden_samples_hold_what_the_network_does(tmp_path):
    spec = residual_spec()
    network = lively(build_network(spec))
    frames, labels = torch.rand(5, *spec.input.shape) * 2, torch.arange(5)
    write_golden(network, frames, labels, tmp_path / "golden.npz", batch=2)
    with np.load(tmp_path / "golden.npz", allow_pickle=False) as golden, torch.no_grad():
        assert golden["output"].shape == (spec.T, 5, 3)
        np.testing.assert_allclose(golden["output"], network(frames).numpy(), atol=1e-5)
        np.testing.assert_array_equal(golden["input"], frames.numpy())
        with SpikeRecorder(network) as recorder:
            network(frames)
        assert {key for key in golden if key.startswith("count:")} == {f"count:{node}" for node in recorder.spikes}
        for node, steps in recorder.spikes.items():
            assert golden[f"count:{node}"].sum() == pytest.approx(torch.stack(steps).sum().item(), abs=2)


def test_a_part_that_covers_all_is_merged_too():
    network = build_network(plain_spec()).train()
    method = build_method("online", network, Layout((Part(0, 4),)), MethodOptions())
    merge(method, torch.rand(3, 2, 6, 6))
