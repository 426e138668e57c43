"""Neurons against arithmetic that a reader can follow, over many steps, with thresholds hit exactly."""

from __future__ import annotations

import warnings

import nir
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stdl_export import dialects
from stdl_export.semantics import discretise
from stdl_models.neurons import FIELDS, Neuron, NeuronSpec, coefficients

F = np.float32


def run(neuron: Neuron, inputs: list[list[float]]) -> tuple[list[list[float]], list[list[float]]]:
    """Outputs and potentials of every step, for a batch of one."""
    v, outputs, potentials = None, [], []
    for x in inputs:
        z, v = neuron(torch.tensor([x]), v)
        outputs.append(z[0].tolist())
        potentials.append(v[0].tolist())
    return outputs, potentials


def test_lif_by_hand_hits_the_threshold_exactly_and_stays_silent():
    # beta 1/2, input 1: u = v/2 + 1 -> 1 (at the threshold: silent), 1.5 (spike, reset to 0), 1, 1.5, ...
    neuron = Neuron(NeuronSpec(beta=0.5, v_threshold=1.0), dt=1e-4, shape=(1,))
    spikes, v = run(neuron, [[1.0]] * 6)
    assert [s[0] for s in spikes] == [0, 1, 0, 1, 0, 1]
    assert [p[0] for p in v] == [1, 0, 1, 0, 1, 0]


def test_lif_by_hand_with_subtraction_leak_and_gain():
    # u = v/2 + 2 x + 1/4, threshold 1, subtract; x = 1/2: 1.25 s .25 | .375+1=1.375 s .375 | 1.4375 s .4375 | ...
    spec = NeuronSpec(beta=0.5, gain=2.0, v_leak=0.5, reset="subtract")
    spikes, v = run(Neuron(spec, dt=1e-4, shape=(1,)), [[0.5]] * 3 + [[0.0]] * 3)
    assert [s[0] for s in spikes] == [1, 1, 1, 0, 0, 0]
    assert [p[0] for p in v] == [0.25, 0.375, 0.4375, 0.46875, 0.484375, 0.4921875]


def test_if_by_hand_counts_up_and_resets_to_its_value():
    # u = v + x: .5, 1.0 (silent at the threshold), 1.5 (spike, back to -.25), .25, .75, 1.25 (spike)
    spikes, v = run(Neuron(NeuronSpec(kind="IF", v_reset=-0.25), dt=1e-4, shape=(1,)), [[0.5]] * 6)
    assert [s[0] for s in spikes] == [0, 0, 1, 0, 0, 1]
    assert [p[0] for p in v] == [0.5, 1.0, -0.25, 0.25, 0.75, -0.25]


def test_li_puts_out_its_potential_and_never_resets():
    out, v = run(Neuron(NeuronSpec(kind="LI", beta=0.75), dt=1e-4, shape=(1,)), [[4.0], [0.0], [8.0]])
    assert out == v == [[4.0], [3.0], [10.25]]


@pytest.mark.parametrize("kind", ["IF", "LIF", "LI"])
@pytest.mark.parametrize("reset", ["v_reset", "subtract"])
def test_heterogeneous_neurons_against_a_loop(kind, reset):
    """Every neuron on its own, in float32, by the equation at the top of neurons.py; 40 steps, batch 3."""
    rng, shape, dt, T, B = np.random.default_rng(1), (2, 3, 2), 1e-3, 40, 3
    values = {
        "tau": rng.uniform(1.5, 8, shape) * dt,
        "r": rng.uniform(0.5, 2, shape) if kind != "IF" else rng.uniform(300, 900, shape),
        "v_threshold": rng.uniform(0.5, 1.5, shape),
        "v_leak": rng.uniform(-0.3, 0.3, shape),
        "v_reset": rng.uniform(-0.3, 0.3, shape),
    }
    values = {name: values[name].astype(F) for name in FIELDS[kind]}
    neuron = Neuron(NeuronSpec(kind=kind, reset=reset), dt, shape)
    neuron.set_fields(**{name: torch.from_numpy(value) for name, value in values.items()})
    x = rng.normal(1, 1.5, (T, B, *shape)).astype(F)
    outputs, v = [], None
    for step in torch.from_numpy(x):
        z, v = neuron(step, v)
        outputs.append(z.numpy())
    assert kind == "LI" or 0.05 < np.mean(outputs) < 0.9

    for index in np.ndindex(B, *shape):
        p = {name: np.float64(value[index[1:]]) for name, value in values.items()}
        rate = dt / p["tau"] if kind != "IF" else None
        decay = F(1) if kind == "IF" else F(1 - rate)
        gain = F(dt * p["r"]) if kind == "IF" else F(rate * p["r"])
        leak = F(0) if kind == "IF" else F(rate * p["v_leak"])
        potential = F(0)
        for t in range(T):
            u = F(F(F(decay * potential) + F(gain * x[(t, *index)])) + leak)
            if kind == "LI":
                potential = u
                assert outputs[t][index] == u
                continue
            fired = u > F(p["v_threshold"])
            assert outputs[t][index] == fired
            if reset == "v_reset":
                potential = F(p["v_reset"]) if fired else u
            else:
                potential = F(u - F(p["v_threshold"])) if fired else u


@given(
    dt=st.floats(1e-6, 1e-1),
    beta=st.floats(0.01, 0.999),
    gain=st.one_of(st.just(1.0), st.floats(0.01, 20)),
    v_leak=st.floats(-2, 2),
    kind=st.sampled_from(["IF", "LIF", "LI"]),
)
@settings(max_examples=200)
def test_coefficients_equal_those_on_the_other_side_of_nir(dt, beta, gain, v_leak, kind):
    """stdl_models and stdl_export.semantics each have the formula; they must give the same float32 numbers."""
    spec = NeuronSpec(kind=kind, beta=beta, gain=gain, v_leak=v_leak)
    neuron = Neuron(spec, dt, (1,))
    ours = neuron.coefficients()
    node = getattr(nir, kind)(**{name: value.numpy().reshape(1) for name, value in neuron.fields.items()})
    theirs = discretise(node, dialects.rule(dialects.NIR, type(node).__name__, "n"), dt)
    for mine, other, neutral in (
        (ours.decay, theirs.decay, 1),
        (ours.gain, theirs.gain, 1),
        (ours.leak, theirs.leak, 0),
    ):
        assert float(neutral if mine is None else mine) == float(other)
    if gain == 1.0:
        assert ours.gain is None  # a unit gain survives the way through tau and r


@pytest.mark.parametrize(("reset", "potential", "slope"), [("v_reset", 0.0, 0.0), ("subtract", 1.0, 1.0)])
def test_no_gradient_through_the_decision_to_reset(reset, potential, slope):
    """A reset to a value cuts the gradient; a subtraction leaves that of u as it is, without the surrogate's part."""
    neuron = Neuron(NeuronSpec(v_reset=0.0, reset=reset), 1e-4, (1,))
    x = torch.tensor([[2.0]], requires_grad=True)
    _, v = neuron(x)
    assert v.item() == potential
    assert torch.autograd.grad(v.sum(), x)[0].item() == slope


def test_fields_are_checked_and_renew_the_coefficients():
    neuron = Neuron(NeuronSpec(), 1e-4, (3, 2, 2))
    with pytest.raises(KeyError, match="LIF has no field 'w_in'"):
        neuron.set_fields(w_in=torch.tensor(1.0))
    with pytest.raises(ValueError, match="does not broadcast"):
        neuron.set_fields(tau=torch.ones(4, 1, 1))
    assert float(neuron.coefficients().decay) == 0.5
    neuron.set_fields(tau=torch.full((3, 1, 1), 4e-4), r=torch.full((3, 1, 1), 4.0))
    assert neuron.coefficients().decay.tolist() == [[[0.75]]] * 3


def test_stored_fields_come_back_with_their_shape():
    one, other = (Neuron(NeuronSpec(), 1e-4, (3, 2, 2)) for _ in range(2))
    one.set_fields(tau=torch.tensor([2e-4, 3e-4, 4e-4]).view(3, 1, 1))
    other.coefficients()
    other.load_state_dict(one.state_dict())
    assert torch.equal(other.tau, one.tau)
    assert torch.equal(other.coefficients().decay, one.coefficients().decay)


def test_loaded_fields_stay_on_the_networks_device():
    """`meta` stands in for a second device here."""
    there, here = Neuron(NeuronSpec(), 1e-4, (3, 2, 2)).to("meta"), Neuron(NeuronSpec(), 1e-4, (3, 2, 2))
    here.set_fields(tau=torch.full((3, 1, 1), 4e-4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # PyTorch says that values cannot be copied to `meta`
        there.load_state_dict(here.state_dict())
    assert {value.device.type for value in there.fields.values()} == {"meta"}
    assert there.tau.shape == (3, 1, 1)


def test_a_dry_run_uses_the_same_operations():
    real = Neuron(NeuronSpec(gain=2.0), 1e-4, (1,)).coefficients()
    with torch.device("meta"):
        dry = Neuron(NeuronSpec(gain=2.0), 1e-4, (1,)).coefficients()
    assert [k is None for k in (real.decay, real.gain, real.leak)] == [
        k is None for k in (dry.decay, dry.gain, dry.leak)
    ]
    assert coefficients("IF", {"r": torch.tensor(1e4)}, 1e-4).gain is None


def as_lif(neuron):
    """The LIF with a PLIF's tau and r of now, which is what the export writes."""
    lif = Neuron(NeuronSpec(**{**neuron.spec.model_dump(), "kind": "LIF"}), neuron.dt, neuron.shape)
    lif.set_fields(**{name: value.detach() for name, value in neuron.fields.items()})
    return lif


@given(
    w=st.floats(-6, 6, width=32),
    dt=st.floats(1e-6, 1e-1),
    gain=st.one_of(st.just(1.0), st.floats(0.01, 20)),
    v_leak=st.sampled_from([0.0, 0.3]),
)
@settings(max_examples=100, deadline=None)
def test_a_trained_plif_is_the_lif_that_is_exported(w, dt, gain, v_leak):
    neuron = Neuron(NeuronSpec(kind="PLIF", gain=gain, v_leak=v_leak), dt, (5,))
    with torch.no_grad():
        neuron.w.fill_(w)
    lif = as_lif(neuron)
    x = torch.randn(6, 3, 5, generator=torch.Generator().manual_seed(0)) * 2 / gain
    assert torch.equal(neuron.sequence(x), lif.sequence(x))
    mine, other = neuron.coefficients(), lif.coefficients()
    assert torch.equal(mine.decay, torch.ones(()) if other.decay is None else other.decay)
    assert float(1 if mine.gain is None else mine.gain) == pytest.approx(gain, rel=1e-6)  # does not move with tau


def test_a_plif_starts_at_its_beta_and_stores_w_alone():
    neuron = Neuron(NeuronSpec(kind="PLIF", beta=0.5), 1e-4, (3,))
    assert neuron.coefficients().decay.item() == 0.5
    assert set(neuron.state_dict()) == {"w", "v_leak", "v_threshold", "v_reset"}
    with torch.no_grad():
        neuron.w.fill_(1.5)
    other = Neuron(NeuronSpec(kind="PLIF", beta=0.9), 1e-4, (3,))
    other.load_state_dict(neuron.state_dict())
    assert torch.equal(other.fields["tau"], neuron.fields["tau"])
    with pytest.raises(KeyError, match="'tau' of a PLIF follows from its parameter w"):
        neuron.set_fields(tau=torch.tensor(1e-4))


def test_the_gradient_of_a_plifs_time_constant_against_float64():
    """Below the threshold the potential is smooth in w: three Euler steps written out, derivative by differences."""
    currents, v_leak, dt, w = (0.4, 0.1, 0.3), 0.2, 1e-3, 0.7

    def potential(w: float) -> float:
        rate, v = 1 / (1 + np.exp(-w)), 0.0
        for current in currents:
            v = (1 - rate) * v + 0.9 * current + rate * v_leak
        return v

    neuron = Neuron(NeuronSpec(kind="PLIF", gain=0.9, v_leak=v_leak, v_threshold=10.0), dt, (1,))
    with torch.no_grad():
        neuron.w.fill_(w)
    v = None
    for current in currents:
        _, v = neuron(torch.tensor([[current]]), v)
    assert v.item() == pytest.approx(potential(w), rel=1e-6)
    v.sum().backward()
    assert neuron.w.grad.item() == pytest.approx((potential(w + 1e-5) - potential(w - 1e-5)) / 2e-5, rel=1e-5)


def test_a_plif_trains_through_its_spikes():
    neuron = Neuron(NeuronSpec(kind="PLIF"), 1e-4, (8,))
    neuron.sequence(torch.rand(4, 2, 8, generator=torch.Generator().manual_seed(0)) * 2).sum().backward()
    assert neuron.w.grad.abs() > 0
    with torch.device("meta"):
        dry = Neuron(NeuronSpec(kind="PLIF"), 1e-4, (8,))
        dry.sequence(torch.rand(4, 2, 8)).sum().backward()
    assert dry.w.grad.shape == ()
