"""ONNX Runtime on a bundle's three graphs: the sequence, the single step, and the probe that shows single layers."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from stdl_export import graph
from stdl_export.arrays import Values
from stdl_export.bundle import Bundle
from stdl_export.common.errors import Unavailable
from stdl_export.manifest import Tolerances
from stdl_runtimes import base, ends, ort_model, probing, states
from stdl_runtimes.base import Array, Device, Mode
from stdl_runtimes.ends import Arrays, Result
from stdl_runtimes.ort_options import CPU as CPU_PROVIDER
from stdl_runtimes.ort_options import CUDA as CUDA_PROVIDER
from stdl_runtimes.ort_options import NV as NV_PROVIDER
from stdl_runtimes.ort_options import OPTIONS, TF32_OVERRIDE, Provider, Settings, may_round, settings
from stdl_runtimes.ort_options import TENSORRT as TENSORRT_PROVIDER
from stdl_runtimes.ort_steps import Steps, graph_numbers

SEQUENCE, STEP, PROBE = "model.onnx", "model.step.onnx", "model.probe.onnx"
FILES: Mapping[Mode, str] = {"sequence": SEQUENCE, "step": STEP}

Feeds = dict[str, npt.NDArray[Any]]


class OnnxRuntime(probing.Probing):
    """The bundle's ONNX graphs on one provider; on the CPU each is opened when it is first used.

    On another provider one is opened at once, since only then it shows whether the provider starts.
    """

    shows_spikes = True

    def __init__(self, bundle: Bundle, provider: Provider, said: Settings) -> None:
        self.name, self.threads = provider.runtime, provider.memory is None
        self._bundle, self._provider, self._settings = bundle, provider, said
        self._network = bundle.graph()  # at once: it is checked against the manifest
        self.ends = ends.of_manifest(bundle.manifest)
        self._models: dict[str, Any] = {}
        self._graph_numbers = graph_numbers()
        self._lock = threading.Lock()
        self.modes = tuple(mode for mode, file in FILES.items() if file in bundle.manifest.files)
        self._rounds = may_round(provider, said)
        if self._rounds and bundle.manifest.tolerances.precision == "fp32":
            self.tolerances = Tolerances.of("fp16")  # both round products to 10 bits
        if provider.memory is not None:
            self._open(FILES[self.modes[-1]])

    def describe(self) -> Mapping[str, str]:
        """Version, provider, and the options in force; once a graph is open, what it runs on, node by node."""
        said = {"engine": f"onnxruntime {ort_model.module().__version__}", "provider": self._provider.name}
        said |= self._settings.described()
        if self._provider.memory is not None:
            said["TF32"] = f"may be on: {TF32_OVERRIDE}=0 turns it off" if self._rounds else "off"
        own: dict[str, str] = dict(self._settings.own)
        for file, model in self._models.items():
            own |= model.get_provider_options().get(self._provider.name, {})
            if placed := ort_model.nodes(model):
                said[f"nodes of {file}"] = ", ".join(f"{count} on {name}" for name, count in sorted(placed.items()))
        return said | {f"provider.{name}": value for name, value in own.items()}

    def outputs(self, x: Arrays, timesteps: int) -> Arrays:
        """Outputs [T, B, ...] of the sequence graph."""
        model, names = self._open(SEQUENCE), _names(self._bundle)
        return dict(
            zip(names, ort_model.run(model, list(names.values()), self._inputs(model, x, timesteps)), strict=True)
        )

    def session(self, batch: int, states: Mapping[str, Array] | None = None) -> base.Session:
        """A session on the step graph; its states start as the bundle's `states.npz` says, or as given."""
        numbers = self._graph_numbers if self._settings.cuda_graph else None
        return Steps(self._open(STEP), self._provider, self._bundle, self.ends, batch, states, numbers)

    def run_to_states(self, x: Values, timesteps: int | None = None) -> tuple[Result, dict[str, Array]]:
        """One run of the sequence graph."""
        states.check_final(self._bundle.manifest.final_states, self._bundle)
        arrays, length = self.ends.sequence(x, timesteps)
        model, names, infos = self._open(SEQUENCE), _names(self._bundle), self._bundle.manifest.states
        wanted = [*names.values(), *(info.output for info in infos)]
        results = ort_model.run(model, wanted, self._inputs(model, arrays, length))
        outputs, last = results[: len(names)], results[len(names) :]
        found = {info.input: state for info, state in zip(infos, last, strict=True)}
        return ends.plain(dict(zip(names, outputs, strict=True))), found

    def fired(self, x: Arrays, spikes: Arrays, length: int) -> tuple[Arrays, Arrays]:
        """The probe graph; see `Probing`."""
        model, outputs = self._open(PROBE), _names(self._bundle)
        feeds = self._inputs(model, x, length) | {probing.names(node)[0]: each for node, each in spikes.items()}
        wanted = [*outputs.values(), *(probing.names(node)[1] for node in spikes)]
        results = ort_model.run(model, wanted, feeds)
        count = len(outputs)
        return dict(zip(outputs, results[:count], strict=True)), dict(zip(spikes, results[count:], strict=True))

    def close(self) -> None:
        """Drop the opened graphs."""
        self._models.clear()

    def _open(self, file: str) -> Any:
        with self._lock:
            if file not in self._models:
                captured = self._settings.cuda_graph and file == STEP
                path = self._bundle.file(file)
                self._models[file] = ort_model.open_graph(path, self._provider, self._settings, captured=captured)
            return self._models[file]

    def _inputs(self, model: Any, x: Arrays, length: int) -> Feeds:
        """The Inputs, and `timesteps` where the graph repeats them and leaves T open."""
        feeds: Feeds = dict(ends.named(x, self._bundle.manifest.input.tensors))
        if "timesteps" in {entry.name for entry in model.get_inputs()}:
            feeds["timesteps"] = np.array([length], dtype=np.int64)
        return feeds


class Loader:
    """Opens bundles on one provider; the registry names one for each."""

    OPTIONS = OPTIONS

    def __init__(self, provider: Provider) -> None:
        self.provider = provider

    def load(self, bundle: Bundle, device: Device, options: base.Options | None = None) -> OnnxRuntime:
        """Open a bundle; `Unavailable` where onnxruntime, the provider or an ONNX graph is missing.

        device: "cuda" lets the plain runtime take the CUDA provider; the others are for their device anyway.
        """
        ort_model.module()
        if not any(file in bundle.manifest.files for file in FILES.values()):
            raise Unavailable(f"the bundle has no ONNX graph: add one with stdl-export {bundle.path} --target onnx")
        provider = CUDA_PROVIDER if device == "cuda" and self.provider.memory is None else self.provider
        return OnnxRuntime(bundle, provider, settings(provider, options or {}))


CPU, CUDA, TENSORRT, NV = (Loader(each) for each in (CPU_PROVIDER, CUDA_PROVIDER, TENSORRT_PROVIDER, NV_PROVIDER))


def _names(bundle: Bundle) -> dict[graph.NodeName, str]:
    """The ONNX graphs' outputs by the Outputs they are."""
    return {tensor.node: tensor.name for tensor in bundle.manifest.output.tensors}
