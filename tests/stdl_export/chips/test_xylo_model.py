"""Our arithmetic of Xylo, by hand and against the vendor's simulator, every state of every step."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xylo_networks import random_inputs, random_specification

from stdl_export.chips.xylo_model import HIGH, LOW, Model
from stdl_runtimes.chips.xylosim import Simulator


def _one(**changed):
    """An input, a hidden neuron, an output, with weights of 100."""
    said = {
        "weights_in": np.full((1, 1, 1), 100, np.int8), "weights_rec": np.zeros((1, 1, 1), np.int8),
        "weights_out": np.full((1, 1), 100, np.int8), "dash_mem": np.ones(1, np.uint8),
        "dash_syn": np.ones(1, np.uint8), "dash_syn_2": np.ones(1, np.uint8), "dash_mem_out": np.ones(1, np.uint8),
        "dash_syn_out": np.ones(1, np.uint8), "threshold": np.full(1, 40, np.int16),
        "threshold_out": np.full(1, 40, np.int16), "bias": np.zeros(1, np.int16), "bias_out": np.zeros(1, np.int16),
        "weight_shift_in": 0, "weight_shift_rec": 0, "weight_shift_out": 0, "aliases": ((),),
    }  # fmt: skip
    rng = np.random.default_rng(0)
    return random_specification(rng, **(said | changed))


def test_a_neuron_by_hand():
    found = Model(_one()).run(np.array([1, 0, 0, 0])[:, None, None])
    # i: 100 arrives and halves to 50, then 25, 13 (25 - 12), 7; v: 50 fires, 10 is left; 10 - 5 + 25; 30 - 15 + 13
    assert found.i[:, 0, 0, 0].tolist() == [50, 25, 13, 7]
    assert found.v[:, 0, 0].tolist() == [10, 30, 28, 21]
    assert found.hidden[:, 0, 0].tolist() == [1, 0, 0, 0]
    assert found.output[:, 0, 0].tolist() == [0, 1, 0, 0]  # a step later


def test_several_spikes_in_a_step_and_one_of_an_output():
    network = _one(threshold=np.full(1, 10, np.int16), threshold_out=np.full(1, 10, np.int16))
    found = Model(network).run(np.array([1, 0])[:, None, None])
    assert found.hidden[:, 0, 0].tolist() == [5, 2]
    assert found.output[1, 0, 0] == 1
    assert found.v_out[1, 0, 0] == 250 - 10


def test_states_saturate_at_both_ends():
    spikes = np.full((40, 1, 1), 15)
    weights = np.full((1, 1, 1), 127, np.int8)
    loud = {"weight_shift_in": 7, "threshold": np.full(1, 32767, np.int16), "dash_syn": np.full(1, 15, np.uint8)}
    up = Model(_one(weights_in=weights, **loud)).run(spikes)
    down = Model(_one(weights_in=-weights, **loud)).run(spikes)
    assert up.i.max() == HIGH - 1  # it saturates as spikes arrive, and then decays by the least that there is
    assert down.i.min() == LOW + 1
    assert down.v.min() == LOW


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), loud=st.booleans())
def test_equal_to_xylosim_in_every_state(seed, loud):
    pytest.importorskip("xylosim.v2")
    rng = np.random.default_rng(seed)
    network = random_specification(rng, loud)
    inputs = random_inputs(rng, network)
    ours, theirs = Model(network).run(inputs), Simulator(network)
    for sample in range(inputs.shape[1]):
        theirs.reset()
        trace = theirs.trace(inputs[:, sample])
        for name in ("hidden", "output", "v", "i_out", "v_out"):
            np.testing.assert_array_equal(getattr(ours, name)[:, sample], getattr(trace, name), name)
        np.testing.assert_array_equal(ours.i[:, :, sample], trace.i, "i")


def test_random_networks_do_what_there_is_to_do():
    """Else the comparison with xylosim would say little."""
    found = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        network = random_specification(rng, loud=seed % 2 == 1)
        run = Model(network).run(random_inputs(rng, network))
        found.append((run.hidden.max(), run.output.max(), run.i.max(), run.i.min(), run.v.min()))
    hidden, outputs, highest, lowest, v = np.array(found).T
    assert hidden.max() == 31
    assert ((hidden > 1) & (hidden < 31)).sum() > 5
    assert outputs.sum() > 20
    assert highest.max() > HIGH - 3
    assert lowest.min() < LOW + 3
    assert v.min() == LOW
