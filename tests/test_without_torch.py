"""On a device there is a base install and onnxruntime: load, run, stream, validate, add parts. No torch, nothing else.

Twice: in a process that sees nothing else of what is installed here; and, where STDL_FRESH_VENV=1 asks for it, in a new
environment, which takes minutes and the network.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nir
import numpy as np
import pytest
from bundles import make
from small_graphs import chain, frames, lif

from stdl_export.manifest import DataInfo

pytest.importorskip("onnxruntime")

ROOT = Path(__file__).parents[1]
HELPER = ROOT / "tests" / "helpers" / "base_install.py"

USE = """
import sys
from pathlib import Path
import numpy as np
from stdl_export import bundle as bundles
from stdl_runtimes import Streams, load

net, out = Path(sys.argv[1]), Path(sys.argv[2])
golden = bundles.load(net).golden()
assert golden.output.any()
for name in ("reference", "onnxruntime"):
    with load(net, runtime=name) as runtime:
        whole = runtime.run(golden.input)
        np.testing.assert_allclose(whole, golden.output, atol=1e-4)
        with runtime.session(len(golden.input)) as session:
            for t in range(len(whole)):
                np.testing.assert_array_equal(session.step(golden.input), whole[t])
                if t == 1:
                    session.save_state(out / "state")
            session.load_state(out / "state")
            np.testing.assert_array_equal(session.step(golden.input), whole[2])
            session.reset([0])
        with Streams(runtime, 4) as streams:
            rows = [streams.open() for _ in range(3)]
            for t in range(len(whole)):
                outputs = streams.step({row: golden.input[at] for at, row in enumerate(rows)})
                np.testing.assert_array_equal(np.stack([outputs[row] for row in rows]), whole[t, :3])
loaded = {"torch", "stdl_models", "pytest", "PIL", "matplotlib", "scipy"} & set(sys.modules)
assert not loaded, loaded
"""
VALIDATE = "from stdl_runtimes.cli import entry; entry()"
EXPORT = "from stdl_export.cli import entry; entry()"


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reads the digits that ship with the package, which need no torch either."""
    rng = np.random.default_rng(0)
    weights = [rng.normal(0, 0.3, size).astype(np.float32) for size in ((20, 64), (10, 20))]
    nodes = nir.Flatten({"input": np.array([1, 8, 8])}, 0, -1), nir.Linear(weights[0]), lif(20), nir.Linear(weights[1])
    graph = chain(*nodes, shape=(1, 8, 8), output=(10,), T=4, input="repeat")
    graph.metadata["stdl.output"] = "mean"
    data = DataInfo(name="digits", mean=(0.3,), std=(0.4,))
    classes = tuple("0123456789")
    folder = tmp_path_factory.mktemp("b") / "net"
    return make(folder, graph, frames(5, 1, 8, 8), data=data, classes=classes, encoding="direct").path


def use(python: list[str], net: Path, tmp_path: Path) -> None:
    """Everything that a device does with a bundle; python: how to run a piece of code."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "models", ROOT / "runtimes")))}

    def run(code: str, *args: object) -> str:
        done = subprocess.run(
            [*python, code, *map(str, args)], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(USE, net, tmp_path)
    assert "next: stdl-validate" in run(EXPORT, net, "--target", "triton,svg")
    files = {kind: tmp_path / f"out.{kind}" for kind in ("json", "html", "xml", "md")}
    options = ["--json", files["json"], "--report", files["html"], "--junit", files["xml"], "--markdown", files["md"]]
    options += ["--data", "digits", "--data-limit", "40", "--latency", "--latency-seconds", "0.02"]
    assert "PASS" in run(VALIDATE, net, "--runtime", "reference,onnxruntime", *options)
    assert all(file.stat().st_size > 200 for file in files.values())
    assert "onnxruntime" in json.dumps(json.loads(files["json"].read_text()))


def test_a_base_install_loads_runs_streams_and_validates(net: Path, tmp_path: Path) -> None:
    blocked = f"import runpy, sys; runpy.run_path({str(HELPER)!r}); exec(sys.argv.pop(1))"
    use([sys.executable, "-c", blocked], net, tmp_path)


def test_reading_a_run_folder_without_torch_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "network.safetensors").write_bytes(b"x")
    blocked = f"import runpy; runpy.run_path({str(HELPER)!r}); {EXPORT}"
    args = [sys.executable, "-c", blocked, str(tmp_path), "--target", "onnx", "--out", str(tmp_path / "b")]
    done = subprocess.run(args, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.endswith("reading it needs torch: pip install 'stdl-toolchain[train]'")


@pytest.mark.skipif(os.environ.get("STDL_FRESH_VENV") != "1", reason="STDL_FRESH_VENV=1 makes a new environment for it")
def test_a_new_environment_of_a_base_install(net: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "-q", f"{ROOT}[onnxruntime]"], check=True)
    absent = subprocess.run([python, "-c", "import torch"], capture_output=True, check=False)
    assert absent.returncode == 1
    use([python, "-c"], net, tmp_path)
