"""The benchmarks of streams work at all, for a moment each."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from stdl_export.bundle import Bundle

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def modules() -> Iterator[tuple[ModuleType, ModuleType]]:
    pytest.importorskip("onnxruntime")
    sys.path.insert(0, str(FOLDER))
    before = set(sys.modules)
    yield importlib.import_module("streaming"), importlib.import_module("soak")
    sys.path.remove(str(FOLDER))
    for name in {"streaming", "soak", "common", "inference_latency"} - before:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def bundle(modules: tuple[ModuleType, ModuleType], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    streaming, soak = modules
    made: Bundle = streaming.bundle_of("vgg5", tmp_path_factory.mktemp("bench"), soak.rounded)
    return made


def test_streams_are_measured_beside_the_bare_call(modules: tuple[ModuleType, ModuleType], bundle: Bundle) -> None:
    found = modules[0].measure(bundle, 3, 1, 0.05)
    assert 0 < found["p50_us"] <= found["p99_us"]
    assert found["steps"] >= modules[0].FEWEST
    assert found["overhead_clock"] == "thread"
    assert abs(found["overhead"]) < 1, "a session is not another thing than the call"
    assert found["streams_p50_us"] > 0


def test_the_bare_call_computes_what_the_session_does(modules: tuple[ModuleType, ModuleType], bundle: Bundle) -> None:
    import numpy as np

    import stdl_runtimes

    frame = np.random.default_rng(0).integers(-8, 24, (3, *bundle.manifest.input.shape)).astype(np.float32) / 16
    bare = modules[0].bare_step(bundle, frame, 1)
    with stdl_runtimes.load(bundle) as runtime, runtime.session(3) as session:
        for _ in range(5):
            assert np.array_equal(session.step(frame), bare())


def test_a_soak_disturbs_and_compares(
    modules: tuple[ModuleType, ModuleType], bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    soak = modules[1]
    monkeypatch.setattr(soak, "STEPS_A_BUNDLE", 20)
    found = soak.run(bundle.path, bundle.manifest.input.shape, 0.5, 6, 1)
    assert found.done["differ"] == 0
    assert found.done["frames"] > found.done["steps"] > 0
    assert found.done["bundles"] == len(found.memory) > 0
    soaked = soak.Soak(memory=[(second, 100 + (second > 80)) for second in range(101)])
    assert soaked.growth() == pytest.approx(0.01)


def test_a_soak_sees_what_drifts(modules: tuple[ModuleType, ModuleType], bundle: Bundle) -> None:
    import numpy as np

    soak = modules[1]
    devices = [soak.Device.of(bundle.path, name, 2, 1) for name in soak.RUNTIMES]
    frame = np.ones(bundle.manifest.input.shape, np.float32)
    for _ in range(3):
        devices[0].streams.step({1: frame})
    done = soak.Counter()
    soak.step(devices, {0: frame, 1: frame}, done)
    assert done == {"differ": 1, "steps": 1, "frames": 2}
    for device in devices:
        device.close()


def test_the_benchmark_on_a_gpu_works_as_far_as_it_can_without_one(modules: tuple[ModuleType, ModuleType]) -> None:
    spec = importlib.util.spec_from_file_location("gpu_streaming", FOLDER / "gpu" / "streaming.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_streaming"] = module
    before = list(sys.path)
    try:
        spec.loader.exec_module(module)
        arguments = module._arguments(["--device", "cpu", "--steps", "4", "--runs", "2", "--without-compile"])
        found = {(result.contender, result.mode): result for result in module.measure("vgg5", 2, arguments)}
    finally:
        sys.path[:] = before
        del sys.modules["gpu_streaming"]
    for mode in ("step", "sequence"):
        eager = found["PyTorch eager", mode]
        assert len(eager.times) == 2
        assert eager.equal == 1
        assert found["SpikingJelly", mode].skipped == "no environment was given: --spikingjelly PYTHON"
    assert found["TensorRT", "step"].skipped
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        assert "has no CUDAExecutionProvider" in found["ORT CUDA", "step"].skipped
