"""The target loihi2: what it writes, that it fits and says what was lost, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import nir
import numpy as np
import pytest
import random_graphs
from bundles import make
from hypothesis import given, settings
from hypothesis import strategies as st
from skip_graphs import delayed, recurrent, residual
from small_graphs import chain, lif

from stdl_export import assemble
from stdl_export import bundle as bundles
from stdl_export import golden as goldens
from stdl_export.chips import loihi2, loihi2_build, loihi2_side, netx_read
from stdl_export.chips.base import ChipJob
from stdl_export.chips.loihi2_model import Aligned, Simulation
from stdl_export.chips.netx import Conv, same
from stdl_export.common.errors import BadInput
from stdl_export.targets import TARGETS, Job
from stdl_export.tensorrt import Profile

SEEDS = st.integers(0, 10**6)


def exported(graph: nir.NIRGraph, x: np.ndarray, folder: Path, **options: int) -> loihi2_side.Side:
    folder.mkdir(exist_ok=True)
    loihi2.write(ChipJob(graph, goldens.from_reference(graph, x), loihi2.Options(**options)), folder)
    return loihi2_side.read(folder / loihi2.SIDE)


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_networks_with_skip_connections_are_the_same_on_the_chips_own_time(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    """`write` itself compares all potentials of two samples; here all of the batch, and the file read back."""
    folder = tmp_path_factory.mktemp("loihi2")
    graph = residual(seed, "sequence")
    x = spikes_for(graph, 4, 3, seed)
    side = exported(graph, x, folder)
    network = netx_read.read(folder / loihi2.NETWORK)
    late = Simulation(network, 3, loihi2.reader_options(side, 4), network.input_shape)
    aligned = Aligned(network.neurons, 3, side.reader.options)
    expected = []
    for frame in x:
        aligned.step(frame)
        expected.append([stage.neurons.spikes for stage in aligned.stages])
    for t in range(4 + side.depth):
        late.step(x[t] if t < 4 else np.zeros_like(x[0]))
        for k, stage in enumerate(late.stages):
            if k < t <= k + 4:
                np.testing.assert_array_equal(stage.neurons.spikes, expected[t - k - 1][k])


def spikes_for(graph: nir.NIRGraph, T: int, batch: int, seed: int) -> np.ndarray:
    shape = graph.nodes["input"].input_type["input"].tolist()
    return np.random.default_rng(seed).integers(0, 2, (T, batch, *shape)).astype(np.float32)


def test_a_bundle_has_the_file_the_side_the_report_and_the_picture(tmp_path: Path) -> None:
    graph = residual(3)
    made = make(tmp_path / "bundle", graph, random_graphs.inputs(graph, 4, 4), targets=("loihi2",))
    (info,) = made.manifest.chips
    assert (info.chip, info.folder) == ("loihi2", "chips/loihi2")
    assert info.graph_sha256 == made.manifest.files[bundles.GRAPH]
    for name in (loihi2.NETWORK, loihi2.SIDE, loihi2.REPORT, loihi2.PICTURE):
        assert f"chips/loihi2/{name}" in made.manifest.files
    report = json.loads(made.file("chips/loihi2/report.json").read_text())
    layers = report["loss"]["layers"]
    assert {layer["node"] for layer in layers} >= {"a0", "a1", "output"}
    assert all(0 <= layer["weight_error"] < 0.1 for layer in layers)
    assert all(layer["accumulator_seen"] <= layer["accumulator_bound"] for layer in layers)
    assert report["loss"]["agreement"] > 0.5
    assert report["loss"]["spikes_per_inference"] > 0
    assert [layer["name"] for layer in report["mapping"]["layers"]] == [layer["node"] for layer in layers]
    assert made.file("chips/loihi2/mapping.svg").read_text().startswith("<svg")


def test_written_twice_the_second_replaces_the_first(tmp_path: Path) -> None:
    graph = residual(3)
    made = make(tmp_path / "bundle", graph, random_graphs.inputs(graph, 4, 4), targets=("nir",))
    for levels in (7, 5):
        job = Job(graph, ("sequence",), "auto", Profile(), "fp32", chips={"loihi2": {"levels": levels}})
        made, _ = assemble.add(made, job, ["loihi2"])
        assert len(made.manifest.chips) == 1
        assert loihi2_side.read(made.file("chips/loihi2/network.json")).input.most == levels


def test_the_side_file_says_how_inputs_go_in_and_outputs_come_out(tmp_path: Path) -> None:
    graph = residual(8)
    x = random_graphs.inputs(graph, 6, 4)  # quarters from -2 to 3: a grid of 21 values
    side = exported(graph, x, tmp_path)
    assert side.input.most <= 20
    assert side.input.step == (0.25, 0.25)
    assert side.reader.input_message_bits == side.input.most.bit_length()
    assert side.reader.reset_interval == 4 + side.depth + 1
    levels = side.input.levels
    np.testing.assert_allclose(levels.encoded(x) * 0.25 + levels.low.reshape(1, -1, 1, 1), x)


@settings(max_examples=12, deadline=None)
@given(SEEDS, st.booleans())
def test_recurrent_layers_are_calibrated_and_checked(
    tmp_path_factory: pytest.TempPathFactory, seed: int, cuba: bool
) -> None:
    graph = recurrent(seed, cuba=cuba)
    try:
        side = exported(graph, spikes_for(graph, 5, 3, seed), tmp_path_factory.mktemp("loihi2"))
    except BadInput as error:  # v_leak alone makes it fire before its input is there
        assert "from before its input arrives" in str(error)  # noqa: PT017
        return
    assert side.depth == 2


@settings(max_examples=12, deadline=None)
@given(SEEDS)
def test_delays_are_written_and_hold_on_the_chips_own_time(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    """`write` compares every potential with the network without the chip's own delays."""
    graph, folder = delayed(seed), tmp_path_factory.mktemp("loihi2")
    for name, node in graph.nodes.items():  # nothing fires before the input is there
        if isinstance(node, nir.LIF):
            node.v_leak = np.minimum(node.v_leak, 0)
        if name in ("c0", "fc1"):
            node.bias = np.minimum(node.bias, 0)
    exported(graph, spikes_for(graph, 6, 3, seed), folder)
    layers = netx_read.read(folder / loihi2.NETWORK).neurons
    assert layers[1].delay is not None
    assert layers[1].delay.max() == max(np.rint(graph.nodes["held0"].delay.max() / 1e-4), 0)


def test_a_layer_that_fires_before_its_input_and_reads_itself_is_refused(tmp_path: Path) -> None:
    graph = next(g for seed in range(9) if isinstance((g := recurrent(seed)).nodes["a0"], nir.LIF))
    graph.nodes["a0"].v_leak = np.full(5, 4.0, np.float32)  # beyond every threshold
    graph.nodes["back"].weight = np.ones((5, 5), np.float32) / 4 - np.eye(5, dtype=np.float32)
    with pytest.raises(BadInput, match="node 'a0': its own spikes from before its input arrives"):
        exported(graph, spikes_for(graph, 5, 3, 0), tmp_path)


def test_an_analog_input_that_jumps_over_a_layer_is_refused_and_spikes_are_carried(tmp_path: Path) -> None:
    graph = residual(3, "sequence")
    weight = np.ones((graph.nodes["c1"].weight.shape[0], 2, 3, 3), np.float32)
    stride = graph.nodes["c1"].stride
    graph.nodes["jump"] = nir.Conv2d(None, weight, stride, (1, 1), (1, 1), 1, np.zeros(len(weight), np.float32))
    graph.edges += [("input", "jump"), ("jump", "a1")]
    with pytest.raises(BadInput, match="node 'a1': what it reads is the analog input, past other layers"):
        exported(graph, random_graphs.inputs(graph, 3, 4), tmp_path)
    side = exported(graph, spikes_for(graph, 4, 3, 0), tmp_path)
    assert "input" in side.layers[0].carries


def test_every_reason_is_told_by_the_target(tmp_path: Path) -> None:
    graph = residual(3)
    graph.metadata["stdl.reset"] = "subtract"
    lines = [str(each) for each in loihi2.refusals(graph, loihi2.Options())]
    neurons = [name for name in graph.nodes if name.startswith("a")]
    assert len(lines) == len(neurons)
    with pytest.raises(BadInput) as caught:
        make(tmp_path / "bundle", graph, random_graphs.inputs(graph, 4, 4), targets=("loihi2",))
    assert all(f"node '{name}': reset is 'subtract'" in str(caught.value) for name in neurons)
    assert not (tmp_path / "bundle").exists()
    assert TARGETS["loihi2"].checks


def test_a_wide_accumulator_gets_a_smaller_scale(tmp_path: Path) -> None:
    """600 inputs of weight 254 that all arrive at once would leave 131071."""
    weight = np.concatenate([np.ones((2, 800), np.float32), -np.ones((1, 800), np.float32)])
    graph = chain(nir.Linear(weight), lif(3, threshold=3.0), shape=(800,), output=(3,), input="sequence", T=3)
    x = np.ones((3, 2, 800), np.float32)
    side = exported(graph, x, tmp_path)
    layer = netx_read.read(tmp_path / loihi2.NETWORK).neurons[0]
    assert int(np.abs(layer.weight).max()) * 800 <= 131_071
    assert int(layer.neuron.v_threshold) == side.layers[0].scale
    report = json.loads((tmp_path / loihi2.REPORT).read_text())["loss"]["layers"][0]
    assert 100_000 < report["accumulator_seen"] <= 131_071


def test_spikes_and_synaptic_operations_are_counted_with_relays(tmp_path: Path) -> None:
    """A layer of 3 that all fire, and one behind it with 4 weights that are not 0."""
    from stdl_export.chips.loihi2_report import loss

    first, second = np.ones((3, 2), np.float32), np.array([[1, 1, 0], [0, -1, 1]], np.float32)
    graph = chain(nir.Linear(first), lif(3), nir.Linear(second), lif(2), shape=(2,), output=(2,), input="sequence", T=3)
    x = np.ones((3, 4, 2), np.float32)
    golden = goldens.from_reference(graph, x)
    made = loihi2_build.structure(graph, [])
    assert made is not None
    built = loihi2_build.build(made, x, 3, None, None)
    found = loss(built, loihi2_build.run(built, x, 3, 4), golden, "sum")
    assert golden.counts["n1"].sum() == 4 * 9
    behind = int(golden.counts["n3"].sum())
    assert found.spikes_per_inference == 9 + behind / 4
    assert found.synops_per_inference == pytest.approx(3 * 4)


def test_a_readout_keeps_room_below_its_threshold(tmp_path: Path) -> None:
    graph = residual(6)
    x = random_graphs.inputs(graph, 6, 4)
    exported(graph, x, tmp_path)
    report = json.loads((tmp_path / loihi2.REPORT).read_text())["loss"]["layers"][-1]
    assert report["node"] == "output"
    assert 0 < report["v_seen"] <= 131_071 / loihi2_build.READOUT_ROOM


def test_a_depthwise_kernel_is_stored_in_groups(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).normal(size=(4, 1, 3, 3)).astype(np.float32)
    conv = nir.Conv2d(None, weight, 1, 1, 1, 4, np.zeros(4, np.float32))
    graph = chain(conv, lif(4, 5, 5), shape=(4, 5, 5), input="sequence", T=3)
    exported(graph, spikes_for(graph, 3, 2, 0), tmp_path)
    layer = netx_read.read(tmp_path / loihi2.NETWORK).neurons[0]
    assert isinstance(layer, Conv)
    assert (layer.groups, layer.weight.shape) == (4, (4, 1, 3, 3))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[]", "is"),
        ("{", "is not JSON"),
        ('{"schema_version": 9}', "schema_version"),
        ('{"depth": 1, "depth": 1}', "twice"),
    ],
)
def test_a_damaged_side_file_is_one_line(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "network.json"
    path.write_text(content)
    with pytest.raises(BadInput) as caught:
        loihi2_side.read(path)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_same_graph_gives_the_same_network(tmp_path: Path) -> None:
    graph = residual(5)
    x = random_graphs.inputs(graph, 4, 4)
    for name in ("one", "two"):
        exported(graph, x, tmp_path / name)
    one, two = (netx_read.read(tmp_path / name / loihi2.NETWORK) for name in ("one", "two"))
    assert same(one, two)


def test_weights_that_vanish_beside_the_threshold_are_refused(tmp_path: Path) -> None:
    """Beside a threshold of 17 bits 3 millionths of it is less than half a step."""
    graph = chain(nir.Linear(np.full((2, 2), 3e-6, np.float32)), lif(2), shape=(2,), input="sequence", T=3)
    with pytest.raises(BadInput, match="node 'n1': its weight is 0 in whole numbers at the largest scale"):
        exported(graph, spikes_for(graph, 3, 2, 0), tmp_path)


def test_a_bias_beyond_13_bits_is_refused(tmp_path: Path) -> None:
    bias = np.array([5e3, 0], np.float32)
    graph = chain(nir.Affine(np.ones((2, 2), np.float32), bias), lif(2), shape=(2,), input="sequence", T=3)
    with pytest.raises(BadInput, match="node 'n1': its bias is 5000 at the smallest scale, the chip takes 13 bits"):
        exported(graph, spikes_for(graph, 3, 2, 0), tmp_path)


def test_a_synapse_with_memory_cannot_carry_a_skip_connection(tmp_path: Path) -> None:
    graph = residual(3, "sequence")
    made = loihi2_build.structure(graph, [])
    assert made is not None
    host = next(link.unit.path for link in made.links if link.hosts)
    node = graph.nodes[host]
    one, tau = np.ones(node.r.shape, np.float32), np.full(node.r.shape, 4e-4, np.float32)
    graph.nodes[host] = nir.CubaLIF(tau / 2, tau, 4 * one, 0 * one, one, v_reset=0 * one, w_in=one)
    for name, other in graph.nodes.items():  # a bias in front of its synapse would be another reason
        if isinstance(other, nir.Conv2d) and (name, host) in graph.edges:
            other.bias = other.bias * 0
    with pytest.raises(BadInput, match=f"node '{host}': its synapse is one with memory"):
        exported(graph, spikes_for(graph, 4, 3, 0), tmp_path)


def test_low_agreement_is_a_warning(tmp_path: Path) -> None:
    graph = residual(3)
    x = random_graphs.inputs(graph, 12, 4)
    tmp_path.mkdir(exist_ok=True)
    golden = goldens.from_reference(graph, x)
    wrong = goldens.Golden(golden.input, -golden.output, None, golden.counts)
    found = loihi2.write(ChipJob(graph, wrong, loihi2.Options()), tmp_path)
    assert any("of predictions agree: give more input levels" in line for line in found.warnings)
