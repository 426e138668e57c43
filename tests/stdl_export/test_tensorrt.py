from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
from small_graphs import conv_net

from stdl_export import tensorrt
from stdl_export.common.errors import BadInput, Unavailable
from stdl_export.onnx import lower
from stdl_export.tensorrt import Profile


@pytest.fixture(scope="module")
def rtx() -> tensorrt.Flavour:
    module = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    return tensorrt.Flavour("tensorrt_rtx", module.__version__, None, module)


@pytest.mark.parametrize(
    ("mode", "steps", "form"),
    [
        ("repeat", 4, "unroll"),
        ("sequence", 3, "unroll"),
        ("repeat", 4, "scan"),
        ("sequence", 5, "scan"),
        ("repeat", 19, "chunks"),
        ("sequence", 17, "chunks"),
    ],
)
def test_rtx_builds_every_time_form(rtx: tensorrt.Flavour, mode: str, steps: int, form: Any) -> None:
    model = lower.sequence(conv_net(input=mode, T=steps), form)
    engine = tensorrt.build(rtx, model.SerializeToString(), "the sequence graph", Profile())
    assert engine.startswith(b"vtrt") or len(engine) > 1000


def test_rtx_builds_the_step_graph(rtx: tensorrt.Flavour) -> None:
    model = lower.step(conv_net())
    assert len(tensorrt.build(rtx, model.SerializeToString(), "the step graph", Profile(2, 4, 8))) > 1000


def broken_model(operator: str, dtype: int) -> bytes:
    node = onnx.helper.make_node(operator, ["input"], ["y"], name="here")
    x = onnx.helper.make_tensor_value_info("input", dtype, ["batch", 4])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.INT64, None)
    opset = [onnx.helper.make_opsetid("", 20)]
    graph = onnx.helper.make_graph([node], "g", [x], [y])
    return onnx.helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()


def test_what_tensorrt_does_not_parse_is_one_line(rtx: tensorrt.Flavour) -> None:
    with pytest.raises(BadInput) as error:
        tensorrt.build(rtx, broken_model("NonZero", onnx.TensorProto.FLOAT), "a graph", Profile())
    assert "does not take a graph: node 'here' (NonZero): " in str(error.value)
    assert "\n" not in str(error.value)


def test_a_failed_build_tells_the_first_real_error(rtx: tensorrt.Flavour, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "_profile", lambda builder, network, profile: builder.create_optimization_profile())
    model = lower.sequence(conv_net()).SerializeToString()
    with pytest.raises(BadInput) as error:
        tensorrt.build(rtx, model, "the sequence graph", Profile())
    assert "could not build the sequence graph: " in str(error.value)
    assert "profile" in str(error.value)
    assert "cudaError" not in str(error.value)


class FakeTensorRT:
    """The calls that `build` makes, written down; the real ones need a GPU, or RTX."""

    def __init__(self, with_flag: bool) -> None:
        self.flags: list[int] = []
        self.cleared: list[str] = []
        self.shapes: dict[str, tuple] = {}
        self.NetworkDefinitionCreationFlag = SimpleNamespace(**({"STRONGLY_TYPED": 1} if with_flag else {}))
        self.BuilderFlag = SimpleNamespace(TF32="TF32")
        self.MemoryPoolType = SimpleNamespace(WORKSPACE="WORKSPACE")
        self.ILogger = type("ILogger", (), {"Severity": SimpleNamespace(ERROR=1, INTERNAL_ERROR=0)})
        tensors = [SimpleNamespace(name="input", shape=(4, -1, 2)), SimpleNamespace(name="state", shape=(-1, 3))]
        network = SimpleNamespace(num_inputs=2, get_input=tensors.__getitem__)
        profile = SimpleNamespace(set_shape=lambda name, *shapes: self.shapes.update({name: shapes}))
        config = SimpleNamespace(
            clear_flag=self.cleared.append, set_memory_pool_limit=lambda *a: None, add_optimization_profile=lambda p: 0
        )
        self.builder = SimpleNamespace(
            create_network=lambda flags: self.flags.append(flags) or network,
            create_builder_config=lambda: config,
            create_optimization_profile=lambda: profile,
            build_serialized_network=lambda network, config: memoryview(b"engine"),
        )

    def Builder(self, log: Any) -> Any:
        return self.builder

    def OnnxParser(self, network: Any, log: Any) -> Any:
        return SimpleNamespace(parse=lambda model: True)


@pytest.mark.parametrize(("with_flag", "flags"), [(True, 2), (False, 0)])
def test_networks_are_strongly_typed_without_tf32(with_flag: bool, flags: int) -> None:
    trt = FakeTensorRT(with_flag)
    made = tensorrt.build(tensorrt.Flavour("tensorrt", "10.3", "8.7", trt), b"", "a graph", Profile(1, 2, 4))
    assert made == b"engine"
    assert trt.flags == [flags]
    assert trt.cleared == ["TF32"]
    assert trt.shapes == {"input": ((4, 1, 2), (4, 2, 2), (4, 4, 2)), "state": ((1, 3), (2, 3), (4, 3))}


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
    monkeypatch.setattr(tensorrt, "_compute_capability", lambda: capability)
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
    monkeypatch.setattr(tensorrt, "_compute_capability", lambda: None)
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
