"""Several Inputs and Outputs, from the command through the bundle to the validation."""

import json

import bundles as made
import nir
import numpy as np
import pytest
import random_programs
from hypothesis import HealthCheck, given, settings
from several import DEEP, IMAGE, SHALLOW, TWICE, VECTOR, WIRE, inputs, network

from stdl_export import bundle as bundles
from stdl_export import cli
from stdl_export import graph as graphs
from stdl_export.common import console
from stdl_export.common.errors import BadInput, Unavailable
from stdl_runtimes import base, reference
from stdl_runtimes import cli as validation

MODES = pytest.mark.parametrize("mode", ["sequence", "repeat"])


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def export(*arguments):
    """The exit code of stdl-export."""
    return console.run(cli.command, [*map(str, arguments)])


def validate(*arguments):
    """The exit code of stdl-validate."""
    return console.run(validation.command, [*map(str, arguments)])


@MODES
@pytest.mark.parametrize("T", [6, None])
def test_from_the_command_to_parity(here, mode, T, capsys, monkeypatch):
    graphs.write(network(mode, T), here / "net.nir")
    assert export("net.nir", "--target", "onnx", "--golden", 5, "--out", "out") == 0
    manifest = json.loads((here / "out" / "manifest.json").read_text())
    assert [(each["node"], each["name"], each["shape"]) for each in manifest["input"]["tensors"]] == [
        (IMAGE, IMAGE, [2, 4, 4]),
        (VECTOR, VECTOR, [3]),
    ]
    shapes = {each["name"]: each["shape"] for each in manifest["output"]["tensors"]}
    assert shapes == {DEEP: [5], TWICE: [5], SHALLOW: [3, 4, 4], WIRE: [3]}
    assert manifest["output"]["prediction"] is None
    with np.load(here / "out" / "golden.npz") as golden:
        names = {f"input:{IMAGE}", f"input:{VECTOR}", "count:lif1", "count:lif2"}
        assert set(golden.files) == names | {f"output:{name}" for name in shapes}
        assert golden["count:lif2"].any()
        assert golden["count:lif1"].any()
    assert (
        validate("out", "--runtime", "onnxruntime", "--latency", "--latency-seconds", 0.02, "--json", "out.json") == 0
    )
    found = json.loads((here / "out.json").read_text())
    assert [line["runtime"] for line in found["runtimes"]][1:] == ["reference", "onnxruntime", "onnxruntime step"]
    assert {line["agreement"]["value"] for line in found["runtimes"][1:]} == {1.0}
    assert "Traceback" not in capsys.readouterr().err


@MODES
def test_a_bundle_is_a_source_again_and_its_golden_samples_are_inputs(here, mode):
    graphs.write(network(mode), here / "net.nir")
    x = inputs(mode)
    np.savez(here / "in.npz", **x, more=np.zeros(3))
    assert export("net.nir", "--target", "onnx", "--inputs", "in.npz", "--golden", 3, "--out", "out") == 0
    golden = bundles.load(here / "out").golden()
    for name, each in x.items():
        assert np.array_equal(golden.input[name], each[:3] if mode == "repeat" else each[:, :3])
    expected = reference.run(network(mode), golden.input).outputs
    assert {name: each.tolist() for name, each in golden.output.items()} == {
        name: each.tolist() for name, each in expected.items()
    }
    assert export("out", "--target", "onnx", "--golden", 2, "--out", "again") == 0
    again = bundles.load(here / "again").golden()
    assert again.samples == 2
    assert np.array_equal(again.output[DEEP], golden.output[DEEP][:, :2])
    assert export("net.nir", "--target", "nir", "--inputs", "out/golden.npz", "--out", "third") == 0
    assert np.array_equal(bundles.load(here / "third").golden().output[WIRE], golden.output[WIRE])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: x.pop(VECTOR), f"has no array '{VECTOR}' of numbers"),
        (lambda x: x.update({VECTOR: x[VECTOR][:4]}), "the inputs differ in time steps or samples"),
        (lambda x: x.update({VECTOR: x[VECTOR][:, :2]}), "the inputs differ in time steps or samples"),
        (
            lambda x: x.update({VECTOR: x[VECTOR][..., :2]}),
            f"shape (2,) was given for Input '{VECTOR}', the graph takes",
        ),
        (lambda x: x.update({VECTOR: x[VECTOR] * np.nan}), "the golden inputs hold NaN"),
    ],
)
def test_inputs_that_do_not_fit_are_one_line(here, change, said, capsys):
    graphs.write(network(T=None), here / "net.nir")
    x = inputs()
    change(x)
    np.savez(here / "in.npz", **x)
    assert export("net.nir", "--target", "onnx", "--inputs", "in.npz", "--out", "out") == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert said in line
    assert not (here / "out").exists()


def test_one_output_may_be_named_the_prediction(here, capsys):
    graphs.write(network(), here / "net.nir")
    np.savez(here / "in.npz", **{f"input:{name}": x for name, x in inputs().items()}, labels=np.arange(4) % 5)
    named = ["--set", f"prediction={DEEP}", "--set", "classes=['a','b','c','d','e']"]
    assert export("net.nir", "--target", "onnx", "--inputs", "in.npz", *named, "--out", "out") == 0
    assert validate("out", "--runtime", "onnxruntime", "--json", "out.json") == 0
    accuracy = {line["accuracy"]["value"] for line in json.loads((here / "out.json").read_text())["runtimes"]}
    golden = bundles.load(here / "out").golden()
    assert accuracy == {np.mean(golden.output[DEEP].mean(axis=0).argmax(axis=1) == golden.labels)}
    assert export("out", "--target", "onnx", "--out", "again") == 0
    assert bundles.load(here / "again").manifest.output.prediction == DEEP
    capsys.readouterr()
    for wrong, said in (
        (["--set", "prediction=inputs"], f"did you mean '{DEEP}'"),
        (named[2:], "not which of the Outputs is the prediction"),
        ([*named[:2], "--set", "classes=['a']"], "it names 1 classes for 5 outputs"),
    ):
        assert export("net.nir", "--target", "onnx", *wrong, "--out", "wrong") == 2
        assert said in capsys.readouterr().err
    np.savez(here / "data.npz", images=np.zeros((2, 3)), labels=np.zeros(2, int))
    assert validate("out", "--data", "data.npz") == 2
    assert "the network has 2 Inputs" in capsys.readouterr().err


@MODES
@pytest.mark.parametrize("changed", ["fc", "side"])
def test_a_wrong_graph_behind_any_input_fails(tmp_path, mode, changed):
    """The other Outputs are right: one that is not is enough."""
    graph, x = network(mode), inputs(mode, batch=8)
    bundle = made.make(tmp_path / "b", graph, x)
    assert validate(bundle.path, "--runtime", "onnxruntime") == 0
    wrong = made.changed(graph, changed, "weight", lambda w: w * np.float32(1.2))
    made.replace_onnx(bundle, wrong)
    assert validate(bundle.path, "--runtime", "onnxruntime") == 1


@MODES
def test_runs_take_and_give_arrays_by_name(tmp_path, mode):
    graph, x = network(mode), inputs(mode)
    expected = reference.run(graph, x).outputs
    assert expected[DEEP].any()
    assert expected[SHALLOW].any()
    bundle = made.make(tmp_path / "b", graph, x)
    for name in ("reference", "onnxruntime"):
        with base.load(bundle, name) as runtime:
            found = runtime.run(x)
            with runtime.session(4) as session:
                frames = [{name: each if mode == "repeat" else each[t] for name, each in x.items()} for t in range(6)]
                steps = [session.step(frame) for frame in frames]
        for output, y in expected.items():
            np.testing.assert_allclose(found[output], y, atol=1e-5)
            np.testing.assert_allclose(np.stack([each[output] for each in steps]), y, atol=1e-5)


def test_one_input_keeps_its_plain_array_and_may_be_named(tmp_path):
    """What goes to several Outputs by name; the only Input goes without."""
    nodes = {"in": nir.Input(np.array([3])), "a": nir.Output(np.array([3])), "input": nir.Output(np.array([3]))}
    graph = nir.NIRGraph(nodes=nodes, edges=[("in", "a"), ("in", "input")], metadata={"stdl.T": 2}, type_check=False)
    x = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    bundle = made.make(tmp_path / "b", graph, x)
    with np.load(bundle.path / "golden.npz") as golden:
        assert set(golden.files) == {"input", "output:a", "output:input"}
    with base.load(bundle) as runtime:
        for given in (x, {"in": x}):
            assert {name: y.tolist() for name, y in runtime.run(given).items()} == {
                "a": x.tolist(),
                "input": x.tolist(),
            }


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(graph=random_programs.graphs())
def test_random_programs(tmp_path_factory, graph):
    """Loops, sub-graphs, delays, dialects, odd names, one to three Inputs, any number of Outputs."""
    folder = tmp_path_factory.mktemp("random")
    graphs.write(graph, folder / "net.nir")
    assert export(folder / "net.nir", "--target", "onnx", "--golden", 3, "--out", folder / "out") == 0
    assert validate(folder / "out", "--runtime", "onnxruntime") == 0


@MODES
@pytest.mark.parametrize("T", [4, None])
def test_a_session_goes_on_from_the_states_of_a_sequence(here, mode, T):
    graphs.write(network(mode, T), here / "net.nir")
    arguments = ["net.nir", "--target", "onnx", "--golden", 2]
    assert export(*arguments, "--final-states", "--out", "out") == 0
    assert validate("out", "--runtime", "onnxruntime") == 0
    bundle, x = bundles.load(here / "out"), inputs(mode, T=7)
    assert bundle.manifest.final_states
    first = {name: each if mode == "repeat" else each[:4] for name, each in x.items()}
    expected = reference.run(network(mode, None), x, T=7).outputs
    for name in ("reference", "onnxruntime"):
        with base.load(bundle, name) as runtime:
            outputs, states = runtime.run_to_states(first, 4)
            np.testing.assert_allclose(outputs[DEEP], expected[DEEP][:4], atol=1e-5)
            with runtime.session(4, states) as session:
                for t in range(4, 7):
                    frame = {node: each if mode == "repeat" else each[t] for node, each in x.items()}
                    np.testing.assert_allclose(session.step(frame)[DEEP], expected[DEEP][t], atol=1e-5)
                session.reset()
                frame = {node: each if mode == "repeat" else each[0] for node, each in x.items()}
                np.testing.assert_allclose(session.step(frame)[DEEP], expected[DEEP][0], atol=1e-5)
            with pytest.raises(BadInput, match=r"there is no state 'state\..*' \(3, "):
                runtime.session(3, states)
    assert export(*arguments, "--out", "plain") == 0
    with base.load(bundles.load(here / "plain")) as runtime, pytest.raises(Unavailable, match="with --final-states"):
        runtime.run_to_states(first, 4)


def test_final_states_where_there_are_none(here, capsys):
    graphs.write(network(), here / "net.nir")
    for wrong in (["--target", "nir", "--out", "a.nir"], ["--target", "onnx", "--mode", "step", "--out", "a"]):
        assert export("net.nir", *wrong, "--final-states") == 2
        assert "--final-states" in capsys.readouterr().err
