"""Bad input through the real command: options that came with precision, peers, drawings and several Inputs.

Each is one line on stderr and exit code 2, and nothing is written.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import nir
import numpy as np
import pytest
from small_graphs import assemble, chain, conv_net, full, lif

from stdl_export import bundle as bundles
from stdl_export import golden
from stdl_export import graph as graphs
from stdl_export.cli import command
from stdl_export.common import console
from stdl_export.common.errors import BadInput
from stdl_export.explain import drawing

ONNX = ["--target", "onnx", "--out", "out"]
INT8 = ["--precision", "int8"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """net.nir, the graphs that passes make smaller, folded.nir and parallel.nir, and a bundle of net.nir."""
    folder = tmp_path_factory.mktemp("made")
    for name, graph in {"net": conv_net(), "folded": folded(), "parallel": parallel()}.items():
        graphs.write(graph, folder / f"{name}.nir")
    args = [str(folder / "net.nir"), "--golden", "2", "--target", "onnx", "--out", str(folder / "bundle")]
    assert console.run(command, args) == 0
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all that is made, to work in."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def folded() -> nir.NIRGraph:
    """A Scale before weights and a Linear of its own."""
    nodes = nir.Scale(full(2, 3)), nir.Linear(full(0.5, 2, 3)), lif(2), nir.Linear(full(0.5, 2, 2)), lif(2)
    return chain(*nodes, shape=(3,), output=(2,), T=4)


def parallel() -> nir.NIRGraph:
    """`a` and `b` are added before a neuron; `c` and `d` are the same."""
    weights = {name: nir.Linear(full(value, 2, 3)) for name, value in zip("abcd", (0.5, 0.25, 0.75, 0.75), strict=True)}
    neurons = {"lif": lif(2), "other": lif(2), "more": lif(2)}
    ends = {"input": nir.Input(np.array([3])), "output": nir.Output(np.array([2]))}
    behind = {"a": "lif", "b": "lif", "c": "other", "d": "more"}
    edges = [*(("input", name) for name in weights), *behind.items(), *((name, "output") for name in neurons)]
    return assemble({**ends, **weights, **neurons}, edges, T=4)


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*")}
    capsys.readouterr()
    assert console.run(command, list(args)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert len(err) < 500
    assert {path: path.stat().st_mtime_ns for path in Path().rglob("*")} == before, "nothing was written"
    return err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--for", "norze", *ONNX], "unknown peer 'norze': did you mean 'norse'?"),
        (["--for", "", "--target", "nir", "--out", "a.nir"], "unknown peer '': known: nirtorch"),
        (["--for", "norse", "--target", "svg", "--out", "a.svg"], "give --target nir --out FILE.nir"),
        (["--for", "norse", "--explain"], "give --target nir --out FILE.nir"),
        (["--set", "prediction=UNKNOWN", *ONNX], "unknown Output (--set prediction) 'UNKNOWN': known: output"),
        (["--set", "prediction=outputs", "--target", "nir", "--out", "a.nir"], "did you mean 'output'?"),
        ([*INT8, "--target", "nir", "--out", "a.nir"], "--precision: .nir files are in none: leave it out"),
        (["--target", "svg", "--precision", "fp16", "--out", "a.svg"], "--precision: .svg files are in none"),
        (["--final-states", "--target", "svg,dot", "--out", "out"], "--final-states: svg, dot has no such outputs"),
        (["--explain", "--final-states", "--mode", "step"], "a step graph always puts out its states"),
        (["--timesteps", "1000000", *ONNX], "--timesteps '1000000': write a whole number from 1 to 999999"),
        (["--timesteps", "9" * 5000, *ONNX], "': write a whole number from 1 to 999999"),
        (["--timesteps", "999999", *ONNX], "288 neurons, 32 samples and 999999 steps are too many: give fewer"),
        (["--timesteps", "100000", "--time-form", "unroll", *ONNX], "writes up to 2048 steps out, T is 100000"),
        (["--set", "precision.nodes.conf1=fp32", *ONNX], "unknown node with weights 'conf1': did you mean 'conv1'?"),
        (["--set", "precision.nodes.conf1=fp32", "--target", "nir", "--out", "out"], "did you mean 'conv1'?"),
        (["--set", "tensorrt.tf32=true", *ONNX], "--set tensorrt: no engine is built: leave it out, or add --target"),
        (["--set", "tensorrt.tf23=true", *ONNX], "unknown key 'tensorrt.tf23': did you mean 'tf32'?"),
        (["--set", "tensorrt.workspace_mib=0", *ONNX], "'tensorrt.workspace_mib' = 0: Input should be greater"),
        (["--set", "precision.nodes.lif1=fp32", *INT8, *ONNX], "node 'lif1' (LIF) cannot be kept: it has no weights"),
    ],
)  # fmt: skip
def test_options(here: Path, capsys: pytest.CaptureFixture[str], args: list[str], said: str) -> None:
    begun = time.process_time()
    assert said in refused(capsys, "net.nir", *args)
    assert time.process_time() - begun < 10, "before the work, not behind it"


@pytest.mark.parametrize(
    ("file", "node", "said"),
    [
        ("folded", "n0", "'n0' (Scale) cannot be kept: a pass takes it away (goes into the weights beside it)"),
        ("parallel", "b", "'b' (Linear) cannot be kept: a pass takes it away (its weights are added to others')"),
        ("parallel", "d", "'d' (Linear) cannot be kept: a pass takes it away (equal to another node)"),
    ],
)
def test_an_exception_for_a_node_that_a_pass_takes_away(
    here: Path, capsys: pytest.CaptureFixture[str], file: str, node: str, said: str
) -> None:
    """In words: for the user, the node is there. Those that can be named can be named."""
    err = refused(capsys, f"{file}.nir", *INT8, "--set", f"precision.nodes.{node}=fp32", *ONNX)
    assert said in err
    kept = err.rsplit("those that can: '", 1)[1].split("'")[0]
    assert console.run(command, [f"{file}.nir", *INT8, "--set", f"precision.nodes.{kept}=fp32", *ONNX]) == 0
    assert bundles.load(Path("out")).manifest.arithmetic.fp32_nodes == (kept,)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"inptu": np.zeros((2, 2, 6, 6))}, "has no array 'input' of numbers, [B, ...] or [T, B, ...]; it has 'inptu'"),
        ({"input": np.zeros((2, 2, 6, 6), complex)}, "it has 'input' complex128[2, 2, 6, 6]"),
        ({"input": np.zeros(3)}, "it has 'input' float64[3]"),
        ({}, "it has none"),
        ({"input": np.zeros((0, 2, 6, 6))}, "the batch is empty"),
        ({"input": np.zeros((2, 6, 6, 2))}, "shape (6, 6, 2) was given, the graph takes (2, 6, 6)"),
        ({"input": np.zeros((2, 2, 6, 6)), "labels": np.zeros(9, int)}, "'labels' must hold whole numbers"),
    ],
)
def test_inputs(here: Path, capsys: pytest.CaptureFixture[str], arrays: dict[str, np.ndarray], said: str) -> None:
    np.savez(here / "in.npz", **arrays)
    assert said in refused(capsys, "net.nir", "--inputs", "in.npz", *ONNX)


def test_many_steps_of_few_samples_are_taken() -> None:
    """The bound is on what the reference has to hold, not on T."""
    graph = graphs.with_settings(folded(), graphs.Settings(1e-3, 999_999))
    made = golden.program(graph)
    golden._check_spikes(made, np.broadcast_to(np.float32(0), (999_999, 32, 3)))
    with pytest.raises(BadInput, match="4 neurons, 2000 samples and 999999 steps"):
        golden._check_spikes(made, np.broadcast_to(np.float32(0), (999_999, 2000, 3)))


@pytest.mark.parametrize("mode", ["repeat", "sequence"])
def test_the_scale_of_seeded_inputs_is_found_in_a_few_steps(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where T is fixed: it is then longer than the trial."""
    seen = []
    run = golden.reference.run_program
    monkeypatch.setattr(golden, "TRIAL_STEPS", 5)
    monkeypatch.setattr(golden.reference, "run_program", lambda *args, T: seen.append(run(*args, T=T)) or seen[-1])
    graph = conv_net(T=9, input=mode)
    made = golden.from_reference(graph, golden.seeded_input(graph, 2))
    assert [len(result.output) for result in seen] == [5] * len(golden.SCALES) + [9]
    assert made.timesteps == 9


# --- bundles --------------------------------------------------------------------------------------------------------


def test_final_states_are_added_to_a_bundle_that_has_none(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = here / "bundle"
    assert not bundles.load(bundle).manifest.final_states
    assert "nir has no such outputs" in refused(capsys, "bundle", "--target", "nir", "--final-states")
    assert console.run(command, ["bundle", "--target", "onnx", "--final-states"]) == 0
    assert bundles.load(bundle).manifest.final_states


def first_version(path: Path) -> None:
    """As version 1 wrote it: one input, one output, without names."""
    said = json.loads(path.read_text(encoding="utf-8")) | {"schema_version": 1, "output": {"decoding": "mean"}}
    said["input"] = {"shape": [2, 6, 6], "dtype": "float32", "mode": "repeat", "encoding": None}
    path.write_text(json.dumps(said), encoding="utf-8")


def cut(path: Path) -> None:
    first_version(path)
    path.write_text(path.read_text(encoding="utf-8")[:-200], encoding="utf-8")


def doubled(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"network"', '"network": "other", "network"', 1), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (first_version, "has schema version 1, this version of stdl reads 2: export it again"),
        (cut, "manifest.json' is not JSON"),
        (doubled, "key 'network' stands twice in one object"),
        (Path.unlink, "'bundle' is neither a run folder (no network.safetensors) nor a bundle (no manifest.json)"),
    ],
)
@pytest.mark.parametrize("args", [["--explain"], ["--target", "onnx"], ONNX])
def test_damaged_bundles(
    here: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None], said: str, args: list[str]
) -> None:
    damage(here / "bundle" / "manifest.json")
    assert said in refused(capsys, "bundle", *args)


def test_a_graph_too_large_for_an_svg(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "MAX_BOXES", 8)
    said = "an SVG shows up to 8 nodes, the graph has 9: take --target dot and Graphviz"
    assert said in refused(capsys, "net.nir", "--target", "svg", "--out", "net.svg")
    assert said in refused(capsys, "net.nir", "--target", "onnx,svg", "--out", "out")


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", '{"graph": {"dt": 1, "dt": 2}}'),
        ("case.json", '{"name": "x", "dialect": {"nodes": {"lif1": {"spike": ">", "spike": ">="}}}}'),
        ("case.json", '{"name": "x", "dialect": {}, "dialect": {"graph": {"dt": 1}}}'),
        ("a.toml", "graph.dt = 1\ngraph.dt = 2"),
        ("a.toml", "[nodes.lif1]\n[nodes.lif1]"),
    ],
)
def test_a_doubled_key_in_a_dialect_file(
    here: Path, capsys: pytest.CaptureFixture[str], name: str, content: str
) -> None:
    (here / name).write_text(content, encoding="utf-8")
    said = refused(capsys, "net.nir", "--dialect", name, *ONNX)
    assert f"'{name}'" in said
    assert "stands twice" in said or "is not valid TOML: Cannot" in said


@pytest.mark.parametrize(
    "link",
    [
        h5py.SoftLink("/node/nodes/lif2"), h5py.SoftLink("/nowhere"), h5py.SoftLink("/node/nodes/lif1"),
        h5py.ExternalLink("other.nir", "/node/nodes/lif1"), h5py.ExternalLink("/etc/passwd", "/"),
        h5py.ExternalLink("net.nir", "/node"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("at", ["node/nodes/lif1", "node/nodes/lif1/tau", "node/edges", "node"])
def test_links_in_a_file(here: Path, capsys: pytest.CaptureFixture[str], link: object, at: str) -> None:
    """A file says all by itself: no link is followed, not even to something sound."""
    shutil.copy("net.nir", "other.nir")
    with h5py.File(here / "net.nir", "r+") as file:
        del file[at]
        file[at] = link
    for args in (ONNX, ["--explain"]):
        assert "net.nir" in refused(capsys, "net.nir", *args)
