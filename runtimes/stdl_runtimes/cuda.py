"""The little of CUDA that a runtime needs: memory on the device, pinned memory beside it, streams, graphs, events.

Only the NVIDIA driver and `cuda-bindings` are needed, no toolkit and no framework.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from stdl_export.common.errors import Unavailable, one_line

DRIVER = {"win32": "nvcuda.dll"}.get(sys.platform, "libcuda.so.1")

ADVICE = {
    "out of memory": "take a smaller batch, or close what else uses the GPU",
    "driver version is insufficient": "install the cuda-bindings of the driver's CUDA, or a newer driver",
}

AnyArray = npt.NDArray[Any]
Handle = Any
"""Of a captured graph or an event; only passed back."""


class Cuda:
    """The first GPU: its memory, and streams on it. Threads may share it.

    allocated: bytes of its memory that are held now.
    """

    def __init__(self, runtime: Any) -> None:
        """runtime: the module `cuda.bindings.runtime`."""
        self._rt = runtime
        kinds = runtime.cudaDeviceAttr
        major = self.call(runtime.cudaDeviceGetAttribute, kinds.cudaDevAttrComputeCapabilityMajor, 0)
        minor = self.call(runtime.cudaDeviceGetAttribute, kinds.cudaDevAttrComputeCapabilityMinor, 0)
        self.compute_capability = f"{major}.{minor}"
        name = self.call(runtime.cudaGetDeviceProperties, 0).name
        self.name = name.decode(errors="replace").rstrip("\0") if isinstance(name, bytes) else str(name)
        driver = int(self.call(runtime.cudaDriverGetVersion))
        self.driver = f"{driver // 1000}.{driver % 1000 // 10}"
        self.allocated = 0
        self._sizes: dict[int, int] = {}
        self._lock = threading.Lock()

    def stream(self) -> Stream:
        """A stream of its own, which waits for no other one and no other one for it."""
        return Stream(self, self._rt)

    def allocate(self, size: int) -> int:
        """Address of `size` bytes on the device, aligned to 256."""
        address = int(self.call(self._rt.cudaMalloc, max(size, 1)))
        with self._lock:
            self._sizes[address] = size
            self.allocated += size
        return address

    def free(self, address: int) -> None:
        """Give device memory back."""
        self.call(self._rt.cudaFree, address)
        with self._lock:
            self.allocated -= self._sizes.pop(address)

    def pinned(self, shape: tuple[int, ...], dtype: npt.DTypeLike = np.float32) -> AnyArray:
        """An array in pinned memory: copies from and to it do not wait for the operating system."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        address = int(self.call(self._rt.cudaMallocHost, max(size, 1)))
        raw = np.ctypeslib.as_array((ctypes.c_ubyte * max(size, 1)).from_address(address))
        return raw[:size].view(dtype).reshape(shape)

    def unpin(self, array: AnyArray) -> None:
        """Give an array of `pinned` back."""
        self.call(self._rt.cudaFreeHost, array.ctypes.data)

    def call(self, function: Any, *arguments: Any) -> Any:
        """Every function returns (error, value...): raise the error, return the value."""
        error, *values = function(*arguments)
        if int(error):
            _, text = self._rt.cudaGetErrorString(error)
            reason = text.decode() if isinstance(text, bytes) else str(text)
            advice = next((f": {text}" for sign, text in ADVICE.items() if sign in reason), "")
            raise Unavailable(f"CUDA: {reason} ({function.__name__}){advice}")
        return values[0] if values else None


class Stream:
    """Work on the device in order, beside the default stream; `wait` waits for it. One thread at a time uses it."""

    def __init__(self, device: Cuda, runtime: Any) -> None:
        self._call, self._rt = device.call, runtime
        self._stream = self._call(runtime.cudaStreamCreateWithFlags, runtime.cudaStreamNonBlocking)
        kinds = runtime.cudaMemcpyKind
        self._up, self._down = kinds.cudaMemcpyHostToDevice, kinds.cudaMemcpyDeviceToHost
        self._across = kinds.cudaMemcpyDeviceToDevice

    @property
    def handle(self) -> int:
        """As TensorRT takes it."""
        return int(self._stream)

    def upload(self, array: AnyArray, address: int) -> None:
        """Copy a contiguous array to the device; a pinned one must not change before `wait`."""
        self._call(self._rt.cudaMemcpyAsync, address, array.ctypes.data, array.nbytes, self._up, self._stream)

    def download(self, address: int, array: AnyArray) -> None:
        """Copy from the device into a contiguous array; it is there after `wait`."""
        self._call(self._rt.cudaMemcpyAsync, array.ctypes.data, address, array.nbytes, self._down, self._stream)

    def copy(self, source: int, target: int, size: int) -> None:
        """Copy bytes on the device; the two do not overlap."""
        self._call(self._rt.cudaMemcpyAsync, target, source, size, self._across, self._stream)

    def clear(self, address: int, size: int) -> None:
        """Zeros."""
        self._call(self._rt.cudaMemsetAsync, address, 0, size, self._stream)

    def wait(self) -> None:
        """Until all work on the stream is done."""
        self._call(self._rt.cudaStreamSynchronize, self._stream)

    def capture(self, work: Callable[[], object]) -> Handle:
        """A graph of all that `work` puts on the stream, with its addresses; nothing is run.

        `Unavailable` where something in it cannot be captured; the stream is as it was then. Only this thread is held
        to what a capture forbids: others go on allocating memory.
        """
        mode = self._rt.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call(self._rt.cudaStreamBeginCapture, self._stream, mode)
        try:
            work()
        except Unavailable:
            with contextlib.suppress(Unavailable):
                self._call(self._rt.cudaStreamEndCapture, self._stream)
            self._rt.cudaGetLastError()  # forget it: it would be told by the next call
            raise
        graph = self._call(self._rt.cudaStreamEndCapture, self._stream)
        try:
            return self._call(self._rt.cudaGraphInstantiate, graph, 0)
        finally:
            self._call(self._rt.cudaGraphDestroy, graph)

    def launch(self, graph: Handle) -> None:
        """Run a captured graph."""
        self._call(self._rt.cudaGraphLaunch, graph, self._stream)

    def forget(self, graph: Handle) -> None:
        """Give a captured graph back."""
        self._call(self._rt.cudaGraphExecDestroy, graph)

    def events(self, count: int) -> list[Handle]:
        """Marks for points in time on the device."""
        return [self._call(self._rt.cudaEventCreate) for _ in range(count)]

    def mark(self, event: Handle) -> None:
        """Let the device note when it comes here."""
        self._call(self._rt.cudaEventRecord, event, self._stream)

    def milliseconds(self, first: Handle, second: Handle) -> float:
        """From one mark to another, by the device's clock; after `wait`."""
        return float(self._call(self._rt.cudaEventElapsedTime, first, second))

    def drop(self, events: list[Handle]) -> None:
        """Give marks back."""
        for event in events:
            self._call(self._rt.cudaEventDestroy, event)

    def close(self) -> None:
        """Give the stream back."""
        self._call(self._rt.cudaStreamDestroy, self._stream)


def open_device() -> Cuda:
    """The first GPU of this machine; `Unavailable` with the first thing that is missing."""
    _check_driver()
    try:
        from cuda.bindings import runtime
    except ImportError:
        raise Unavailable("cuda-bindings is not installed: pip install cuda-bindings") from None
    try:
        return Cuda(runtime)
    except RuntimeError as error:  # a function that the driver does not have
        raise Unavailable(f"cuda-bindings and the driver do not fit: {one_line(str(error)):.160}") from None


def _check_driver() -> None:
    """The driver library, whether it starts, whether it sees a GPU; asked of the driver itself, without any package."""
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        raise Unavailable("no NVIDIA driver") from None
    if error := driver.cuInit(0):
        raise Unavailable(f"the NVIDIA driver does not start (cuInit gives {error}): is a GPU visible here?")
    count = ctypes.c_int()
    if driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        raise Unavailable("the NVIDIA driver sees no GPU")
