"""Networks: step equals sequence, spec and file round trips, and every way in which a file can be wrong."""

from __future__ import annotations

import json

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from networks import lively, network_specs, plain_spec, residual_spec

from stdl_export.common.errors import BadInput
from stdl_models.nets.registry import NETWORKS, build_network, network_spec
from stdl_models.network import InputSpec, NetworkSpec, SpikingNetwork, decode
from stdl_models.neurons import NeuronSpec
from stdl_models.recorder import SpikeRecorder
from stdl_models.units.simple import ReadoutSpec


@given(spec=network_specs())
@settings(max_examples=25)
def test_step_by_step_equals_layer_by_layer(spec):
    network = lively(build_network(spec), seed=3)
    frame = torch.rand(3, *spec.input.shape) * 2
    with torch.no_grad(), SpikeRecorder(network) as steps:
        a = network(frame)
    with torch.no_grad(), SpikeRecorder(network) as layers:
        b = network.sequence(frame.expand(spec.T, *frame.shape))
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    for node, spikes in steps.spikes.items():
        assert (torch.stack(spikes) != torch.stack(layers.spikes[node])).float().mean() < 0.01


@pytest.mark.parametrize("make", [plain_spec, residual_spec])
def test_helper_networks_really_spike(make):
    network = lively(build_network(make()))
    with SpikeRecorder(network) as recorder:
        network(torch.rand(4, 2, 6, 6))
    rates = {node: torch.stack(steps).mean().item() for node, steps in recorder.spikes.items()}
    assert all(0.02 < rate < 0.95 for rate in rates.values()), rates


@pytest.mark.parametrize("name", NETWORKS)
def test_registered_networks_build_and_their_spec_survives_json(name):
    shape = (1, 8, 8) if name in ("mlp", "vgg5") else (3, 32, 32)
    spec = network_spec(name, InputSpec(shape=shape), tuple("abcdefghij"), T=4, neuron=NeuronSpec(kind="IF"))
    assert NetworkSpec.model_validate(json.loads(spec.model_dump_json())) == spec
    network = build_network(spec).eval()
    assert network(torch.rand(2, *shape), T=2).shape == (2, 2, 10)


@pytest.mark.parametrize("size", [8, 12, 16, 32])
def test_vgg5_takes_images_from_8_to_32_pixels(size):
    spec = network_spec("vgg5", InputSpec(shape=(3, size, size)), ("x", "y"), T=2)
    assert build_network(spec).eval()(torch.rand(1, 3, size, size)).shape == (2, 1, 2)


def test_imagenet_stem_of_sew_resnet_divides_by_four():
    spec = network_spec("sew_resnet18", InputSpec(shape=(3, 64, 64)), ("x", "y"), 2, options={"stem": "imagenet"})
    with torch.device("meta"):
        assert SpikingNetwork(spec).units[1].out_shape == (64, 16, 16)


def test_file_round_trip_keeps_heterogeneous_fields(tmp_path):
    network = lively(build_network(plain_spec()))
    network.save(tmp_path / "n.safetensors")
    loaded = SpikingNetwork.load(tmp_path / "n.safetensors")
    frame = torch.rand(2, 2, 6, 6)
    assert loaded.spec == network.spec
    assert torch.equal(loaded(frame), network(frame))


def test_a_smoothing_readout_is_a_leaky_integrator():
    spec = plain_spec().model_copy(update={"readout": ReadoutSpec(classes=3, neuron=NeuronSpec(kind="LI", beta=0.5))})
    network = lively(build_network(spec))
    frame = torch.rand(2, 2, 6, 6)
    smooth = network(frame)
    network.readout.neuron = None
    plain = network(frame)
    assert torch.allclose(smooth[1], 0.5 * plain[0] + plain[1])


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def not_safetensors(path):
    path.write_bytes(b"PK\x03\x04 a pickle, say")


def flip_a_weight(path):
    data = bytearray(path.read_bytes())
    data[-50] ^= 1
    path.write_bytes(data)


def edit_header(change):
    def edit(path):
        with safetensors.safe_open(path, framework="pt") as file:
            header, tensors = dict(file.metadata()), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        change(header, tensors)
        safetensors.torch.save_file(tensors, path, metadata=header)

    return edit


def other_threshold(header, tensors):
    header["spec"] = header["spec"].replace('"v_threshold":1.0', '"v_threshold":2.0')


def no_format(header, tensors):
    del header["format"]


def lost_tensor(header, tensors):
    from stdl_models.network import tensors_sha256

    del tensors["readout.linear.bias"]
    header["tensors_sha256"] = tensors_sha256(tensors)


def other_shape(header, tensors):
    from stdl_models.network import tensors_sha256

    tensors["readout.linear.bias"] = torch.zeros(4)
    header["tensors_sha256"] = tensors_sha256(tensors)


def hostile_size(header, tensors):
    import hashlib

    header["spec"] = header["spec"].replace('"channels":4', '"channels":4000000000')
    header["spec_sha256"] = hashlib.sha256(header["spec"].encode()).hexdigest()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "not a whole safetensors file"),
        (not_safetensors, "not a whole safetensors file"),
        (flip_a_weight, "do not match their SHA-256"),
        (edit_header(other_threshold), "spec in the header does not match"),
        (edit_header(no_format), "not a network of this toolchain"),
        (edit_header(lost_tensor), "missing tensors"),
        (edit_header(other_shape), "tensor 'readout.linear.bias'"),
        (edit_header(hostile_size), "its spec says"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(tmp_path, damage, message):
    path = tmp_path / "n.safetensors"
    build_network(plain_spec()).save(path)
    damage(path)
    with pytest.raises(BadInput, match=message) as caught:
        SpikingNetwork.load(path)
    assert "\n" not in str(caught.value)


def test_a_spec_that_does_not_fit_says_which_unit():
    with pytest.raises(BadInput, match="unit 'conv1' needs maps"):
        build_network(network_spec("vgg5", InputSpec(shape=(10,)), ("x", "y"), T=2))
    with pytest.raises(BadInput, match=r"unknown key 'width': did you mean 'widths'"):
        network_spec("vgg5", InputSpec(shape=(1, 8, 8)), ("x",), T=2, options={"width": [1, 2, 3, 4]})
    with pytest.raises(BadInput, match="did you mean 'vgg5'"):
        network_spec("vgg55", InputSpec(shape=(1, 8, 8)), ("x",), T=2)
    twice = plain_spec().model_dump() | {"units": (plain_spec().units[0],) * 2}
    with pytest.raises(ValueError, match="used twice"):
        NetworkSpec(**twice)


def test_decoding():
    logits = torch.tensor([[[1.0, 2.0]], [[3.0, 0.0]]])
    assert decode(logits, "mean").tolist() == [[2, 1]]
    assert decode(logits, "sum").tolist() == [[4, 2]]
    assert decode(logits, "last").tolist() == [[3, 0]]
