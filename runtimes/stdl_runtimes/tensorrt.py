"""TensorRT and TensorRT-RTX: the bundle's engines on an NVIDIA GPU, the whole sequence or single steps.

An engine is code, tied to the version that built it and mostly to one GPU generation, and cannot even be opened without
a GPU. So everything that can be known is checked first, and each obstacle is one sentence.
"""

from __future__ import annotations

import functools
import importlib
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from stdl_export.bundle import GRAPH, Bundle, EngineInfo
from stdl_export.common.errors import BadInput, Unavailable, one_line
from stdl_runtimes import base, cuda, states
from stdl_runtimes.base import Array, Device, Mode
from stdl_runtimes.cuda import Cuda

log = logging.getLogger("stdl")

INPUT, OUTPUT = "input", "output"
TYPES = {"float32": "FLOAT", "float16": "HALF"}  # as TensorRT calls them
BYTES = {"FLOAT": 4, "HALF": 2}

# Lines at error level that are none: the first use of the log, and what each real error draws along without a driver.
NOISE = ("Thread context has not been set", "catchCudaError")

# What a bit of the mask means that TensorRT-RTX gives for an engine it does not take; 0 is "not known".
INVALID = {
    1: "another version built it",
    2: "it is for another GPU generation",
    4: "the NVIDIA driver is too old",
    8: "the CUDA runtime is too old",
    16: "the GPU has too little memory",
    32: "the file is damaged",
}


@dataclass(frozen=True)
class Engine:
    """A deserialised engine and the batch sizes (smallest, best, largest) that it was built for."""

    handle: Any
    batch: tuple[int, int, int]


class TensorRt(base.Runtime):
    """The engines of one bundle on one GPU, by mode."""

    name = "tensorrt"

    def __init__(self, bundle: Bundle, device: Cuda, engines: Mapping[Mode, Engine]) -> None:
        self._bundle = bundle
        self._device = device
        self._engines = engines
        self._repeated = bundle.manifest.input.mode == "repeat"
        self._bound: dict[int, Bound] = {}
        self.modes = tuple(engines)
        self.largest_session = engines["step"].batch[2] if "step" in engines else None

    def run(self, x: Array, timesteps: int | None = None) -> Array:
        """Output [T, B, ...]; a batch larger than the engine takes is run in parts, a smaller one is filled up."""
        base.sequence_length(x, self._repeated, self._bundle.manifest.timesteps, timesteps)
        engine, axis = self._engine("sequence"), 0 if self._repeated else 1
        outputs = []
        for part in base.parts(x, self._repeated, engine.batch[2]):
            filled = _filled(part, axis, engine.batch[0])
            output = self._bind(engine, filled.shape[axis]).run(filled)
            outputs.append(output[:, : part.shape[axis]])
        return np.concatenate(outputs, axis=1)

    def session(self, batch: int) -> base.Session:
        """A session on the step engine, with buffers of its own."""
        return _Steps(self._device, self._engine("step"), self._bundle, batch)

    def close(self) -> None:
        """Give back all memory on the device but that of sessions."""
        for bound in self._bound.values():
            bound.close()
        self._bound.clear()
        self._device.close()

    def _engine(self, mode: Mode) -> Engine:
        if mode not in self._engines:
            raise Unavailable(f"the bundle has no {mode} engine that runs here: add one with --mode {mode}")
        return self._engines[mode]

    def _bind(self, engine: Engine, batch: int) -> Bound:
        if batch not in self._bound:
            self._bound[batch] = Bound(self._device, engine.handle, batch)
        return self._bound[batch]


class Bound:
    """An engine with its shapes set for one batch, and memory for each of its inputs and outputs.

    Shapes and addresses are set once, so a call is: copy in, enqueue, copy out, wait.
    """

    def __init__(self, device: Cuda, engine: Any, batch: int) -> None:
        self._device = device
        self._context = engine.create_execution_context()
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        for name in names:
            if engine.get_tensor_mode(name).name == "INPUT":  # compared by name: each flavour has an enum of its own
                shape = _with_batch(engine.get_tensor_shape(name), batch)
                if not self._context.set_input_shape(name, shape):
                    raise Unavailable(f"the engine does not take '{name}' of shape {shape}")
        if missing := self._context.infer_shapes():
            raise Unavailable(f"the engine leaves shapes open: {', '.join(missing)}")
        self.shapes = {name: tuple(self._context.get_tensor_shape(name)) for name in names}
        sizes = {name: BYTES[engine.get_tensor_dtype(name).name] for name in names}
        self.addresses = {name: device.allocate(math.prod(shape) * sizes[name]) for name, shape in self.shapes.items()}
        self._staged = {name: device.pinned(self.shapes[name]) for name in (INPUT, OUTPUT)}
        for name, address in self.addresses.items():
            self.point(name, address)

    def point(self, name: str, address: int) -> None:
        """Let a tensor of the engine lie at this address from now on."""
        if not self._context.set_tensor_address(name, address):
            raise Unavailable(f"the engine takes no address for '{name}'")

    def run(self, x: Array) -> Array:
        """`input` in, `output` out; all else stays on the device."""
        self._staged[INPUT][...] = x
        self._device.upload(self._staged[INPUT], self.addresses[INPUT])
        if not self._context.execute_async_v3(self._device.stream):
            raise Unavailable("the engine could not be started")
        self._device.download(self.addresses[OUTPUT], self._staged[OUTPUT])
        self._device.wait()
        output: Array = self._staged[OUTPUT].copy()
        return output

    def close(self) -> None:
        """Give back the memory."""
        for address in self.addresses.values():
            self._device.free(address)
        for array in self._staged.values():
            self._device.unpin(array)


class _Steps(base.Session):
    """The step engine with its states kept on the device.

    A state is read from one set of buffers and written to the other, and the sets change places at every step: TensorRT
    gives wrong results where input and output share an address.
    """

    def __init__(self, device: Cuda, engine: Engine, bundle: Bundle, batch: int) -> None:
        smallest, _, largest = engine.batch
        if batch > largest:
            raise BadInput(f"the step engine takes {largest} samples, not {batch}: build it with --batch {batch}")
        self._device = device
        self._batch = batch
        self._sample = bundle.manifest.input.shape
        self._size = max(batch, smallest)
        self._bound = Bound(device, engine.handle, self._size)
        self._initial = states.initial(bundle, self._size)
        self._names = [(info.input, info.output) for info in bundle.manifest.states]
        self._sets = [
            {into: self._bound.addresses[into] for into, _ in self._names},
            {into: self._bound.addresses[out] for into, out in self._names},
        ]
        self.reset()

    def step(self, frame: Array) -> Array:
        """frame [B, ...] -> output [B, ...]."""
        frame = base.checked_frame(frame, self._batch, self._sample)
        read, written = self._sets
        for into, out in self._names:
            self._bound.point(into, read[into])
            self._bound.point(out, written[into])
        output = self._bound.run(_filled(frame, 0, self._size))
        self._sets.reverse()
        return output[: self._batch]

    def reset(self) -> None:
        """The states as they start, into the set that the next step reads."""
        for name, array in self._initial.items():
            self._device.upload(array, self._sets[0][name])
        self._device.wait()

    def close(self) -> None:
        """Give back the memory; both sets belong to the bound engine."""
        self._bound.close()


def load(bundle: Bundle, device: Device) -> TensorRt:
    """Open the bundle's engines on the GPU; `Unavailable` with the first obstacle. `device` has no say: it is CUDA."""
    if not bundle.manifest.engines:
        raise Unavailable(f"the bundle has no engine: add one with stdl-export {bundle.path} --target tensorrt")
    try:
        gpu = cuda.open_device()
        try:
            return TensorRt(bundle, gpu, _engines(bundle, gpu))
        except Unavailable:
            gpu.close()
            raise
    except Unavailable as reason:
        raise Unavailable(f"built, not run: {reason}") from None


def _engines(bundle: Bundle, gpu: Cuda) -> dict[Mode, Engine]:
    """The engines that run here, by mode. A mode that has none is said in the log, no mode at all is `Unavailable`."""
    found: dict[Mode, Engine] = {}
    refusals: dict[str, Mode] = {}
    for info in bundle.manifest.engines:
        try:
            _check(info, bundle, gpu)
            found[info.mode] = Engine(_deserialise(_module(info.flavour), bundle, info), info.batch)
        except Unavailable as reason:  # noqa: PERF203 (there are but a few engines)
            refusals[f"{info.file}: {reason}"] = info.mode
    if not found:
        raise Unavailable("; ".join(refusals))
    for refusal, mode in refusals.items():
        if mode not in found:
            log.warning("tensorrt does not run mode %s: %s", mode, refusal)
    return found


def _check(info: EngineInfo, bundle: Bundle, gpu: Cuda) -> None:
    """What the manifest tells about an engine, against what is here."""
    rebuild = f"build it here with stdl-export {bundle.path} --target tensorrt --out FOLDER"
    here = _module(info.flavour).__version__
    if info.version != here:
        raise Unavailable(f"built by {info.flavour} {info.version}, this is {here}: {rebuild}")
    if info.compute_capability not in (None, gpu.compute_capability):
        raise Unavailable(f"built for SM {info.compute_capability}, this GPU is {gpu.compute_capability}: {rebuild}")
    if info.graph_sha256 != bundle.manifest.files[GRAPH]:
        raise Unavailable(f"built from another graph than the bundle's: {rebuild}")


def _module(flavour: str) -> Any:
    try:
        return importlib.import_module(flavour)
    except (ImportError, OSError):
        raise Unavailable(f"{flavour} is not installed: on a Jetson it comes with JetPack, else from pip") from None


def _deserialise(trt: Any, bundle: Bundle, info: EngineInfo) -> Any:
    lines, content = _logger(trt).errors, bundle.file(info.file).read_bytes()
    lines.clear()
    runtime = _runtime(trt)
    if hasattr(runtime, "get_engine_validity"):  # not in every version
        _, mask = runtime.get_engine_validity(content)
        if reasons := [text for bit, text in INVALID.items() if int(mask) & bit]:
            raise Unavailable(", ".join(reasons))
    engine = runtime.deserialize_cuda_engine(content)
    if engine is None:
        raise Unavailable(lines[0] if lines else "it was refused without a reason")
    _check_types(engine, bundle)
    return engine


@functools.cache
def _runtime(trt: Any) -> Any:
    """One per flavour and process: it has to outlive all its engines."""
    return trt.Runtime(_logger(trt))


@functools.cache
def _logger(trt: Any) -> Any:
    """TensorRT says why it failed in its log only; the errors are kept."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            severe = severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR)
            if severe and not any(noise in message for noise in NOISE):
                self.errors.append(one_line(message))

    return Log()


def _check_types(engine: Any, bundle: Bundle) -> None:
    """States have the type that the manifest says, all else is float32."""
    states = {name: info.dtype for info in bundle.manifest.states for name in (info.input, info.output)}
    for name in (engine.get_tensor_name(i) for i in range(engine.num_io_tensors)):
        expected = TYPES[states.get(name, "float32")]
        if engine.get_tensor_dtype(name).name != expected:
            raise Unavailable(f"its tensor '{name}' is {engine.get_tensor_dtype(name).name}, {expected} is expected")


def _filled(x: Array, axis: int, size: int) -> Array:
    """Samples of zeros behind those of x, so that there are at least `size`."""
    filled: Array = np.pad(x, [(0, max(size - x.shape[at], 0) if at == axis else 0) for at in range(x.ndim)])
    return filled


def _with_batch(shape: Any, batch: int) -> tuple[int, ...]:
    """Only the batch is dynamic in our engines: T and the shape of a sample are fixed."""
    return tuple(batch if size < 0 else int(size) for size in shape)
