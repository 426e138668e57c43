"""ONNX -> TensorRT engine: `tensorrt` where it is installed and a GPU is there, else TensorRT-RTX, which needs no GPU.

Networks are strongly typed: the graph says float32 and the engine computes float32; TF32, which TensorRT turns on by
itself, is turned off. TensorRT reports a failed build as a None and lines in its log, so the log is collected here.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import re
from dataclasses import dataclass
from typing import Any, Literal

from stdl_export.common.errors import BadInput, Unavailable, one_line

FlavourName = Literal["tensorrt", "tensorrt_rtx"]
INSTALL = "pip install 'stdl-toolchain[tensorrt-rtx]', or 'stdl-toolchain[gpu]' with a GPU; a Jetson has JetPack's"
MAX_UNROLL = 16  # above it the time to build an unrolled engine jumps from seconds to many minutes
WORKSPACE_BYTES = 1 << 30  # scratch memory while building; a Jetson shares its memory between CPU and GPU

# Lines at error level that are none: the first use of the log, and what each real error draws along without a driver.
NOISE = ("Thread context has not been set", "catchCudaError")


@dataclass(frozen=True)
class Flavour:
    """The TensorRT that builds. compute_capability is that of the GPU here, None where engines are not tied to one."""

    name: FlavourName
    version: str
    compute_capability: str | None
    module: Any

    def file(self, mode: str) -> str:
        """The engine's name in a bundle: one per flavour, GPU generation and mode."""
        target = f".sm{self.compute_capability.replace('.', '')}" if self.compute_capability else ""
        return f"engine/{self.name}{target}.{mode}.engine"


@dataclass(frozen=True)
class Profile:
    """Batch sizes that an engine takes, and the one it is tuned for."""

    min: int = 1
    opt: int = 1
    max: int = 16

    @classmethod
    def parse(cls, text: str) -> Profile:
        """From `N` or `MIN:OPT:MAX`."""
        parts = text.split(":")
        if len(parts) not in (1, 3) or not all(re.fullmatch(r"[0-9]{1,6}", part) for part in parts):
            raise BadInput(f"--batch '{text}': write one number, or MIN:OPT:MAX such as 1:1:16")
        sizes = [int(part) for part in parts] * (3 // len(parts))
        if not 1 <= sizes[0] <= sizes[1] <= sizes[2]:
            raise BadInput(f"--batch '{text}': at least 1, and MIN <= OPT <= MAX, is accepted")
        return cls(*sizes)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """(min, opt, max)."""
        return self.min, self.opt, self.max


def flavour() -> Flavour:
    """The TensorRT to build with here; `Unavailable` with what to install where there is none."""
    capability = _compute_capability()
    if capability and (module := _import("tensorrt")):
        return Flavour("tensorrt", module.__version__, capability, module)
    if module := _import("tensorrt_rtx"):
        return Flavour("tensorrt_rtx", module.__version__, None, module)
    if _import("tensorrt"):
        raise Unavailable(
            "tensorrt is installed, but no NVIDIA GPU is here, and it needs one to build: install tensorrt-rtx"
        )
    raise Unavailable(f"neither tensorrt nor tensorrt_rtx is installed: {INSTALL}")


def check_time(timesteps: int | None, form: str) -> None:
    """Refuse what makes no usable engine: a dynamic T, or a long unrolled one."""
    if timesteps is None:
        raise BadInput("a TensorRT engine of the whole sequence has a fixed T: give --timesteps N, or --mode step")
    if form == "unroll" and timesteps > MAX_UNROLL:
        raise BadInput(
            f"unrolling {timesteps} steps takes TensorRT too long: up to {MAX_UNROLL}, else --time-form chunks"
        )


def build(flavour: Flavour, model: bytes, name: str, profile: Profile) -> bytes:
    """The engine of an ONNX model, TF32 off; `BadInput` with TensorRT's own first error where it builds none."""
    trt, log = flavour.module, _logger(flavour.module)
    log.errors.clear()
    builder = trt.Builder(log)
    network = builder.create_network(_strongly_typed(trt))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(model):
        raise BadInput(f"{flavour.name} {flavour.version} does not take {name}: {_parser_errors(parser)}")
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    config.add_optimization_profile(_profile(builder, network, profile))
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        reason = log.errors[0] if log.errors else "it gave no reason"
        raise BadInput(f"{flavour.name} {flavour.version} could not build {name}: {reason}")
    return bytes(engine)


def _profile(builder: Any, network: Any, profile: Profile) -> Any:
    """Every dynamic size is the batch: T is fixed, and so is each sample's shape."""
    made = builder.create_optimization_profile()
    for tensor in (network.get_input(i) for i in range(network.num_inputs)):
        shape = tuple(tensor.shape)
        made.set_shape(tensor.name, *(tuple(batch if size < 0 else size for size in shape) for batch in profile.sizes))
    return made


def _strongly_typed(trt: Any) -> int:
    """The flag that 10.x needs; later versions are always strongly typed and may drop it."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _parser_errors(parser: Any) -> str:
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    return "; ".join(
        one_line(f"node '{error.node_name()}' ({error.node_operator()}): {error.desc()}") for error in errors
    )


@functools.cache
def _logger(trt: Any) -> Any:
    """One logger per process: while a builder lives, TensorRT ignores any other. It keeps the last build's errors."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            severe = severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR)
            if severe and not any(noise in message for noise in NOISE):
                self.errors.append(one_line(message))

    return Log()


def _import(name: FlavourName) -> Any:
    """The module, or None where it is not installed or its libraries do not load."""
    try:
        return importlib.import_module(name)
    except (ImportError, OSError):
        return None


def _compute_capability() -> str | None:
    """`8.7` for the first GPU, from the NVIDIA driver; None where there is no driver or no GPU."""
    with contextlib.suppress(OSError):
        driver = ctypes.CDLL("libcuda.so.1")
        device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        results = [
            driver.cuInit(0),
            driver.cuDeviceGet(ctypes.byref(device), 0),
            driver.cuDeviceGetAttribute(ctypes.byref(major), 75, device),  # COMPUTE_CAPABILITY_MAJOR
            driver.cuDeviceGetAttribute(ctypes.byref(minor), 76, device),  # COMPUTE_CAPABILITY_MINOR
        ]
        if not any(results):
            return f"{major.value}.{minor.value}"
    return None
