"""Lava's own process models against ours: every u, v and spike of random networks, and of an exported one.

git clone https://github.com/lava-nc/lava && git clone https://github.com/lava-nc/lava-dl      # in one folder
STDL_LAVA=FOLDER python -m pytest -m peers tests/peers/test_lava.py
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import lava_models
import numpy as np
import pytest
from lava_models import Lava
from netx_networks import network
from skip_graphs import residual

from stdl_export import golden as goldens
from stdl_export.chips import loihi2, loihi2_side, netx_read
from stdl_export.chips.base import ChipJob
from stdl_export.chips.loihi2_model import Simulation
from stdl_export.chips.netx import Network, ReaderOptions

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


@pytest.mark.parametrize("seed", range(4))
def test_an_exported_network_with_relays_is_equal(modules: dict[str, Any], tmp_path: Path, seed: int) -> None:
    graph = residual(seed, "sequence")
    x = np.random.default_rng(seed).integers(0, 2, (4, 2, 2, 6, 5)).astype(np.float32)
    loihi2.write(ChipJob(graph, goldens.from_reference(graph, x), loihi2.Options()), tmp_path)
    side = loihi2_side.read(tmp_path / loihi2.SIDE)
    made = netx_read.read(tmp_path / loihi2.NETWORK)
    assert assert_equal(modules, made, side.reader.options, x[:, 0].astype(int), 4 + side.depth) > 0


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
