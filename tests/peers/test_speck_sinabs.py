"""Our model of Speck's steps against sinabs, whose neurons SynSense's tools simulate the chip with: every spike."""

import os
import subprocess
from pathlib import Path

import numpy as np
import peer_table
import pytest
from speck_graphs import events, speck_graph

from stdl_export.chips import speck, speck_file
from stdl_export.chips.base import ChipJob
from stdl_export.chips.speck_model import Model
from stdl_export.golden_file import Golden
from stdl_runtimes import reference

pytestmark = pytest.mark.peers

SCRIPT = Path(__file__).parents[1] / "helpers" / "speck_sinabs.py"


NETWORKS = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Random networks, each written for Speck and run by sinabs."""
    if reason := peer_table.absent("sinabs"):
        pytest.skip(reason)
    whole = tmp_path_factory.mktemp("speck")
    for seed in range(NETWORKS):
        _write(seed, whole / str(seed))
    subprocess.run([str(peer_table.python()), str(SCRIPT), str(whole)], check=True, env=os.environ)
    return whole


def _write(seed, folder):
    folder.mkdir()
    rng = np.random.default_rng(seed)
    graph = speck_graph(rng, "zero" if seed % 3 == 2 else "subtract", skip=seed % 2 == 0, biased=seed % 4 == 3, T=12)
    for name in ("c1", "c2", "c3", "fc"):  # weights that are rounded
        graph.nodes[name].weight = graph.nodes[name].weight * np.float32(rng.uniform(0.8, 1.1))
    x = events(rng, T=12, samples=5)
    result = reference.run(graph, x)
    counts = {node: spikes.sum(axis=0).astype(np.int64) for node, spikes in result.spikes.items()}
    speck.write(ChipJob(graph, Golden(x, result.output, None, counts), speck.Options()), folder)
    np.save(folder / "x.npy", x)


@pytest.mark.parametrize("seed", range(NETWORKS))
def test_equal_to_sinabs_in_every_spike(folder, seed):
    here = folder / str(seed)
    configuration, _ = speck_file.read(here / speck.CONFIGURATION)
    ours = Model(configuration).run(np.load(here / "x.npy").astype(np.int64))
    with np.load(here / "out.npz") as theirs:
        assert len(theirs.files) == len(ours.spikes) == 4
        for k, spikes in ours.spikes.items():
            np.testing.assert_array_equal(spikes, theirs[f"core{k}"], f"core {k}")
    assert sum(int(spikes.sum()) for spikes in ours.spikes.values()) > 1000
