"""netx files: written and read they are the same network; what Lava would bend or skip is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from netx_networks import network, whole

from stdl_export.chips import netx_read, netx_write
from stdl_export.chips.loihi2_model import Simulation
from stdl_export.chips.netx import Conv, Dense, Network, Neuron, ReaderOptions, same
from stdl_export.common.errors import BadInput

SEEDS = st.integers(0, 10**6)


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_written_and_read_it_is_the_same_network(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    made, path = network(seed), tmp_path_factory.mktemp("netx") / "network.net"
    netx_write.write(made, path)
    assert same(netx_read.read(path), made)
    other = network(seed + 1)
    assert not same(other, made)


def written(tmp_path: Path, seed: int = 3) -> Path:
    path = tmp_path / "network.net"
    netx_write.write(network(seed), path)
    return path


def dense_file(tmp_path: Path) -> Path:
    path = tmp_path / "dense.net"
    layer = Dense(whole([[3, -4], [5, 6], [-7, 8]]), Neuron(whole(4096), whole(100), whole(9)), whole([1, 2, 3]))
    netx_write.write(Network((layer,), (2,)), path)
    return path


def conv_file(tmp_path: Path) -> Path:
    path = tmp_path / "conv.net"
    layer = Conv(whole(np.arange(-9, 9).reshape(2, 1, 3, 3)), Neuron(whole(4096), whole(0), whole(9)), (2, 4, 5),
                 whole([1, 2]), padding=(1, 1))  # fmt: skip
    netx_write.write(Network((layer,), (1, 4, 5)), path)
    return path


def changed(path: Path, name: str, value: Any) -> Path:
    with h5py.File(path, "a") as file:
        if name in file:
            del file[name]
        if value is not None:
            file[name] = value
    return path


DENSE = [
    ("layer/1/weight", np.array([[0.5, 1], [1, 1], [1, 1]]), "its weight holds fractions"),
    ("layer/1/weight", np.ones((3, 3), int), "its weight takes 3 inputs, what arrives has shape (2,)"),
    ("layer/1/weight", np.zeros((3, 2), int), "all its weights are 0"),
    ("layer/1/weight", np.array(["a"], "S3"), "its weight is no array of numbers"),
    ("layer/1/bias", np.ones(2, int), "its bias has shape (2,)"),
    ("layer/1/delay", 63, "its delay is 63 to 63: accepted are 0 to 62"),
    ("layer/1/delay", np.ones((2, 3), int), "its delay has shape (2, 3)"),
    ("layer/1/neuron/messageBits", 4, "'messageBits', at which Lava's reader stops"),
    ("layer/1/neuron/type", "SDNN", "its neurons are SDNN"),
    ("layer/1/neuron/gradedSpike", True, "gradedSpike"),
    ("layer/1/neuron/vDecay", 4097, "its vDecay is 4097 to 4097: accepted are 0 to 4096"),
    ("layer/1/neuron/iDecay", np.array([1, 2]), "its iDecay has shape (2,)"),
    ("layer/1/neuron/vThMant", None, "it has no 'vThMant'"),
    ("layer/1/neuron", None, "no group 'neuron'"),
    ("layer/1/shape", np.array([4]), "its shape says 4 outputs"),
    ("layer/1/shape", np.array([1 << 30]), "its shape is"),
    ("layer/1/type", np.array(["average"], "S10"), "layers of this type are refused by Lava's own reader"),
    ("layer/1/type", np.array(["sparse"], "S10"), "skipped by Lava's reader without a word"),
    ("layer/1/type", 3, "it has no 'type' that is a word"),
    ("layer/1/type", np.array(["input"], "S10"), "an input layer stands first"),
    ("layer/3/type", np.array(["dense"], "S10"), "numbered 0, 1, 3"),
    ("layer/0/neuron/type", "CUBA", "its input has neurons of its own"),
    ("layer/2/type", np.array(["dense_rec"], "S10"), "it has no 'shape'"),
    ("layer/1/weight", h5py.SoftLink("/layer/0/shape"), "is a link"),
]  # fmt: skip
CONV = [
    ("layer/1/delay", 2, "which Lava's reader ignores on a convolution"),
    ("layer/1/groups", 3, "which does not divide its 2 outputs"),
    ("layer/1/groups", None, "it has no 'groups'"),
    ("layer/1/stride", np.array([0, 1]), "its stride is 0 to 1"),
    ("layer/1/padding", np.array([1, 1, 1]), "its padding has 3 numbers"),
    ("layer/1/shape", np.array([2, 4, 4]), "its shape says (2, 4, 4), its weight, stride and padding make (2, 4, 5)"),
    ("layer/1/bias", np.ones((2, 4, 5), int), "its bias has shape (2, 4, 5): accepted is (2,) or (5, 4, 2)"),
    ("layer/1/weight", np.ones((2, 1, 9, 9), int), "is larger than its padded input image"),
]


@pytest.mark.parametrize(("name", "value", "reason"), DENSE)
def test_what_lava_would_bend_in_a_dense_layer_is_refused(tmp_path: Path, name: str, value: Any, reason: str) -> None:
    assert_refused(changed(dense_file(tmp_path), name, value), reason)


@pytest.mark.parametrize(("name", "value", "reason"), CONV)
def test_what_lava_would_bend_in_a_convolution_is_refused(tmp_path: Path, name: str, value: Any, reason: str) -> None:
    assert_refused(changed(conv_file(tmp_path), name, value), reason)


def assert_refused(path: Path, reason: str) -> None:
    with pytest.raises(BadInput) as caught:
        netx_read.read(path)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_delay_with_a_recurrent_layer_is_refused(tmp_path: Path) -> None:
    path = changed(dense_file(tmp_path), "layer/1/type", np.array(["dense_rec"], "S10"))
    changed(path, "layer/1/weight_rec", np.ones((3, 3), int))
    assert netx_read.read(path).neurons[0].recurrent is not None
    assert_refused(changed(path, "layer/1/delay", 1), "scales the weights of dense_rec wrongly")


def test_a_delay_for_each_target_or_each_source_counts_as_written(tmp_path: Path) -> None:
    for value, column in ((np.array([1, 2, 3]), [1, 2, 3]), (np.array([4, 5]), [4, 4, 4]), (6, [6, 6, 6])):
        layer = netx_read.read(changed(dense_file(tmp_path), "layer/1/delay", value)).neurons[0]
        assert layer.delay[:, 0].tolist() == column


def test_a_map_of_biases_is_read_in_the_order_of_the_file(tmp_path: Path) -> None:
    bias = np.arange(5 * 4 * 2).reshape(5, 4, 2)  # (W, H, C)
    layer = netx_read.read(changed(conv_file(tmp_path), "layer/1/bias", bias)).neurons[0]
    assert layer.bias[1, 2, 3] == bias[3, 2, 1]


def test_any_other_numbers_are_refused_on_one_line_or_run(tmp_path: Path) -> None:
    """Every data set in turn gets a few other values, shapes and types; what is read can be run."""
    rng, lines, ran = np.random.default_rng(0), [], 0
    for seed in range(2):
        names: list[str] = []
        with h5py.File(written(tmp_path, seed), "r") as file:
            file.visititems(lambda name, item, names=names: names.append(name))
        for name in names:
            for at in rng.choice(len(OTHERS), 3, replace=False):
                value = OTHERS[at]
                path = changed(written(tmp_path, seed), name, value(rng) if callable(value) else value)
                try:
                    run_a_step(netx_read.read(path))
                    ran += 1
                except BadInput as error:
                    lines.append(str(error))
    assert len(lines) > 60
    assert ran > 20
    assert "\n" not in "".join(lines)


def run_a_step(made: Network) -> None:
    sample = made.input_shape or (1,)
    Simulation(made, 1, ReaderOptions(), sample).step(np.ones((1, *sample)))


OTHERS = [
    None, -1, 0, 1, 2.5, np.nan, 1 << 40, "CUBA", np.zeros(0), np.array([3, 4, 5]), np.uint64(1 << 63),
    lambda rng: rng.integers(-300, 300, (3, 2)), lambda rng: rng.integers(-9, 9, (2, 2, 3, 3)),
    np.array(["conv"], "S10"),
    np.array([1 << 20, 1 << 20, 1 << 20]), np.zeros((2, 2, 2), np.complex64),
]  # fmt: skip


def test_damaged_files_are_refused_on_one_line_or_still_a_network(tmp_path: Path) -> None:
    content = written(tmp_path).read_bytes()
    rng, path, refused = np.random.default_rng(0), tmp_path / "damaged.net", 0
    lines: list[str] = []
    for at in range(300):
        data = bytearray(content)
        if at % 3:
            for place in rng.integers(0, len(data), 3):
                data[place] = rng.integers(256)
        else:
            data = data[: int(rng.integers(0, len(data)))]
        path.write_bytes(bytes(data))
        try:
            run_a_step(netx_read.read(path))
        except BadInput as error:
            refused += 1
            lines.append(str(error))
    assert refused > 100
    assert "\n" not in "".join(lines)
