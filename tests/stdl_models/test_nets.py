"""Registered networks: parameter counts with their source, one step of training, the same spikes behind NIR."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from networks import lively

from stdl_export import from_torch, graph
from stdl_export.fold import fold
from stdl_models.nets.registry import NETWORKS, build_network, network_spec
from stdl_models.network import InputSpec, chunk_chain, decode
from stdl_models.neurons import NeuronKind, NeuronSpec
from stdl_models.recorder import SpikeRecorder
from stdl_runtimes import reference

SECOND_STEM = 3 * 3 * 64 * 64 + 2 * 64
"""The strided convolution and its normalisation, where the published ResNets have a max pool."""

COUNTS = {
    # By hand, weights of linear maps and convolutions plus two per normalised channel plus the readout's bias.
    ("mlp", "cifar"): 3072 * 256 + 2 * 256 * 256 + 3 * 2 * 256 + 256 * 10 + 10,
    ("vgg5", "cifar"): 9 * (3 * 32 + 32 * 64 + 64 * 64 + 64 * 128) + 2 * 288 + 128 * 8 * 8 * 10 + 10,
    ("vgg5", "imagenet"): 9 * (3 * 32 + 32 * 64 + 64 * 64 + 64 * 128) + 2 * 288 + 128 * 1000 + 1000,
    ("vgg9", "cifar"): 9 * (3 * 64 + 64 * 64 + 64 * 128 + 128 * 128 + 128 * 256 + 256 * 256) + 2 * 896
    + 256 * 4 * 4 * 1024 + 1024 * 1024 + 2 * 2048 + 1024 * 10 + 10,
    ("vgg9", "imagenet"): 9 * (3 * 64 + 64 * 64 + 64 * 128 + 128 * 128 + 128 * 256 + 256 * 256) + 2 * 896
    + 256 * 7 * 7 * 1024 + 1024 * 1024 + 2 * 2048 + 1024 * 1000 + 1000,
    # The convolutions of torchvision's vgg11_bn and vgg16_bn without their biases, and two hidden layers of 512.
    ("vgg11", "cifar"): 9_225_984 - 2_752 + (2048 + 512) * 512 + 2 * 1024 + 512 * 10 + 10,
    ("vgg16", "cifar"): 14_723_136 - 4_224 + (2048 + 512) * 512 + 2 * 1024 + 512 * 10 + 10,
    # torchvision's vgg11_bn and vgg16_bn; a normalised layer has no bias, a hidden linear layer is normalised here.
    ("vgg11", "imagenet"): 132_868_840 - 2_752 + 2 * 4096,
    ("vgg16", "imagenet"): 138_365_992 - 4_224 + 2 * 4096,
    # The usual CIFAR forms (3x3 stem, no max pool) of ResNet-18, 34 and 50.
    ("resnet18", "cifar"): 11_173_962,
    ("sew_resnet18", "cifar"): 11_173_962,
    ("sew_resnet34", "cifar"): 21_282_122,
    ("sew_resnet50", "cifar"): 23_520_842,
    # torchvision's resnet18, 34 and 50, and the second convolution of the stem.
    ("resnet18", "imagenet"): 11_689_512 + SECOND_STEM,
    ("sew_resnet18", "imagenet"): 11_689_512 + SECOND_STEM,
    ("sew_resnet34", "imagenet"): 21_797_672 + SECOND_STEM,
    ("sew_resnet50", "imagenet"): 25_557_032 + SECOND_STEM,
    # Zheng et al. 2021, table of architectures, counted by hand: stem, blocks by stage, two shortcuts, fc1, readout.
    ("resnet19", "cifar"): 9 * (3 * 128 + 6 * 128**2 + 128 * 256 + 5 * 256**2 + 256 * 512 + 3 * 512**2)
    + 128 * 256 + 256 * 512 + 2 * (7 * 128 + 7 * 256 + 5 * 512) + 512 * 256 + 2 * 256 + 256 * 10 + 10,
}  # fmt: skip

TINY = {
    "mlp": {"hidden": (16, 12)},
    "vgg5": {"widths": (4, 6, 6, 8)},
    "vgg9": {"widths": (4, 6, 8), "hidden": (12, 8)},
    "vgg11": {"widths": (4, 4, 6, 6, 8), "hidden": (12, 8)},
    "vgg16": {"widths": (4, 4, 6, 6, 8), "hidden": (12, 8)},
    "resnet18": {"widths": (4, 4, 6, 8)},
    "resnet19": {"widths": (4, 6, 8), "hidden": 8},
    "sew_resnet18": {"widths": (4, 4, 6, 8)},
    "sew_resnet34": {"widths": (4, 4, 6, 8)},
    "sew_resnet50": {"widths": (4, 4, 6, 8)},
}


def form(name, kind):
    """The option that says for which images a network is."""
    return {} if name == "mlp" else {"stem" if "resnet" in name else "form": kind}


def tiny(name, kind, size, neuron):
    options = TINY[name] | form(name, kind)
    return network_spec(name, InputSpec(shape=(3, size, size)), ("a", "b", "c"), 3, neuron, options)


@pytest.mark.parametrize(("name", "kind"), COUNTS)
def test_parameters(name, kind):
    size, classes = (32, 10) if kind == "cifar" else (224, 1000)
    labels = tuple(str(i) for i in range(classes))
    spec = network_spec(name, InputSpec(shape=(3, size, size)), labels, 4, options=form(name, kind))
    with torch.device("meta"):
        network = build_network(spec)
    assert sum(weight.numel() for weight in network.parameters()) == COUNTS[name, kind]


def test_every_network_has_counts_and_both_forms():
    assert {name for name, _ in COUNTS} == set(NETWORKS) == set(TINY)
    spec = network_spec("resnet19", InputSpec(shape=(3, 224, 224)), ("a",), 4, options=form("resnet19", "imagenet"))
    with torch.device("meta"):
        assert build_network(spec).units[-2].out_shape == (512, 14, 14)


@pytest.mark.parametrize("neuron", [kind for kind in get_args(NeuronKind) if kind != "LI"])
@pytest.mark.parametrize("name", NETWORKS)
def test_one_step_of_training_changes_every_weight(name, neuron):
    torch.manual_seed(0)
    network = build_network(tiny(name, "cifar", 32, NeuronSpec(kind=neuron, v_threshold=0.3))).train()
    before = {key: value.clone() for key, value in network.named_parameters()}
    frame = torch.rand(4, 3, 32, 32)
    logits, _ = chunk_chain(network.chain, frame.expand(3, *frame.shape), None)
    torch.nn.functional.cross_entropy(decode(logits, "mean"), torch.tensor([0, 1, 2, 0])).backward()
    torch.optim.SGD(network.parameters(), lr=1.0).step()
    same = [key for key, value in network.named_parameters() if torch.equal(value, before[key])]
    assert not same


def on_grid(network):
    """Weights in multiples of 1/256: sums in float32 are then exact in any order, and spikes compare exactly."""
    for weight in network.parameters():
        weight.data = (weight.data * 256).round() / 256
    return network


@pytest.mark.parametrize("kind", ["cifar", "imagenet"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_reference_gives_the_same_spikes(name, kind):
    """T=3, batch 2, every layer spiking."""
    network = fold(lively(build_network(tiny(name, kind, 32 if kind == "cifar" else 64, NeuronSpec()))))
    network = on_grid(network)
    frame = torch.rand(2, *network.spec.input.shape, generator=torch.Generator().manual_seed(1)) * 2
    frame = (frame * 16).round() / 16
    with torch.no_grad(), SpikeRecorder(network) as recorder:
        logits = network(frame)
    written = from_torch.to_nir(network)
    assert graph.problems(written) == []
    result = reference.run(written, frame.numpy())
    assert set(result.spikes) == set(recorder.spikes)
    for node, steps in recorder.spikes.items():
        assert 0 < torch.stack(steps).mean() < 1, node
        np.testing.assert_array_equal(torch.stack(steps).numpy(), result.spikes[node], err_msg=node)
    np.testing.assert_allclose(result.output, logits.numpy(), rtol=1e-5, atol=1e-5)
