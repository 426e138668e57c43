"""A GPU and a TensorRT that are neither: memory is a dictionary, the engine runs the reference's single steps in NumPy.

It refuses what the real ones punish: memory that was given back, another stream, a call before shapes and addresses are
set, one address for a state's input and output.
"""

from types import SimpleNamespace

import numpy as np

from stdl_export.onnx import lower
from stdl_export.program import program
from stdl_runtimes.reference_walk import Simulation


class FakeCuda:
    """As `stdl_runtimes.cuda.Cuda`."""

    stream = 77
    compute_capability = "8.7"

    def __init__(self):
        self.memory = {}
        self.pins = []
        self.closed = False
        self._next = 256

    def allocate(self, size):
        self._next += 1 << 20
        self.memory[self._next] = bytearray(size)
        return self._next

    def free(self, address):
        del self.memory[address]

    def pinned(self, shape):
        self.pins.append(np.full(shape, np.nan, np.float32))
        return self.pins[-1]

    def unpin(self, array):
        self.pins = [pin for pin in self.pins if pin is not array]

    def upload(self, array, address):
        assert array.flags.c_contiguous
        assert len(self.memory[address]) == array.nbytes
        self.memory[address][:] = array.tobytes()

    def download(self, address, array):
        array[...] = np.frombuffer(self.memory[address], array.dtype).reshape(array.shape)

    def wait(self):
        assert not self.closed

    def close(self):
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
        self.num_io_tensors = len(self.shapes)
        self.contexts = []

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
        self.contexts.append(FakeContext(self))
        return self.contexts[-1]


class FakeContext:
    """As `IExecutionContext`; `calls` keeps the addresses of every execution."""

    def __init__(self, engine):
        self.engine, self.batch, self.addresses, self.calls = engine, None, {}, []

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

    def execute_async_v3(self, stream):
        assert stream == self.engine.cuda.stream
        assert len(set(self.addresses.values())) == len(self.engine.shapes)  # no two tensors share an address
        self.calls.append(dict(self.addresses))
        if self.engine.mode == "step":
            self._step()
        else:
            self._sequence()
        return True

    def _read(self, name):
        raw = np.frombuffer(self.engine.cuda.memory[self.addresses[name]], self._dtype(name))
        return raw.reshape(self.get_tensor_shape(name)).astype(np.float32)

    def _write(self, name, array):
        self.engine.cuda.memory[self.addresses[name]][:] = np.ascontiguousarray(array, self._dtype(name)).tobytes()

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


class FakeTensorRt:
    """As the module `tensorrt_rtx`; `validity` is the mask it answers for an engine, `refuse` makes it open none."""

    __version__ = "1.0"

    class ILogger:
        Severity = SimpleNamespace(ERROR=1, INTERNAL_ERROR=0)

    def __init__(self, engines, validity=0, refuse=()):
        self.engines, self.validity, self.refuse = engines, validity, refuse

    def Runtime(self, log):
        def deserialize(content):
            for severity, line in self.refuse:
                log.log(severity, line)
            return None if self.refuse else self.engines[bytes(content).decode()]

        return SimpleNamespace(
            get_engine_validity=lambda content: ("INVALID", self.validity), deserialize_cuda_engine=deserialize
        )
