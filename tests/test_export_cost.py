"""The benchmark of exports works at all, on networks as small as they come."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location("export_cost", FOLDER / "export_cost.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.modules.pop("common", None)


def test_it_measures_an_export(benchmark: ModuleType) -> None:
    pytest.importorskip("onnxruntime")
    found = benchmark.measure("deep", benchmark.deep(3, 4, 6), "int8")
    assert found["cpu_s"] > 0
    assert found["run_s"] > 0
    assert 10 < found["peak_mib"] < 2048
    assert 0 < found["bundle_mib"] < 1


def test_a_recurrent_network_is_a_scan_of_chunks(benchmark: ModuleType) -> None:
    from stdl_export.onnx import lower

    made = lower.sequence(benchmark.recurrent(20))
    assert [node.op_type for node in made.graph.node].count("Scan") == 1
