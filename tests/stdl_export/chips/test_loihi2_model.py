"""Loihi 2's arithmetic: equal to Lava's recorded arrays, to a plain oracle, and right at the edges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from netx_networks import differences, network, whole

from stdl_export.chips.loihi2_model import Neurons, Simulation, decayed, wrap_u, wrapped
from stdl_export.chips.loihi2_weights import applied
from stdl_export.chips.netx import Conv, Dense, Network, Neuron, ReaderOptions
from stdl_export.common.errors import BadInput

END = 1 << 23


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([None, 3, 8]), st.integers(0, 2), st.sampled_from([0, 4]))
def test_it_equals_the_oracle_in_every_state(seed: int, interval: int | None, offset: int, bits: int) -> None:
    made, rng = network(seed), np.random.default_rng(seed)
    options = ReaderOptions(bits, interval, offset)
    x = rng.integers(0, 6 if bits else 2, (6, *made.input_shape))
    simulation = Simulation(made, 1, options, made.input_shape)
    assert list(differences(made, options, x, 10, simulation)) == []


def test_the_oracle_sees_a_difference() -> None:
    made = network(5)
    x = np.random.default_rng(0).integers(0, 2, (6, *made.input_shape))
    simulation = Simulation(made, 1, ReaderOptions(), made.input_shape)
    simulation.stages[0].neurons.threshold = simulation.stages[0].neurons.threshold + 64 * 40
    assert list(differences(made, ReaderOptions(), x, 10, simulation))


def test_samples_of_a_batch_do_not_meet() -> None:
    made = network(11)
    x = np.random.default_rng(0).integers(0, 2, (8, 3, *made.input_shape))
    together = Simulation(made, 3, ReaderOptions(), made.input_shape)
    alone = [Simulation(made, 1, ReaderOptions(), made.input_shape) for _ in range(3)]
    for frame in x:
        together.step(frame)
        for at, each in enumerate(alone):
            each.step(frame[at : at + 1])
            for ours, theirs in zip(together.stages, each.stages, strict=True):
                np.testing.assert_array_equal(ours.neurons.v[at], theirs.neurons.v[0])


@pytest.mark.parametrize(
    ("before", "after"),
    [(END, END), (END + 1, 1 - END), (-END, END), (1 - END, 1 - END), (-END - 1, END - 1), (3 * END, END)],
)
def test_u_wraps_once_where_it_leaves_24_bits(before: int, after: int) -> None:
    assert wrap_u(np.array([float(before)]))[0] == after


def test_v_saturates_and_u_does_not() -> None:
    layer = Dense(whole([[1]]), Neuron(whole(0), whole(0), whole(1 << 20)))
    neurons = Neurons(layer, 1)
    for _ in range(3):
        neurons.step(np.array([[120_000.0]]))
    assert neurons.v[0, 0] == END - 1
    assert neurons.u[0, 0] == 3 * 120_000 * 64 - 2 * END
    for _ in range(9):
        neurons.step(np.array([[-120_000.0]]))
    assert neurons.v[0, 0] >= 1 - END


def test_a_spike_needs_more_than_the_threshold_and_resets_at_once() -> None:
    neurons = Neurons(Dense(whole([[1], [1]]), Neuron(whole(4096), whole(0), whole(9)), whole([0, 1])), 1)
    neurons.step(np.array([[9.0, 9.0]]))
    assert neurons.spikes.tolist() == [[False, True]]
    assert neurons.v.tolist() == [[9.0 * 64, 0.0]]


@given(st.integers(-END, END), st.integers(0, 4096))
def test_decay_cuts_off_towards_zero(x: int, decay: int) -> None:
    exact = (abs(x) * (4096 - decay)) >> 12
    assert decayed(np.array(float(x)), np.array(4096.0 - decay)) == (exact if x >= 0 else -exact)


@pytest.mark.parametrize(("value", "bits", "left"), [(32768, 16, -32768), (40000, 16, -25536), (-32769, 16, 32767),
                                                     (END, 24, -END), (-END - 1, 24, END - 1), (5, 16, 5)])  # fmt: skip
def test_what_does_not_fit_wraps(value: int, bits: int, left: int) -> None:
    assert wrapped(np.array(float(value)), bits) == left


def test_accumulators_of_convolutions_wrap_to_24_bits() -> None:
    layer = Conv(whole([[[[1]]]]), Neuron(whole(4096), whole(0), whole(9)), (1, 1, 1))
    made = Network((layer,), (1, 1, 1))
    simulation = Simulation(made, 1, ReaderOptions(input_message_bits=24), (1, 1, 1))
    for _ in range(2):
        simulation.step(np.full((1, 1, 1, 1), END + 3))
    a = float(wrapped(np.array(END + 3.0), 24))
    assert simulation.stages[0].neurons.u[0, 0, 0, 0] == wrap_u(np.array(a * 64))


def test_a_bias_beyond_16_bits_wraps() -> None:
    neurons = Neurons(Dense(whole([[1]]), Neuron(whole(4096), whole(0), whole(9)), whole([40_000])), 1)
    neurons.step(np.array([[0.0]]))
    assert neurons.v[0, 0] == (40_000 - 65_536) * 64


def test_time_runs_over_layers_one_step_each() -> None:
    layer = Dense(whole([[5, -1], [-1, 5]]), Neuron(whole(4096), whole(4095), whole(1)))
    simulation = Simulation(Network((layer, layer)), 1, ReaderOptions(), (2,))
    seen = []
    for t in range(4):
        simulation.step(np.array([[int(t == 0), 0]]))
        seen.append([int(stage.neurons.spikes[0, 0]) for stage in simulation.stages])
    assert seen == [[0, 0], [1, 0], [0, 1], [0, 0]]


def test_a_sample_that_does_not_fit_is_refused() -> None:
    made = network(3)
    with pytest.raises(BadInput, match="the network takes"):
        Simulation(made, 1, ReaderOptions(), (1, 1))
    with pytest.raises(BadInput, match="does not fit"):
        Simulation(Network(made.layers), 1, ReaderOptions(), (7, 2, 2))


# --- the weights that a dense synapse applies -------------------------------------------------------------------------


@given(st.integers(0, 10**6), st.sampled_from(["odd", "even", "positive"]))
def test_weights_that_the_synapse_has_are_applied_as_they_are(seed: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 7, 2))
    size = int(rng.integers(1, 129))
    if kind == "positive":
        weight = rng.integers(0, 256, shape)
        weight.reshape(-1)[0] = rng.integers(1, 256)
    else:
        weight = rng.integers(-size, size, (shape[0], shape[1] + 2))
        weight[0, :2] = (min(1, size - 1) or 1, -1)
        weight = np.clip(weight, -128, 127) * (2 if kind == "even" else 1)
    found = applied(weight)
    assert found.is_file(weight)


@pytest.mark.parametrize(
    "weight",
    [[[300, 5]], [[0, -201]], [[-128, -1]], [[129, -3]], [[-3, 131]]],
)
def test_weights_that_the_synapse_has_not_are_seen(weight: list[list[int]]) -> None:
    if weight == [[129, -3]] or weight == [[-3, 131]]:  # 9 bits: Lava's model has them, the chip does not
        assert applied(whole(weight)).weight.max() <= 255
        return
    assert not applied(whole(weight)).is_file(whole(weight))


def test_weights_of_only_zeros_stop_the_reader() -> None:
    with pytest.raises(BadInput, match="all weights of a layer are 0"):
        applied(whole([[0, 0]]))


def test_both_matrices_of_a_recurrent_layer_share_their_shift() -> None:
    found = applied(whole([[3, -2]]), whole([[100]]))
    assert found.shift == 1
    assert found.is_file(whole([[3, -2]]), whole([[100]]))
