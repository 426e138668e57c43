"""What the NVIDIA driver tells about the first GPU, asked by ctypes: building needs no CUDA package."""

from __future__ import annotations

import contextlib
import ctypes
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MAJOR, MINOR, INTEGRATED = 75, 76, 18  # of CUdevice_attribute
MEMINFO = Path("/proc/meminfo")


def compute_capability() -> str | None:
    """`8.7` for the first GPU; None where there is no driver or no GPU."""
    with _driver() as (driver, device):
        if driver is None:
            return None
        major, minor = _attribute(driver, device, MAJOR), _attribute(driver, device, MINOR)
        return None if major is None or minor is None else f"{major}.{minor}"


def gpu_name() -> str | None:
    """The model of the first GPU."""
    text = ctypes.create_string_buffer(256)
    with _driver() as (driver, device):
        if driver is None or driver.cuDeviceGetName(text, len(text), device):
            return None
    return text.value.decode(errors="replace")


def free_bytes(on_gpu: bool) -> int | None:
    """Memory that a build may take just now; None where nothing tells it.

    A GPU's own where the build runs on it, else the machine's; on a Jetson both are the same memory, and what counts is
    what the system could hand out.
    """
    if not on_gpu:
        return _available()
    with _driver() as (driver, device):
        found = [] if driver is None else [_gpu_free(driver, device)]
        if driver is not None and _attribute(driver, device, INTEGRATED):
            found.append(_available())
    return min((size for size in found if size is not None), default=None)


@contextlib.contextmanager
def _driver() -> Iterator[tuple[Any, Any]]:
    """The driver's library and the first device, or (None, None)."""
    device = ctypes.c_int()
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        driver = None
    if driver is not None and (driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0)):
        driver = None
    yield driver, device


def _attribute(driver: Any, device: Any, attribute: int) -> int | None:
    value = ctypes.c_int()
    return None if driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device) else value.value


def _gpu_free(driver: Any, device: Any) -> int | None:
    """cuMemGetInfo needs a context: the primary one, as the CUDA runtime and TensorRT use it."""
    context, free, total = ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_size_t()
    if driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device):
        return None
    try:
        if driver.cuCtxPushCurrent_v2(context):
            return None
        failed = driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
        driver.cuCtxPopCurrent_v2(ctypes.byref(context))
        return None if failed else free.value
    finally:
        driver.cuDevicePrimaryCtxRelease_v2(device)


def _available() -> int | None:
    """What Linux could give a program without swapping."""
    try:
        found = re.search(r"^MemAvailable:\s+([0-9]+) kB", MEMINFO.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
