import json
import subprocess
import sys

import bundles
import numpy as np
import pytest
from chains import small_network
from validated import SAMPLES, images, normalised

from stdl_export.common.errors import Unavailable
from stdl_runtimes import base, tensorrt
from stdl_runtimes.ends import of_manifest

pytest.importorskip("onnxruntime")


def test_the_tables_and_the_verdict(made, validate):
    code, out, err = validate(made.path)
    assert code == 0, out
    assert err == ""
    lines = out.splitlines()
    assert lines[-1].startswith("PASS: ")
    assert f"small: {SAMPLES} golden samples, T=5" in out
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]
    interval, change = "75.00% (46.8-91.1)", "+0.00 (-14.0 to +14.0)"
    assert [row[:4] for row in rows[:4]] == [
        ["golden (reference)", interval, "-", "-"],
        ["reference", interval, change, "100.00%"],
        ["onnxruntime", interval, change, "100.00%"],
        ["onnxruntime step", interval, change, "100.00%"],
    ]
    assert [row[0] for row in rows[4:6]] == ["lif1", "if2"]
    assert all(row[-2:] == ["0 / 0 / 0 / 0", "0 / 0 / 0 / 0"] for row in rows[4:6])
    assert rows[6:10] == [
        ["golden (reference) -> reference", "12 of 12", "-"],
        ["reference -> onnxruntime", "12 of 12", "-"],
        ["onnxruntime -> onnxruntime probe", "12 of 12", "-"],
        ["onnxruntime -> onnxruntime step", "12 of 12", "-"],
    ]
    assert ["tensorrt", "built, not run: no NVIDIA driver"] in rows[10:]


def test_trained_golden_samples_are_pytorchs(tmp_path, validate):
    bundle = bundles.make(tmp_path / "b", small_network(), normalised(images()), origin="trained")
    code, out, _ = validate(bundle.path)
    assert code == 0
    assert "│ trained (PyTorch)" in out


def test_json_has_every_number(made, validate, tmp_path, monkeypatch):
    (tmp_path / "numpy.py").write_text("raise SystemExit('a file of the working folder was run')")
    monkeypatch.chdir(tmp_path)
    code, out, _ = validate(made.path, "--json", tmp_path / "out.json", "--latency", "--latency-seconds", 0.05)
    report = json.loads((tmp_path / "out.json").read_text())
    assert code == 0
    assert report["schema_version"] == 2
    assert report["passed"] is True
    assert report["verdict"] == out.splitlines()[-1]
    assert [line["runtime"] for line in report["runtimes"]] == [
        "golden (reference)",
        "reference",
        "onnxruntime",
        "onnxruntime step",
    ]
    assert {line["accuracy"]["value"] for line in report["runtimes"]} == {0.75}
    golden, *others = report["runtimes"]
    assert golden["latency"] is None
    for line in others:
        found = line["latency"]
        assert 0 < found["sample"]["p50_ms"] <= found["sample"]["p99_ms"]
        assert found["cold_start"]["load_ms"] > 0
        assert found["cold_start"]["host_bytes"] > 0
        assert (found["multi_stream"] is None) == ("multi-stream" in found["skipped"])  # a busy machine takes too long
        assert found["offline"]["samples_per_second"] > 0
    assert [layer["node"] for layer in report["layers"]] == ["lif1", "if2"]
    counts = made.golden().counts
    for layer in report["layers"]:
        assert layer["spikes"] == counts[layer["node"]].sum() > 0
        assert layer["firing_rate"] == pytest.approx(counts[layer["node"]].mean() / 5)
        assert layer["runtimes"]["onnxruntime"] == {
            "spikes": layer["spikes"],
            "rate": layer["firing_rate"],
            "rate_drift": 0.0,
            "count_difference": 0,
            "flips": 0,
            "ties": 0,
            "slots": counts[layer["node"]].size * 5,
            "budget": 0.0,
        }
    assert report["skipped"]["tensorrt"] == "built, not run: no NVIDIA driver"
    assert all(check["passed"] for check in report["checks"])
    assert {"python", "numpy", "onnxruntime"} <= set(report["versions"])


def test_the_page_holds_the_tables_and_nothing_from_elsewhere(made, validate, tmp_path):
    validate(made.path, "--report", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "color-scheme: light dark" in page
    assert "onnxruntime step</th>" in page
    assert 'class="verdict pass"' in page
    assert "src=" not in page
    assert "://" not in page


def test_names_from_files_are_text_and_not_markup(tmp_path, validate):
    graph = small_network()
    graph.nodes["<b>[red]"] = graph.nodes.pop("lif1")
    swap = {"lif1": "<b>[red]"}
    graph.edges = [(swap.get(a, a), swap.get(b, b)) for a, b in graph.edges]
    bundle = bundles.make(tmp_path / "b", graph, normalised(images(4)))
    code, out, _ = validate(bundle.path, "--report", tmp_path / "page.html")
    assert code == 0
    assert "│ <b>[red] " in out
    assert "&lt;b&gt;[red]</th>" in (tmp_path / "page.html").read_text()


def test_runtimes_are_chosen_by_name(made, validate):
    code, out, _ = validate(made.path, "--runtime", "reference")
    assert code == 0
    assert "onnxruntime" not in out
    code, out, _ = validate(made.path, "--runtime", "onnxruntime")
    assert code == 0
    assert "│ reference " in out  # it judges, asked for or not


def test_a_failing_bundle_exits_with_1_and_names_the_checks(tmp_path, validate):
    bundle = bundles.make(tmp_path / "b", small_network(), normalised(images()))
    wrong = bundles.changed(bundle.graph(), "lif1", "v_leak", lambda v: v + np.float32(0.1))
    bundles.replace_onnx(bundle, wrong, ["model.onnx", "model.probe.onnx"])
    code, out, err = validate(bundle.path, "--json", tmp_path / "out.json", "--report", tmp_path / "page.html")
    verdict = out.splitlines()[-1]
    assert code == 1
    assert err == ""
    assert verdict.startswith("FAIL (")
    assert "onnxruntime, flips: " in verdict
    assert "'lif1'" in verdict
    assert json.loads((tmp_path / "out.json").read_text())["passed"] is False
    assert 'class="verdict fail"' in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize("options", [["--require", "tensorrt"], ["--runtime", "reference", "--require", "tensorrt"]])
def test_a_required_runtime_that_is_absent_fails(made, validate, options):
    code, out, _ = validate(made.path, *options)
    assert code == 1
    assert "tensorrt, required: it is required, but was skipped: built, not run: no NVIDIA driver" in out


def test_a_runtime_that_fails_with_its_first_call_is_skipped(made, validate, monkeypatch):
    """Memory may be short, or a library missing, when the first sample runs; it gives back what it holds."""
    closed = []

    class Short(base.Runtime):
        name, modes, ends = "tensorrt", ("sequence",), of_manifest(made.manifest)

        def outputs(self, x, timesteps):
            raise Unavailable("out of memory on the device: 1 GiB asked for")

        def session(self, batch, states=None):
            pytest.fail("it has no steps")

        def close(self):
            closed.append(self)

    monkeypatch.setattr(tensorrt, "load", lambda bundle, device: Short())
    code, out, _ = validate(made.path)
    assert code == 0
    assert "│ tensorrt │ out of memory on the device: 1 GiB asked for" in out
    assert len(closed) == 1


def test_nothing_checked_is_no_success(made, validate):
    code, out, _ = validate(made.path, "--runtime", "tensorrt")
    assert code == 1
    assert "nothing was checked: tensorrt: built, not run: no NVIDIA driver" in out


def test_a_required_runtime_that_is_present_passes(made, validate):
    assert validate(made.path, "--require", "onnxruntime")[0] == 0


def test_a_gate_fails_with_its_lines_in_every_file(made, validate, tmp_path):
    files = [tmp_path / name for name in ("out.json", "junit.xml", "summary.md", "page.html")]
    written = [x for pair in zip(("--json", "--junit", "--markdown", "--report"), files, strict=True) for x in pair]
    code, out, _ = validate(made.path, "--min-accuracy", 0.8, *written)
    assert code == 1
    assert out.splitlines()[-1].startswith("FAIL (2 of 16 checks): onnxruntime, gate: min_accuracy: accuracy is 75.00%")
    for file in files:
        assert "80.00%" in file.read_text().replace("\\", "")
    (tmp_path / "gate.toml").write_text("min_accuracy = 0.8\nmin_agreement = 1")
    assert validate(made.path, "--gate", tmp_path / "gate.toml")[0] == 1
    assert validate(made.path, "--gate", tmp_path / "gate.toml", "--min-accuracy", 0.75)[0] == 0


def test_an_earlier_validation_is_compared_with(made, validate, tmp_path):
    old = tmp_path / "old.json"
    assert validate(made.path, "--json", old)[0] == 0
    assert validate(made.path, "--compare", old)[0] == 0
    old.write_text(old.read_text().replace('"value": 0.75', '"value": 0.76'))
    code, out, _ = validate(made.path, "--compare", old)
    assert code == 1
    assert "onnxruntime step, compare: accuracy: accuracy is 75.00%, it was 76.00%; 0.50% may be lost" in out
    old.write_text(old.read_text().replace('"network": "small"', '"network": "big"'))
    code, out, err = validate(made.path, "--compare", old)
    assert (code, out) == (2, "")
    assert "--compare is about 'big' at T=5, this is 'small' at T=5" in err


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--runtime", "onxruntime"], "unknown runtime 'onxruntime': did you mean 'onnxruntime'?"),
        (["--require", "gpu"], "unknown runtime 'gpu'"),
        (["--data-limit", "5"], "--data-path and --data-limit belong to --data"),
        (["--data", "x.npz", "--data-limit", "0"], "0 is not in the range"),
        (["--runtimes", "x"], "No such option"),
        (["--latency-seconds", "1"], "--latency-seconds and --latency-batch belong to --latency"),
        (["--latency", "--latency-batch", "0"], "0 is not in the range"),
        (["--latency", "--latency-seconds", "1e30"], "1e+30 is not in the range 0<x<=3600"),
        (["--set", "onnxruntime"], "write runtime.key=value"),
        (["--max-p99", "3"], "max_p99 of the gate: times are taken with --latency only"),
        (["--min-accuracy", "97"], "97.0 is not in the range 0<=x<=1"),
        (["--compare", "none.json"], "'none.json' does not exist"),
        (["--gate", "none.toml"], "'none.toml' does not exist"),
        (["--json", "x", "--markdown", "./x"], "name the same file"),
        (["--set", "onxruntime.threads=1"], "did you mean 'onnxruntime'?"),
    ],
)
def test_bad_options_are_one_line(made, validate, options, message):
    code, out, err = validate(made.path, *options)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("option", ["--json", "--report", "--junit", "--markdown"])
def test_files_that_cannot_be_written_are_seen_before_anything_runs(made, validate, tmp_path, monkeypatch, option):
    monkeypatch.setattr("stdl_export.bundle.load", lambda path: pytest.fail("it was opened"))
    (tmp_path / "file").write_text("")
    for path, said in ((tmp_path / "file" / "x", "since its folder is a file"), (tmp_path, "is a folder: name a file")):
        code, out, error = validate(made, option, path)
        assert (code, out, error.count("\n")) == (2, "", 1)
        assert f"error: '{path}' " in error
        assert said in error
    monkeypatch.setattr("tempfile.TemporaryFile", _full)
    code, _, error = validate(made, option, tmp_path / "y")
    assert (code, error) == (2, f"error: '{tmp_path / 'y'}' cannot be written: No space left; choose another path\n")


@pytest.mark.parametrize("option", ["--json", "--report", "--junit", "--markdown"])
def test_nothing_is_written_into_the_bundle(made, validate, option):
    """It would not be opened again: its manifest names all that it holds."""
    code, _, error = validate(made.path, option, made.path / "chips" / "x")
    assert (code, error.count("\n")) == (2, 1)
    assert f"'{made.path / 'chips' / 'x'}' lies in the bundle" in error
    assert validate(made.path, "--runtime", "reference")[0] == 0


@pytest.mark.parametrize("option", ["--json", "--report", "--junit", "--markdown"])
def test_a_refusal_leaves_no_folder_for_what_was_not_written(validate, tmp_path, option):
    assert validate(tmp_path / "none", option, tmp_path / "new" / "x")[0] == 2
    assert not (tmp_path / "new").exists()


def _full(**_options):
    raise OSError(28, "No space left", "/tmp/other")


def test_help_says_which_samples_a_limit_takes(validate):
    code, out, _ = validate("--help")
    assert code == 0
    assert "drawn with a fixed seed from a data set, the first of a file" in " ".join(out.split())


def test_a_tampered_bundle_is_one_line(tmp_path, validate):
    bundle = bundles.make(tmp_path / "b", small_network(), normalised(images()))
    content = bytearray((bundle.path / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (bundle.path / "model.onnx").write_bytes(content)
    code, out, err = validate(bundle.path, "--json", tmp_path / "out.json")
    assert (code, out) == (2, "")
    assert err.startswith("error: bundle")
    assert "'model.onnx' was changed" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out.json").exists()


def test_no_bundle_is_one_line(tmp_path, validate):
    code, _, err = validate(tmp_path)
    assert code == 2
    assert "is no bundle: it has no manifest.json" in err


# --- the device -----------------------------------------------------------------------------------------------------

BLOCKED = """
import sys
for name in ("torch", "stdl_train", "stdl_models", "onnx"):
    sys.modules[name] = None
from stdl_runtimes.cli import entry
sys.argv[1:] = {arguments!r}
entry()
"""


def test_it_works_without_torch_and_without_onnx(made, tmp_path):
    arguments = [str(made.path), "--require", "onnxruntime", "--json", str(tmp_path / "out.json")]
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED.format(arguments=arguments)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("PASS")


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, stdl_runtimes.base; print({'torch', 'onnxruntime', 'onnx', 'rich', 'h5py'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "set()"


def test_every_registered_runtime_can_be_asked_for():
    assert {"reference", "onnxruntime", "tensorrt"} <= set(base.REGISTRY)
    for line in base.REGISTRY.values():
        assert callable(base.opener(line).load)
