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
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2, cudaMemcpyDeviceToDevice=3)
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal="thread")

    def __init__(self, fail=None):
        self.blocks, self.log, self.fail = {}, [], fail
        self.open = {"stream": 0, "graph": 0, "exec": 0, "event": 0}

    def __getattribute__(self, name):
        found = super().__getattribute__(name)
        if not name.startswith("cuda") or not callable(found) or name in ("cudaGetErrorString", "cudaGetLastError"):
            return found
        if name == self.fail:

            def failing(*args):
                return 2, None

            failing.__name__ = name
            return failing
        return found

    def cudaGetDeviceProperties(self, device):
        return 0, SimpleNamespace(name=b"Fake GPU\0\0")

    def cudaDriverGetVersion(self):
        return 0, 12060

    def cudaStreamCreateWithFlags(self, flags):
        assert flags == self.cudaStreamNonBlocking
        self.open["stream"] += 1
        return 0, 41 + self.open["stream"]

    def cudaDeviceGetAttribute(self, kind, device):
        return 0, {75: 8, 76: 7}[kind]

    def cudaMalloc(self, size):
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

    def cudaMemsetAsync(self, address, value, size, stream):
        ctypes.memset(address, value, size)
        return (0,)

    def cudaStreamSynchronize(self, stream):
        return (0,)

    def cudaStreamDestroy(self, stream):
        self.open["stream"] -= 1
        return (0,)

    def cudaStreamBeginCapture(self, stream, mode):
        assert mode == "thread"
        self.open["graph"] += 1
        return (0,)

    def cudaStreamEndCapture(self, stream):
        return 0, "graph"

    def cudaGraphInstantiate(self, graph, flags):
        assert graph == "graph"
        self.open["exec"] += 1
        return 0, "exec"

    def cudaGraphDestroy(self, graph):
        self.open["graph"] -= 1
        return (0,)

    def cudaGraphExecDestroy(self, graph):
        assert graph == "exec"
        self.open["exec"] -= 1
        return (0,)

    def cudaGraphLaunch(self, graph, stream):
        self.log.append(graph)
        return (0,)

    def cudaGetLastError(self):
        self.log.append("forgotten")
        return (0,)

    def cudaEventCreate(self):
        self.open["event"] += 1
        return 0, self.open["event"]

    def cudaEventRecord(self, event, stream):
        self.log.append(f"mark {event}")
        return (0,)

    def cudaEventElapsedTime(self, first, second):
        return 0, 0.25 * (second - first)

    def cudaEventDestroy(self, event):
        self.open["event"] -= 1
        return (0,)

    def cudaGetErrorString(self, error):
        return 0, b"out of memory"


def test_memory_goes_to_the_device_across_it_and_back():
    bindings = FakeBindings()
    device = cuda.Cuda(bindings)
    assert (device.compute_capability, device.name, device.driver) == ("8.7", "Fake GPU", "12.6")
    stream = device.stream()
    assert stream.handle == 42
    there, back = device.pinned((2, 3)), device.pinned((2, 3))
    there[...], back[...] = np.arange(6).reshape(2, 3), -1
    address, other = device.allocate(there.nbytes), device.allocate(there.nbytes)
    assert device.allocated == 2 * there.nbytes
    stream.clear(other, there.nbytes)
    stream.upload(there, address)
    stream.copy(address, other, there.nbytes // 2)
    stream.download(other, back)
    stream.wait()
    assert back.tolist() == [[0, 1, 2], [0, 0, 0]]
    assert bindings.log == [1, 3, 2]
    for array in (there, back):
        device.unpin(array)
    device.free(address)
    device.free(other)
    stream.close()
    assert not bindings.blocks
    assert device.allocated == 0
    assert bindings.open["stream"] == 0


@pytest.mark.parametrize(("shape", "dtype"), [((2, 3), np.float16), ((), np.float32), ((0, 4), np.float32)])
def test_pinned_memory_of_any_shape(shape, dtype):
    device = cuda.Cuda(FakeBindings())
    array = device.pinned(shape, dtype)
    array[...] = 1
    assert (array.shape, array.dtype, array.flags.c_contiguous) == (shape, dtype, True)
    device.unpin(array)


def test_a_graph_is_captured_launched_and_given_back():
    bindings = FakeBindings()
    stream = cuda.Cuda(bindings).stream()
    ran = []
    graph = stream.capture(lambda: ran.append("work"))
    assert ran == ["work"]
    assert bindings.open == {"stream": 1, "graph": 0, "exec": 1, "event": 0}  # only what is launched is kept
    stream.launch(graph)
    assert bindings.log == ["exec"]
    stream.forget(graph)
    assert bindings.open["exec"] == 0


def test_work_that_cannot_be_captured_leaves_the_stream_as_it_was():
    bindings = FakeBindings()
    stream = cuda.Cuda(bindings).stream()

    def work():
        raise Unavailable("the engine could not be started")

    with pytest.raises(Unavailable, match="could not be started"):
        stream.capture(work)
    assert bindings.log == ["forgotten"]


@pytest.mark.parametrize("call", ["cudaStreamEndCapture", "cudaGraphInstantiate"])
def test_a_capture_that_fails_says_which_call(call):
    stream = cuda.Cuda(FakeBindings(fail=call)).stream()
    with pytest.raises(Unavailable, match=rf"CUDA: out of memory \({call}\)"):
        stream.capture(lambda: None)


def test_times_are_told_by_the_device():
    bindings = FakeBindings()
    stream = cuda.Cuda(bindings).stream()
    first, second = stream.events(2)
    stream.mark(first)
    stream.mark(second)
    assert stream.milliseconds(first, second) == 0.25
    assert bindings.log == ["mark 1", "mark 2"]
    stream.drop([first, second])
    assert bindings.open["event"] == 0


def test_an_error_of_cuda_says_which_call_failed_and_what_to_do():
    with pytest.raises(Unavailable, match=r"CUDA: out of memory \(cudaMalloc\): take a smaller batch"):
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


def test_bindings_that_do_not_fit_the_driver_are_one_sentence(monkeypatch):
    pytest.importorskip("cuda.bindings.runtime")

    def lacking(runtime):
        raise RuntimeError('Function "cuGetProcAddress_v2"\nnot found')

    monkeypatch.setattr(cuda.ctypes, "CDLL", lambda name: FakeDriver())
    monkeypatch.setattr(cuda, "Cuda", lacking)
    with pytest.raises(Unavailable, match=r'^cuda-bindings and the driver do not fit: Function "cuGetP.*" not found$'):
        cuda.open_device()


def test_the_real_bindings_have_what_is_called():
    runtime = pytest.importorskip("cuda.bindings.runtime")
    names = set(re.findall(r"\b(?:_rt|runtime|kinds)\.(cuda\w+)", inspect.getsource(cuda)))
    assert len(names) >= 25
    known = set(dir(runtime)) | set(dir(runtime.cudaDeviceAttr)) | set(dir(runtime.cudaMemcpyKind))
    assert names <= known
    assert hasattr(runtime.cudaStreamCaptureMode, "cudaStreamCaptureModeThreadLocal")
    assert hasattr(runtime.cudaDeviceProp, "name")
    assert int(runtime.cudaStream_t(7)) == 7
