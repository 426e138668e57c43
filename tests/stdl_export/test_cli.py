from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import conformance
import h5py
import nir
import numpy as np
import pytest
from small_graphs import DT, assemble, chain, conv_net, frames, full, lif

from stdl_export import bundle as bundles
from stdl_export import dialects, targets, tensorrt
from stdl_export import graph as graphs
from stdl_export.cli import command
from stdl_export.common import console
from stdl_runtimes import reference


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with net.nir in it."""
    monkeypatch.chdir(tmp_path)
    graphs.write(conv_net(), tmp_path / "net.nir")
    return tmp_path


@pytest.fixture
def bundle(net: Path) -> Path:
    assert run("net.nir", "--target", "onnx", "--golden", "3", "--out", "bundle") == 0
    return net / "bundle"


def run(*args: str) -> int:
    return console.run(command, list(args))


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """The one line that a refused command leaves on stderr."""
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*")}
    capsys.readouterr()
    assert run(*args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert {path: path.stat().st_mtime_ns for path in Path().rglob("*")} == before, "nothing was written"
    return err


def test_a_nir_file_becomes_a_bundle(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("net.nir", "--target", "nir,onnx", "--out", "out", "--golden", "5") == 0
    opened = bundles.load(net / "out")
    assert opened.golden().samples == 5
    assert opened.manifest.golden.origin == "reference"
    assert graphs.same(opened.graph(), conv_net()) is not None, "all settings are written out now"
    assert graphs.settings(opened.graph()) == graphs.settings(conv_net())
    said = capsys.readouterr().out
    assert "network net, T 4" in said
    assert "model.probe.onnx" in said
    assert "golden: 5 samples, outputs by the reference" in said
    assert said.endswith("next: stdl-validate out\n")


def test_targets_can_be_repeated(net: Path) -> None:
    assert run("net.nir", "--target", "nir", "--target", "onnx", "--out", "out", "--mode", "step") == 0
    assert "model.step.onnx" in bundles.load(net / "out").manifest.files


def test_one_nir_file_for_another_framework(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("net.nir", "--target", "nir", "--out", "other.nir", "--dt", "1e-3") == 0
    written = nir.read(net / "other.nir")
    assert written.metadata["stdl.dt"] == 1e-3
    assert "nir.read('other.nir')" in capsys.readouterr().out
    assert "exists already" in refused(capsys, "net.nir", "--target", "nir", "--out", "other.nir")


@pytest.mark.parametrize("args", [["--golden", "5"], ["--inputs", "x.npz"]])
def test_one_nir_file_takes_no_golden_samples(net: Path, capsys: pytest.CaptureFixture[str], args: list[str]) -> None:
    np.savez(net / "x.npz", input=frames(4, 2, 6, 6))
    said = refused(capsys, "net.nir", "--target", "nir", "--out", "other.nir", *args)
    assert "one .nir file holds no golden samples: give --out a folder, or leave --golden/--inputs out" in said


def test_a_file_for_a_peer_says_how_to_read_it(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its dialect is the peer's, so that we read from it what the peer does."""
    assert run("net.nir", "--target", "nir", "--out", "norse.nir", "--for", "norse", "--dt", "1e-3") == 0
    out, err = capsys.readouterr()
    assert out.endswith(
        "next: in Python with norse 1.1.0:\n"
        "  import nir\n"
        "  graph = nir.read('norse.nir', type_check=False)\n"
        "  import norse.torch\n"
        "  net = norse.torch.from_nir(graph, dt=0.001)\n"
    )
    assert "feed it T times" in err
    written = graphs.read(net / "norse.nir")
    assert graphs.settings(written).dialect == "norse-import"
    x = frames(3, 2, 6, 6)
    ours = graphs.with_settings(graphs.read(net / "net.nir"), graphs.Settings(1e-3, 4, input="repeat"))
    spiking = reference.run(ours, x)
    assert spiking.output.std() > 0.1
    np.testing.assert_allclose(reference.run(written, x).output, spiking.output, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--out", "a.nir", "--for", "norze"], "unknown peer 'norze': did you mean 'norse'?"),
        (["--out", "folder", "--for", "norse"], "--for norse writes one file for it: give --target nir --out FILE.nir"),
        (
            ["--out", "a.nir", "--for", "snntorch", "--set", "reset=subtract"],
            "'lif1' (LIF): as LIF: its reset is by sub",
        ),
    ],
)
def test_what_a_peer_cannot_be_told_is_refused(
    net: Path, capsys: pytest.CaptureFixture[str], args: list[str], said: str
) -> None:
    assert said in refused(capsys, "net.nir", "--target", "nir", *args)


def test_options_settle_what_the_graph_says(net: Path) -> None:
    options = ["--timesteps", "6", "--dt", "2e-3", "--set", "reset=subtract", "--set", "output='sum'", "--set", "dt=1"]
    names = ["--set", "network=mine", "--set", "classes=['a','b','c','d','e']", "--set", "input=sequence"]
    assert run("net.nir", "--target", "onnx", "--out", "out", *options, *names) == 0
    manifest = bundles.load(net / "out").manifest
    assert manifest.settings == graphs.Settings(2e-3, 6, "nir", "subtract", "sequence", "sum")
    assert manifest.network == "mine"
    assert manifest.classes == ("a", "b", "c", "d", "e")


def test_timesteps_may_be_dynamic(net: Path) -> None:
    assert run("net.nir", "--target", "onnx", "--out", "out", "--timesteps", "dynamic") == 0
    assert bundles.load(net / "out").manifest.timesteps is None


def test_golden_samples_from_a_file(net: Path) -> None:
    np.savez(net / "x.npz", input=frames(4, 2, 6, 6), labels=np.arange(4))
    assert run("net.nir", "--target", "nir", "--out", "out", "--inputs", "x.npz") == 0
    samples = bundles.load(net / "out").golden()
    np.testing.assert_array_equal(samples.input, frames(4, 2, 6, 6))


def test_a_bundle_is_a_source(net: Path, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bundle", "--target", "onnx", "--out", "again", "--time-form", "scan") == 0
    first, second = bundles.load(bundle), bundles.load(net / "again")
    np.testing.assert_array_equal(first.golden().output, second.golden().output)
    assert first.manifest.files["model.onnx"] != second.manifest.files["model.onnx"]
    assert first.manifest.files["model.step.onnx"] == second.manifest.files["model.step.onnx"]


def test_engines_are_added_to_a_bundle(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    before = bundles.load(bundle).manifest
    assert run("bundle", "--target", "tensorrt", "--batch", "1:2:4") == 0
    manifest = bundles.load(bundle).manifest
    assert [engine.mode for engine in manifest.engines] == ["sequence", "step", "probe"]
    for engine in manifest.engines:
        assert (bundle / engine.file).stat().st_size > 1000
        assert engine.batch == (1, 2, 4)
        assert not engine.tf32
        assert engine.graph_sha256 == manifest.files["graph.nir"]
        assert engine.timesteps == (None if engine.mode == "step" else 4)
    assert {name: manifest.files[name] for name in before.files} == before.files
    assert f"engines built with {manifest.engines[0].flavour} {manifest.engines[0].version}" in capsys.readouterr().out
    assert run("bundle", "--target", "tensorrt", "--mode", "step") == 0
    assert len(bundles.load(bundle).manifest.engines) == 3, "the older step engine was replaced"
    capsys.readouterr()
    assert run("bundle", "--target", "tensorrt", "--mode", "step", "--set", "tensorrt.tf32=true") == 0
    assert "TF32 on" in capsys.readouterr().out
    assert {engine.mode: engine.tf32 for engine in bundles.load(bundle).manifest.engines} == {
        "sequence": False,
        "probe": False,
        "step": True,
    }


def test_the_engine_that_shows_single_layers_can_be_left_out(bundle: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    assert run("bundle", "--target", "tensorrt", "--mode", "sequence", "--set", "tensorrt.probe=false") == 0
    assert [engine.mode for engine in bundles.load(bundle).manifest.engines] == ["sequence"]


def test_a_failed_build_leaves_nothing(
    net: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> bytes:
        raise tensorrt.BadInput("it could not build it")

    monkeypatch.setattr(targets.tensorrt, "flavour", lambda: tensorrt.Flavour("tensorrt_rtx", "1", None, None))
    monkeypatch.setattr(targets.tensorrt_cache, "engine", fail)
    assert "it could not build it" in refused(capsys, "net.nir", "--target", "onnx,tensorrt", "--out", "out")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["no.nir"], "'no.nir' does not exist"),
        (["."], "'.' is neither a run folder (no network.safetensors) nor a bundle (no manifest.json)"),
        (["text.nir"], "'text.nir' is not an HDF5 file"),
        (
            ["net.nir", "--target", "onxx"],
            "unknown target 'onxx': did you mean 'onnx'? known: dot, ",
        ),
        (["net.nir", "--target", ","], "--target is empty"),
        (["net.nir", "--dialect", "nirr"], "unknown dialect 'nirr': did you mean 'nir'? known: lava, nengo, nir"),
        (["net.nir", "--timesteps", "0"], "--timesteps '0': write a whole number from 1 to 999999, or dynamic"),
        (["net.nir", "--timesteps", "many"], "--timesteps 'many'"),
        (["net.nir", "--dt", "0"], "--dt 0: write a positive number of seconds"),
        (["net.nir", "--dt", "0", "--set", "dt=1e-3"], "--dt 0: write a positive number of seconds"),
        (["net.nir", "--dt", "-1"], "--dt -1: write a positive number of seconds"),
        (["net.nir", "--dt", "nan"], "--dt nan: write a positive number of seconds"),
        (["net.nir", "--dt", "inf"], "--dt inf: write a positive number of seconds"),
        (["net.nir", "--dt", "x"], "'--dt'"),
        (["net.nir", "--batch", "4:2:1"], "--batch '4:2:1'"),
        (["net.nir", "--precision", "fp8"], "'fp8' is not one of"),
        (["net.nir", "--mode", "all"], "'all' is not one of"),
        (["net.nir", "--golden", "0"], "'--golden'"),
        (["net.nir", "--set", "nework=x"], "--set: unknown key 'nework': did you mean 'network'?"),
        (["net.nir", "--set", "reset"], "--set 'reset': write key=value"),
        (["net.nir", "--set", "reset=soft"], "'reset' = 'soft'"),
        (["net.nir", "--inputs", "no.npz"], "'no.npz' does not exist"),
        (["net.nir", "--inputs", "text.nir"], "'text.nir' is not a readable .npz file"),
        (["net.nir", "--time-form", "unroll", "--timesteps", "dynamic"], "needs a fixed number of time steps"),
        (["net.nir", "--target", "tensorrt", "--timesteps", "dynamic"], "give --timesteps N, or --mode step"),
        (["net.nir", "--out", "full"], "output folder 'full' is not empty"),
        (["net.nir", "--out", "text.nir"], "'text.nir' is a file"),
        (
            ["bad.nir"],
            "'bad.nir': node 'n0' (I): its input has shape (2,), its r has (3,); node 'n1' (Scale): scale holds NaN",
        ),
    ],
)
def test_bad_input_is_one_line(net: Path, capsys: pytest.CaptureFixture[str], args: list[str], said: str) -> None:
    (net / "text.nir").write_text("text")
    (net / "full").mkdir()
    (net / "full" / "file").write_text("")
    nir.write(net / "bad.nir", chain(nir.I(full(1, 3)), nir.Scale(full(np.nan, 2)), shape=(2,)))
    defaults = [*([] if "--target" in args else ["--target", "onnx"]), *([] if "--out" in args else ["--out", "out"])]
    if "tensorrt" in args:
        pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    assert said in refused(capsys, *args, *defaults)


def lif_of(tau: float) -> nir.LIF:
    return nir.LIF(full(tau, 2), full(1, 2), full(0, 2), full(1, 2), full(0, 2))


BAD_GRAPHS = {
    "a cycle without a neuron": (
        lambda: assemble(
            {"in": nir.Input(np.array([2])), "a": nir.Linear(np.eye(2, dtype=np.float32)), "b": nir.Scale(full(1, 2)),
             "out": nir.Output(np.array([2]))},
            [("in", "a"), ("a", "b"), ("b", "a"), ("b", "out")],
        ),
        "it lies on a cycle: a -> b -> a",
    ),
    "an edge to nowhere": (
        lambda: assemble(
            {"in": nir.Input(np.array([2])), "out": nir.Output(np.array([2]))}, [("in", "out"), ("in", "lost")]
        ),
        "edge ('in', 'lost') names 'lost', which is no node",
    ),
    "shapes that do not fit": (lambda: chain(nir.Scale(full(1, 3)), shape=(2,)), "its scale has (3,)"),
    "tau is NaN": (lambda: chain(lif_of(np.nan), shape=(2,)), "node 'n0' (LIF): tau holds NaN"),
    "tau is negative": (lambda: chain(lif_of(-DT), shape=(2,)), "node 'n0' (LIF): tau is not positive"),
    "an unstable step": (lambda: chain(lif_of(DT / 4), shape=(2,)), "the step of 0.000976562 is unstable"),
    "T without end": (lambda: chain(lif(2), shape=(2,), T=2**40), "stdl.T=1099511627776: accepted is a whole number"),
    "a huge delay": (lambda: chain(nir.Delay(full(1e9, 2)), shape=(2,)), "node 'n0' (Delay): its delay is 1.024e+12"),
    "a huge padding": (
        lambda: chain(nir.Conv1d(4, full(1, 1, 2, 3), 10**9, 10**9, 1, 1, full(0, 1)), shape=(2, 4), output=(1, 3)),
        "its image is (2000000004,) with its padding",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_GRAPHS)
def test_bad_graphs_are_one_line(net: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    make, said = BAD_GRAPHS[name]
    nir.write(net / "bad.nir", make())
    found = refused(capsys, "bad.nir", "--target", "onnx", "--out", "out")
    assert found.startswith("error: 'bad.nir': ")
    assert said in found


def test_a_step_longer_than_its_time_constant_is_said(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """dt > tau flips the sign of the potential at each step; it is stable up to 2 tau, so it is no error."""
    nir.write(net / "long.nir", chain(lif_of(DT / 1.5), shape=(2,)))
    assert console.run(command, ["long.nir", "--target", "onnx", "--out", "out"]) == 0
    assert "node 'n0': its decay is -0.5: a step of 0.000976562 is longer than its" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", ["f4", "S64", h5py.string_dtype()])
def test_a_huge_declared_shape_is_refused_before_anything_is_allocated(
    net: Path, capsys: pytest.CaptureFixture[str], dtype: object
) -> None:
    """A chunked data set of 2^40 elements takes a few hundred bytes of a file."""
    with h5py.File(net / "net.nir", "r+") as file:
        name = next(name for name in file["node/nodes"] if "weight" in file["node/nodes"][name])
        del file[f"node/nodes/{name}/weight"]
        file.create_dataset(f"node/nodes/{name}/weight", shape=(2**20, 2**20), dtype=dtype, chunks=(1, 1024))
    tracemalloc.start()
    found = refused(capsys, "net.nir", "--target", "onnx", "--out", "out")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "it was refused" in found
    assert peak < 32 << 20


def test_a_new_folder_is_needed_where_the_source_is_no_bundle(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is not a bundle, so --out is needed" in refused(capsys, "net.nir", "--target", "onnx")


@pytest.mark.parametrize("args", [["--dt", "1"], ["--timesteps", "9"], ["--golden", "2"], ["--set", "network=x"]])
def test_what_a_bundle_proves_does_not_change_in_place(
    bundle: Path, capsys: pytest.CaptureFixture[str], args: list[str]
) -> None:
    assert "would no longer be what its golden samples prove" in refused(capsys, "bundle", "--target", "onnx", *args)


@pytest.mark.parametrize("out", ["bundle/x.nir", "bundle/sub", "bundle/../bundle/x.nir"])
def test_nothing_is_written_into_the_bundle_that_is_read(
    bundle: Path, capsys: pytest.CaptureFixture[str], out: str
) -> None:
    assert f"'{out}' lies in the bundle 'bundle'" in refused(capsys, "bundle", "--target", "nir", "--out", out)


def test_options_of_a_chip_are_not_about_what_a_bundle_proves(bundle: Path) -> None:
    assert run("bundle", "--target", "loihi2", "--set", "loihi2.samples=2") == 0
    assert (bundle / "chips" / "loihi2" / "network.net").is_file()


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        (
            (3, 60000, 60000),
            "node 'input' (Input): it puts out shape (3, 60000, 60000): accepted are at most 268435456",
        ),
        ((3, 4096, 4096), "more than 268435456 numbers: give fewer samples with --golden, or real ones with --inputs"),
    ],
)
def test_shapes_too_large_for_memory(
    net: Path, capsys: pytest.CaptureFixture[str], shape: tuple[int, ...], said: str
) -> None:
    nir.write(net / "big.nir", chain(nir.Threshold(full(1, 1)), shape=shape))
    assert said in refused(capsys, "big.nir", "--target", "nir", "--out", "out")


def test_a_damaged_bundle_is_no_source(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(bundle / "model.onnx", bundle / "model.step.onnx")
    assert "file 'model.step.onnx' was changed" in refused(capsys, "bundle", "--target", "onnx", "--out", "out")


def test_tensorrt_missing_says_what_to_install(
    net: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    said = refused(capsys, "net.nir", "--target", "tensorrt", "--out", "out")
    assert "neither tensorrt nor tensorrt_rtx is installed: pip install 'stdl-toolchain[tensorrt-rtx]'" in said


def test_help_has_examples_and_every_option() -> None:
    shown = subprocess.run(
        [sys.executable, "-c", "from stdl_export.cli import entry; entry()", "--help"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for option in (
        "target",
        "out",
        "dialect",
        "timesteps",
        "dt",
        "mode",
        "batch",
        "precision",
        "time-form",
        "golden",
        "inputs",
        "set",
    ):
        assert f"--{option}" in shown
    assert "stdl-export runs/digits --target onnx,tensorrt --out bundles/digits" in shown


def test_export_from_nir_works_without_torch(net: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from stdl_export.cli import entry; entry()"
    args = ["net.nir", "--target", "onnx", "--out", "out"]
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert bundles.load(net / "out").manifest.network == "net"


# --- dialects -------------------------------------------------------------------------------------------------------


def written(args: list[str], source: str = "net.nir") -> nir.NIRGraph:
    Path("out.nir").unlink(missing_ok=True)
    assert run(source, "--target", "nir", "--out", "out.nir", *args) == 0
    graph = graphs.read(Path("out.nir"))
    assert graphs.problems(graph) == []
    return graph


@pytest.fixture
def bare(net: Path) -> Path:
    """A file as other frameworks write it: no metadata."""
    graph = chain(lif(2), shape=(2,))
    graph.metadata.clear()
    nir.write(net / "bare.nir", graph)
    return net


def test_dialects_are_listed(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--list-dialects") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(dialects.DIALECTS)
    assert lines[0].endswith(dialects.NIR.explanation)


def test_a_named_dialect_brings_its_dt(bare: Path) -> None:
    assert written(["--dialect", "norse"], "bare.nir").metadata["stdl.dialect"] == "norse"
    for args, dt in (
        ([], 1e-4),
        (["--dialect", "norse"], 1e-3),
        (["--dialect", "sinabs", "--dt", "0.25"], 0.25),
        (["--dialect", "sinabs", "--set", "dt=0.5"], 0.5),
        (["--set", "dialect.graph.dt=2e-3"], 2e-3),
        (["--dialect", "half.toml"], 5e-4),
        (["--dialect", "half.toml", "--dt", "1e-5"], 1e-5),
    ):
        Path("half.toml").write_text("graph.dt = 5e-4")
        assert graphs.settings(written(args, "bare.nir")).dt == dt
    assert graphs.settings(written(["--dialect", "norse"])).dt == 2.0**-10, "the graph says its own"
    assert graphs.settings(written(["--dialect", "half.toml"])).dt == 5e-4, "whoever gives a file means its dt"


def test_dialect_files_and_single_choices_travel_in_the_graph(bare: Path) -> None:
    case = {"name": "x", "dialect": {"graph": {"dt": 1e-3}, "nodes": {"n0": {"spike": ">="}}}}
    Path("case.json").write_text(json.dumps(case))
    graph = written(["--dialect", "case.json", "--set", 'dialect.nodes."n0".v_init="v_reset"'], "bare.nir")
    assert json.loads(graph.metadata["stdl.dialect"]) == {"nodes": {"n0": {"spike": ">=", "v_init": "v_reset"}}}
    assert graphs.settings(graph).dt == 1e-3
    again = written(["--set", "dialect.reset=subtract", "--set", "dialect.nodes.n0.spike=>"], "bare.nir")
    assert json.loads(again.metadata["stdl.dialect"]) == {
        "base": "nir",
        "nodes": {"n0": {"spike": ">"}},
        "reset": "subtract",
    }
    assert written(["--dialect", "sinabs"]).metadata.get("stdl.reset") is None


def test_the_run_says_which_dialect_it_took(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written([], "bare.nir")
    assert f"dialect nir: {dialects.NIR.explanation}; dt 0.0001" in capsys.readouterr().err
    written(["--dialect", "spikingjelly", "--set", "dialect.nodes.n0.spike=>"], "bare.nir")
    assert "dialect as given, on top of spikingjelly; dt 0.0001" in capsys.readouterr().err
    written([], "bare.nir")
    Path("out.nir").rename("said.nir")
    capsys.readouterr()
    written([], "said.nir")
    assert capsys.readouterr().err == ""


def test_what_is_taken_otherwise_than_the_file_says_is_warned_of(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nir.write("odd.nir", chain(nir.Linear(full(1, 2, 2)), shape=(1, 2), output=(1, 1, 2)))
    written([], "odd.nir")
    assert "node 'input' (Input) declares shape (1, 2), but has (2,): that is taken" in capsys.readouterr().err


def test_a_graph_is_judged_under_the_dt_that_it_is_to_have(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slow = chain(lif(2), shape=(2,))
    slow.nodes["n0"].tau[:] = 1e-6
    slow.metadata.clear()
    nir.write("slow.nir", slow)
    said = refused(capsys, "slow.nir", "--target", "nir", "--out", "out")
    assert "node 'n0' (LIF): its decay, 1-dt/tau, is -99: the step of 0.0001 is unstable" in said
    assert graphs.settings(written(["--dt", "5e-7"], "slow.nir")).dt == 5e-7


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--dialect", "no.toml"], "dialect 'no.toml' does not exist"),
        (["--dialect", "text.txt"], "unknown dialect 'text.txt'"),
        (["--set", "dialect.nodes.n0.spkie=>"], "--set dialect: unknown key 'nodes.n0.spkie': did you mean 'spike'?"),
        (["--set", "dialect.nodes.n1.spike=>"], "dialect.nodes names 'n1', which is no node: did you mean 'n0'?"),
        (["--set", "dialect.types.LIF.decay=1-dt/tua"], "unknown name 'tua' at character 6: did you mean 'tau'?"),
        (["--set", "dialect=norse"], "'dialect' = 'norse'"),
        (["--dialect", "norse", "--set", "reset=subtract"], "write --set dialect.reset=subtract"),
        (["--dialect", "snntorch", "--set", "dialect.reset=zero"], "reset_when 'next_sub' goes with reset 'subtract'"),
    ],
)
def test_what_is_no_dialect(bare: Path, capsys: pytest.CaptureFixture[str], args: list[str], said: str) -> None:
    assert said in refused(capsys, "bare.nir", "--target", "nir", "--out", "out", *args)


@pytest.mark.parametrize("dialect", dialects.DIALECTS)
def test_every_dialect_becomes_onnx(bare: Path, dialect: str) -> None:
    assert run("bare.nir", "--target", "onnx", "--out", "out", "--dialect", dialect, "--dt", "1e-3") == 0
    assert bundles.load(Path("out")).manifest.dialect == dialect


@pytest.mark.parametrize("name", conformance.NAMES)
def test_every_conformance_case_is_taken_with_its_case_file(net: Path, name: str) -> None:
    folder, case = conformance.FOLDER / name, conformance.load(name)
    graph = written(["--dialect", str(folder / "case.json")], str(folder / "graph.nir"))
    assert graphs.dialect(graph).nodes == case.dialect.nodes
    assert graphs.settings(graph).dt == dialects.choices(case.dialect).dt
