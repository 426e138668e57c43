"""A GPU and a TensorRT that are neither: memory is a dictionary, the engine runs the reference's single steps in NumPy.

It refuses what the real ones punish: memory that was given back, another stream, a call before shapes and addresses are
set, one address for a state's input and output.
"""

import functools
import threading
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

from stdl_export.common.errors import Unavailable
from stdl_export.onnx import lower
from stdl_export.program import program
from stdl_runtimes.reference_walk import Simulation


def alone(method):
    """One thread at a time, as the driver sees to it."""

    @functools.wraps(method)
    def locked(self, *given):
        with self.lock:
            return method(self, *given)

    return locked


class FakeCuda:
    """As `stdl_runtimes.cuda.Cuda`; `room` is how much it can allocate, `captures` whether graphs can be made."""

    compute_capability = "8.7"
    name = "Fake GPU"
    driver = "12.6"

    def __init__(self, room=1 << 40, captures=True):
        self.memory = {}
        self.pins = []
        self.streams = []
        self.room, self.captures = room, captures
        self.lock = threading.RLock()
        self._next = 256

    @property
    @alone
    def allocated(self):
        return sum(map(len, self.memory.values()))

    @alone
    def stream(self):
        self.streams.append(FakeStream(self, 77 + len(self.streams)))
        return self.streams[-1]

    @alone
    def allocate(self, size):
        if self.allocated + size > self.room:
            raise Unavailable("CUDA: out of memory (cudaMalloc): take a smaller batch")
        self._next += max(1 << 20, size + 256 - size % 256)
        self.memory[self._next] = bytearray(b"\xff" * size)  # NaN: nobody cleared it
        return self._next

    @alone
    def free(self, address):
        end = address + len(self.memory[address])
        assert not any(address <= each < end for work in self.coming() for each in work.addresses), "it is still used"
        del self.memory[address]

    @alone
    def pinned(self, shape, dtype=np.float32):
        self.pins.append(np.full(shape, np.nan, dtype))
        return self.pins[-1]

    @alone
    def unpin(self, array):
        assert not any(np.shares_memory(array, each) for work in self.coming() for each in work.arrays), "it is used"
        self.pins = [pin for pin in self.pins if pin is not array]

    def coming(self):
        """What is still to be done, on all streams: other threads may be at work."""
        return [work for stream in list(self.streams) for work in list(stream.queue)]

    @alone
    def is_pinned(self, array):
        return any(np.shares_memory(array, pin) for pin in self.pins)

    @alone
    def view(self, address, size):
        """The bytes at an address, which may lie inside what was allocated."""
        for start, block in self.memory.items():
            if start <= address and address + size <= start + len(block):
                return memoryview(block)[address - start : address - start + size]
        raise AssertionError(f"{address} + {size} is not allocated")


class Work(NamedTuple):
    """Something for the device to do, the addresses and the pinned arrays that it needs then."""

    do: Callable[[], object]
    addresses: Sequence[int] = ()
    arrays: Sequence[np.ndarray] = ()


class FakeStream:
    """As `stdl_runtimes.cuda.Stream`: work is done as late as it may be, in `wait`. `log` keeps what was asked of it.

    So whoever reads what is not there yet, or changes pinned memory that is still to be copied, gets wrong numbers.
    """

    def __init__(self, cuda, handle):
        self.cuda, self.handle, self.closed = cuda, handle, False
        self.queue = []
        self.capturing = None
        self.graphs, self.marks = [], {}
        self.log = []
        self._clock = 0.0

    def do(self, what, do, addresses=(), arrays=()):
        """What a graph replays later reads and writes then what is there then."""
        assert not self.closed
        self.log.append(what)
        (self.queue if self.capturing is None else self.capturing).append(Work(do, addresses, arrays))

    def upload(self, array, address):
        assert array.flags.c_contiguous
        assert self.cuda.is_pinned(array), "pageable memory is copied slowly"
        self.do("up", lambda: self._put(address, array.tobytes()), [address], [array])

    def download(self, address, array):
        assert self.cuda.is_pinned(array)
        assert array.flags.c_contiguous

        def work():
            array[...] = np.frombuffer(self.cuda.view(address, array.nbytes), array.dtype).reshape(array.shape)

        self.do("down", work, [address], [array])

    def copy(self, source, target, size):
        assert source + size <= target or target + size <= source, "they overlap"
        self.do("copy", lambda: self._put(target, bytes(self.cuda.view(source, size))), [source, target])

    def clear(self, address, size):
        self.do("clear", lambda: self._put(address, bytes(size)), [address])

    def _put(self, address, content):
        self.cuda.view(address, len(content))[:] = content

    def wait(self):
        assert not self.closed
        assert self.capturing is None, "a wait ends a capture"
        while self.queue:
            self.queue[0].do()
            self.queue.pop(0)
            self._clock += 1.0

    def capture(self, work):
        self.capturing = []
        try:
            work()
        finally:
            captured, self.capturing = self.capturing, None
        if not self.cuda.captures:
            raise Unavailable("CUDA: operation not permitted when stream is capturing (cudaStreamEndCapture)")
        self.graphs.append(captured)
        return captured

    def launch(self, graph):
        assert any(graph is each for each in self.graphs)
        self.do("launch", lambda: [work.do() for work in graph], [each for work in graph for each in work.addresses])

    def forget(self, graph):
        assert not self.queue
        self.graphs = [each for each in self.graphs if each is not graph]

    def events(self, count):
        self.marks |= {len(self.marks) + i: None for i in range(count)}
        return list(self.marks)[-count:]

    def mark(self, event):
        assert event in self.marks

        def work():
            self._clock -= 1.0  # a mark takes no time
            self.marks[event] = self._clock + 1.0

        self.queue.append(Work(work))

    def milliseconds(self, first, second):
        return self.marks[second] - self.marks[first]

    def drop(self, events):
        for event in events:
            del self.marks[event]

    def close(self):
        assert not self.graphs
        assert not self.marks
        assert not self.queue
        self.closed = True


class FakeEngine:
    """As `ICudaEngine` of an engine built from a graph of the reference; T is fixed, the batch is dynamic."""

    def __init__(self, graph, cuda, mode, states, T, repeated, final_states=False):
        self.cuda, self.mode, self.states, self.T, self.repeated = cuda, mode, states, T, repeated
        self.program = program(graph)
        self.given, self.shown = lower.input_names(self.program), lower.output_names(self.program)  # node -> tensor
        timed = [] if mode == "step" else [T]
        self.shapes = {}
        for front, names in (([] if repeated else timed, self.given), (timed, self.shown)):
            self.shapes |= {name: [*front, -1, *self.program.nodes[path].shape] for path, name in names.items()}
        self.inputs = list(self.given.values())
        for info in states if mode == "step" or final_states else ():
            self.shapes[info.output] = [-1, *info.shape]
            if mode == "step":
                self.shapes[info.input] = self.shapes[info.output]
                self.inputs.append(info.input)
        self.final_states = final_states
        self.contexts = []
        self.device_memory_size_v2 = 1000
        self.starts, self.opens, self.capturable = True, True, True

    @property
    def num_io_tensors(self):
        return len(self.shapes)

    def get_tensor_name(self, i):
        return list(self.shapes)[i]

    def get_tensor_mode(self, name):
        return SimpleNamespace(name="INPUT" if name in self.inputs else "OUTPUT")

    def get_tensor_dtype(self, name):
        half = any(name in (info.input, info.output) and info.dtype == "float16" for info in self.states)
        return SimpleNamespace(name="HALF" if half else "FLOAT")

    def get_tensor_shape(self, name):
        return self.shapes[name]

    def create_execution_context(self):
        if not self.opens:
            return None
        self.contexts.append(FakeContext(self))
        return self.contexts[-1]


class FakeContext:
    """As `IExecutionContext`; `calls` keeps the addresses of every execution."""

    def __init__(self, engine):
        self.engine, self.batch, self.addresses, self.calls, self.warm = engine, None, {}, [], False

    def set_input_shape(self, name, shape):
        known = self.engine.shapes[name]
        self.batch = shape[known.index(-1)]
        return len(shape) == len(known)

    def infer_shapes(self):
        return [] if self.batch else ["output"]

    def get_tensor_shape(self, name):
        return [self.batch if size < 0 else size for size in self.engine.shapes[name]]

    def set_tensor_address(self, name, address):
        assert address % 256 == 0
        self.addresses[name] = address
        return True

    def is_stream_capturable(self, stream):
        return self.engine.capturable

    def execute_async_v3(self, stream):
        (ours,) = [each for each in self.engine.cuda.streams if each.handle == stream]
        assert len(set(self.addresses.values())) == len(self.engine.shapes)  # no two tensors share an address
        assert ours.capturing is None or self.warm, "a capture needs a run with these shapes before"
        if not self.engine.starts:
            return False
        self.warm = True
        frozen = dict(self.addresses)
        ours.do("enqueue", lambda: self._execute(frozen), list(frozen.values()))
        return True

    def _execute(self, addresses):
        self.calls.append(addresses)
        {"step": self._step, "sequence": self._sequence, "probe": self._probe}[self.engine.mode]()

    def _memory(self, name):
        size = int(np.prod(self.get_tensor_shape(name))) * np.dtype(self._dtype(name)).itemsize
        return self.engine.cuda.view(self.calls[-1][name], size)

    def _read(self, name):
        raw = np.frombuffer(self._memory(name), self._dtype(name))
        return raw.reshape(self.get_tensor_shape(name)).astype(np.float32)

    def _write(self, name, array):
        self._memory(name)[:] = np.ascontiguousarray(array, self._dtype(name)).tobytes()

    def _dtype(self, name):
        return {"FLOAT": np.float32, "HALF": np.float16}[self.engine.get_tensor_dtype(name).name]

    def _step(self):
        engine, states = self.engine, self.engine.states
        simulation = Simulation(engine.program, self.batch)
        simulation.states = {(info.node, info.var): self._read(info.input) for info in states}
        values = simulation.advance({path: self._read(name) for path, name in engine.given.items()})
        for info in states:
            self._write(info.output, simulation.states[info.node, info.var])
        for path, name in engine.shown.items():
            self._write(name, values[path])

    def _sequence(self):
        engine = self.engine
        x = {path: self._read(name) for path, name in engine.given.items()}
        simulation = Simulation(engine.program, self.batch)
        steps = [
            simulation.advance(x if engine.repeated else {path: each[t] for path, each in x.items()})
            for t in range(engine.T)
        ]
        for path, name in engine.shown.items():
            self._write(name, np.stack([values[path] for values in steps]))
        for info in engine.states if engine.final_states else ():
            self._write(info.output, simulation.states[info.node, info.var])

    def _probe(self):
        session = self.engine.session
        outputs = [each.name for each in session.get_outputs()]
        results = session.run(outputs, {each.name: self._read(each.name) for each in session.get_inputs()})
        for name, array in zip(outputs, results, strict=True):
            self._write(name, array)


class FakeProbe(FakeEngine):
    """An engine of the probe graph, run by ONNX Runtime."""

    def __init__(self, model, cuda):
        import onnxruntime

        self.session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
        self.cuda, self.mode, self.states, self.contexts = cuda, "probe", (), []
        ends = [*self.session.get_inputs(), *self.session.get_outputs()]
        self.shapes = {end.name: [-1 if isinstance(size, str) else size for size in end.shape] for end in ends}
        self.inputs = [end.name for end in self.session.get_inputs()]
        self.device_memory_size_v2 = 1000
        self.starts = self.opens = self.capturable = True


class FakeTensorRt:
    """As the module `tensorrt` or, with kernels, `tensorrt_rtx`.

    `validity` is the mask it answers for an engine, `refuse` makes it open none: lines for its log.
    """

    __version__ = "1.0"

    class ILogger:
        Severity = SimpleNamespace(ERROR=SimpleNamespace(name="ERROR"), INTERNAL_ERROR=SimpleNamespace(name="ERROR"))

    EngineStat = SimpleNamespace(TOTAL_WEIGHTS_SIZE="weights")
    DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="eager")

    def __init__(self, engines, validity=0, refuse=()):
        self.engines, self.validity, self.refuse = engines, validity, refuse

    def Runtime(self, log):
        self.log = log

        def deserialize(content):
            for severity, line in self.refuse:
                log.log(SimpleNamespace(name=severity), line)
            return None if self.refuse else self.engines[bytes(content).decode()]

        return SimpleNamespace(
            get_engine_validity=lambda content: ("INVALID", self.validity), deserialize_cuda_engine=deserialize
        )


class FakeRtxEngine(FakeEngine):
    """One whose kernels are compiled when it first runs, and can be kept."""

    def create_runtime_config(self):
        self.config = FakeRuntimeConfig()
        return self.config

    def create_execution_context(self, config):
        assert config is self.config
        assert config.dynamic_shapes_kernel_specialization_strategy == "eager"
        assert config.cache is not None
        config.cache.content += b"kernel "
        return super().create_execution_context()

    def get_engine_stat(self, stat):
        return {"weights": 5000}[stat]


class FakeRuntimeConfig:
    """As IRuntimeConfig of RTX."""

    dynamic_shapes_kernel_specialization_strategy = "lazy"
    cache = None

    def create_runtime_cache(self):
        return FakeRuntimeCache()

    def set_runtime_cache(self, cache):
        self.cache = cache
        return True


class FakeRuntimeCache:
    """As IRuntimeCache."""

    content = b""

    def deserialize(self, content):
        self.content = content
        return True

    def serialize(self):
        return self.content
