"""An engine of a bundle, opened: checked against what is here first, since a refusal of TensorRT's says little.

An engine is code, tied to the version that built it and mostly to one GPU generation, and cannot even be opened without
a GPU.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
from dataclasses import dataclass
from typing import Any

from stdl_export.bundle import GRAPH, Bundle
from stdl_export.common.errors import BadInput, Unavailable, one_line
from stdl_export.common.store import Store
from stdl_export.common.tensorrt_log import Lines, logger
from stdl_export.manifest import EngineInfo
from stdl_runtimes.cuda import Cuda

TYPES = {"float32": "FLOAT", "float16": "HALF"}  # as TensorRT calls them

# What a bit of the mask means that TensorRT-RTX gives for an engine it does not take; 0 is "not known".
INVALID = {
    1: "another version built it",
    2: "it is for another GPU generation",
    4: "the NVIDIA driver is too old",
    8: "the CUDA runtime is too old",
    16: "the GPU has too little memory",
    32: "the file is damaged",
}

KERNELS = Store("tensorrt-kernels")
"""What TensorRT-RTX compiled on this GPU for an engine, so that the next start need not."""


@dataclass
class Engine:
    """A deserialised engine. Contexts are counted, since each holds memory of the device.

    trt: the module of its flavour; lines: what that says in its log.
    """

    trt: Any
    handle: Any
    info: EngineInfo
    lines: Lines
    kernels: RtxKernels | None = None
    contexts: int = 0

    @property
    def batch(self) -> tuple[int, int, int]:
        """The batch sizes (smallest, best, largest) that it was built for."""
        return self.info.batch

    def context(self) -> Any:
        """What runs it once at a time; `Unavailable` where there is no memory for it."""
        self.lines.clear()
        if self.kernels is None:
            context = self.handle.create_execution_context()
        else:
            context = self.handle.create_execution_context(self.kernels.config)
        if context is None:
            reason = self.lines.cause or "TensorRT gave no reason"
            raise Unavailable(f"{self.info.file}: it opens, but has no memory to run in: {reason}")
        self.contexts += 1
        return context

    def device_bytes(self) -> int:
        """Weights, as far as the version tells, and what its contexts compute in."""
        trt, weights = self.trt, 0
        if hasattr(trt, "EngineStat") and hasattr(self.handle, "get_engine_stat"):
            weights = int(self.handle.get_engine_stat(trt.EngineStat.TOTAL_WEIGHTS_SIZE))
        return weights + self.contexts * int(self.handle.device_memory_size_v2)

    def close(self) -> None:
        """Keep what was compiled."""
        if self.kernels is not None:
            self.kernels.keep()


class RtxKernels:
    """TensorRT-RTX's runtime cache of one engine: kernels are compiled when shapes are first seen, then kept here."""

    def __init__(self, runtime_config: Any, runtime_cache: Any, key: str) -> None:
        self.config, self._runtime_cache, self._key = runtime_config, runtime_cache, key
        self._known = KERNELS.get(key)
        if self._known is not None:
            runtime_cache.deserialize(self._known)  # it refuses what another driver or GPU made
        runtime_config.set_runtime_cache(runtime_cache)

    def keep(self) -> None:
        """Write it where it grew."""
        runtime_cache = self._runtime_cache
        now = bytes(runtime_cache.serialize())
        if now != self._known:
            KERNELS.put(self._key, now)
            self._known = now


def open_engine(bundle: Bundle, info: EngineInfo, gpu: Cuda) -> Engine:
    """`Unavailable` with what is in the way, and what to do."""
    check(info, bundle, gpu)
    trt = module(info.flavour)
    handle = _deserialised(trt, bundle, info)
    _check_types(handle, bundle)
    engine = Engine(trt, handle, info, logger(trt).lines)
    if info.flavour == "tensorrt_rtx" and hasattr(handle, "create_runtime_config"):
        engine.kernels = _rtx_kernels(trt, handle, _kernels_key(bundle, info, gpu))
    return engine


def module(flavour: str) -> Any:
    """TensorRT or TensorRT-RTX."""
    try:
        return importlib.import_module(flavour)
    except (ImportError, OSError) as failure:
        if isinstance(failure, ModuleNotFoundError) and failure.name == flavour:
            reason = f"{flavour} is not installed: on a Jetson it comes with JetPack, else from pip"
        else:
            reason = f"{flavour} does not load: {one_line(str(failure))}"
        raise Unavailable(reason) from None


def check(info: EngineInfo, bundle: Bundle, gpu: Cuda) -> None:
    """What the manifest tells about an engine, against what is here; `Unavailable` where it cannot run."""
    rebuild = f"build it here with stdl-export {bundle.path} --target tensorrt"
    here = module(info.flavour).__version__
    if info.version != here:
        raise Unavailable(f"built by {info.flavour} {info.version}, this is {here}: {rebuild}")
    if info.compute_capability not in (None, gpu.compute_capability):
        raise Unavailable(f"built for SM {info.compute_capability}, this GPU is {gpu.compute_capability}: {rebuild}")
    if info.graph_sha256 != bundle.manifest.files[GRAPH]:
        raise Unavailable(f"built from another graph than the bundle's: {rebuild}")


def _deserialised(trt: Any, bundle: Bundle, info: EngineInfo) -> Any:
    lines: Lines = logger(trt).lines
    try:
        content = bundle.file(info.file).read_bytes()
    except (BadInput, OSError):
        raise Unavailable("it was changed since the bundle was opened") from None
    if hashlib.sha256(content).hexdigest() != bundle.manifest.files[info.file]:
        raise Unavailable("it was changed since the bundle was opened")  # an engine is code
    lines.clear()
    runtime = _runtime(trt)
    if hasattr(runtime, "get_engine_validity"):  # not in every version
        _, mask = runtime.get_engine_validity(content)
        if reasons := [text for bit, text in INVALID.items() if int(mask) & bit]:
            raise Unavailable(", ".join(reasons))
    engine = runtime.deserialize_cuda_engine(content)
    if engine is None:
        raise Unavailable(lines.cause or "it was refused without a reason")
    return engine


@functools.cache
def _runtime(trt: Any) -> Any:
    """One per flavour and process: it has to outlive all its engines."""
    return trt.Runtime(logger(trt))


def _check_types(engine: Any, bundle: Bundle) -> None:
    """States have the type that the manifest says, all else is float32."""
    states = {name: info.dtype for info in bundle.manifest.states for name in (info.input, info.output)}
    for name in (engine.get_tensor_name(i) for i in range(engine.num_io_tensors)):
        expected = TYPES[states.get(name, "float32")]
        if engine.get_tensor_dtype(name).name != expected:
            raise Unavailable(f"its tensor '{name}' is {engine.get_tensor_dtype(name).name}, {expected} is expected")


def _rtx_kernels(trt: Any, engine: Any, key: str) -> RtxKernels:
    """RtxKernels for the very shapes at once: a graph that was captured would keep slower ones for ever."""
    runtime_config = engine.create_runtime_config()
    kinds = trt.DynamicShapesKernelSpecializationStrategy
    runtime_config.dynamic_shapes_kernel_specialization_strategy = kinds.EAGER
    return RtxKernels(runtime_config, runtime_config.create_runtime_cache(), key)


def _kernels_key(bundle: Bundle, info: EngineInfo, gpu: Cuda) -> str:
    said = (bundle.manifest.files[info.file], info.version, gpu.name, gpu.compute_capability, gpu.driver)
    return hashlib.sha256("\n".join(said).encode()).hexdigest()
