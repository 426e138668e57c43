"""Speck: configurations that are read back and run as the graph does, to the spike; what does not fit, by name."""

import itertools
import json
import re
from dataclasses import replace

import conformance
import nir
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from speck_graphs import DT, conv, events, neurons, speck_graph

from stdl_export import graph as graphs
from stdl_export.chips import speck, speck_file, speck_limits, speck_map
from stdl_export.chips.base import ChipJob
from stdl_export.chips.speck import Options
from stdl_export.chips.speck_model import Model
from stdl_export.common.errors import BadInput
from stdl_export.golden_file import Golden
from stdl_export.program import program
from stdl_runtimes import reference


def _written(graph, folder, x):
    graphs.check(graph, "test")
    assert not speck.refusals(graph, Options())
    result = reference.run(graph, x)
    counts = {node: spikes.sum(axis=0).astype(np.int64) for node, spikes in result.spikes.items()}
    made = speck.write(ChipJob(graph, Golden(x, result.output, None, counts), Options()), folder)
    return made, *speck_file.read(folder / speck.CONFIGURATION), result


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    reset=st.sampled_from(["subtract", "zero"]),
    skip=st.booleans(),
    biased=st.booleans(),
)
def test_random_networks_survive_write_read_run(tmp_path_factory, seed, reset, skip, biased):
    """Whole-numbered weights: the model of what was read back fires as the graph, every spike of every layer."""
    rng, folder = np.random.default_rng(seed), tmp_path_factory.mktemp("speck")
    x = events(rng)
    _, configuration, about, expected = _written(speck_graph(rng, reset, skip, biased), folder, x)
    ran = Model(configuration).run(x.astype(np.int64))
    for layer in about["layers"]:
        theirs = expected.spikes[layer["node"]]
        np.testing.assert_array_equal(ran.spikes[layer["core"]].reshape(theirs.shape), theirs, layer["node"])


def test_the_networks_above_do_what_there_is_to_do():
    """Several spikes a step, potentials at their lower bound, silent and busy layers."""
    most, floors, outputs = [], [], []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        graph = speck_graph(rng)
        found = reference.run(graph, events(rng), potentials=True)
        most.append(max(int(found.spikes[f"n{k}"].max()) for k in (1, 2, 3)))
        floors.append((found.potentials["n2"] == -300).any())
        outputs.append(found.output.max())
    assert min(most) > 1
    assert any(floors)
    assert sum(output > 0 for output in outputs) > 3


def test_a_core_by_hand():
    """One pixel, weight 3, threshold 5, bias 1: v = 4; 8 fires 1, 3 is left; 7 fires 1, 2 is left."""
    core = speck_file.CoreConfig(
        np.full((1, 1, 1, 1), 3),
        np.ones(1, np.int64),
        np.zeros((1, 1, 1), np.int64),
        1,
        0,
        (1, 1, 1),
        5,
        -10,
        False,
        (),
    )
    configuration = speck_file.Configuration({4: core}, (speck_file.Destination(layer=4),), 4)
    state, model = None, Model(configuration)
    state = model.rest(1)
    fired, left = [], []
    for x in (1, 1, 1, -9):
        model.step(state, np.full((1, 1, 1, 1), x))
        fired.append(int(state.fired[4].sum()))
        left.append(int(state.v[4].sum()))
    assert fired == [0, 1, 1, 0]
    assert left == [4, 3, 2, -10]  # 2 - 27 + 1 stops at the bound


def test_the_configuration_is_in_the_documented_form(tmp_path):
    rng = np.random.default_rng(1)
    graph = speck_graph(rng)
    _written(graph, tmp_path, events(rng))
    content = json.loads((tmp_path / speck.CONFIGURATION).read_text())
    places = {layer["node"]: layer["core"] for layer in content["layers"]}
    first = content["cnn_layers"][str(places["n1"])]
    assert set(first) == {
        "dimensions", "weights", "biases", "leak_enable", "return_to_zero", "threshold_high", "threshold_low",
        "monitor_enable", "neurons_initial_value", "destinations",
    }  # fmt: skip
    weight = graph.nodes["c1"].weight
    assert first["weights"][1][0][2][0] == weight[1, 0, 0, 2]  # x before y
    assert first["threshold_high"] == 260
    assert first["threshold_low"] == -(1 << 15)  # always said
    assert content["cnn_layers"][str(places["n2"])]["threshold_low"] == -300
    assert {each["layer"] for each in first["destinations"]} == {places["n2"], places["n3"]}
    assert {each["pooling"] for each in first["destinations"]} == {2}
    assert content["input"]["destinations"] == [{"layer": places["n1"], "enable": True, "pooling": 1}]
    assert content["output"] == places["n4"]
    linear = content["cnn_layers"][str(places["n4"])]["dimensions"]
    assert linear["kernel_size"] == 2
    assert linear["input_shape"]["feature_count"] == 4
    assert content["validated"].startswith("not by")


def test_gains_averages_and_a_float_scale(tmp_path):
    """Weights that are no whole numbers: the losses are told, and small."""
    rng = np.random.default_rng(2)
    graph = speck_graph(rng)
    for name in ("c1", "c2", "c3", "fc"):
        graph.nodes[name].weight = graph.nodes[name].weight * np.float32(0.0131)
    for name in ("n1", "n2", "n3", "n4"):
        graph.nodes[name].v_threshold = graph.nodes[name].v_threshold * np.float32(0.0131)
    dialect = json.loads(graph.metadata["stdl.dialect"])
    del dialect["nodes"]["n2"]["v_min"]
    graph.metadata["stdl.dialect"] = json.dumps(dialect)
    made, _, about, _ = _written(graph, tmp_path, events(rng))
    assert all(lost["weight_error"] < 0.01 for lost in about["lost"])
    assert all(abs(lost["drift"]) < 0.05 for lost in about["lost"])
    assert about["measured"]["agreement"] >= 6 / 7
    assert [layer.neurons for layer in made.mapping.layers] == [192, 48, 64, 5]
    assert (tmp_path / speck.PICTURE).read_text().startswith("<svg")


# --- what does not fit ----------------------------------------------------------------------------------------------


def _chain(*layers, size=(2, 8, 8), T=4):
    """input -> layers in a row -> output; each a node, named after its kind and number."""
    names = [f"{type(layer).__name__.lower()}{k}" for k, layer in enumerate(layers, start=1)]
    nodes = {"input": nir.Input({"input": np.array(size)}), **dict(zip(names, layers, strict=True))}
    last = layers[-1]
    shape = last.v_threshold.shape if hasattr(last, "v_threshold") else last.tau.shape
    nodes["output"] = nir.Output({"output": np.array(shape)})
    path = ["input", *names, "output"]
    metadata = {
        "stdl.dt": DT, "stdl.T": T, "stdl.dialect": "nir", "stdl.reset": "subtract", "stdl.input": "sequence",
        "stdl.output": "sum",
    }  # fmt: skip
    edges = list(itertools.pairwise(path))
    return nir.NIRGraph(nodes=nodes, edges=edges, metadata=metadata, type_check=False)


def _rng():
    return np.random.default_rng(0)


def _refused(graph):
    graphs.check(graph, "test")
    return [str(reason) for reason in speck.refusals(graph, Options())]


def _lif():
    values = (np.full((3, 8, 8), value, np.float32) for value in (4 * DT, 1.0, 0.0, 1.0))
    return nir.LIF(*values, v_reset=np.zeros((3, 8, 8), np.float32))


def _grouped():
    return nir.Conv2d((8, 8), np.ones((2, 1, 3, 3), np.float32), 1, 1, 1, 2, np.zeros(2, np.float32))


def _oblong():
    return nir.Conv2d((8, 8), np.ones((3, 2, 3, 1), np.float32), 1, (1, 0), 1, 1, np.zeros(3, np.float32))


def _dilated():
    return nir.Conv2d((8, 8), np.ones((3, 2, 3, 3), np.float32), 1, 2, 2, 1, np.zeros(3, np.float32))


def _single(kernel=3, stride=1, padding=1, channels=3):
    """One convolution and its neurons."""
    size = (8 + 2 * padding - kernel) // stride + 1
    return [conv(_rng(), (2, 8, 8), channels, kernel, stride, padding), neurons((channels, size, size), 100)]


def _heavy():
    return [*_single(channels=300), conv(_rng(), (300, 8, 8), 200, stride=8), neurons((200, 1, 1), 100)]


def _pooled():
    three = np.array([3, 3])
    pool = nir.SumPool2d(three, three, np.array([0, 0]))
    return [*_single(), pool, conv(_rng(), (3, 2, 2), 3), neurons((3, 2, 2), 99)]


REFUSED = {
    "leak": (lambda: [_single()[0], _lif()], r"'lif2': type is LIF \(its potential leaks\)"),
    "groups": (lambda: [_grouped(), neurons((2, 8, 8), 100)], "'conv2d1': groups is 2"),
    "kernel": (lambda: [_oblong(), neurons((3, 8, 8), 100)], r"'conv2d1': kernel is \(3, 1\).*square"),
    "dilation": (lambda: [_dilated(), neurons((3, 8, 8), 100)], r"'conv2d1': dilation is \(2, 2\)"),
    "stride": (lambda: _single(stride=3), "'conv2d1': stride is 3.*1, 2, 4"),
    "padding": (lambda: _single(kernel=16, padding=8), r"'conv2d1': padding is 8.*0\.\.7"),
    "large kernel": (lambda: _single(kernel=17, padding=7), "'conv2d1': kernel is 17.*16"),
    "channels": (lambda: _single(kernel=1, padding=0, channels=1025), "channels is 1025"),
    "kernel memory": (_heavy, "'if4': kernel memory is 1228800 entries.*65536"),
    "neuron memory": (lambda: _single(kernel=1, padding=7, channels=1024), "'if2': neuron memory"),
    "pool": (_pooled, r"'sumpool2d3': pool is kernel \(3, 3\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_core_does_not_have_is_refused(name):
    layers, match = REFUSED[name]
    assert any(re.search(match, reason) for reason in _refused(_chain(*layers()))), _refused(_chain(*layers()))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 20), st.integers(1, 9), st.integers(0, 9), st.sampled_from([1, 3, 40, 1024, 1030]))
def test_random_convolutions_are_refused_by_name_or_taken(kernel, stride, padding, channels):
    """What is refused is exactly what is above a limit."""
    size = (8 + 2 * padding - kernel) // stride + 1
    assume(size >= 1 and padding < kernel)
    above = {
        "kernel": kernel > 16,
        "stride": stride not in (1, 2, 4, 8),
        "padding": padding > 7,
        "channels": channels > 1024,
    }
    found = {
        re.search("': (.*?) is ", reason)[1] for reason in _refused(_chain(*_single(kernel, stride, padding, channels)))
    }
    assert found - {"kernel memory", "neuron memory", "bias memory", "memory", "cores"} == {
        name for name, over in above.items() if over
    }
    entries = 2 << (int(np.ceil(np.log2(kernel**2))) + int(np.ceil(np.log2(channels))))
    assert ("kernel memory" in found) == (entries > 65536)


def test_large_inputs_and_maps():
    graph = _chain(conv(_rng(), (1, 130, 130), 2, stride=1), neurons((2, 130, 130), 9), size=(1, 130, 130))
    reasons = _refused(graph)
    assert any("node 'input': map is 130x130, the chip takes 128x128" in reason for reason in reasons)
    assert any("map is 130, the chip takes at most 64" in reason for reason in reasons)


def test_nine_cores_and_no_tenth():
    def deep(count):
        return _chain(*[layer for _ in range(count) for layer in (conv(_rng(), (2, 8, 8), 2), neurons((2, 8, 8), 99))])

    assert not _refused(deep(9))
    (reason,) = _refused(deep(10))
    assert "cores is 10 layers" in reason


def test_the_assignment_is_a_matching():
    """Layers that fit few cores get them, wherever they stand: large kernels 5 and 6, large maps 0..2."""
    layers = []
    for channels, before, stride in ((16, 2, 1), (16, 16, 1), (16, 16, 1), (64, 16, 8), (64, 64, 1)):
        size = 64 // (8 if before == 64 else 1)
        layers += [
            conv(_rng(), (before, size, size), channels, stride=stride),
            neurons((channels, size // stride, size // stride), 99),
        ]
    graph = _chain(*layers, size=(2, 64, 64))
    graphs.check(graph, "test")
    found, reasons = speck_map.network(program(graph))
    assert not reasons
    places = speck_limits.assigned(found)
    assert {places[path] for path in ("if2", "if4", "if6")} == {0, 1, 2}
    assert places["if10"] in (5, 6)
    assert len(set(places.values())) == 5


def test_two_large_kernels_too_many():
    layers = [conv(_rng(), (2, 8, 8), 64), neurons((64, 8, 8), 99)]
    for _ in range(3):
        layers += [conv(_rng(), (64, 8, 8), 64), neurons((64, 8, 8), 99)]
    (reason,) = _refused(_chain(*layers))
    assert "a core of its own" in reason
    assert "if4 fits [5, 6]" in reason


def test_feedback_fan_out_and_readouts():
    graph = speck_graph(_rng())
    graph.nodes["back"] = conv(_rng(), (3, 8, 8), 3)
    graph.edges += [("n1", "back"), ("back", "n1")]
    assert any("of the step before" in reason for reason in _refused(graph))
    graph = speck_graph(_rng())
    for k in (5, 6):
        graph.nodes |= {f"c{k}": conv(_rng(), (3, 8, 8), 2), f"n{k}": neurons((2, 8, 8), 9)}
        graph.edges += [("n1", f"c{k}"), (f"c{k}", f"n{k}")]
    graph.nodes["more"] = nir.Output({"output": np.array([2, 8, 8])})
    graph.edges += [("n5", "more"), ("n6", "more")]
    assert any("Outputs is 2 of them" in reason for reason in _refused(graph))
    graph = speck_graph(_rng())
    graph.edges.remove(("n4", "output"))
    graph.edges.append(("fc", "output"))
    del graph.nodes["n4"]
    graph.edges.remove(("fc", "n4"))
    dialect = json.loads(graph.metadata["stdl.dialect"])
    del dialect["nodes"]["n4"]
    graph.metadata["stdl.dialect"] = json.dumps(dialect)
    assert any("let the readout fire" in reason for reason in _refused(graph))


def test_inputs_that_are_no_events(tmp_path):
    rng = _rng()
    with pytest.raises(BadInput, match="speck: golden inputs are not whole numbers of spikes"):
        _written(speck_graph(rng), tmp_path, events(rng) + np.float32(0.25))


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("speck"), np.random.default_rng(5)
    _written(speck_graph(rng), folder, events(rng))
    return folder / speck.CONFIGURATION


def _refusal(path):
    try:
        speck_file.read(path)
    except BadInput as error:
        return str(error)
    return None


def test_damaged_files_are_one_line(file, tmp_path):
    rng, whole, refused = np.random.default_rng(0), file.read_bytes(), 0
    path = tmp_path / "a.json"
    for round_ in range(200):
        content = bytearray(whole)
        if round_ % 2:
            for at in rng.integers(0, len(content), 4):
                content[at] = int(rng.integers(256))
        else:
            del content[int(rng.integers(len(content))) :]
        path.write_bytes(content)
        said = _refusal(path)
        assert said is None or ("\n" not in said and str(path) in said)
        refused += said is not None
    assert refused > 150


def _first(content):
    return content["cnn_layers"][str(content["layers"][0]["core"])]


WRONG = {
    "threshold": (lambda c: _first(c).update(threshold_high=0), "threshold_high"),
    "low": (lambda c: _first(c).update(threshold_low=1), "threshold_low"),
    "weights": (lambda c: _first(c)["weights"][0][0][0].__setitem__(0, 200), "weights are -?[0-9]+..200"),
    "floats": (lambda c: _first(c)["biases"].__setitem__(0, 0.5), "whole numbers"),
    "ragged": (lambda c: _first(c)["weights"][0].pop(), "weights"),
    "shape": (lambda c: _first(c)["dimensions"]["output_shape"]["size"].update(x=7), "neurons_initial_value"),
    "stride": (lambda c: _first(c)["dimensions"]["stride"].update(x=2), "same along x and y"),
    "core": (lambda c: c["cnn_layers"].update({"9": _first(c)}), "core '9'"),
    "destination": (lambda c: _first(c)["destinations"][0].update(layer=8), "core 8, which is not there|reads"),
    "pooling": (lambda c: _first(c)["destinations"][0].update(pooling=3), "pooling"),
    "circle": (lambda c: c["cnn_layers"][str(c["layers"][1]["core"])]["destinations"].append(
        {"layer": c["layers"][1]["core"], "enable": True, "pooling": 1}), "circle"),
    "output": (lambda c: c.update(output=8), "output is core 8"),
    "input": (lambda c: c["input"]["destinations"][0].update(enable=False), "feeds no core"),
    "no input": (lambda c: c["input"].update(destinations=[]), "destinations"),
    "key": (lambda c: _first(c).update(more=1), "more"),
    "missing": (lambda c: _first(c).pop("biases"), "biases"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_foreign_files(file, tmp_path, name):
    change, match = WRONG[name]
    content = json.loads(file.read_text())
    change(content)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    with pytest.raises(BadInput, match=match):
        speck_file.read(path)


def test_a_network_that_sinabs_ran_and_exported(tmp_path):
    """Beside what sinabs itself recorded of it: 8 bits cost few spikes."""
    case = conformance.load("sinabs-conv-iaf-sumpool")
    x = case.arrays["input"]
    graph = graphs.with_settings(case.graph, replace(graphs.settings(case.graph), input="sequence"))
    _, configuration, about, expected = _written(graph, tmp_path, x)
    ran = Model(configuration).run(x.astype(np.int64))
    for layer in about["layers"]:
        recorded = case.arrays[f"spikes:{layer['node']}"]
        np.testing.assert_array_equal(expected.spikes[layer["node"]], recorded)
        off = np.abs((ran.spikes[layer["core"]].reshape(recorded.shape) - recorded).sum(axis=0)).sum()
        assert off <= 0.06 * recorded.sum(), layer["node"]
    assert len(about["layers"]) == 3
