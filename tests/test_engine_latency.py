"""benchmarks/gpu/engine_latency.py: engines are built and described without a GPU, and timed on a fake of one."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from tensorrt_bundle import Gpu

from stdl_runtimes import cuda

FILE = Path(__file__).parents[1] / "benchmarks" / "gpu" / "engine_latency.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("engine_latency", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("form", ["unroll", "step"])
def test_every_part_of_every_run_is_there(
    benchmark: ModuleType, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Gpu(tmp_path / "b", monkeypatch, mode="sequence", batch=(2, 2, 2))
    for wanted, said in (("true", "on"), ("false", "off, as asked for")):
        result = benchmark.Result(form, 2)
        benchmark._timed(made.bundle, wanted, result, runs=3)
        assert {part: len(times) for part, times in result.parts.items()} == dict.fromkeys(benchmark.PARTS, 3)
        assert result.parts["compute"] == [1.0] * 3  # by the fake's clock
        assert result.cuda_graph == said
        assert result.device_mib is not None


def test_engines_are_built_and_the_results_written(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    bundle = Gpu(tmp_path / "b", monkeypatch).bundle
    given = [str(bundle.path), "--without-gpu", "--batches", "3", "--forms", "scan,step", "--results", str(tmp_path)]
    assert benchmark.main(given) == 0
    assert "built, not run" in capsys.readouterr().out
    found = json.loads((tmp_path / "engine_latency.json").read_text())
    assert [(each["form"], each["batch"]) for each in found["results"]] == [("scan", 3), ("step", 3)]
    assert all(each["build_s"] > 0 and each["engine_mib"] > 0 for each in found["results"])
    assert "tensorrt_rtx" in found["environment"]["versions"]


def test_without_a_gpu_it_says_so(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    monkeypatch.setattr(cuda, "DRIVER", "libno-such-driver.so.1")
    assert benchmark.main([]) == 1
    assert capsys.readouterr().err == (
        "engine_latency: no NVIDIA driver; run it on a machine with a GPU, or --without-gpu\n"
    )
