"""Which TensorRT is taken and what it is told; the real RTX builds in test_tensorrt_build."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from stdl_export import tensorrt
from stdl_export.common.errors import BadInput, Unavailable
from stdl_export.tensorrt import Profile


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
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(__version__="1") if name in installed else None)
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
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(__version__="1") if name in installed else None)
    with pytest.raises(Unavailable, match=said):
        tensorrt.flavour()


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
