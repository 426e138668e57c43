"""examples/jetson: what of it can run without a Jetson. `run.py` with ONNX Runtime; `deploy.sh` with stand-ins."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import bundles
import numpy as np
import pytest
from chains import small_network

from stdl_export.bundle import Bundle
from stdl_export.common import console

EXAMPLES = Path(__file__).parents[1] / "examples" / "jetson"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("jetson_run", EXAMPLES / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=["repeat", "sequence"])
def bundle(request: pytest.FixtureRequest, tmp_path: Path) -> Bundle:
    shape = (3, 2, 6, 6) if request.param == "repeat" else (4, 3, 2, 6, 6)
    x = np.random.default_rng(0).normal(0.5, 1, shape).astype(np.float32)
    return bundles.make(tmp_path / "digits", small_network(mode=request.param, readout="li", T=4), x)


def test_a_bundle_is_proved_and_run(bundle: Bundle, example: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    page = bundle.path.parent / "proof.html"
    given = [str(bundle.path), "--runtime", "onnxruntime", "--batch", "5", "--seconds", "0.05", "--report", str(page)]
    assert console.run(example.main, given) == 0
    shown = capsys.readouterr().out
    assert "PASS" in shown
    assert "Single steps, onnxruntime, batch 5" in shown
    assert "p99" in shown
    assert page.stat().st_size > 1000


def test_without_a_gpu_the_engine_is_built_and_the_proof_fails(
    bundle: Bundle, example: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    if Path("/dev/nvidia0").exists():
        pytest.skip("a GPU is here")
    assert console.run(example.main, [str(bundle.path), "--seconds", "0"]) == 1
    said = capsys.readouterr()
    assert "engines built with tensorrt_rtx" in said.out
    assert "built, not run: no NVIDIA driver" in said.out
    assert said.err.splitlines()[-1] == "error: the proof failed: see above"


def test_what_the_board_is(example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").write_bytes(b"NVIDIA Jetson Orin Nano Developer Kit\0")
    (tmp_path / "release").write_text("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n")
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    4096 kB\n")
    for name, file in (("MODEL", "model"), ("RELEASE", "release"), ("MEMORY", "meminfo")):
        monkeypatch.setattr(example, name, tmp_path / file)
    monkeypatch.setattr(example, "power", lambda: {"power mode": "MAXN 0"})
    assert example.board() == {
        "model": "NVIDIA Jetson Orin Nano Developer Kit",
        "L4T": "R36 (release), REVISION: 4.3",
        "free memory": "4 MiB",
        "power mode": "MAXN 0",
    }
    for name in ("MODEL", "RELEASE", "MEMORY"):
        monkeypatch.setattr(example, name, tmp_path / "none")
    assert example.board() == {"power mode": "MAXN 0"}


STAND_IN = '#!/bin/sh\nprintf "%s " "$(basename "$0")" "$@" >> calls; echo >> calls\n'


def deploy(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    tools = folder / "tools"
    tools.mkdir()
    for name in ("ssh", "rsync"):
        (tools / name).write_text(STAND_IN)
        (tools / name).chmod(0o755)
    path = f"{tools}:{os.environ['PATH']}"
    return subprocess.run(
        [str(EXAMPLES / "deploy.sh"), *arguments],
        cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.skipif(shutil.which("bash") is None or sys.platform == "win32", reason="no bash here")
def test_deploying_copies_runs_and_fetches(tmp_path: Path) -> None:
    (tmp_path / "my net").mkdir()
    (tmp_path / "my net" / "manifest.json").write_text("{}")
    done = deploy(tmp_path, "my net/", "me@board", "--batch", "8")
    assert done.returncode == 0, done.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [line.split()[0] for line in calls] == ["ssh", "rsync", "rsync", "ssh", "rsync"]
    assert calls[1].strip() == "rsync --archive --delete my net/ me@board:stdl/bundles/my net/"
    assert r".venv/bin/python run.py bundles/my\ net --report my\ net.html --batch 8" in calls[3]
    assert done.stdout.strip() == "proof: my net.html"


@pytest.mark.skipif(shutil.which("bash") is None or sys.platform == "win32", reason="no bash here")
@pytest.mark.parametrize(("arguments", "said"), [((), "usage: "), (("nothing", "me@board"), "'nothing' is no bundle")])
def test_deploying_nothing_is_said(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    done = deploy(tmp_path, *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert not (tmp_path / "calls").exists()
