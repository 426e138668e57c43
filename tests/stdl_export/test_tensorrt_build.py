"""Building: what the real TensorRT-RTX takes, and on a fake what every version is told and how each failure reads."""

from __future__ import annotations

import _thread
import json
import sys
import threading
from pathlib import Path
from typing import Any

import onnx
import pytest
from fake_builder import FakeBuilder
from small_graphs import conv_net

from stdl_export import tensorrt, tensorrt_build, tensorrt_cache, tensorrt_device, tensorrt_progress
from stdl_export.common.errors import BadInput
from stdl_export.onnx import lower
from stdl_export.onnx.probe import probe
from stdl_export.tensorrt import DEFAULTS, BuildOptions, Flavour, Profile
from stdl_export.tensorrt_build import build

MONITOR = tensorrt_progress.monitor  # the real one


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STDL_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def rtx() -> Flavour:
    module = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    return Flavour("tensorrt_rtx", module.__version__, None, module)


def faked(trt: FakeBuilder, options: BuildOptions = DEFAULTS, profile: Profile = Profile(1, 2, 4)) -> dict[str, Any]:  # noqa: B008
    """What a fake engine says that it was built with."""
    made: dict[str, Any] = json.loads(
        build(Flavour("tensorrt", "10.3.0", "8.7", trt), b"", "a graph", profile, options)
    )
    return made


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
def test_rtx_builds_every_time_form(rtx: Flavour, mode: str, steps: int, form: Any) -> None:
    model = lower.sequence(conv_net(input=mode, T=steps), form)
    engine = build(rtx, model.SerializeToString(), "the sequence graph", Profile(), DEFAULTS)
    assert engine.startswith(b"vtrt") or len(engine) > 1000


def test_rtx_builds_the_step_graph_and_with_tf32(rtx: Flavour) -> None:
    model = lower.step(conv_net()).SerializeToString()
    options = BuildOptions(tf32=True, workspace_mib=64)
    assert len(build(rtx, model, "the step graph", Profile(2, 4, 8), options)) > 1000


@pytest.mark.parametrize("form", ["unroll", "scan", "chunks"])
def test_rtx_builds_the_probe_graph(rtx: Flavour, form: Any) -> None:
    model = probe(conv_net(input="sequence", T=11), form)
    assert len(build(rtx, model.SerializeToString(), "the probe graph", Profile(), DEFAULTS)) > 1000


def broken_model(operator: str, dtype: int) -> bytes:
    node = onnx.helper.make_node(operator, ["input"], ["y"], name="here")
    x = onnx.helper.make_tensor_value_info("input", dtype, ["batch", 4])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.INT64, None)
    opset = [onnx.helper.make_opsetid("", 20)]
    graph = onnx.helper.make_graph([node], "g", [x], [y])
    return onnx.helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()


def test_what_tensorrt_does_not_parse_is_one_line(rtx: Flavour) -> None:
    with pytest.raises(BadInput) as error:
        build(rtx, broken_model("NonZero", onnx.TensorProto.FLOAT), "a graph", Profile(), DEFAULTS)
    assert "does not take a graph: node 'here' (NonZero): " in str(error.value)
    assert "\n" not in str(error.value)


def test_a_failed_build_tells_the_first_real_error(rtx: Flavour, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_shapes(builder: Any, network: Any, config: Any, profile: Profile, name: str) -> None:
        config.add_optimization_profile(builder.create_optimization_profile())

    monkeypatch.setattr(tensorrt_build, "_add_profile", without_shapes)
    model = lower.sequence(conv_net()).SerializeToString()
    with pytest.raises(BadInput) as error:
        build(rtx, model, "the sequence graph", Profile(), DEFAULTS)
    assert "could not build the sequence graph: " in str(error.value)
    assert "profile" in str(error.value)
    assert "cudaError" not in str(error.value)


class CtrlC:
    """A terminal that presses Ctrl-C when the first phase begins, and lets the build go on when it was noticed."""

    def __init__(self, stopped: threading.Event) -> None:
        self.stopped, self.steps = stopped, 0

    def start(self, phase: str, steps: int) -> None:
        if not self.stopped.is_set():
            _thread.interrupt_main()
            assert self.stopped.wait(30)

    def step(self, phase: str, done: int) -> None:
        self.steps += 1

    def finish(self, phase: str) -> None:
        pass


@pytest.mark.parametrize("real", [False, True])
def test_ctrl_c_stops_a_build_and_nothing_is_kept(
    real: bool, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal comes to the main thread while TensorRT is at work; the build ends at its next step."""
    fake = FakeBuilder(steps=1000, seconds=0.1)
    flavour = request.getfixturevalue("rtx") if real else Flavour("tensorrt", "10.3.0", "8.7", fake)
    model = lower.sequence(conv_net(T=4), "unroll").SerializeToString() if real else b""
    terminals = []

    def at_the_terminal(trt: Any, stopped: threading.Event, phases: Any) -> Any:
        terminals.append(CtrlC(stopped))
        return MONITOR(trt, stopped, terminals[0])

    monkeypatch.setattr(tensorrt_build, "monitor", at_the_terminal)
    with pytest.raises(KeyboardInterrupt):
        tensorrt_cache.engine(flavour, model, "a graph", Profile(), DEFAULTS)
    assert terminals[0].steps <= 1
    for thread in threading.enumerate():
        if thread.name == "tensorrt-build":
            thread.join(1)  # it has nothing left to do
            assert not thread.is_alive()
    assert real or fake.ended
    assert not list(tmp_path.rglob("*.entry"))


def test_a_real_build_gives_up_where_the_monitor_says_no(rtx: Flavour, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped_at_once(trt: Any, stopped: threading.Event, phases: Any) -> Any:
        stopped.set()
        return MONITOR(trt, stopped, phases)

    monkeypatch.setattr(tensorrt_build, "monitor", stopped_at_once)
    with pytest.raises(BadInput, match="could not build a graph"):
        build(rtx, lower.step(conv_net()).SerializeToString(), "a graph", Profile(), DEFAULTS)


@pytest.mark.parametrize(("with_flag", "flags"), [(True, 2), (False, 0)])
def test_networks_are_strongly_typed_without_tf32(with_flag: bool, flags: int) -> None:
    trt = FakeBuilder(with_flag=with_flag)
    made = faked(trt)
    assert trt.flags == [flags]
    assert made["tf32"] == ["clear TF32"]
    assert made["shapes"] == {"input": [[4, 1, 2], [4, 2, 2], [4, 4, 2]], "state": [[1, 3], [2, 3], [4, 3]]}
    assert trt.threads == {"tensorrt-build"}


def test_tf32_is_on_where_it_is_asked_for() -> None:
    assert faked(FakeBuilder(), BuildOptions(tf32=True))["tf32"] == ["set TF32"]


@pytest.mark.parametrize(
    ("free", "asked", "expected"),
    [
        (8 << 30, None, 1 << 30),
        (2 << 30, None, 512 << 20),
        (None, None, 1 << 30),
        (0, None, 1 << 20),
        (2 << 30, 100, 100 << 20),
    ],
)
def test_the_workspace_is_a_quarter_of_what_is_free(
    monkeypatch: pytest.MonkeyPatch, free: int | None, asked: int | None, expected: int
) -> None:
    monkeypatch.setattr(tensorrt_device, "free_bytes", lambda on_gpu: free)
    assert faked(FakeBuilder(), BuildOptions(workspace_mib=asked))["workspace"] == [["WORKSPACE", expected]]


def test_more_open_sizes_than_the_batch_are_refused_before_tensorrt_sees_them() -> None:
    trt = FakeBuilder(shapes={"input": (-1, -1, 2)})
    with pytest.raises(BadInput, match=r"a graph: input 'input' \[\?, \?, 2\] has more open sizes .* --timesteps N"):
        faked(trt)
    assert trt.builds == 0


def test_a_profile_that_tensorrt_does_not_take_is_said() -> None:
    with pytest.raises(BadInput, match="TensorRT takes no batch of 1:2:4: choose another --batch"):
        faked(FakeBuilder(profile=-1))


def test_the_first_error_is_the_cause() -> None:
    lines = (("WARNING", "hm"), ("ERROR", "Thread context has not been set"), ("ERROR", "no\nkernel"), ("ERROR", "so"))
    with pytest.raises(BadInput, match=r"^tensorrt 10.3.0 could not build a graph: no kernel$"):
        faked(FakeBuilder(lines=lines, fails=True))
    with pytest.raises(BadInput, match=r"could not build a graph: it gave no reason$"):
        faked(FakeBuilder(fails=True))


@pytest.mark.parametrize(
    "line",
    [
        "Could not find any implementation for node {ForeignNode[conv...add]}.",
        "Requested amount of GPU memory (123 bytes) could not be allocated. Out of memory",
        "Skipping tactic 3 due to insufficient memory on requested size of 5.",
    ],
)
def test_too_little_memory_comes_with_advice(monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.setattr(tensorrt_device, "free_bytes", lambda on_gpu: 400 << 20)
    with pytest.raises(BadInput) as error:
        faked(FakeBuilder(lines=(("ERROR", line),), fails=True))
    said = str(error.value)
    assert line in said
    assert "too little memory (workspace 100.0 MiB, 400.0 MiB free): close other programs" in said
    assert "--set tensorrt.workspace_mib=N" in said
    assert "\n" not in said


def test_tactics_left_out_for_memory_are_counted_and_the_engine_is_good(caplog: pytest.LogCaptureFixture) -> None:
    line = ("WARNING", "Skipping tactic 0x1 due to insufficient memory")
    assert faked(FakeBuilder(lines=(line, line, ("WARNING", "other"))))
    assert "2 ways to compute a graph were left out for want of memory: the engine is good" in caplog.text


@pytest.mark.parametrize(("layers", "said"), [(2000, False), (2001, True)])
def test_a_long_build_is_foretold(caplog: pytest.LogCaptureFixture, layers: int, said: bool) -> None:
    faked(FakeBuilder(layers=layers))
    assert ("--time-form scan is quick" in caplog.text) == said


def test_what_a_build_measures_helps_the_next_one() -> None:
    first, second, other = FakeBuilder(), FakeBuilder(), FakeBuilder()
    faked(first)
    faked(second)
    build(Flavour("tensorrt", "10.3.0", "11.0", other), b"", "a graph", Profile(), DEFAULTS)
    assert first.caches == [b""]
    assert second.caches[0] == b"+"
    assert other.caches == [b""]  # another GPU


def test_an_unfit_timing_cache_is_left_out() -> None:
    faked(FakeBuilder())
    trt = FakeBuilder(cache_fits=False)
    faked(trt)
    assert trt.caches[:2] == [b"+", b""]


def test_what_another_process_measured_meanwhile_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    trt = FakeBuilder()
    build_as_ever = trt._build

    def with_a_neighbour(network: Any, config: Any) -> Any:
        tensorrt_build.TIMINGS.put("10.3.0-sm8.7", b"theirs")
        return build_as_ever(network, config)

    trt._build = with_a_neighbour  # type: ignore[method-assign]
    faked(trt)
    assert trt.combined == [b"theirs"]


def test_rtx_has_no_timing_cache(tmp_path: Path) -> None:
    trt = FakeBuilder()
    build(Flavour("tensorrt_rtx", "1.7", None, trt), b"", "a graph", Profile(), DEFAULTS)
    assert trt.caches == []
    assert not list(tmp_path.rglob("*.entry"))


class Terminal:
    """What a phase is shown on."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    def start(self, phase: str, steps: int) -> None:
        self.seen.append(("start", phase, steps))

    def step(self, phase: str, done: int) -> None:
        self.seen.append(("step", phase, done))

    def finish(self, phase: str) -> None:
        self.seen.append(("finish", phase))


def test_phases_of_a_real_build_are_shown(rtx: Flavour) -> None:
    terminal, trt = Terminal(), rtx.module
    watching = tensorrt_progress.monitor(trt, threading.Event(), terminal)
    watching.phase_start("a", None, 2)
    assert watching.step_complete("a", 1)
    watching.phase_finish("a")
    assert terminal.seen == [("start", "a", 2), ("step", "a", 1), ("finish", "a")]


def test_bars_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with tensorrt_progress.shown("building") as phases:
        assert phases is None
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with tensorrt_progress.shown("building [x]") as phases:
        assert phases is not None
        phases.start("Timing graph nodes", 4)
        phases.step("Timing graph nodes", 2)
        phases.step("unknown", 2)
        phases.finish("Timing graph nodes")
        phases.finish("unknown")


def test_an_error_in_the_thread_comes_out() -> None:
    with pytest.raises(ZeroDivisionError):
        tensorrt_progress.stoppable(lambda: 1 // 0, threading.Event())


def test_free_memory_is_the_machines_where_no_gpu_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    2048 kB\n")
    monkeypatch.setattr(tensorrt_device, "MEMINFO", tmp_path / "meminfo")
    assert tensorrt_device.free_bytes(on_gpu=False) == 2 << 20
    monkeypatch.setattr(tensorrt_device, "MEMINFO", tmp_path / "none")
    assert tensorrt_device.free_bytes(on_gpu=False) is None


class FakeDriver:
    """As libcuda with one GPU; calls that open something are closed again."""

    def __init__(self, integrated: int, fails: str | None = None) -> None:
        self.integrated, self.fails, self.held = integrated, fails, 0

    def _ok(self, name: str) -> int:
        return 100 if self.fails == name else 0

    def cuInit(self, flags: int) -> int:
        return self._ok("cuInit")

    def cuDeviceGet(self, device: Any, number: int) -> int:
        return self._ok("cuDeviceGet")

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> int:
        value._obj.value = {75: 8, 76: 7, 18: self.integrated}[attribute]
        return self._ok("cuDeviceGetAttribute")

    def cuDeviceGetName(self, text: Any, size: int, device: Any) -> int:
        text.value = b"Orin"
        return self._ok("cuDeviceGetName")

    def cuDevicePrimaryCtxRetain(self, context: Any, device: Any) -> int:
        self.held += self.fails != "cuDevicePrimaryCtxRetain"
        return self._ok("cuDevicePrimaryCtxRetain")

    def cuCtxPushCurrent_v2(self, context: Any) -> int:
        return 0

    def cuCtxPopCurrent_v2(self, context: Any) -> int:
        return 0

    def cuMemGetInfo_v2(self, free: Any, total: Any) -> int:
        free._obj.value = 3 << 20
        return self._ok("cuMemGetInfo_v2")

    def cuDevicePrimaryCtxRelease_v2(self, device: Any) -> int:
        self.held -= 1
        return 0


@pytest.mark.parametrize(
    ("driver", "free", "capability"),
    [
        (FakeDriver(0), 3 << 20, "8.7"),
        (FakeDriver(1), 2 << 20, "8.7"),  # a Jetson: the system has less to give than the driver says
        (FakeDriver(0, "cuInit"), None, None),
        (FakeDriver(0, "cuDeviceGet"), None, None),
        (FakeDriver(0, "cuDeviceGetAttribute"), 3 << 20, None),
        (FakeDriver(0, "cuDevicePrimaryCtxRetain"), None, "8.7"),
        (FakeDriver(1, "cuMemGetInfo_v2"), 2 << 20, "8.7"),
    ],
)
def test_the_driver_is_asked_for_free_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: FakeDriver, free: int | None, capability: str | None
) -> None:
    (tmp_path / "meminfo").write_text("MemAvailable: 2048 kB\n")
    monkeypatch.setattr(tensorrt_device, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(tensorrt_device.ctypes, "CDLL", lambda name: driver)
    assert tensorrt_device.free_bytes(on_gpu=True) == free
    assert tensorrt_device.compute_capability() == capability
    assert driver.held == 0
    assert tensorrt_device.gpu_name() == (None if driver.fails in ("cuInit", "cuDeviceGet") else "Orin")


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="workspace_mib"):
        BuildOptions(workspace_mib=0)
    assert BuildOptions(tf32=False, workspace_mib=None) == tensorrt.DEFAULTS
