"""The little of CUDA that a runtime needs: memory on the device, pinned memory beside it, one stream.

Only the NVIDIA driver and `cuda-bindings` are needed, no toolkit and no framework.
"""

from __future__ import annotations

import ctypes
import math
import sys
from typing import Any

import numpy as np

from stdl_export.common.errors import Unavailable
from stdl_runtimes.base import Array

DRIVER = {"win32": "nvcuda.dll"}.get(sys.platform, "libcuda.so.1")


class Cuda:
    """The first GPU. All work is put on one stream that is not the default one, in order, and `wait` waits for it."""

    def __init__(self, runtime: Any) -> None:
        """runtime: the module `cuda.bindings.runtime`."""
        self._rt = runtime
        self._stream = self._call(runtime.cudaStreamCreateWithFlags, runtime.cudaStreamNonBlocking)
        kinds = runtime.cudaDeviceAttr
        major = self._call(runtime.cudaDeviceGetAttribute, kinds.cudaDevAttrComputeCapabilityMajor, 0)
        minor = self._call(runtime.cudaDeviceGetAttribute, kinds.cudaDevAttrComputeCapabilityMinor, 0)
        self.compute_capability = f"{major}.{minor}"

    @property
    def stream(self) -> int:
        """The stream's handle, as TensorRT takes it."""
        return int(self._stream)

    def allocate(self, size: int) -> int:
        """Address of `size` bytes on the device, aligned to 256."""
        return int(self._call(self._rt.cudaMalloc, max(size, 1)))

    def free(self, address: int) -> None:
        """Give device memory back."""
        self._call(self._rt.cudaFree, address)

    def pinned(self, shape: tuple[int, ...]) -> Array:
        """A float32 array in pinned memory: copies from and to it do not wait for the operating system."""
        size = math.prod(shape) * 4
        address = int(self._call(self._rt.cudaMallocHost, max(size, 1)))
        array: Array = np.ctypeslib.as_array((ctypes.c_float * math.prod(shape)).from_address(address)).reshape(shape)
        return array

    def unpin(self, array: Array) -> None:
        """Give an array of `pinned` back."""
        self._call(self._rt.cudaFreeHost, array.ctypes.data)

    def upload(self, array: Array, address: int) -> None:
        """Copy a contiguous array to the device; a pinned one must not change before `wait`."""
        kind = self._rt.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call(self._rt.cudaMemcpyAsync, address, array.ctypes.data, array.nbytes, kind, self._stream)

    def download(self, address: int, array: Array) -> None:
        """Copy from the device into an array; it is there after `wait`."""
        kind = self._rt.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call(self._rt.cudaMemcpyAsync, array.ctypes.data, address, array.nbytes, kind, self._stream)

    def wait(self) -> None:
        """Until all work on the stream is done."""
        self._call(self._rt.cudaStreamSynchronize, self._stream)

    def close(self) -> None:
        """Give the stream back."""
        self._call(self._rt.cudaStreamDestroy, self._stream)

    def _call(self, function: Any, *arguments: Any) -> Any:
        """Every function returns (error, value...): raise the error, return the value."""
        error, *values = function(*arguments)
        if int(error):
            _, text = self._rt.cudaGetErrorString(error)
            raise Unavailable(f"CUDA: {text.decode()} ({function.__name__})")
        return values[0] if values else None


def open_device() -> Cuda:
    """The first GPU of this machine; `Unavailable` with the first thing that is missing."""
    _check_driver()
    try:
        from cuda.bindings import runtime
    except ImportError:
        raise Unavailable("cuda-bindings is not installed: pip install cuda-bindings") from None
    return Cuda(runtime)


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
