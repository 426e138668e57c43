"""Engines are built once: by the same process, by two at once, and after one was killed, stopped or short of disk."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_builder import FakeBuilder

from stdl_export import tensorrt_cache
from stdl_export.common.errors import BadInput
from stdl_export.tensorrt import DEFAULTS, BuildOptions, Flavour, FlavourName, Profile

HELPERS = Path(__file__).parents[1] / "helpers"


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STDL_CACHE", str(tmp_path / "cache"))


def made(trt: FakeBuilder, model: bytes = b"model") -> bytes:
    return tensorrt_cache.engine(Flavour("tensorrt", "10.3.0", "8.7", trt), model, "a graph", Profile(), DEFAULTS)


def test_the_second_call_builds_nothing() -> None:
    trt = FakeBuilder()
    first = made(trt)
    assert made(trt) == first
    assert trt.builds == 1
    made(trt, b"another model")
    assert trt.builds == 2


def test_the_key_is_all_that_an_engine_depends_on() -> None:
    def key(
        model: bytes = b"m",
        name: FlavourName = "tensorrt",
        version: str = "10.3.0",
        capability: str | None = "8.7",
        profile: Profile = Profile(),  # noqa: B008
        options: BuildOptions = DEFAULTS,
        gpu: str = "Orin",
    ) -> str:
        return tensorrt_cache.key(Flavour(name, version, capability, None, gpu), model, profile, options)

    keys = [
        key(), key(model=b"n"), key(name="tensorrt_rtx"), key(version="10.3.1"), key(capability="8.6"),
        key(capability=None), key(profile=Profile(1, 1, 8)), key(options=BuildOptions(tf32=True)),
        key(options=BuildOptions(workspace_mib=9)), key(gpu="A100"),
    ]  # fmt: skip
    assert len(set(keys)) == len(keys)
    assert key() == key(options=BuildOptions(probe=False)) == keys[0]


def test_a_damaged_engine_is_built_again(caplog: pytest.LogCaptureFixture) -> None:
    trt = FakeBuilder()
    first = made(trt)
    (path,) = tensorrt_cache.ENGINES.folder.glob("*.entry")
    path.write_bytes(path.read_bytes()[:-3])
    assert made(trt) == first
    assert trt.builds == 2
    assert caplog.text.count("is damaged") == 1
    assert made(trt) == first
    assert trt.builds == 2


def test_a_failed_build_leaves_nothing_and_the_next_one_works() -> None:
    with pytest.raises(BadInput, match="could not build"):
        made(FakeBuilder(fails=True))
    assert not list(tensorrt_cache.ENGINES.folder.glob("*.entry"))
    assert made(FakeBuilder())


def test_a_limit_that_is_none_is_said_before_a_long_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STDL_CACHE_MIB", "much")
    trt = FakeBuilder()
    with pytest.raises(BadInput, match="STDL_CACHE_MIB='much': write a whole number of MiB"):
        made(trt)
    assert trt.builds == 0


# A process that builds slowly; it prints the engine and how many builds it took.
BUILD = f"""
import sys; sys.path.insert(0, {str(HELPERS)!r})
import logging
from fake_builder import FakeBuilder
from stdl_export import tensorrt_cache
from stdl_export.tensorrt import DEFAULTS, Flavour, Profile
logging.basicConfig(level="INFO", format="%(message)s")
trt = FakeBuilder(steps=30, seconds=0.05)
print("starting", flush=True)
engine = tensorrt_cache.engine(Flavour("tensorrt", "10.3.0", "8.7", trt), b"model", "a graph", Profile(), DEFAULTS)
print(trt.builds, engine.decode())
"""


def start() -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", BUILD], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "starting\n"
    return process


def test_two_processes_build_the_same_engine_once() -> None:
    done = [process.communicate(timeout=60) for process in (start(), start())]
    builds, engines = zip(*(out.split(maxsplit=1) for out, _ in done), strict=True)
    assert sorted(builds) == ["0", "1"]
    assert len(set(engines)) == 1
    assert sum("another process builds this very engine; waiting for it" in err for _, err in done) == 1


def test_a_build_that_is_killed_leaves_nothing_and_the_next_one_works() -> None:
    process = start()
    lock = tensorrt_cache.ENGINES.folder
    while not list(lock.glob("*.lock")):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not list(lock.glob("*.entry"))
    trt = FakeBuilder()
    assert json.loads(made(trt))["tf32"] == ["clear TF32"]
    assert trt.builds == 1


FULL = BUILD.replace("trt = ", "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); trt = ")


def test_a_full_disk_costs_the_cache_and_not_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """No file may grow beyond 100 bytes; Python ignores SIGXFSZ, so that a write fails as on a full disk."""
    assert resource.RLIMIT_FSIZE
    done = subprocess.run([sys.executable, "-c", FULL], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert '1 {"shapes"' in done.stdout
    assert "cannot be written (File too large): nothing is kept" in done.stderr
    assert not list(tensorrt_cache.ENGINES.folder.glob("*.entry"))
    assert not list(tensorrt_cache.ENGINES.folder.glob("*.part"))
    trt = FakeBuilder()
    assert made(trt)
    assert trt.builds == 1
