"""Neurons as chips have them: a synapse with a memory, several spikes in a step, readouts that fire."""

from __future__ import annotations

import nir
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import CLASSES, lively, make_spec

from stdl_export import dialects, from_torch, graph
from stdl_export.semantics import discretise
from stdl_models.nets.registry import build_network
from stdl_models.network import SpikingNetwork
from stdl_models.neurons import Neuron, NeuronSpec
from stdl_models.recorder import SpikeRecorder
from stdl_models.surrogate import spike
from stdl_models.units.simple import ConvSpec, LinearSpec, ReadoutSpec
from stdl_runtimes import reference
from stdl_runtimes.reference_neurons import neuron_step

CUBA = NeuronSpec(kind="CubaLIF", beta=0.75, beta_syn=0.5, reset="subtract", spike="floor")


def test_a_cubalif_by_hand():
    # i = i/2 + x: 1, .5, .25; u = 3/4 v + i: 1 (fires at the threshold, 0 is left), .5, .375 + .25
    state, spikes = None, []
    neuron = Neuron(CUBA, 1e-3, (1,))
    for x in (1.0, 0.0, 0.0):
        z, state = neuron(torch.tensor([[x]]), state)
        spikes.append(z.item())
    assert spikes == [1, 0, 0]
    assert state.tolist() == [[[0.25]], [[0.625]]]


def test_several_spikes_leave_what_does_not_fill_a_threshold():
    z, v = Neuron(NeuronSpec(kind="IF", reset="subtract", spike="floor"), 1e-3, (4,))(
        torch.tensor([[3.5, 1.0, 0.9, -3.0]])
    )
    assert z.tolist() == [[3, 1, 0, 0]]
    torch.testing.assert_close(v, torch.tensor([[0.5, 0.0, 0.9, -3.0]]))
    z, _ = Neuron(NeuronSpec(kind="IF", spike=">="), 1e-3, (2,))(torch.tensor([[3.5, 1.0]]))
    assert z.tolist() == [[1, 1]]


def test_the_surrogate_of_several_spikes_peaks_at_each_multiple():
    u = torch.tensor([-1.0, 0.5, 1.0, 1.5, 2.0, 2.4, 3.0], requires_grad=True)
    spike(u, torch.tensor(1.0), "triangle", rule="floor").sum().backward()
    torch.testing.assert_close(u.grad, torch.tensor([0.0, 0.5, 1.0, 0.5, 1.0, 0.6, 1.0]))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000), beta=st.floats(0.05, 0.98), beta_syn=st.floats(0.05, 0.98), gain=st.floats(0.1, 3),
    rule=st.sampled_from([">", ">=", "floor"]), reset=st.sampled_from(["v_reset", "subtract"]),
)  # fmt: skip
def test_the_same_steps_as_on_the_other_side_of_nir(seed, beta, beta_syn, gain, rule, reset):
    spec = NeuronSpec(kind="CubaLIF", beta=beta, beta_syn=beta_syn, gain=gain, spike=rule, reset=reset, v_leak=0.1)
    neuron, x = Neuron(spec, 1e-3, (5,)), np.random.default_rng(seed).normal(0.5, 1.5, (12, 3, 5)).astype(np.float32)
    node = nir.CubaLIF(**{name: np.broadcast_to(value.numpy(), (5,)) for name, value in neuron.fields.items()})
    choice = dialects.Rule(spike=rule, reset="subtract" if reset == "subtract" else "v_reset")
    numbers = discretise(node, choice.over(dialects.rule(dialects.NIR, "CubaLIF", "n")), 1e-3)
    state, theirs = None, {name: np.zeros((3, 5), np.float32) for name in ("v", "i")}
    for step in x:
        z, state = neuron(torch.from_numpy(step), state)
        found = neuron_step(numbers, step, theirs)
        theirs = found.state
        np.testing.assert_array_equal(z.numpy(), found.spikes)
        np.testing.assert_array_equal(state.numpy(), np.stack([theirs["i"], theirs["v"]]))


def _network() -> SpikingNetwork:
    spec = make_spec(
        (
            ConvSpec(name="c", channels=3, norm=False, bias=False, neuron=CUBA.model_copy(update={"kind": "IF"})),
            LinearSpec(name="f", features=9, norm=False, bias=False, neuron=CUBA),
        ),
        T=6,
        readout=ReadoutSpec(classes=len(CLASSES), bias=False, neuron=CUBA.model_copy(update={"spike": ">="})),
    )
    return lively(build_network(spec), seed=1)


def test_a_network_of_them_is_the_graph_that_is_exported():
    network = _network()
    assert not any(name.endswith("bias") for name in network.state_dict())
    made = from_torch.to_nir(network)
    x = torch.rand(3, *network.spec.input.shape, generator=torch.Generator().manual_seed(0)) * 3
    with torch.no_grad(), SpikeRecorder(network) as recorder:
        logits = network(x)
    found = reference.run(made, x.numpy(), T=6)
    assert graph.neurons(made) == ["c.if", "f.cubalif", "readout.cubalif"]
    for node, steps in recorder.spikes.items():
        np.testing.assert_array_equal(torch.stack(steps).numpy(), found.spikes[node], node)
    np.testing.assert_array_equal(logits.numpy(), found.output)
    assert found.spikes["c.if"].max() > 1
    assert 0 < found.output.mean() < 1
    assert found.output.max() == 1


def test_all_steps_at_once_are_the_steps_one_by_one():
    network = _network()
    x = torch.rand(2, *network.spec.input.shape, generator=torch.Generator().manual_seed(2)) * 3
    with torch.no_grad():
        assert torch.equal(network(x), network.sequence(x.expand(6, *x.shape)))


def test_where_spikes_have_no_limit_no_cut_can_stand():
    units = _network().units
    assert [unit.most(1) for unit in units] == [None, None]
    assert Neuron(CUBA.model_copy(update={"spike": ">="}), 1e-3, (1,)).most == 1


def test_a_readouts_time_constant_is_not_trained():
    with pytest.raises(ValueError, match="PLIF"):
        ReadoutSpec(classes=3, neuron=NeuronSpec(kind="PLIF"))


def test_chunks_are_steps_with_the_state_kept():
    """Decoupled training runs chunks; the state of a CubaLIF is its synapse's current and its potential."""
    unit = _network().units[1]
    with torch.no_grad():  # sums of quarters are exact, in whatever order
        unit.layer.synapse.weight.mul_(4).round_().div_(4)
    x = torch.randint(0, 3, (6, 4, *unit.in_shape), generator=torch.Generator().manual_seed(3)).float()
    chunks, state = [], unit.rest
    for part in x.split(2):
        y, state = unit.chunk(part, state)
        chunks.append(y)
    steps, kept = [], unit.rest
    for frame in x:
        y, kept = unit.step(frame, kept)
        steps.append(y)
    assert torch.equal(torch.cat(chunks), torch.stack(steps))
    assert torch.equal(state[0], kept[0])
    assert state[0].shape == (2, 4, 9)
    assert not state[0].requires_grad
    assert torch.stack(steps).max() > 1
