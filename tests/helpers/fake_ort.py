"""An onnxruntime with providers that are none: graphs run on the real CPU provider, memory of a GPU is an array.

What the real ones punish is refused here: memory of another device, addresses that move once a graph was recorded,
and calls without bound memory in a session that records graphs. `one_graph`: it replays whatever was recorded first.
"""

from types import SimpleNamespace

import onnxruntime as real
from onnxruntime.capi.onnxruntime_pybind11_state import EPFail


class FakeOrt:
    """As the module `onnxruntime`; `starts`: does the provider, or does the CPU stand in for it without a word?"""

    __version__ = "1.99"
    SessionOptions = real.SessionOptions

    def __init__(self, provider, *, starts=True, takes_nodes=True, one_graph=False, known=None, refuses=()):
        self.provider, self.starts, self.takes_nodes, self.one_graph = provider, starts, takes_nodes, one_graph
        self.known = [provider.name] if known is None else known
        self.refuses = refuses
        self.sessions, self.registered, self.values = [], [], []
        self.OrtValue = SimpleNamespace(ortvalue_from_numpy=self._value)
        self.RunOptions = RunOptions

    def get_available_providers(self):
        return [*self.known, "CPUExecutionProvider"]

    def _value(self, array, device, number):
        assert (device, number) == (self.provider.memory, 0)
        self.values.append(FakeValue(array.copy()))
        return self.values[-1]

    def InferenceSession(self, path, options, providers=None, **more):
        assert more == {"enable_fallback": 0}
        (chosen,) = providers or self.devices
        for name in chosen[1]:
            if name in self.refuses:
                raise EPFail(f"Unknown option\n{name}")
        self.sessions.append(FakeSession(self, path, dict(chosen[1]), options))
        return self.sessions[-1]

    # --- providers from packages of their own ---

    devices = ()

    def plugin(self, *, driver=True, gpus=2):
        """Its package; without a driver its library cannot be registered."""

        def register(name, path):
            if not driver:
                raise EPFail("libcuda.so.1: cannot open shared object file")
            self.registered.append((name, path))

        def add(options, devices, chosen):
            assert len(devices) == 1
            assert devices[0].ep_name == self.provider.name
            self.devices = [(self.provider.name, chosen)]

        self.register_execution_provider_library = register
        cpu, gpu = SimpleNamespace(ep_name="CPUExecutionProvider"), SimpleNamespace(ep_name=self.provider.name)
        self.get_ep_devices = lambda: [cpu, *([gpu] * gpus if self.registered else [])]
        self.SessionOptions = type(
            "Options", (), {"add_session_config_entry": lambda *a: None, "add_provider_for_devices": add}
        )
        return SimpleNamespace(get_ep_name=lambda: self.provider.name, get_library_path=lambda: "ep.so")


class RunOptions:
    def __init__(self):
        self.entries = {}

    def add_run_config_entry(self, key, value):
        self.entries[key] = value


class FakeValue:
    """Memory on the device: what is put in is copied, what is taken out is a copy."""

    def __init__(self, array):
        self.memory = array

    def update_inplace(self, array):
        assert array.dtype == self.memory.dtype
        assert array.shape == self.memory.shape
        assert array.flags.c_contiguous
        self.memory[...] = array

    def numpy(self):
        return self.memory.copy()


class FakeBinding:
    def __init__(self):
        self.inputs, self.outputs, self.ready, self.waited = {}, {}, False, 0

    def bind_ortvalue_input(self, name, value):
        assert isinstance(value, FakeValue), "it lies on another device"
        self.inputs[name] = value

    def bind_ortvalue_output(self, name, value):
        assert isinstance(value, FakeValue), "it lies on another device"
        self.outputs[name] = value

    def synchronize_inputs(self):
        self.ready = True

    def synchronize_outputs(self):
        self.waited += 1


class FakeSession:
    def __init__(self, ort, path, chosen, options):
        self.ort, self.chosen, self.options = ort, chosen, options
        self.real = real.InferenceSession(path, providers=["CPUExecutionProvider"])
        self.get_inputs = self.real.get_inputs
        self.captures = chosen.get(ort.provider.graph) == "1"
        self.graphs, self.bindings, self.fails = {}, [], False

    def get_providers(self):
        return [*([self.ort.provider.name] if self.ort.starts else []), "CPUExecutionProvider"]

    def get_provider_options(self):
        return {self.ort.provider.name: {**self.chosen, "device_id": "0"}}

    def get_provider_graph_assignment_info(self):
        name = self.ort.provider.name if self.ort.takes_nodes else "CPUExecutionProvider"
        return [SimpleNamespace(ep_name=name, get_nodes=lambda: [1, 2, 3])]

    def run(self, names, feeds):
        assert not self.captures, "a graph would be recorded with memory that is gone afterwards"
        return self.real.run(names, feeds)

    def io_binding(self):
        self.bindings.append(FakeBinding())
        return self.bindings[-1]

    def run_with_iobinding(self, binding, options):
        assert binding.ready, "the inputs may still be on their way"
        binding.ready = False
        if self.fails:
            raise EPFail("the GPU fell off\nthe bus")
        if self.captures:
            number = "0" if self.ort.one_graph else options.entries["gpu_graph_id"]
            binding = self.graphs.setdefault(number, binding)  # a replay knows the addresses it was recorded with
        names = list(binding.outputs)
        feeds = {name: value.memory for name, value in binding.inputs.items()}
        shared = {id(value) for value in binding.inputs.values()} & {id(value) for value in binding.outputs.values()}
        assert not shared, "a state is read from where it is written"
        for name, array in zip(names, self.real.run(names, feeds), strict=True):
            binding.outputs[name].memory[...] = array
