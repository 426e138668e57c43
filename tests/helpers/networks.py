"""Small networks that really spike: random specs, heterogeneous neuron fields, trained-looking normalisation."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from stdl_models.network import InputSpec, NetworkSpec, SpikingNetwork, batchnorms
from stdl_models.neurons import NeuronSpec
from stdl_models.units.residual import BottleneckSpec, ResidualSpec, SpikingResidualSpec
from stdl_models.units.simple import ConvSpec, LinearSpec, PoolSpec, ReadoutSpec

BLOCKS = (ResidualSpec, BottleneckSpec, SpikingResidualSpec)

CLASSES = ("a", "b", "c")


def make_spec(units, shape=(2, 6, 6), T=4, readout=None) -> NetworkSpec:
    return NetworkSpec(
        name="small",
        input=InputSpec(shape=shape, data="none", mean=(0.0,) * shape[0], std=(1.0,) * shape[0]),
        classes=CLASSES,
        T=T,
        units=tuple(units),
        readout=readout or ReadoutSpec(classes=len(CLASSES)),
    )


def neuron(kind="LIF", reset="v_reset", **more) -> NeuronSpec:
    return NeuronSpec(kind=kind, reset=reset, **more)


def plain_spec(T=4, neuron_spec=None) -> NetworkSpec:
    """conv, conv (stride), pool, conv, linear, readout: every kind of border except a residual one."""
    n = neuron_spec or neuron()
    return make_spec(
        [
            ConvSpec(name="c1", channels=4, neuron=n),
            ConvSpec(name="c2", channels=6, stride=2, neuron=n),
            PoolSpec(name="p", kernel=2, stride=1),
            ConvSpec(name="c3", channels=5, neuron=n),
            LinearSpec(name="f1", features=7, neuron=n),
        ],
        T=T,
    )


def residual_spec(T=4, neuron_spec=None) -> NetworkSpec:
    """Stem, two blocks with identity shortcuts in a row (sums up to 3), one with a convolution, global pool."""
    n = neuron_spec or neuron()
    return make_spec(
        [
            ConvSpec(name="stem", channels=4, neuron=n),
            ResidualSpec(name="r1", channels=4, neuron=n),
            ResidualSpec(name="r2", channels=4, neuron=n),
            ResidualSpec(name="r3", channels=6, stride=2, neuron=n),
        ],
        T=T,
        readout=ReadoutSpec(classes=len(CLASSES), pool="global"),
    )


def blocks_spec(block, T=4, neuron_spec=None, norm=True) -> NetworkSpec:
    """Stem, a block of a kind with an identity shortcut, one with a convolution, a linear unit behind a global pool."""
    n = neuron_spec or neuron()
    return make_spec(
        [
            ConvSpec(name="stem", channels=8, norm=norm, neuron=n),
            block(name="b1", channels=8, norm=norm, neuron=n),
            block(name="b2", channels=12, stride=2, norm=norm, neuron=n),
            LinearSpec(name="f1", features=6, pool="global", norm=norm, neuron=n),
        ],
        T=T,
    )


def lively(network: SpikingNetwork, seed: int = 0) -> SpikingNetwork:
    """Random normalisation and per-neuron fields, such that every layer spikes, in eval mode."""
    generator = torch.Generator().manual_seed(seed)

    def draw(shape, low, high):
        return low + (high - low) * torch.rand(shape, generator=generator)

    for name, weight in network.named_parameters():
        if weight.dim() > 1:
            bound = (3 / weight[0].numel()) ** 0.5
            weight.data = draw(weight.shape, -bound, bound)
        elif name.endswith("bias"):
            weight.data = draw(weight.shape, 0.0, 0.3)
    for norm in batchnorms(network):
        norm.weight.data = draw(norm.weight.shape, 0.5, 1.5)
        norm.bias.data = draw(norm.bias.shape, 0.0, 0.8)
        norm.running_mean = draw(norm.running_mean.shape, -0.2, 0.2)
        norm.running_var = draw(norm.running_var.shape, 0.2, 0.6)
    for unit in network.units:
        for layer in unit.layers:
            layer.neuron.set_fields(**random_fields(layer.neuron, draw))
    return network.eval()


def random_fields(neuron, draw):
    """One value per channel for some fields, one per neuron for others."""
    per_channel, per_neuron = (neuron.shape[0], *(1,) * (len(neuron.shape) - 1)), neuron.shape
    dt = neuron.dt
    fields = {"v_threshold": draw(per_channel, 0.5, 1.2), "v_reset": draw(per_neuron, -0.2, 0.2)}
    if neuron.spec.reset == "subtract":
        del fields["v_reset"]
    if neuron.spec.kind == "LIF":
        tau = dt / (1 - draw(per_channel, 0.3, 0.9))
        fields |= {"tau": tau, "r": draw(per_channel, 0.8, 1.3) * tau / dt, "v_leak": draw(per_neuron, -0.1, 0.1)}
    else:
        fields |= {"r": draw(per_channel, 0.5, 1.3) / dt}
    return fields


@st.composite
def network_specs(draw) -> NetworkSpec:
    """Random networks of two to four units with all kinds in them, T from 2 to 5."""
    n = neuron(kind=draw(st.sampled_from(["IF", "LIF"])), reset=draw(st.sampled_from(["v_reset", "subtract"])))
    units = [ConvSpec(name="u0", channels=draw(st.integers(2, 4)), norm=draw(st.booleans()), neuron=n)]
    for index in range(1, draw(st.integers(2, 4))):
        kind = draw(st.sampled_from(["conv", "residual", "bottleneck", "spiking_residual", "pool"]))
        name = f"u{index}"
        if kind == "conv":
            units.append(
                ConvSpec(
                    name=name,
                    channels=draw(st.sampled_from([2, 4])),
                    kernel=draw(st.sampled_from([1, 3])),
                    stride=draw(st.sampled_from([1, 2])),
                    groups=1,
                    neuron=n,
                )
            )
        elif kind != "pool":
            block = {"residual": ResidualSpec, "bottleneck": BottleneckSpec, "spiking_residual": SpikingResidualSpec}
            channels, stride, norm = draw(st.integers(2, 5)), draw(st.sampled_from([1, 2])), draw(st.booleans())
            units.append(block[kind](name=name, channels=channels, stride=stride, norm=norm, neuron=n))
        else:
            units.append(PoolSpec(name=name, kernel=2, stride=1, padding=1))
    if draw(st.booleans()):
        units.append(LinearSpec(name="f", features=draw(st.integers(2, 5)), neuron=n))
    units.append(
        ConvSpec(name="last", channels=3, neuron=n)
        if not isinstance(units[-1], LinearSpec)
        else LinearSpec(name="last", features=3, neuron=n)
    )
    return make_spec(units, shape=(2, 6, 5), T=draw(st.integers(2, 5)))
