"""An engine with its shapes set for one batch, and memory for each of its inputs and outputs.

Shapes and addresses are set once, so a call is: copy in, launch, copy out, wait. The launch is that of a CUDA graph,
which was captured with these addresses; where an engine cannot be captured it is enqueued, and `graph` says why.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stdl_export.common.errors import Unavailable
from stdl_export.manifest import EngineInfo, Manifest, StateInfo
from stdl_runtimes.cuda import AnyArray, Cuda, Handle
from stdl_runtimes.ends import Arrays
from stdl_runtimes.tensorrt_engine import Engine

NUMPY: dict[str, npt.DTypeLike] = {"FLOAT": np.float32, "HALF": np.float16}

PARTS = ("h2d", "compute", "d2h")


@dataclass(frozen=True)
class Tensor:
    """One that is copied at every run: what callers call it, what the engine does, and its shape around the batch."""

    key: str
    name: str
    before: tuple[int, ...]
    sample: tuple[int, ...]


def of_manifest(manifest: Manifest, info: EngineInfo) -> tuple[list[Tensor], list[Tensor]]:
    """The Inputs and the Outputs, by their nodes."""
    timed = () if info.timesteps is None else (info.timesteps,)
    before = () if manifest.input.mode == "repeat" else timed
    return (
        [Tensor(each.node, each.name, before, each.shape) for each in manifest.input.tensors],
        [Tensor(each.node, each.name, timed, each.shape) for each in manifest.output.tensors],
    )


class Bound:
    """One batch size of an engine, on a stream of its own.

    states: with them there are two ways to run it. Way 0 reads a state at its input's address and writes it at its
    output's; way 1 does the reverse, so that what one way wrote, the other reads. TensorRT gives wrong results where a
    state's input and output share an address.

    graph: "on", or why the engine is enqueued instead.
    """

    def __init__(
        self,
        device: Cuda,
        engine: Engine,
        tensors: tuple[list[Tensor], list[Tensor]],
        batch: int,
        *,
        states: Sequence[StateInfo] = (),
        graphs: bool = True,
    ) -> None:
        self._device, self._engine = device, engine
        self._undo = contextlib.ExitStack()
        self._running = False
        self._context: Any = None
        self._graphs: list[Handle] = []
        self._hosts: dict[str, AnyArray] = {}
        self._pointed: dict[str, int] = {}
        try:
            self._open(tensors, batch, states)
            self.graph = self._capture() if graphs else "off, as asked for"
        except BaseException:
            self.close()
            raise

    def _open(self, tensors: tuple[list[Tensor], list[Tensor]], batch: int, states: Sequence[StateInfo]) -> None:
        handle = self._engine.handle
        self.stream = self._device.stream()
        self._running = True
        self._undo.callback(self.stream.close)
        self._context = self._engine.context()
        self._undo.callback(self._release)
        names = [handle.get_tensor_name(i) for i in range(handle.num_io_tensors)]
        self._set_shapes(names, batch)
        context = self._context
        self.shapes = {name: tuple(context.get_tensor_shape(name)) for name in names}
        self._check([each for end in tensors for each in end], batch, states)
        self.dtypes = {name: np.dtype(NUMPY[handle.get_tensor_dtype(name).name]) for name in names}
        self.addresses = {name: self.allocate(self._bytes(name)) for name in names}
        swapped = {state.input: self.addresses[state.output] for state in states}
        swapped |= {state.output: self.addresses[state.input] for state in states}
        self._ways = [self.addresses, self.addresses | swapped][: 2 if states else 1]
        self._inputs, self._outputs = (self._staged(end) for end in tensors)

    def run(self, x: Arrays, way: int = 0) -> Arrays:
        """The Inputs in, the Outputs out; all else stays on the device."""
        self._up(x)
        self._launch(way)
        self._down()
        self.stream.wait()
        return {key: host.copy() for key, host, _ in self._outputs}

    def timed(self, x: Arrays, way: int = 0) -> dict[str, float]:
        """The same, and the milliseconds that its parts took: by events on the device, "enqueue" on the host."""
        marks = self.stream.events(len(PARTS) + 1)
        try:
            self.stream.mark(marks[0])
            self._up(x)
            self.stream.mark(marks[1])
            start = time.perf_counter_ns()
            self._launch(way)
            enqueued = time.perf_counter_ns() - start
            self.stream.mark(marks[2])
            self._down()
            self.stream.mark(marks[3])
            self.stream.wait()
            spans = itertools.pairwise(marks)
            took = {part: self.stream.milliseconds(*span) for part, span in zip(PARTS, spans, strict=True)}
        finally:
            self.stream.drop(marks)
        return took | {"enqueue": enqueued / 1e6}

    def read(self, names: Sequence[str]) -> Arrays:
        """What else the last run (by way 0) left on the device."""
        for name in names:
            self.stream.download(self.addresses[name], self.host(name))
        self.stream.wait()
        return {name: self.host(name).copy() for name in names}

    def host(self, name: str) -> AnyArray:
        """Pinned memory beside a tensor that is not copied at every run; made when it is first asked for."""
        if name not in self.shapes:
            raise Unavailable(f"the engine has no '{name}', which the manifest names: build it again")
        if name not in self._hosts:
            self._hosts[name] = self._pinned(name)
        return self._hosts[name]

    def allocate(self, size: int) -> int:
        """More memory on the device, until `close`."""
        address = self._device.allocate(size)
        self._undo.callback(self._device.free, address)
        return address

    def close(self) -> None:
        """Give back the memory, when nothing on the stream uses it any more."""
        if self._running:
            self._running = False
            with contextlib.suppress(Unavailable):  # a device that failed says so at every call
                self.stream.wait()
        self._undo.close()

    def _up(self, x: Arrays) -> None:
        for key, host, address in self._inputs:
            np.copyto(host, x[key])
            self.stream.upload(host, address)

    def _down(self) -> None:
        for _, host, address in self._outputs:
            self.stream.download(address, host)

    def _launch(self, way: int) -> None:
        if self._graphs:
            self.stream.launch(self._graphs[way])
        else:
            self._enqueue(way)

    def _enqueue(self, way: int) -> None:
        self._point(self._ways[way])
        self._engine.lines.clear()
        if not self._context.execute_async_v3(self.stream.handle):
            raise Unavailable(f"the engine could not be started: {self._engine.lines.cause or 'it gave no reason'}")

    def _point(self, addresses: Mapping[str, int]) -> None:
        """Let the tensors of the engine lie at these addresses from now on."""
        for name, address in addresses.items():
            if self._pointed.get(name) != address:
                if not self._context.set_tensor_address(name, address):
                    raise Unavailable(f"the engine takes no address for '{name}'")
                self._pointed[name] = address

    def _capture(self) -> str:
        """A graph for each way. It freezes addresses and shapes, and needs a run before, which this is: on zeros."""
        for name, address in self.addresses.items():
            self.stream.clear(address, self._bytes(name))
        try:
            for way in range(len(self._ways)):
                self._enqueue(way)
                self.stream.wait()
                self._check_capturable()
                graph = self.stream.capture(lambda way=way: self._enqueue(way))  # type: ignore[misc]
                self._undo.callback(self.stream.forget, graph)
                self._graphs.append(graph)
        except Unavailable as reason:
            self._graphs.clear()
            return f"off: {reason}"
        return "on"

    def _check_capturable(self) -> None:
        context = self._context
        if hasattr(context, "is_stream_capturable") and not context.is_stream_capturable(self.stream.handle):
            raise Unavailable("TensorRT says that the engine cannot be captured")

    def _set_shapes(self, names: Sequence[str], batch: int) -> None:
        handle, context = self._engine.handle, self._context
        for name in names:
            if handle.get_tensor_mode(name).name == "INPUT":  # compared by name: each flavour has an enum of its own
                shape = _with_batch(handle.get_tensor_shape(name), batch)
                if not context.set_input_shape(name, shape):
                    raise Unavailable(f"the engine does not take '{name}' of shape {shape}")
        if missing := context.infer_shapes():
            raise Unavailable(f"the engine leaves shapes open: {', '.join(missing)}")

    def _check(self, tensors: Sequence[Tensor], batch: int, states: Sequence[StateInfo]) -> None:
        """The engine has every tensor that the manifest names, in its shape."""
        expected = {each.name: (*each.before, batch, *each.sample) for each in tensors}
        expected |= {name: (batch, *state.shape) for state in states for name in (state.input, state.output)}
        for name, shape in expected.items():
            if name not in self.shapes:
                raise Unavailable(f"the engine has no '{name}', which the manifest names: build it again")
            if self.shapes[name] != shape:
                raise Unavailable(f"the engine's '{name}' is {self.shapes[name]}, it should be {shape}: build it again")

    def _staged(self, tensors: Sequence[Tensor]) -> list[tuple[str, AnyArray, int]]:
        """(key, pinned memory, address) of each."""
        return [(tensor.key, self._pinned(tensor.name), self.addresses[tensor.name]) for tensor in tensors]

    def _pinned(self, name: str) -> AnyArray:
        array = self._device.pinned(self.shapes[name], self.dtypes[name])
        self._undo.callback(self._device.unpin, array)
        return array

    def _bytes(self, name: str) -> int:
        return int(math.prod(self.shapes[name])) * self.dtypes[name].itemsize

    def _release(self) -> None:
        """The context's memory; the graphs that use it went before."""
        self._context = None
        self._engine.contexts -= 1


def _with_batch(shape: Any, batch: int) -> tuple[int, ...]:
    """Only the batch is dynamic in our engines: T and the shape of a sample are fixed."""
    return tuple(batch if size < 0 else int(size) for size in shape)
