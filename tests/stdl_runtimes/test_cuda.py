import ctypes
import inspect
import re
from types import SimpleNamespace

import numpy as np
import pytest

from stdl_export.common.errors import Unavailable
from stdl_runtimes import cuda


class FakeBindings:
    """As the module `cuda.bindings.runtime`: every function returns (error, value...); memory is the host's own."""

    cudaStreamNonBlocking = 1
    cudaDeviceAttr = SimpleNamespace(cudaDevAttrComputeCapabilityMajor=75, cudaDevAttrComputeCapabilityMinor=76)
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)

    def __init__(self, fail=None):
        self.blocks, self.log, self.fail = {}, [], fail

    def cudaStreamCreateWithFlags(self, flags):
        assert flags == self.cudaStreamNonBlocking
        return 0, 42

    def cudaDeviceGetAttribute(self, kind, device):
        return 0, {75: 8, 76: 7}[kind]

    def cudaMalloc(self, size):
        if self.fail == "cudaMalloc":
            return (2,)
        block = ctypes.create_string_buffer(size)
        self.blocks[ctypes.addressof(block)] = block
        return 0, ctypes.addressof(block)

    cudaMallocHost = cudaMalloc

    def cudaFree(self, address):
        del self.blocks[address]
        return (0,)

    cudaFreeHost = cudaFree

    def cudaMemcpyAsync(self, target, source, size, kind, stream):
        assert stream == 42
        self.log.append(kind)
        ctypes.memmove(target, source, size)
        return (0,)

    def cudaStreamSynchronize(self, stream):
        return (0,)

    def cudaStreamDestroy(self, stream):
        return (0,)

    def cudaGetErrorString(self, error):
        return 0, b"out of memory"


def test_memory_goes_to_the_device_and_back():
    bindings = FakeBindings()
    device = cuda.Cuda(bindings)
    assert (device.stream, device.compute_capability) == (42, "8.7")
    there, back = device.pinned((2, 3)), device.pinned((2, 3))
    there[...], back[...] = np.arange(6).reshape(2, 3), -1
    address = device.allocate(there.nbytes)
    device.upload(there, address)
    device.download(address, back)
    device.wait()
    assert back.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert bindings.log == [1, 2]
    for array in (there, back):
        device.unpin(array)
    device.free(address)
    device.close()
    assert not bindings.blocks


def test_an_error_of_cuda_says_which_call_failed():
    with pytest.raises(Unavailable, match=r"CUDA: out of memory \(cudaMalloc\)"):
        cuda.Cuda(FakeBindings(fail="cudaMalloc")).allocate(8)


class FakeDriver:
    """As the driver library, with one GPU unless told otherwise."""

    def __init__(self, init=0, devices=1):
        self.init, self.devices = init, devices

    def cuInit(self, flags):
        return self.init

    def cuDeviceGetCount(self, count):
        count._obj.value = self.devices
        return 0


@pytest.mark.parametrize(
    ("driver", "message"),
    [
        (FakeDriver(init=100), r"does not start \(cuInit gives 100\)"),
        (FakeDriver(devices=0), "sees no GPU"),
    ],
)
def test_a_driver_without_a_gpu_is_said(monkeypatch, driver, message):
    monkeypatch.setattr(cuda.ctypes, "CDLL", lambda name: driver)
    with pytest.raises(Unavailable, match=message):
        cuda.open_device()


def test_the_real_bindings_have_what_is_called():
    runtime = pytest.importorskip("cuda.bindings.runtime")
    names = set(re.findall(r"\b(?:_rt|runtime|kinds)\.(cuda\w+)", inspect.getsource(cuda)))
    assert len(names) >= 10
    known = set(dir(runtime)) | set(dir(runtime.cudaDeviceAttr))
    assert names <= known
    assert hasattr(runtime.cudaMemcpyKind, "cudaMemcpyHostToDevice")
    assert int(runtime.cudaStream_t(7)) == 7
