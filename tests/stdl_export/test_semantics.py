import nir
import numpy as np
import pytest

from stdl_export import dialects
from stdl_export.common.errors import BadInput
from stdl_export.semantics import Discrete, collapse, remarks, steps
from stdl_export.semantics import discretise as of_rule


def discretise(node, dt: float, reset: str | None = None, dialect: str = "nir", **choices) -> Discrete:
    """Under the rule of a named dialect, with single choices changed."""
    rule = dialects.rule(dialects.get(dialect), type(node).__name__, "n", reset=reset)
    return of_rule(node, dialects.Rule(**choices).over(rule), dt)


def f32(*values):
    return np.array(values, np.float32)


def lif(tau, r, v_leak=0.0, v_threshold=1.0, v_reset=0.0):
    tau, r, v_leak, v_threshold, v_reset = np.broadcast_arrays(
        *(np.asarray(value, np.float32) for value in (tau, r, v_leak, v_threshold, v_reset)), np.zeros(2, np.float32)
    )[:5]
    return nir.LIF(tau, r, v_leak, v_threshold, v_reset)


def test_lif_coefficients_by_hand():
    k = discretise(lif(tau=[2.0, 4.0], r=3.0, v_leak=[0.5, -1.0], v_threshold=1.5, v_reset=-0.25), 0.5, "v_reset")
    assert k.decay.tolist() == [0.75, 0.875]  # 1 - dt/tau
    assert k.gain.tolist() == [0.75, 0.375]  # dt/tau * r
    assert k.leak.tolist() == [0.125, -0.125]  # dt/tau * v_leak
    assert (k.v_threshold.shape, k.v_threshold.item()) == ((), 1.5)
    assert (k.v_reset.item(), k.reset, k.spike, k.kind) == (-0.25, "v_reset", ">", "LIF")


def test_if_does_not_decay_and_its_gain_has_the_unit_of_time():
    k = discretise(nir.IF(f32(3, 5), f32(1, 1), f32(0, 0)), 0.5, "subtract")
    assert (k.decay.item(), k.leak.item(), k.gain.tolist()) == (1.0, 0.0, [1.5, 2.5])
    assert (k.kind, k.reset) == ("IF", "subtract")


def test_li_has_no_threshold_and_no_reset():
    k = discretise(nir.LI(f32(2, 2), f32(4, 4), f32(1, 1)), 0.5, "subtract")
    assert (k.kind, k.reset) == ("LI", "none")
    assert (k.decay.item(), k.gain.item(), k.leak.item()) == (0.75, 1.0, 0.25)


def test_coefficients_are_computed_in_float64_and_rounded_once():
    tau = np.float32(1e-4 / 0.3)
    k = discretise(lif(tau=tau, r=0.7, v_leak=0.3), 1e-4, "v_reset")
    rate = 1e-4 / np.float64(tau)
    assert k.decay == np.float32(1.0 - rate)
    assert k.gain == np.float32(rate * np.float64(np.float32(0.7)))
    assert k.leak == np.float32(rate * np.float64(np.float32(0.3)))
    assert {array.dtype for array in (k.decay, k.gain, k.leak, k.v_threshold, k.v_reset)} == {np.dtype(np.float32)}


@pytest.mark.parametrize("beta", [0.3, 0.5, 0.9, 0.95, 0.999])
def test_a_gain_that_was_meant_to_be_one_is_one(beta):
    tau = np.float32(1e-4 / (1 - beta))
    r = np.float32(tau / np.float32(1e-4))  # what a network with gain 1 stores; rounded, dt/tau*r is 1 +- 1e-7
    assert discretise(lif(tau, r), 1e-4, "v_reset").gain.tolist() == 1.0


def test_a_gain_near_one_is_kept_where_it_was_meant():
    k = discretise(lif(tau=1.0, r=[1.0 + 2e-6, 1.0 + 5e-7]), 1.0, "v_reset")
    assert k.gain.tolist() == [np.float32(1.0 + 2e-6), 1.0]


def test_what_float32_cannot_hold_is_refused():
    node = nir.IF(np.array([1e30]), np.array([1.0]), np.array([0.0]))
    with pytest.raises(BadInput, match="the gain of an IF does not fit float32"):
        discretise(node, 1e10, "v_reset")


def test_an_unknown_dialect_is_named():
    with pytest.raises(BadInput, match="unknown dialect 'nirr': did you mean 'nir'"):
        dialects.get("nirr")
    assert dialects.get("nir") is dialects.NIR


@pytest.mark.parametrize(
    ("array", "shape"),
    [
        (np.full((3, 4, 4), 2.0), ()),
        (np.arange(3.0)[:, None, None] * np.ones((3, 4, 4)), (3, 1, 1)),
        (np.arange(4.0)[None, :, None] * np.ones((3, 4, 4)), (1, 4, 1)),
        (np.arange(48.0).reshape(3, 4, 4), (3, 4, 4)),
        (np.array(1.0), ()),
        (np.array([[1.0]]), ()),
    ],
)
def test_collapse_keeps_only_the_axes_that_vary(array, shape):
    small = collapse(array)
    assert small.shape == shape
    assert np.array_equal(np.broadcast_to(small, array.shape), array)


def cuba(**fields):
    said = {"tau_syn": 2.0, "tau_mem": 4.0, "r": 3.0, "v_leak": 0.5, "v_threshold": 1.0, "v_reset": -0.25, "w_in": 5.0}
    return nir.CubaLIF(**{name: f32(value) for name, value in (said | fields).items()})


def test_a_synapse_by_hand():
    k = discretise(cuba(), 0.5)
    assert k.synapse is not None
    assert (k.synapse.decay, k.synapse.gain, k.synapse.leak, k.synapse.i_init) == (0.75, 1.25, 0, 0)
    assert (k.synapse.order, k.late, k.remembers_spikes, k.spikes) == ("update_then_use", False, False, True)
    assert (k.decay, k.gain, k.leak, k.v_reset) == (0.875, 0.375, 0.0625, -0.25)
    norse = discretise(cuba(), 0.5, dialect="norse-import")
    assert norse.synapse is not None
    assert (norse.synapse.leak, norse.synapse.i_init, norse.v_init, norse.v_reset) == (0.125, 0.5, 0.5, 0)


def test_gains_of_synapses_snap_to_one_as_well():
    for w_in, gain in ((1 + 5e-7, 1), (1 + 2e-6, np.float32(1 + 2e-6))):
        k = discretise(cuba(tau_syn=1.0, w_in=w_in), 1.0)
        assert k.synapse is not None
        assert k.synapse.gain == gain


def test_expressions_see_the_coefficients_before_them():
    k = discretise(lif(tau=1.0, r=3.0), 0.5, decay="exp(-dt/tau)", gain="r*(1-decay)", v_init="gain")
    assert k.gain == np.float32(3 * (1 - np.exp(-0.5)))
    assert k.v_init == k.gain


def test_min_is_over_the_whole_layer():
    k = discretise(lif(tau=[2.0, 4.0], r=[3.0, 0.0]), 1.0, decay="exp(-min(tau/(1+r))/tau)")
    np.testing.assert_array_equal(k.decay, np.exp(-0.5 / np.array([2.0, 4.0])).astype(np.float32))


@pytest.mark.parametrize(
    ("choices", "late", "remembers"),
    [
        ({}, False, False),
        ({"spike_from": "prev"}, True, False),
        ({"reset": "subtract", "reset_when": "next_sub"}, False, True),
        ({"reset": "zero", "reset_when": "next_drop"}, False, True),
        ({"reset": "subtract", "reset_when": "next_sub", "spike_from": "prev"}, True, False),
        ({"syn_order": "use_then_update"}, True, False),
    ],
)
def test_what_is_late_and_what_is_remembered(choices, late, remembers):
    k = discretise(cuba(), 0.5, **choices)
    assert (k.late, k.remembers_spikes) == (late, remembers)


@pytest.mark.parametrize(
    ("reset", "kind", "value"),
    [
        ("zero", "v_reset", 0),
        ("0.5", "v_reset", 0.5),
        ("v_reset", "v_reset", -0.25),
        ("subtract", "subtract", 0),
        ("none", "none", 0),
    ],
)
def test_resets(reset, kind, value):
    k = discretise(cuba(), 0.5, **{"reset": reset})
    assert (k.reset, k.v_reset.item()) == (kind, value)


@pytest.mark.parametrize(
    ("node", "dt", "said"),
    [
        (lif(tau=1.0, r=1.0), 2.5, "its decay, 1-dt/tau, is -1.5: the step of 2.5 is unstable"),
        (lif(tau=[9.0, 1.0], r=1.0), 2.5, "take a dt of at most 2 tau, or a dialect with exact decay"),
        (cuba(), 4.5, "its syn_decay, 1-dt/tau_syn, is -1.25: the step of 4.5 is unstable"),
        (
            cuba(tau_syn=0.1, tau_mem=0.2),
            1.0,
            "at most 2 tau_syn, or a dialect with exact decay; its decay, 1-dt/tau_mem, is -4",
        ),
        (lif(tau=1.0, r=1.0, v_threshold=np.inf), 0.5, "the v_threshold of an LIF does not fit float32"),
    ],
)
def test_what_cannot_be_computed_with(node, dt, said):
    with pytest.raises(BadInput) as error:
        discretise(node, dt)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_step_of_up_to_two_time_constants_is_remarked_only():
    rule = dialects.rule(dialects.NIR, "LIF", "n")
    assert remarks(lif(tau=1.0, r=1.0), rule, 1.0) == []
    assert remarks(lif(tau=1.0, r=1.0), rule, 2.0) == [
        "its decay is -1: a step of 2 is longer than its time constant, so its sign flips"
    ]
    assert discretise(lif(tau=1.0, r=1.0), 2.0).decay == -1


@pytest.mark.parametrize(
    ("delay", "dt", "expected"),
    [(0.003, 1e-3, 3), ([0.0, 0.5], 0.25, [0, 2]), (np.float32(0.1), 1e-4, 1000), ([[1.0, 1.0]], 1.0, 1)],
)
def test_delays_in_steps(delay, dt, expected):
    assert steps(delay, dt).tolist() == expected


@pytest.mark.parametrize("delay", [-1.0, 0.5, 1.00001, [1.0, 1.5], 1e300])
def test_delays_between_steps(delay):
    with pytest.raises(BadInput, match="its delay is"):
        steps(delay, 1.0)
