"""What we count equals what NeuroBench counts of the same bundle; without NeuroBench, the modules it would listen to.

NeuroBench asks for packages that do not go with ours (snnTorch's own `nir`, torchaudio), and needs none of them here:

    pip install --no-deps --target FOLDER neurobench==2.3.0 snntorch==1.0.0
    STDL_NEUROBENCH=FOLDER python -m pytest tests/stdl_runtimes/test_neurobench.py
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import types

import bundles
import nir
import numpy as np
import pytest
import random_programs
import several
import small_graphs
import torch
from hypothesis import given, settings
from small_graphs import DT, chain, conv_net, full, lif

from stdl_export.common.errors import BadInput, Unavailable
from stdl_runtimes import efficiency, neurobench, reference
from stdl_runtimes.metrics import predictions
from stdl_runtimes.reference_nodes import STATELESS

FOLDER = os.environ.get("STDL_NEUROBENCH")
PRESENT = bool(FOLDER) or importlib.util.find_spec("neurobench") is not None
needs_neurobench = pytest.mark.skipif(
    not PRESENT, reason="neurobench is not installed; STDL_NEUROBENCH names a folder that holds it"
)

RUN = """
import json, sys
from pathlib import Path
import numpy as np, torch
from neurobench.benchmarks import Benchmark
from neurobench.metrics import static, workload
from torch.utils.data import DataLoader, TensorDataset
from stdl_export import bundle as bundles
from stdl_runtimes import neurobench

bundle = bundles.load(Path(sys.argv[1]))
golden = bundle.golden()
x = golden.input if bundle.manifest.input.mode == "repeat" else golden.input.swapaxes(0, 1)
labels = golden.labels if golden.labels is not None else np.zeros(golden.samples)
data = TensorDataset(torch.from_numpy(np.ascontiguousarray(x)), torch.from_numpy(labels.astype(np.int64)))
found = Benchmark(
    neurobench.model(bundle), DataLoader(data, batch_size=golden.samples), [], [],
    [[static.Footprint, static.ConnectionSparsity],
     [workload.ActivationSparsity, workload.ActivationSparsityByLayer, workload.SynapticOperations,
      workload.ClassificationAccuracy]],
).run(quiet=True)
print(json.dumps({name: value if isinstance(value, (int, float, dict)) else float(value)
                  for name, value in found.items()}))
"""


def counted(bundle):
    """NeuroBench's own harness on a bundle's golden samples, in a process where its packages are found."""
    paths = [*sys.path, *([FOLDER] if FOLDER else [])]
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(bundle.path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def mixed():
    """Every kind of node with weights: a Conv1d with groups and 'same', matrices by channel, a Threshold between."""
    rng = np.random.default_rng(4)

    def weights(*shape):
        return (rng.integers(-1, 4, size=shape) / 4).astype(np.float32)

    graph = chain(
        nir.Conv1d(7, weights(4, 1, 3), 1, "same", 2, 2, weights(4)),
        lif(4, 7),
        nir.Affine(weights(4, 5, 7), weights(4, 5)),
        nir.Threshold(full(0.5, 4, 5)),
        nir.Flatten({"input": np.array([4, 5])}, 0, -1),
        nir.Linear(weights(6, 20)),
        nir.CubaLIF(*(full(value, 6) for value in (2 * DT, 2 * DT, 1, 0, 0.5, 0, 1))),
        nir.Affine(weights(3, 6), weights(3)),
        nir.LI(full(2 * DT, 3), full(1, 3), full(0, 3)),
        shape=(2, 7), output=(3,), T=5, input="sequence",
    )  # fmt: skip
    graph.metadata["stdl.output"] = "mean"
    return graph


def networks():
    rng = np.random.default_rng(6)
    images = rng.normal(size=(6, 2, 6, 6)).astype(np.float32)
    events = rng.integers(0, 2, size=(5, 4, 2, 7)).astype(np.float32)
    counts = (rng.random((5, 4, 2, 7)) < 0.3) * rng.integers(1, 3, size=(5, 4, 2, 7))
    yield "images", conv_net(), images
    yield "events", mixed(), events
    yield "counts", mixed(), counts.astype(np.float32)


@needs_neurobench
@pytest.mark.parametrize(("graph", "x"), [pytest.param(g, x, id=name) for name, g, x in networks()])
def test_equal_to_neurobench(tmp_path, graph, x):
    samples = x.shape[0 if graph.metadata["stdl.input"] == "repeat" else 1]
    labels = np.arange(samples) % 3
    bundle = bundles.make(tmp_path / "bundle", graph, x, labels=labels)
    theirs, ours = counted(bundle), efficiency.measure(bundle.graph(), x)
    operations, total = theirs["SynapticOperations"], ours.total
    assert 0 < total.acs < total.dense
    assert operations["Effective_MACs"] == pytest.approx(total.macs)
    assert operations["Effective_ACs"] == pytest.approx(total.acs)
    assert operations["Dense"] == total.dense
    assert 0 < theirs["ActivationSparsity"] < 1
    assert theirs["ActivationSparsity"] == pytest.approx(ours.activation_sparsity)
    by_layer = {layer.node: layer.sparsity for layer in ours.layers if layer.sparsity is not None}
    assert theirs["ActivationSparsityByLayer"] == pytest.approx(by_layer)
    assert theirs["ConnectionSparsity"] == pytest.approx(ours.connection_sparsity, abs=5e-5)  # it rounds
    assert theirs["Footprint"] == ours.footprint
    predicted = predictions(bundle.golden().output, bundle.manifest.output.decoding)
    assert theirs["ClassificationAccuracy"] == pytest.approx((predicted == labels).mean())


class Harness:
    """As much of NeuroBench's model class as a model relies on: the modules of a kind are activations."""

    def __init__(self):
        self.activation_modules = []

    def add_activation_module(self, kind):
        self.activation_modules.append(kind)


@pytest.fixture
def stand_in(monkeypatch):
    models = types.ModuleType("neurobench.models")
    models.NeuroBenchModel = Harness
    monkeypatch.setitem(sys.modules, "neurobench", types.ModuleType("neurobench"))
    monkeypatch.setitem(sys.modules, "neurobench.models", models)


def seen_by(model):
    """What every module of a model is called with, by its name, when it runs."""
    found = {}
    for name, module in model.__net__().named_modules():
        if not list(module.children()):
            module.register_forward_hook(lambda _, x, y, name=name: found.setdefault(name, []).append((x[0], y)))
    return found


@pytest.mark.usefixtures("stand_in")
def test_modules_are_called_with_what_the_reference_computes(tmp_path):
    graph = conv_net()
    x = small_graphs.frames(3, 2, 6, 6)
    bundle = bundles.make(tmp_path / "bundle", graph, x)
    model = neurobench.model(bundle)
    found = seen_by(model)
    classes = model(torch.from_numpy(x))
    assert classes.tolist() == predictions(bundle.golden().output, "mean").tolist()
    spikes = reference.run(graph, x).spikes
    for node in ("lif1", "lif2"):
        shown = np.stack([y.numpy() for _, y in found[f"activations.{node}"]])
        np.testing.assert_array_equal(shown, spikes[node])
    shown = np.stack([x.numpy() for x, _ in found["layers.conv2"]])
    np.testing.assert_array_equal(shown, spikes["lif1"])
    assert len(found["layers.conv1"]) == 4  # the frame is repeated: it comes in every step
    y = found["layers.conv1"][0][1].numpy()
    np.testing.assert_allclose(y, STATELESS[nir.Conv2d](graph.nodes["conv1"], x), atol=1e-5)


@settings(max_examples=20)
@given(graph=random_programs.graphs())
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_any_program_becomes_modules_whose_bytes_are_the_footprint(graph):
    network = neurobench._Network(torch, graph)
    x = random_programs.inputs(graph, 2)
    network.run(x)
    tensors = [*network.root.parameters(), *network.root.buffers()]
    assert sum(each.numel() * each.element_size() for each in tensors) == efficiency.measure(graph, x).footprint
    assert not any(each.requires_grad for each in tensors)


@pytest.mark.usefixtures("stand_in")
def test_several_inputs_are_refused(tmp_path):
    bundle = bundles.make(tmp_path / "bundle", several.network(), several.inputs())
    with pytest.raises(BadInput, match="NeuroBench takes networks with one Input"):
        neurobench.model(bundle)


def test_without_neurobench_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "neurobench", None)
    bundle = bundles.make(tmp_path / "bundle", conv_net(), small_graphs.frames(3, 2, 6, 6))
    with pytest.raises(Unavailable, match="pip install neurobench"):
        neurobench.model(bundle)
