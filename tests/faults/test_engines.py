"""What can go wrong with engines, from the command line: a clear line, nothing half-written, and the next call works.

Builds are the fake's where they have to be slow, short of memory or killed at a certain moment, else TensorRT-RTX's.
What a runtime says of an engine that does not fit is in tests/stdl_runtimes/test_tensorrt.py.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import bundles
import numpy as np
import pytest
from chains import small_network
from fake_gpu import FakeCuda

from stdl_export import bundle as opened
from stdl_export.bundle import Bundle
from stdl_export.common.errors import BadInput, Unavailable
from stdl_runtimes import base, cuda

ROOT = Path(__file__).parents[2]

# stdl-export with a fake `tensorrt` and a GPU that is not there.
FAKED = f"""
import sys; sys.path.insert(0, {str(ROOT / "tests" / "helpers")!r})
import resource
from fake_builder import FakeBuilder
from stdl_export import tensorrt
from stdl_export.cli import entry
tensorrt.compute_capability = lambda: "8.7"
sys.modules["tensorrt"] = FakeBuilder(OPTIONS).module()
LIMIT
entry()
"""
REAL = "from stdl_export.cli import entry; entry()"
NO_MEMORY = 'fails=True, lines=(("ERROR", "Could not find any implementation for node {ForeignNode[conv]}."),)'


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.setenv("STDL_CACHE", str(tmp_path / "cache"))
    graph = small_network(mode="repeat", readout="li", T=3)
    x = np.random.default_rng(0).normal(0.5, 1, (2, 2, 6, 6)).astype(np.float32)
    return bundles.make(tmp_path / "b", graph, x)


def command(bundle: Bundle, options: str | None = "", limit: str = "") -> list[str]:
    """stdl-export BUNDLE --target tensorrt, by the fake with these options, or (None) by what is installed."""
    code = REAL if options is None else FAKED.replace("OPTIONS", options).replace("LIMIT", limit)
    return [sys.executable, "-c", code, str(bundle.path), "--target", "tensorrt", "--mode", "step"]


def export(bundle: Bundle, options: str | None = "", limit: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(bundle, options, limit), capture_output=True, text=True, check=False, timeout=120)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(bundle: Bundle, options: str, limit: str = "") -> str:
    """The one line of an export that fails; the bundle is as it was, and nothing lies beside it."""
    before = contents(bundle.path)
    done = export(bundle, options, limit)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert contents(bundle.path) == before
    assert not list(bundle.path.parent.glob(".b.*.part"))
    return errors[0]


def engine_of(bundle: Bundle) -> bytes:
    found = opened.load(bundle.path)
    (info,) = found.manifest.engines
    return found.file(info.file).read_bytes()


def test_too_little_memory_to_build(bundle: Bundle) -> None:
    said = refused(bundle, NO_MEMORY)
    assert "could not build the step graph: Could not find any implementation" in said
    assert "too little memory" in said
    assert "--set tensorrt.workspace_mib=N" in said
    assert export(bundle).returncode == 0
    assert json.loads(engine_of(bundle))["tf32"] == ["clear TF32"]


def test_killed_while_building(bundle: Bundle, tmp_path: Path) -> None:
    before = contents(bundle.path)
    process = subprocess.Popen(command(bundle, "steps=1000, seconds=0.1"), stderr=subprocess.DEVNULL)
    while not list(tmp_path.glob("cache/tensorrt-engines/*.lock")):
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert contents(bundle.path) == before
    opened.load(bundle.path)
    assert export(bundle).returncode == 0
    assert engine_of(bundle)


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_stopped_while_building(bundle: Bundle, tmp_path: Path, end: signal.Signals) -> None:
    before = contents(bundle.path)
    process = subprocess.Popen(command(bundle, "steps=1000, seconds=0.1"), stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("cache/tensorrt-engines/*.lock")):
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(end)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said.splitlines()[-1] == "error: stopped"
    assert "Traceback" not in said
    assert contents(bundle.path) == before
    assert not list(bundle.path.parent.glob(".b.*.part"))


def test_a_disk_that_is_full_when_the_engine_is_written(bundle: Bundle) -> None:
    """No file may grow beyond 100 bytes; Python ignores SIGXFSZ, so that a write fails as on a full disk."""
    said = refused(bundle, "", "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))")
    assert "File too large" in said, said
    assert export(bundle).returncode == 0
    assert engine_of(bundle)


def test_two_processes_that_build_the_same_engine(bundle: Bundle) -> None:
    """Into the same bundle: the engine is built once, and both end well."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    processes = [subprocess.Popen(command(bundle, None), stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert len(engine_of(bundle)) > 1000
    kept = list((bundle.path.parent / "cache" / "tensorrt-engines").glob("*.entry"))
    assert len(kept) == 1


def test_a_truncated_engine(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its hash where only the file is damaged, by TensorRT where the manifest was written anew."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    assert export(bundle, None).returncode == 0
    found = opened.load(bundle.path)
    (info,) = found.manifest.engines
    file = found.file(info.file)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput, match=f"file '{info.file}' was changed"):
        opened.load(bundle.path)
    file.write_bytes(whole[:40])
    damaged = bundles.rehash(found, [info.file])
    monkeypatch.setattr(cuda, "open_device", FakeCuda)
    with pytest.raises(Unavailable, match=rf"^built, not run: {info.file}: the file is damaged$"):
        base.load(damaged, "tensorrt")
    file.unlink()
    with pytest.raises(BadInput, match=f"file '{info.file}' is missing"):
        opened.load(bundle.path)
    file.write_bytes(whole[:40])
    assert export(damaged, None).returncode == 0  # built before: taken from the cache
    assert engine_of(bundle) == whole


def test_an_engine_of_another_gpu_is_refused_and_built_anew_here(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle that came from an Orin (8.7), on a GPU of another generation."""
    assert export(bundle).returncode == 0
    found = opened.load(bundle.path)
    assert found.manifest.engines[0].file == "engine/tensorrt.sm87.step.engine"
    device = FakeCuda()
    device.compute_capability = "11.0"
    monkeypatch.setattr(cuda, "open_device", lambda: device)
    monkeypatch.setitem(sys.modules, "tensorrt", _module("10.3.0"))
    with pytest.raises(Unavailable, match=r"built for SM 8.7, this GPU is 11.0: build it here with stdl-export"):
        base.load(found, "tensorrt")
    monkeypatch.setitem(sys.modules, "tensorrt", _module("10.16.1"))
    with pytest.raises(Unavailable, match=r"built by tensorrt 10.3.0, this is 10.16.1: build it here with stdl-export"):
        base.load(found, "tensorrt")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(Unavailable, match="tensorrt is not installed: on a Jetson it comes with JetPack"):
        base.load(found, "tensorrt")


def _module(version: str) -> ModuleType:
    made = ModuleType("tensorrt")
    made.__version__ = version  # type: ignore[attr-defined]
    return made
