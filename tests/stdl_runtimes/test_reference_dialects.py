"""Every choice of a dialect, by arithmetic a reader can follow: one neuron, one number in at each step."""

import json
import math

import nir
import numpy as np
import pytest
from small_graphs import DT, assemble, chain, full

from stdl_export.common.errors import BadInput
from stdl_runtimes import reference
from stdl_runtimes import reference_nodes as nodes


def lif(*, v_threshold=1.0, v_reset=0.0, v_leak=0.0, r=1.0):
    return nir.LIF(full(2 * DT, 1), full(r, 1), full(v_leak, 1), full(v_threshold, 1), full(v_reset, 1))


def cuba(**fields):
    said = {
        "tau_syn": 2 * DT,
        "tau_mem": 4 * DT,
        "r": 1,
        "v_leak": 0,
        "v_threshold": 9,
        "v_reset": 0,
        "w_in": 1,
    } | fields
    return nir.CubaLIF(**{name: full(value, 1) for name, value in said.items()})


def run(node, inputs, **choices):
    """A run of one neuron under choices over dialect nir, here with decay 1/2 and gain 1 unless they say otherwise."""
    x = np.array(inputs, np.float32).reshape(-1, 1, 1)
    plain = {"decay": "0.5", "gain": "1", "leak": "0"}
    graph = chain(node, shape=(1,), dialect=json.dumps({"nodes": {"n0": plain | choices}}))
    return reference.run(graph, x, potentials=True)


def spikes(result):
    return result.output.reshape(-1).tolist()


def potentials(result):
    return result.potentials["n0"].reshape(-1).tolist()


def test_at_the_threshold():
    # u = 0.5 v + x:  0.5  1.0=th
    assert spikes(run(lif(), [0.5, 0.75])) == [0, 0]
    found = run(lif(), [0.5, 0.75, 0.25], spike=">=")
    assert spikes(found) == [0, 1, 0]
    assert potentials(found) == [0.5, 0.0, 0.25]


def test_several_spikes_a_step():
    # u:  2.75 -> 2 spikes, 0.75 left;  0.375+0.625=1.0=th -> 1, 0 left;  0.5 -> none;  0.25-1.25=-1.0 -> none
    found = run(lif(), [2.75, 0.625, 0.5, -1.25], spike="floor", reset="subtract")
    assert spikes(found) == [2, 1, 0, 0]
    assert potentials(found) == [0.75, 0.0, 0.5, -1.0]
    assert found.spikes["n0"].dtype == np.int32
    assert found.spikes["n0"].reshape(-1).tolist() == [2, 1, 0, 0]
    assert potentials(run(lif(), [2.75], spike="floor", reset="zero")) == [0.0]


@pytest.mark.parametrize("threshold", [1e-8, 1e-30])
def test_more_spikes_than_float32_can_count_are_refused(threshold):
    with pytest.raises(BadInput, match="node 'n0' fires more than 16777216 times in a step"):
        run(lif(v_threshold=threshold), [2.75], spike="floor", reset="subtract")


def test_margins_of_counts_are_relative_to_the_multiple():
    # u = 2.75, the nearest multiple is 3;  then 0.375 + 0.25, which is nearest to 1
    x = np.array([2.75, 0.25], np.float32).reshape(-1, 1, 1)
    rule = {"decay": "0.5", "gain": "1", "leak": "0", "spike": "floor", "reset": "subtract"}
    found = reference.run(chain(lif(), shape=(1,), dialect=json.dumps({"nodes": {"n0": rule}})), x, margins=True)
    assert found.margins["n0"].reshape(-1).tolist() == [np.float32(0.25 / 3), 0.375]


@pytest.mark.parametrize(
    ("reset", "left"),
    [("zero", 0.0), ("v_reset", -0.25), ("-0.5", -0.5), (0.125, 0.125), ("subtract", 0.5), ("none", 1.5)],
)
def test_what_is_left_after_a_spike(reset, left):
    found = run(lif(v_reset=-0.25), [1.5, 0.0], reset=reset)
    assert potentials(found) == [left, left / 2]
    assert spikes(found)[0] == 1


def test_the_threshold_is_taken_off_a_step_later():
    # u = 0.5 v + x - s:  1.5! (kept)  0.75+1-1=0.75  0.375+1=1.375!  0.6875-1=-0.3125
    found = run(lif(), [1.5, 1, 1, 0], reset="subtract", reset_when="next_sub")
    assert spikes(found) == [1, 0, 1, 0]
    assert potentials(found) == [1.5, 0.75, 1.375, -0.3125]


def test_the_step_after_a_spike_is_lost():
    # u:  1.5!  0 (x is lost)  1.25!  0  0.5
    found = run(lif(), [1.5, 7, 1.25, 9, 0.5], reset="zero", reset_when="next_drop")
    assert spikes(found) == [1, 0, 1, 0, 0]
    assert potentials(found) == [1.5, 0, 1.25, 0, 0.5]


def test_a_synapse_keeps_what_arrives_in_the_step_that_is_lost():
    # i = i/2 + x:  2  5  2.5;  u = v/2 + i:  2!  0  2.5!
    found = run(cuba(v_threshold=1), [2, 4, 0], reset="zero", reset_when="next_drop", syn_gain="1")
    assert spikes(found) == [1, 0, 1]
    assert potentials(found) == [2, 0, 2.5]


def test_no_threshold_is_taken_off_twice():
    # p from v:  v=0: u=2.5! v=1.5.  p=1: u=0.75+0-1=-0.25, silent, given back: v=0.75.  p=0: u=0.375+1=1.375! v=0.375
    found = run(lif(), [2.5, 0, 1], reset="subtract", reset_when="now_nodouble")
    assert spikes(found) == [1, 0, 1]
    assert potentials(found) == [1.5, 0.75, 0.375]


def test_spikes_of_the_stored_potential():
    # now: s from v, then v = reset(v, s)/2 + x:  v=0: s=0, v=1.5;  s=1, v=0.5/2+1=1.25;  s=1, v=0.125;  s=0
    now = run(lif(), [1.5, 1, 0, 0], spike_from="prev", reset="subtract")
    assert spikes(now) == [0, 1, 1, 0]
    assert potentials(now) == [1.5, 1.25, 0.125, 0.0625]
    # next_sub: v = v/2 + x - s:  1.5;  s=1, 0.75+1-1=0.75;  s=0, 0.375;  s=0
    late = run(lif(), [1.5, 1, 0, 0], spike_from="prev", reset="subtract", reset_when="next_sub")
    assert spikes(late) == [0, 1, 0, 0]
    assert potentials(late) == [1.5, 0.75, 0.375, 0.1875]


def test_potentials_do_not_fall_below_a_clamp():
    found = run(lif(v_threshold=0.5), [-3, 0.25], v_min="-v_threshold")
    assert potentials(found) == [-0.5, 0.0]


def test_where_potentials_begin():
    assert potentials(run(lif(v_leak=0.25), [0], v_init="v_leak")) == [0.125]
    assert potentials(run(lif(v_reset=-1), [0], v_init="v_reset")) == [-0.5]
    found = run(lif(), [0, 0], v_init=1.5, spike_from="prev")  # the stored potential is above the threshold at once
    assert spikes(found) == [1, 0]


def test_what_a_spike_is_worth():
    found = run(lif(), [1.5], out_scale="1/dt")
    assert spikes(found) == [1 / DT]
    assert found.spikes["n0"].tolist() == [[[True]]]


def test_an_integrator_that_is_a_step_late():
    node = nir.LI(full(2 * DT, 1), full(2, 1), full(1, 1))
    # u = v/2 + x + 1/2:  1.5  1.25;  late: the stored ones
    new, late = (run(node, [1, 0], leak="v_leak*dt/tau", output=output) for output in ("new", "prev"))
    assert spikes(new) == potentials(new) == potentials(late) == [1.5, 1.25]
    assert spikes(late) == [0, 1.5]


@pytest.mark.parametrize(
    ("order", "stored", "currents"),
    [  # syn_decay 1/2, syn_gain 2, syn_leak 1/4, i_init 1; x = 1, 0
        ("update_then_use", [2.75, 1.625], [2.75, 1.625]),  # i/2 + 2x + 1/4
        ("jump_use_decay", [1.75, 1.125], [3, 1.75]),  # c = i + 2x; i = c/2 + 1/4
        ("jump_decay_use", [1.5, 0.75], [1.5, 0.75]),  # (i + 2x)/2; it has no leak
        ("use_then_update", [2.75, 1.625], [1, 2.75]),  # c = i; i = i/2 + 2x + 1/4
    ],
)
@pytest.mark.parametrize("kind", ["CubaLIF", "CubaLI"])
def test_orders_of_a_synapse(order, stored, currents, kind):
    node = cuba()
    if kind == "CubaLI":
        node = nir.CubaLI(node.tau_syn, node.tau_mem, node.r, node.v_leak, node.w_in)
    plain = {"decay": "0", "gain": "1", "leak": "0", "syn_decay": "0.5", "syn_gain": "2", "syn_leak": "0.25"}
    said = {"nodes": {"n0": plain | {"i_init": 1, "syn_order": order}}}
    graph = chain(node, shape=(1,), dialect=json.dumps(said))
    x = np.array([1, 0], np.float32).reshape(-1, 1, 1)
    found = reference.run(graph, x, potentials=True, states=True)
    assert found.potentials["n0"].reshape(-1).tolist() == currents  # decay 0, gain 1: the membrane is the current
    assert found.states["n0", "i"].item() == stored[-1]
    if kind == "CubaLI":
        assert spikes(found) == currents


def test_coefficients_are_those_of_the_nodes_own_parameters():
    node = cuba(tau_syn=2 * DT, tau_mem=4 * DT, r=2, w_in=3, v_leak=0.5)
    # nir: i = i/2 + 3/2 x;  u = 3/4 v + 2/4 i + 1/8
    x = np.array([1, 0], np.float32).reshape(-1, 1, 1)
    graph = chain(node, shape=(1,))
    assert reference.run(graph, x, potentials=True).potentials["n0"].reshape(-1).tolist() == [0.875, 1.15625]
    graph.metadata["stdl.dialect"] = "nengo"
    exact = reference.run(graph, x, potentials=True).potentials["n0"].reshape(-1)
    np.testing.assert_allclose(exact, [0, 6 * (1 - math.exp(-0.25)) * 0.5], rtol=1e-6)


def test_an_integrator_without_leak():
    graph = chain(nir.I(full(2 / DT, 1)), shape=(1,))
    x = np.array([1, -0.5, 0], np.float32).reshape(-1, 1, 1)
    assert reference.run(graph, x).output.reshape(-1).tolist() == [2, 1, 1]


def test_a_threshold_that_its_value_reaches():
    graph = chain(nir.Threshold(full(0.5, 1)), shape=(1,), dialect=json.dumps({"nodes": {"n0": {"spike": ">="}}}))
    x = np.array([0.5, 0.25, 0.75], np.float32).reshape(-1, 1, 1)
    assert reference.run(graph, x).output.reshape(-1).tolist() == [1, 0, 1]


@pytest.mark.parametrize("delay", [[0, 0, 0], [2, 2, 2], [0, 1, 3], [1, 2, 3], [9, 0, 1]])
def test_delays(delay):
    x = np.arange(1, 6, dtype=np.float32)
    graph = chain(nir.Delay(np.array(delay) * DT), shape=(3,))
    found = reference.run(graph, np.broadcast_to(x[:, None, None], (5, 1, 3))).output[:, 0]
    for element, steps in enumerate(delay):
        assert found[:, element].tolist() == [*[0] * min(steps, 5), *range(1, 6)][:5]


def test_delays_that_files_hold_in_float32_are_whole_steps():
    graph = chain(nir.Delay(np.float32([0.003])), shape=(1,), dt=1e-3)
    x = np.array([1, 2, 3, 4], np.float32).reshape(-1, 1, 1)
    assert reference.run(graph, x).output.reshape(-1).tolist() == [0, 0, 0, 1]


def recurrent(feedback, bias=0.25):
    nodes = {
        "input": nir.Input(np.array([1])),
        "lif": nir.IF(full(1 / DT, 1), full(1, 1), full(0, 1)),
        "rec": nir.Affine(full(-0.5, 1, 1), full(bias, 1)),
        "output": nir.Output(np.array([1])),
    }
    edges = [("input", "lif"), ("lif", "rec"), ("rec", "lif"), ("lif", "output")]
    return assemble(nodes, edges, dialect=json.dumps({"graph": {"feedback": feedback}}))


def test_where_a_loop_is_delayed():
    x = np.array([1, 0.5, 0.5, 0.5], np.float32).reshape(-1, 1, 1)
    # spikes late: rec = 0.25 - 0.5 s_prev, from the first step on:  u = 1.25!  0.5-0.25=0.25  1.0=th  1.75!
    early = reference.run(recurrent("delay_source_output"), x, potentials=True)
    assert early.output.reshape(-1).tolist() == [1, 0, 0, 1]
    assert early.potentials["lif"].reshape(-1).tolist() == [0, 0.25, 1.0, 0]
    # the weights' output late, 0 at first:  u = 1.0=th  1.75!  0.5-0.25=0.25  1.0
    late = reference.run(recurrent("delay_target_input"), x, potentials=True)
    assert late.output.reshape(-1).tolist() == [0, 1, 0, 0]
    assert late.potentials["lif"].reshape(-1).tolist() == [1.0, 0, 0.25, 1.0]


def test_a_late_neuron_in_a_loop_has_its_own_delay_only():
    graph = recurrent("delay_target_input", bias=0)
    graph.metadata["stdl.dialect"] = json.dumps({"base": "spyx", "graph": {"dt": DT}})
    x = np.array([1.5, 0, 0], np.float32).reshape(-1, 1, 1)
    # v=0: s=0, v=1.5;  s=1, rec=-0.5 in the same step, v=1.5-0.5-1=0
    found = reference.run(graph, x, potentials=True)
    assert found.output.reshape(-1).tolist() == [0, 1, 0]
    assert found.potentials["lif"].reshape(-1).tolist() == [1.5, 0, 0]


def test_several_inputs_and_outputs():
    nodes = {name: nir.Input(np.array([size])) for name, size in (("b", 2), ("a", 3))}
    nodes |= {"w": nir.Linear(full(1, 2, 3)), "sum": nir.Output(np.array([2])), "w out": nir.Output(np.array([2]))}
    graph = assemble(nodes, [("a", "w"), ("w", "sum"), ("b", "sum"), ("w", "w out")])
    x = {"a": np.ones((4, 1, 3)), "b": np.full((4, 1, 2), 0.5)}
    found = reference.run(graph, x)
    assert list(found.outputs) == ["sum", "w out"]
    assert found.outputs["sum"].tolist() == np.full((4, 1, 2), 3.5).tolist()
    assert found.outputs["w out"].tolist() == np.full((4, 1, 2), 3.0).tolist()
    with pytest.raises(BadInput, match="the graph has 2 Outputs, sum, w out: take one of `outputs`"):
        found.output  # noqa: B018
    for wrong, said in (
        (x["a"], "the graph has 2 Inputs, a, b: give an array for each"),
        ({"a": x["a"]}, "there is no array for Input 'b'"),
        (x | {"c": x["a"]}, "unknown Input 'c'"),
        (x | {"b": x["b"][:3]}, "the inputs differ in time steps or samples: 'a' \\(4, 1, 3\\), 'b' \\(3, 1, 2\\)"),
        (x | {"b": x["a"]}, "a sample of shape \\(3,\\) was given for Input 'b', the graph takes \\(2,\\)"),
    ):
        with pytest.raises(BadInput, match=said):
            reference.run(graph, wrong)


def test_weights_with_leading_dimensions():
    weight = np.arange(12.0).reshape(2, 2, 3)
    x = np.array([[[1.0, 0, 2], [0, 1, 0]]])
    linear = nodes.linear(nir.Linear(weight), x)
    assert linear.tolist() == [[[4.0, 13.0], [7.0, 10.0]]]
    assert nodes.affine(nir.Affine(weight, np.array([1.0, 2.0])), x).tolist() == [[[5.0, 15.0], [8.0, 12.0]]]


@pytest.mark.parametrize("padding", [0, 2, "same", "valid"])
@pytest.mark.parametrize("groups", [1, 2])
def test_conv1d_is_a_sum_of_products(padding, groups):
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(4, 4 // groups, 4)), rng.normal(size=4)
    stride, dilation, x = 1 if padding == "same" else 2, 2, rng.normal(size=(2, 4, 11)).astype(np.float32)
    begin, end = {0: (0, 0), 2: (2, 2), "same": (3, 3), "valid": (0, 0)}[padding]
    padded = np.pad(x, ((0, 0), (0, 0), (begin, end)))
    length = (padded.shape[2] - 2 * 3 - 1) // stride + 1
    expected = np.zeros((2, 4, length))
    for out, at in np.ndindex(4, length):
        group = out // (4 // groups)
        channels = slice(group * (4 // groups), (group + 1) * (4 // groups))
        taps = padded[:, channels, at * stride : at * stride + 7 : dilation]
        expected[:, out, at] = (taps * weight[out]).sum(axis=(1, 2)) + bias[out]
    found = nodes.conv1d(nir.Conv1d(11, weight, stride, padding, dilation, groups, bias), x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
