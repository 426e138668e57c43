"""From PyTorch to NIR: the graph computes what the network computes, and says what design.md says it says."""

from __future__ import annotations

import nir
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import BLOCKS, blocks_spec, lively, make_spec, network_specs, neuron, plain_spec, residual_spec
from run_onnx import run_sequence, run_steps
from torch import nn

from stdl_export import from_torch, graph
from stdl_export.common.errors import BadInput
from stdl_export.fold import fold
from stdl_models.nets.registry import build_network
from stdl_models.neurons import NeuronSpec
from stdl_models.recorder import SpikeRecorder
from stdl_models.units.registry import UNITS
from stdl_models.units.residual import SpikingResidualSpec
from stdl_models.units.simple import ConvSpec, LinearSpec, ModuleSpec, ReadoutSpec
from stdl_runtimes import reference


@given(spec=network_specs(), seed=st.integers(0, 1000))
@settings(max_examples=30)
def test_the_reference_computes_the_network(spec, seed):
    network = fold(lively(build_network(spec), seed=seed))
    frame = torch.rand(3, *spec.input.shape, generator=torch.Generator().manual_seed(seed)) * 2
    with torch.no_grad(), SpikeRecorder(network) as recorder:
        logits = network(frame)
    result = reference.run(from_torch.to_nir(network), frame.numpy(), margins=True)
    assert set(result.spikes) == set(recorder.spikes)
    tied = False  # convolutions sum in another order: a potential at its threshold may flip, and all behind it differ
    for node, steps in recorder.spikes.items():
        theirs = torch.stack(steps).numpy()
        tied = tied or bool((result.margins[node] < 1e-4).any())
        assert tied or np.array_equal(theirs, result.spikes[node]), node
    if not tied:
        np.testing.assert_allclose(result.output, logits.numpy(), rtol=1e-4, atol=1e-4)


def test_a_residual_sum_is_fan_in_and_equal_sets_are_kept_once():
    written = from_torch.to_nir(fold(lively(build_network(residual_spec()))))
    sources = graph.sources(written)
    assert sources["r1.a"] == ("stem.lif",)
    assert sources["r2.a"] == ("r1.b.lif", "stem.lif")
    assert sources["r3.a"] == sources["r3.shortcut"] == ("r1.b.lif", "r2.b.lif", "stem.lif")
    assert sources["readout.pool"] == ("r3.b.lif", "r3.shortcut.lif")
    assert isinstance(written.nodes["readout.flatten"], nir.Flatten)
    assert written.nodes["readout.pool"].kernel_size.tolist() == [3, 3]


@pytest.mark.parametrize("norm", [True, False])
def test_currents_that_are_added_are_fan_in_to_the_neuron(norm):
    written = from_torch.to_nir(fold(lively(build_network(blocks_spec(SpikingResidualSpec, norm=norm)))))
    sources = graph.sources(written)
    assert sources["b1.b.lif"] == ("b1.b", "stem.lif")  # the shortcut is the input itself
    assert sources["b2.b.lif"] == ("b2.b", "b2.shortcut")  # or a convolution without a neuron
    assert sources["f1.pool"] == ("b2.b.lif",)
    assert "b2.shortcut.lif" not in written.nodes


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("reset", ["v_reset", "subtract"])
def test_onnx_computes_every_block(block, reset):
    """Both lowerings in onnxruntime against torch: T=4, batch 3, every layer spiking."""
    network = fold(lively(build_network(blocks_spec(block, neuron_spec=neuron(reset=reset)))))
    frame = torch.rand(3, 2, 6, 6, generator=torch.Generator().manual_seed(2)) * 2
    with torch.no_grad(), SpikeRecorder(network) as recorder:
        logits = network(frame)
    assert all(0 < torch.stack(steps).mean() < 1 for steps in recorder.spikes.values())
    written = from_torch.to_nir(network)
    np.testing.assert_allclose(run_steps(written, frame.numpy(), 4), logits.numpy(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(run_sequence(written, frame.numpy(), 4), logits.numpy(), rtol=1e-4, atol=1e-4)


def test_a_module_of_the_user_is_refused_with_what_to_use_instead():
    units = [*plain_spec().units[:2], ModuleSpec(name="m", what="MaxPool2d(2)", module=nn.MaxPool2d(2))]
    with pytest.raises(BadInput, match=r"unit 'm': MaxPool2d\(2\): NIR has no max pooling: use PoolSpec"):
        from_torch.to_nir(fold(build_network(make_spec(units)).eval()))


@pytest.mark.parametrize(("encoding", "said"), [("direct", "repeat"), ("frames", "sequence"), ("poisson", "sequence")])
def test_the_graph_says_whether_it_takes_sequences(encoding, said):
    spec = plain_spec(T=3)
    spec = spec.model_copy(update={"input": spec.input.model_copy(update={"encoding": encoding})})
    assert graph.settings(from_torch.to_nir(fold(build_network(spec).eval()))).input == said


def test_metadata_shapes_and_biases():
    written = from_torch.to_nir(fold(lively(build_network(plain_spec(T=5)))))
    assert graph.problems(written) == []
    said = graph.settings(written)
    assert (said.T, said.dt, said.dialect, said.reset, said.input, said.output) == (
        5, 1e-4, "nir", "v_reset", "repeat", "mean",
    )  # fmt: skip
    for name, node in written.nodes.items():
        if isinstance(node, nir.LIF):
            assert node.tau.shape == node.v_threshold.shape == graph.shapes(written)[name]
            assert node.tau.dtype == np.float32
        if isinstance(node, nir.Affine | nir.Conv2d):
            assert node.bias is not None


def test_the_file_read_back_is_the_same_graph(tmp_path):
    written = from_torch.to_nir(fold(lively(build_network(residual_spec()))))
    graph.write(written, tmp_path / "g.nir")
    assert graph.same(written, graph.read(tmp_path / "g.nir")) is None
    by_nir = nir.read(tmp_path / "g.nir")  # the nir package's own checks accept it
    assert set(by_nir.nodes) == set(written.nodes)


def test_resets_travel_with_the_graph_and_exceptions_with_the_node():
    units = [
        ConvSpec(name="a", channels=2, neuron=neuron(reset="subtract")),
        ConvSpec(name="b", channels=2, neuron=neuron(reset="subtract")),
        LinearSpec(name="c", features=3, neuron=neuron(reset="v_reset", v_reset=0.25)),
    ]
    written = from_torch.to_nir(fold(build_network(make_spec(units)).eval()))
    assert graph.settings(written).reset == "subtract"
    assert graph.reset_of(written, "a.lif") == "subtract"
    assert graph.reset_of(written, "c.lif") == "v_reset"
    assert written.nodes["c.lif"].v_reset.tolist() == [0.25] * 3


def test_a_smoothing_readout_becomes_an_li():
    spec = plain_spec().model_copy(update={"readout": ReadoutSpec(classes=3, neuron=NeuronSpec(kind="LI", beta=0.8))})
    network = fold(lively(build_network(spec)))
    written = from_torch.to_nir(network)
    assert isinstance(written.nodes["readout.li"], nir.LI)
    frame = torch.rand(2, 2, 6, 6)
    with torch.no_grad():
        np.testing.assert_allclose(reference.run(written, frame.numpy()).output, network(frame).numpy(), atol=1e-4)


def test_every_unit_has_its_row():
    assert set(from_torch.ROWS) == set(UNITS.values())


def test_an_unfolded_network_is_a_mistake_of_ours():
    with pytest.raises(AssertionError, match="fold the network first"):
        from_torch.to_nir(build_network(plain_spec()))
