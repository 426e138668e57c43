"""Lava's own process models against ours: every u, v and spike of random networks, and of an exported one.

git clone https://github.com/lava-nc/lava && git clone https://github.com/lava-nc/lava-dl      # in one folder
STDL_LAVA=FOLDER python -m pytest -m peers tests/peers/test_lava.py
"""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from pathlib import Path
from typing import Any

import lava_models
import nir
import numpy as np
import pytest
from lava_models import Lava
from netx_networks import network
from skip_graphs import delayed, recurrent, residual

from stdl_export import golden as goldens
from stdl_export.chips import loihi2, loihi2_side, netx_read, netx_write
from stdl_export.chips.base import ChipJob
from stdl_export.chips.loihi2_model import Simulation
from stdl_export.chips.netx import Dense, Network, ReaderOptions

pytestmark = pytest.mark.peers


@pytest.fixture(scope="module")
def modules() -> dict[str, Any]:
    clones = os.environ.get("STDL_LAVA")
    if not clones:
        pytest.skip("STDL_LAVA names no folder with clones of lava and lava-dl")
    pytest.importorskip("scipy")
    return lava_models.load(Path(clones))


def assert_equal(modules: dict[str, Any], made: Network, options: ReaderOptions, x: np.ndarray, steps: int) -> int:
    """x [T, ...] of one sample; how many spikes there were."""
    theirs, spikes = Lava(modules, made, options), 0
    ours = Simulation(made, 1, options, made.input_shape)
    for t in range(steps):
        frame = x[t] if t < len(x) else np.zeros_like(x[0])
        theirs.step(frame)
        ours.step(frame[None])
        for k, stage in enumerate(ours.stages):
            for name, value in theirs.state(k):
                np.testing.assert_array_equal(getattr(stage.neurons, name)[0], value, err_msg=f"{name}, layer {k}, {t}")
            spikes += int(stage.neurons.spikes.sum())
    return spikes


@pytest.mark.parametrize("seed", range(40))
def test_random_networks_are_equal_in_every_state(modules: dict[str, Any], seed: int) -> None:
    made, rng = network(seed), np.random.default_rng(seed)
    options = ReaderOptions([0, 4][seed % 2], [None, 3, 9][seed % 3], seed % 4)
    x = rng.integers(0, 6 if options.input_message_bits else 2, (8, *made.input_shape))
    assert_equal(modules, made, options, x, 14)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", ["relays", "delays", "a loop"])
def test_an_exported_network_is_equal(modules: dict[str, Any], tmp_path: Path, kind: str, seed: int) -> None:
    graph = {"relays": residual(seed, "sequence", 4), "delays": delayed(seed, 4), "a loop": recurrent(seed, 4)}[kind]
    for node in graph.nodes.values():
        if kind != "relays" and hasattr(node, "bias"):  # nothing fires before the input is there
            node.bias = np.minimum(node.bias, 0)
        if kind != "relays" and isinstance(node, nir.LIF):
            node.v_leak = np.minimum(node.v_leak, 0)
    shape = graph.nodes["input"].input_type["input"].tolist()
    x = np.random.default_rng(seed).integers(0, 2, (4, 2, *shape)).astype(np.float32)
    loihi2.write(ChipJob(graph, goldens.from_reference(graph, x), loihi2.Options()), tmp_path)
    side = loihi2_side.read(tmp_path / loihi2.SIDE)
    made = netx_read.read(tmp_path / loihi2.NETWORK)
    assert assert_equal(modules, made, side.reader.options, x[:, 0].astype(int), 4 + side.depth) > 0


@pytest.mark.parametrize("seed", range(30))
def test_lavas_reader_finds_the_network_in_our_file(modules: dict[str, Any], tmp_path: Path, seed: int) -> None:
    """The arguments that it would make its blocks with."""
    made, options = network(seed), ReaderOptions(0, 11, 1)
    netx_write.write(made, tmp_path / "network.net")
    reader = modules["lava.lib.dl.netx.hdf5"].Network
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = reader(str(tmp_path / "network.net"), reset_interval=11, reset_offset=1).layers
        theirs = Lava(modules, made, options)
    assert len(found) == len(made.neurons)
    for k, (block, layer) in enumerate(zip(found, made.neurons, strict=True)):
        told = block.told
        assert told["neuron_params"] | {"neuron_proc": None} == {
            "neuron_proc": None, "bias_key": "bias_mant", "vth": layer.neuron.v_threshold,
            "du": layer.neuron.i_decay - 1, "dv": layer.neuron.v_decay, "bias_exp": 6, "num_message_bits": 0,
            "reset_interval": 11, "reset_offset": k + 2,
        }  # fmt: skip
        ours = theirs.synapses[k][0]
        np.testing.assert_array_equal(told["weight"], ours.weights if isinstance(layer, Dense) else ours.weight)
        assert tuple(told["shape"]) == layer.shape[::-1]
        assert ("bias" in told) == (layer.bias is not None)
        if isinstance(layer, Dense):
            assert ("delay" in told) == (layer.delay is not None)
            np.testing.assert_array_equal(told.get("delay", 0), 0 if layer.delay is None else layer.delay)
            assert type(block).__name__ == ("Dense" if layer.recurrent is None else "RecurrentDense")
        else:
            assert [*told["stride"], *told["padding"], *told["dilation"]] == [
                *layer.stride[::-1], *layer.padding[::-1], *layer.dilation[::-1]
            ]  # fmt: skip
            assert told["groups"] == layer.groups
        if layer.bias is not None:
            np.testing.assert_array_equal(told["bias"], layer.bias.T if layer.bias.ndim == 3 else layer.bias)


def test_a_wrong_model_is_seen(modules: dict[str, Any]) -> None:
    made = network(3)
    theirs, ours = Lava(modules, made, ReaderOptions()), Simulation(made, 1, ReaderOptions(), made.input_shape)
    ours.stages[0].neurons.kept_v = ours.stages[0].neurons.kept_v - 1
    x = np.random.default_rng(0).integers(0, 2, (20, *made.input_shape))
    differs = 0
    for frame in x:
        theirs.step(frame)
        ours.step(frame[None])
        differs += sum(
            int((ours.stages[0].neurons.v[0] != value).sum()) for name, value in theirs.state(0) if name == "v"
        )
    assert differs
