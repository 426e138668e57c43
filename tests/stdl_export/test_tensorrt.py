"""Which TensorRT is taken and what it is told; the real RTX builds in test_tensorrt_build."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from stdl_export import tensorrt
from stdl_export.common.errors import BadInput, Unavailable
from stdl_export.tensorrt import FlavourName, Profile


def module(**members: object) -> ModuleType:
    """A TensorRT that has nothing but these."""
    made = ModuleType("tensorrt")
    made.__dict__.update({"__version__": "1", **members})
    return made


@pytest.mark.parametrize(
    ("capability", "installed", "expected"),
    [
        ("8.7", ("tensorrt", "tensorrt_rtx"), "tensorrt"),
        (None, ("tensorrt", "tensorrt_rtx"), "tensorrt_rtx"),
        ("8.7", ("tensorrt_rtx",), "tensorrt_rtx"),
    ],
)
def test_which_flavour(
    monkeypatch: pytest.MonkeyPatch, capability: str | None, installed: tuple[str, ...], expected: str
) -> None:
    monkeypatch.setattr(tensorrt, "compute_capability", lambda: capability)
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, module() if name in installed else None)
    flavour = tensorrt.flavour()
    assert flavour.name == expected
    target = ".sm87" if expected == "tensorrt" else ""
    assert flavour.file("step") == f"engine/{expected}{target}.step.engine"


@pytest.mark.parametrize(
    ("installed", "said"),
    [((), "neither tensorrt nor tensorrt_rtx is installed: pip install"), (("tensorrt",), "no NVIDIA GPU")],
)
def test_no_flavour(monkeypatch: pytest.MonkeyPatch, installed: tuple[str, ...], said: str) -> None:
    monkeypatch.setattr(tensorrt, "compute_capability", lambda: None)
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, module() if name in installed else None)
    with pytest.raises(Unavailable, match=said):
        tensorrt.flavour()


def test_a_tensorrt_whose_libraries_do_not_load_is_told_from_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As where the wheel is for another CUDA, or JetPack's module without JetPack's libraries."""
    monkeypatch.setattr(tensorrt, "compute_capability", lambda: "8.7")
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: cannot open\\nshared object file')")
    said = r"^tensorrt does not load: libnvinfer.so.10: cannot open shared object file: pip install"
    with pytest.raises(Unavailable, match=said):
        tensorrt.flavour()
    (tmp_path / "tensorrt.py").write_text("import tensorrt_libs_of_another_wheel")
    with pytest.raises(Unavailable, match="tensorrt does not load: No module named 'tensorrt_libs_of_another_wheel'"):
        tensorrt.flavour()


def test_a_tensorrt_without_strong_typing_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "compute_capability", lambda: "8.7")
    old = module(__version__="8.6.2", NetworkDefinitionCreationFlag=SimpleNamespace(EXPLICIT_BATCH=0))
    monkeypatch.setitem(sys.modules, "tensorrt", old)
    with pytest.raises(Unavailable, match=r"^tensorrt 8.6.2 has no strongly typed networks: 10.3 or newer is needed"):
        tensorrt.flavour()


@pytest.mark.parametrize(
    ("capability", "name", "doubted"),
    [
        (None, "tensorrt_rtx", False),
        ("8.9", "tensorrt_rtx", False),
        ("9.0", "tensorrt_rtx", True),
        ("9.0", "tensorrt", False),
    ],
)
def test_rtx_on_a_gpu_that_it_does_not_list(
    monkeypatch: pytest.MonkeyPatch, capability: str | None, name: FlavourName, doubted: bool
) -> None:
    rtx = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    monkeypatch.setattr(tensorrt, "compute_capability", lambda: capability)
    said = tensorrt.doubts(tensorrt.Flavour(name, "1.7", None, rtx))
    assert bool(said) == doubted
    assert not said or "does not list this GPU (SM 9.0): install tensorrt to run here" in said[0]


@pytest.mark.parametrize(("text", "sizes"), [("4", (4, 4, 4)), ("1:8:64", (1, 8, 64))])
def test_profiles(text: str, sizes: tuple[int, int, int]) -> None:
    assert Profile.parse(text).sizes == sizes


@pytest.mark.parametrize(
    "text", ["", "0", "a", "1:2", "3:2:4", "1:5:4", "0:1:2", "-1", "1:2:3:4", "1e3", "٣", "9999999"]
)
def test_profiles_that_are_none(text: str) -> None:
    with pytest.raises(BadInput, match="--batch"):
        Profile.parse(text)


def test_what_makes_no_engine_is_refused_before_it_is_tried() -> None:
    tensorrt.check_time(16, "unroll")
    tensorrt.check_time(64, "chunks")
    with pytest.raises(BadInput, match="unrolling 17 steps"):
        tensorrt.check_time(17, "unroll")
    with pytest.raises(BadInput, match="--timesteps N, or --mode step"):
        tensorrt.check_time(None, "scan")
