"""TensorRT and TensorRT-RTX: the bundle's engines on an NVIDIA GPU, the whole sequence or single steps.

An engine is code, tied to the version that built it and mostly to one GPU generation, and cannot even be opened without
a GPU. So everything that can be known is checked first, and each obstacle is one sentence.
"""

from __future__ import annotations

import functools
import importlib
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stdl_export.arrays import Values
from stdl_export.bundle import GRAPH, Bundle
from stdl_export.common.errors import BadInput, Unavailable, one_line
from stdl_export.manifest import EngineInfo, Manifest
from stdl_runtimes import base, cuda, ends, states
from stdl_runtimes.base import Array, Device, Mode
from stdl_runtimes.cuda import Cuda
from stdl_runtimes.ends import Arrays, Result

log = logging.getLogger("stdl")

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
    final_states: bool = False


class TensorRt(base.Runtime):
    """The engines of one bundle on one GPU, by mode."""

    name = "tensorrt"

    def __init__(self, bundle: Bundle, device: Cuda, engines: Mapping[Mode, Engine]) -> None:
        self._bundle = bundle
        self._device = device
        self._engines = engines
        self.ends = ends.of_manifest(bundle.manifest)
        self._bound: dict[int, Bound] = {}
        self.modes = tuple(engines)
        self.largest_session = engines["step"].batch[2] if "step" in engines else None

    def outputs(self, x: Arrays, timesteps: int) -> Arrays:
        """Outputs [T, B, ...]; a batch larger than the engine takes is run in parts, a smaller one is filled up."""
        return ends.joined([outputs for outputs, _ in self._run(x, ())])

    def run_to_states(self, x: Values, timesteps: int | None = None) -> tuple[Result, dict[str, Array]]:
        """The same with one more copy from the device for each state."""
        states.check_final(self._engine("sequence").final_states, self._bundle)
        arrays, _ = self.ends.sequence(x, timesteps)
        infos = self._bundle.manifest.states
        parts = list(self._run(arrays, [info.output for info in infos]))
        last = {info.input: np.concatenate([found[info.output] for _, found in parts]) for info in infos}
        return ends.plain(ends.joined([outputs for outputs, _ in parts])), last

    def _run(self, x: Arrays, wanted: Sequence[str]) -> Iterator[tuple[Arrays, Arrays]]:
        """For each part of the samples its outputs, and the `wanted` states [B, ...]."""
        engine, axis = self._engine("sequence"), self.ends.batch_axis
        for part in self.ends.parts(x, engine.batch[2]):
            filled, real = _filled(part, axis, engine.batch[0]), self.ends.samples(part)
            bound = self._bind(engine, self.ends.samples(filled))
            outputs = {name: output[:, :real] for name, output in bound.run(filled).items()}
            yield outputs, {name: state[:real] for name, state in bound.read(wanted).items()}

    def session(self, batch: int, states: Mapping[str, Array] | None = None) -> base.Session:
        """A session on the step engine, with buffers of its own."""
        return _Steps(self._device, self._engine("step"), self._bundle, batch, states)

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
            self._bound[batch] = Bound(self._device, engine.handle, self._bundle.manifest, batch)
        return self._bound[batch]


class Bound:
    """An engine with its shapes set for one batch, and memory for each of its inputs and outputs.

    Shapes and addresses are set once, so a call is: copy in, enqueue, copy out, wait.
    """

    def __init__(self, device: Cuda, engine: Any, manifest: Manifest, batch: int) -> None:
        self._device = device
        self._inputs, self._outputs = manifest.input.tensors, manifest.output.tensors
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
        staged = [tensor.name for tensor in (*self._inputs, *self._outputs)]
        if missing := sorted(set(staged) - set(names)):
            raise Unavailable(f"the engine has no '{missing[0]}', which the manifest names: build it again")
        sizes = {name: BYTES[engine.get_tensor_dtype(name).name] for name in names}
        self.addresses = {name: device.allocate(math.prod(shape) * sizes[name]) for name, shape in self.shapes.items()}
        self._staged = {name: device.pinned(self.shapes[name]) for name in staged}
        for name, address in self.addresses.items():
            self.point(name, address)

    def point(self, name: str, address: int) -> None:
        """Let a tensor of the engine lie at this address from now on."""
        if not self._context.set_tensor_address(name, address):
            raise Unavailable(f"the engine takes no address for '{name}'")

    def run(self, x: Arrays) -> Arrays:
        """The Inputs in, the Outputs out; all else stays on the device."""
        for tensor in self._inputs:
            self._staged[tensor.name][...] = x[tensor.node]
            self._device.upload(self._staged[tensor.name], self.addresses[tensor.name])
        if not self._context.execute_async_v3(self._device.stream):
            raise Unavailable("the engine could not be started")
        for tensor in self._outputs:
            self._device.download(self.addresses[tensor.name], self._staged[tensor.name])
        self._device.wait()
        return {tensor.node: self._staged[tensor.name].copy() for tensor in self._outputs}

    def read(self, names: Sequence[str]) -> Arrays:
        """What else the last run left on the device."""
        for name in set(names) - set(self._staged):
            self._staged[name] = self._device.pinned(self.shapes[name])
        for name in names:
            self._device.download(self.addresses[name], self._staged[name])
        self._device.wait()
        return {name: self._staged[name].copy() for name in names}

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

    def __init__(
        self, device: Cuda, engine: Engine, bundle: Bundle, batch: int, begin: Mapping[str, Array] | None
    ) -> None:
        smallest, _, largest = engine.batch
        if batch > largest:
            raise BadInput(f"the step engine takes {largest} samples, not {batch}: build it with --batch {batch}")
        self._device = device
        self.ends = ends.of_manifest(bundle.manifest)
        self.batch = batch
        self._size = max(batch, smallest)
        self._bound = Bound(device, engine.handle, bundle.manifest, self._size)
        whole = states.initial(bundle, self._size)
        self.initial = {name: each[:batch] for name, each in whole.items()}
        self._names = [(info.input, info.output) for info in bundle.manifest.states]
        self._sets = [
            {into: self._bound.addresses[into] for into, _ in self._names},
            {into: self._bound.addresses[out] for into, out in self._names},
        ]
        self._upload(whole if begin is None else self._begun(bundle, begin))

    def advance(self, frames: Arrays) -> Arrays:
        """One execution; the sets change places."""
        read, written = self._sets
        for into, out in self._names:
            self._bound.point(into, read[into])
            self._bound.point(out, written[into])
        outputs = self._bound.run(_filled(frames, 0, self._size))
        self._sets.reverse()
        return {name: output[: self.batch] for name, output in outputs.items()}

    def _read(self, at: base.At) -> base.States:
        """From the set that the next step reads."""
        return {name: each[: self.batch][at] for name, each in self._download().items()}

    def _write(self, states: Mapping[str, Array], at: base.At) -> None:
        """The whole set down, changed, and up again."""
        whole = self._download()
        for name, each in whole.items():
            each[: self.batch][at] = states[name]
        self._upload(whole)

    def _download(self) -> base.States:
        """The set that the next step reads, filled-up samples included."""
        arrays = {name: np.empty((self._size, *each.shape[1:]), each.dtype) for name, each in self.initial.items()}
        for name, array in arrays.items():
            self._device.download(self._sets[0][name], array)
        self._device.wait()
        return arrays

    def _begun(self, bundle: Bundle, begin: Mapping[str, Array]) -> Arrays:
        return _filled(states.given(bundle.manifest.states, begin, self.batch), 0, self._size)

    def _upload(self, arrays: Arrays) -> None:
        """Into the set that the next step reads."""
        for name, array in arrays.items():
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
            found[info.mode] = Engine(_deserialise(_module(info.flavour), bundle, info), info.batch, info.final_states)
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


def _filled(x: Arrays, axis: int, size: int) -> Arrays:
    """Samples of zeros behind those of x, so that there are at least `size`."""
    return {
        name: np.pad(each, [(0, max(size - each.shape[at], 0) if at == axis else 0) for at in range(each.ndim)])
        for name, each in x.items()
    }


def _with_batch(shape: Any, batch: int) -> tuple[int, ...]:
    """Only the batch is dynamic in our engines: T and the shape of a sample are fixed."""
    return tuple(batch if size < 0 else int(size) for size in shape)
