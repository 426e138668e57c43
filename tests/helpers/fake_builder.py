"""A TensorRT that builds without being one: it writes down what it is told, and fails, waits or is short as asked.

An "engine" is text that says what it was built with. The real TensorRT needs a GPU; RTX builds in tests of its own.
"""

from __future__ import annotations

import json
import threading
import time
from types import ModuleType, SimpleNamespace
from typing import Any


class Severity(SimpleNamespace):
    """A member of ILogger.Severity."""


LEVELS = {name: Severity(name=name) for name in ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")}


class FakeBuilder:
    """As the module `tensorrt`.

    lines: (level, text) that a build writes to the log; steps: of its one phase; seconds: how long each takes; fails:
    it gives None; parses: whether the ONNX parser takes the model.
    """

    __version__ = "10.3.0"

    def __init__(
        self,
        *,
        with_flag: bool = True,
        shapes: dict[str, tuple[int, ...]] | None = None,
        lines: tuple[tuple[str, str], ...] = (),
        steps: int = 3,
        seconds: float = 0.0,
        fails: bool = False,
        layers: int = 10,
        profile: int = 0,
        cache_fits: bool = True,
    ) -> None:
        self.lines, self.steps, self.seconds, self.fails = lines, steps, seconds, fails
        self.profile, self.cache_fits = profile, cache_fits
        self.builds = 0
        self.ended = False
        self.flags: list[int] = []
        self.tf32: list[str] = []
        self.pools: list[tuple[str, int]] = []
        self.shapes: dict[str, tuple[tuple[int, ...], ...]] = {}
        self.caches: list[bytes] = []
        self.combined: list[bytes] = []
        self.threads: set[str] = set()
        flag = {"STRONGLY_TYPED": 1} if with_flag else {}
        self.NetworkDefinitionCreationFlag = SimpleNamespace(**flag)
        self.BuilderFlag = SimpleNamespace(TF32="TF32")
        self.MemoryPoolType = SimpleNamespace(WORKSPACE="WORKSPACE")
        self.ILogger = type("ILogger", (), {"Severity": SimpleNamespace(**LEVELS)})
        self.IProgressMonitor = type("IProgressMonitor", (), {})
        known = shapes or {"input": (4, -1, 2), "state": (-1, 3)}
        tensors = [SimpleNamespace(name=name, shape=shape) for name, shape in known.items()]
        self.network = SimpleNamespace(num_inputs=len(tensors), get_input=tensors.__getitem__, num_layers=layers)

    def module(self) -> ModuleType:
        """For sys.modules, from where only modules are imported."""
        made = ModuleType("tensorrt")
        made.__dict__.update({name: getattr(self, name) for name in dir(self) if name[0].isupper()})
        made.__dict__["__version__"] = self.__version__
        return made

    def Builder(self, log: Any) -> Any:
        self.log = log
        self.tf32, self.pools = [], []
        return SimpleNamespace(
            create_network=lambda flags: self.flags.append(flags) or self.network,
            create_builder_config=lambda: FakeConfig(self),
            create_optimization_profile=lambda: SimpleNamespace(
                set_shape=lambda name, *shapes: self.shapes.update({name: shapes})
            ),
            build_serialized_network=self._build,
        )

    def OnnxParser(self, network: Any, log: Any) -> Any:
        return SimpleNamespace(parse=lambda model: True)

    def _build(self, network: Any, config: FakeConfig) -> memoryview | None:
        """One phase; gives up where the monitor says no, as the real one does."""
        self.builds += 1
        self.threads.add(threading.current_thread().name)
        watching = config.progress_monitor
        watching.phase_start("Building", None, self.steps)
        for step in range(self.steps):
            time.sleep(self.seconds)
            if not watching.step_complete("Building", step):
                self.ended = True
                return None
        watching.phase_finish("Building")
        for level, text in self.lines:
            self.log.log(LEVELS[level], text)
        if self.fails:
            return None
        said = {"tf32": self.tf32, "shapes": self.shapes, "workspace": self.pools}
        return memoryview(json.dumps(said, sort_keys=True).encode())


class FakeConfig:
    """As IBuilderConfig."""

    progress_monitor: Any = None

    def __init__(self, trt: FakeBuilder) -> None:
        self._trt = trt
        self._cache: FakeTimings | None = None

    def set_flag(self, flag: str) -> None:
        self._trt.tf32.append(f"set {flag}")

    def clear_flag(self, flag: str) -> None:
        self._trt.tf32.append(f"clear {flag}")

    def set_memory_pool_limit(self, pool: str, size: int) -> None:
        self._trt.pools.append((pool, size))

    def add_optimization_profile(self, profile: Any) -> int:
        return self._trt.profile

    def create_timing_cache(self, content: bytes) -> FakeTimings:
        self._trt.caches.append(bytes(content))
        return FakeTimings(self._trt, bytes(content))

    def set_timing_cache(self, cache: FakeTimings, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self._cache = cache
        return self._trt.cache_fits or not cache.content

    def get_timing_cache(self) -> FakeTimings:
        assert self._cache is not None
        return self._cache


class FakeTimings:
    """As ITimingCache; a build measures one thing more."""

    def __init__(self, trt: FakeBuilder, content: bytes) -> None:
        self._trt, self.content = trt, content

    def combine(self, other: FakeTimings, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self._trt.combined.append(other.content)
        return True

    def serialize(self) -> bytes:
        return self.content + b"+"
