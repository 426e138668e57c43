"""ONNX Runtime on a bundle's three graphs: the sequence, the single step, and the probe that shows single layers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stdl_export import graph
from stdl_export.arrays import Values
from stdl_export.bundle import Bundle
from stdl_export.common.errors import BadInput, CheckFailed, Unavailable, one_line
from stdl_export.program import Program, program
from stdl_runtimes import base, ends, states
from stdl_runtimes.base import Array, Device, Mode, Recorded, Spikes
from stdl_runtimes.ends import Arrays, Ends, Result

SEQUENCE, STEP, PROBE = "model.onnx", "model.step.onnx", "model.probe.onnx"
FILES: Mapping[Mode, str] = {"sequence": SEQUENCE, "step": STEP}

# Options of a provider beside its name. TF32 rounds products to 10 bits: what is called fp32 here is fp32.
PROVIDERS: Mapping[Device, tuple[str, dict[str, str]]] = {
    "cpu": ("CPUExecutionProvider", {}),
    "cuda": ("CUDAExecutionProvider", {"use_tf32": "0"}),
}

Feeds = dict[str, npt.NDArray[Any]]


class OnnxRuntime(base.Runtime):
    """The bundle's ONNX graphs in ONNX Runtime; each is opened when it is first used."""

    name = "onnxruntime"
    shows_spikes = True
    threads = True

    def __init__(self, bundle: Bundle, device: Device) -> None:
        self._bundle = bundle
        self._device = device
        self._network = bundle.graph()
        self._program = program(self._network)
        self.ends = ends.of_manifest(bundle.manifest)
        self._sessions: dict[str, Any] = {}
        self.modes = tuple(mode for mode, file in FILES.items() if file in bundle.manifest.files)

    def describe(self) -> Mapping[str, str]:
        """Version, provider and its options."""
        provider, settings = PROVIDERS[self._device]
        said = {"engine": f"onnxruntime {_module().__version__}", "provider": provider, "device": self._device}
        return said | {f"provider.{name}": value for name, value in settings.items()}

    def outputs(self, x: Arrays, timesteps: int) -> Arrays:
        """Outputs [T, B, ...] of the sequence graph."""
        model, names = self._open(SEQUENCE), _names(self._bundle)
        return dict(zip(names, _run(model, list(names.values()), self._inputs(model, x, timesteps)), strict=True))

    def session(self, batch: int, states: Mapping[str, Array] | None = None) -> base.Session:
        """A session on the step graph; its states start as the bundle's `states.npz` says, or as given."""
        return _Steps(self._open(STEP), self._bundle, self.ends, batch, states)

    def run_to_states(self, x: Values, timesteps: int | None = None) -> tuple[Result, dict[str, Array]]:
        """One run of the sequence graph."""
        states.check_final(self._bundle.manifest.final_states, self._bundle)
        arrays, length = self.ends.sequence(x, timesteps)
        model, names, infos = self._open(SEQUENCE), _names(self._bundle), self._bundle.manifest.states
        wanted = [*names.values(), *(info.output for info in infos)]
        results = _run(model, wanted, self._inputs(model, arrays, length))
        outputs, last = results[: len(names)], results[len(names) :]
        found = {info.input: state for info, state in zip(infos, last, strict=True)}
        return ends.plain(dict(zip(names, outputs, strict=True))), found

    def run_recorded(
        self, x: Values, timesteps: int | None = None, guess: Mapping[str, Spikes] | None = None
    ) -> Recorded:
        """The spikes which the probe graph, fed with them, gives back: those of the network as a whole.

        Whatever the guess, the first i layers are right after i rounds; with a good one most samples are right at once,
        and only the others go on.
        """
        arrays, length = self.ends.sequence(x, timesteps)
        given = guess or self._silent(self.ends.samples(arrays), length)
        found = self._layers(arrays, given, length)
        open_samples = np.flatnonzero(_differing(given, found.spikes))
        for _ in given:
            if not open_samples.size:
                break
            given = {node: spikes[:, open_samples] for node, spikes in found.spikes.items()}
            again = self._layers(self.ends.taken(arrays, open_samples), given, length)
            for node, output in again.outputs.items():
                found.outputs[node][:, open_samples] = output
            for node, spikes in again.spikes.items():
                found.spikes[node][:, open_samples] = spikes
            open_samples = open_samples[_differing(given, again.spikes)]
        return found

    def layers(self, x: Values, spikes: Mapping[str, Spikes], timesteps: int | None = None) -> Recorded:
        """The probe graph fed with the given spikes."""
        arrays, length = self.ends.sequence(x, timesteps)
        return self._layers(arrays, spikes, length)

    def _layers(self, x: Arrays, spikes: Mapping[str, Spikes], length: int) -> Recorded:
        model, nodes, names = self._open(PROBE), graph.neurons(self._network), _names(self._bundle)
        feeds = self._inputs(model, x, length)
        feeds |= {f"probe_in.{node}": spikes[node].astype(np.float32) for node in nodes}
        results = _run(model, [*names.values(), *(f"probe_out.{node}" for node in nodes)], feeds)
        outputs, fired = results[: len(names)], results[len(names) :]
        several = {node for node in nodes if _fires_several_times(self._program, node)}
        spikes_found = {
            node: _as_counts(node, array) if node in several else _as_spikes(node, array)
            for node, array in zip(nodes, fired, strict=True)
        }
        return Recorded(dict(zip(names, outputs, strict=True)), spikes_found)

    def close(self) -> None:
        """Drop the opened graphs."""
        self._sessions.clear()

    def _open(self, file: str) -> Any:
        if file not in self._sessions:
            self._sessions[file] = _open(self._bundle.file(file), self._device)
        return self._sessions[file]

    def _inputs(self, model: Any, x: Arrays, length: int) -> Feeds:
        """The Inputs, and `timesteps` where the graph repeats them and leaves T open."""
        feeds: Feeds = dict(ends.named(x, self._bundle.manifest.input.tensors))
        if "timesteps" in {entry.name for entry in model.get_inputs()}:
            feeds["timesteps"] = np.array([length], dtype=np.int64)
        return feeds

    def _silent(self, batch: int, length: int) -> dict[str, Spikes]:
        shapes = graph.shapes(self._network)
        return {node: np.zeros((length, batch, *shapes[node]), np.bool_) for node in graph.neurons(self._network)}


class _Steps(base.Session):
    """The step graph with its states carried from one call to the next."""

    def __init__(
        self, model: Any, bundle: Bundle, network_ends: Ends, batch: int, begin: Mapping[str, Array] | None
    ) -> None:
        self._model = model
        self.ends = network_ends
        self.batch = batch
        self._inputs = bundle.manifest.input.tensors
        self._outputs = _names(bundle)
        self._infos = bundle.manifest.states
        self.initial = states.initial(bundle, batch)
        self._states = dict(self.initial if begin is None else states.given(self._infos, begin, batch))

    def advance(self, frames: Arrays) -> Arrays:
        """One call of the step graph."""
        names = [*self._outputs.values(), *(info.output for info in self._infos)]
        results = _run(self._model, names, ends.named(frames, self._inputs) | self._states)
        outputs, kept = results[: len(self._outputs)], results[len(self._outputs) :]
        self._states = {info.input: state for info, state in zip(self._infos, kept, strict=True)}
        return dict(zip(self._outputs, outputs, strict=True))

    def _read(self, at: base.At) -> base.States:
        return {name: np.array(each[at]) for name, each in self._states.items()}

    def _write(self, states: Mapping[str, Array], at: base.At) -> None:
        for name, each in states.items():
            changed = self._states[name].copy()  # the present one may be the caller's, or the start of all sessions
            changed[at] = each
            self._states[name] = changed


def load(bundle: Bundle, device: Device) -> OnnxRuntime:
    """Open a bundle; `Unavailable` where onnxruntime is not installed or the bundle holds no ONNX graph."""
    _module()
    if not any(file in bundle.manifest.files for file in FILES.values()):
        raise Unavailable(f"the bundle has no ONNX graph: add one with stdl-export {bundle.path} --target onnx")
    return OnnxRuntime(bundle, device)


def _names(bundle: Bundle) -> dict[graph.NodeName, str]:
    """The ONNX graphs' outputs by the Outputs they are."""
    return {tensor.node: tensor.name for tensor in bundle.manifest.output.tensors}


def _module() -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise Unavailable("onnxruntime is not installed: pip install 'stdl-toolchain[onnxruntime]'") from None
    return onnxruntime


def _open(path: Path, device: Device) -> Any:
    ort = _module()
    provider, settings = PROVIDERS[device]
    if provider not in ort.get_available_providers():
        raise Unavailable(f"this onnxruntime has no {provider}: install the extra 'gpu', or use device 'cpu'")
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors come as exceptions; what it would log is about its own optimisations
    try:
        model = ort.InferenceSession(str(path), options, providers=[(provider, settings)])
    except _errors() as error:
        raise BadInput(f"onnxruntime cannot load '{path}': {one_line(str(error)):.200}") from None
    if provider not in model.get_providers():  # it falls back to the CPU without an error where libraries are missing
        raise Unavailable(f"onnxruntime could not start {provider}: check the CUDA libraries")
    return model


def _run(model: Any, names: list[str], feeds: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
    try:
        outputs: list[npt.NDArray[Any]] = model.run(names, feeds)
    except _errors() as error:
        raise BadInput(f"onnxruntime cannot run the graph: {one_line(str(error)):.200}") from None
    return outputs


def _errors() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises for a graph or an input it does not take; the classes share no base of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = (state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf, state.NotImplemented)
    return (*own, state.RuntimeException, ValueError)


def _fires_several_times(made: Program, node: str) -> bool:
    """Does it put out how often it fired in a step?"""
    numbers = made.nodes[node].numbers
    return numbers is not None and numbers.spike == "floor"


def _as_counts(node: str, values: npt.NDArray[Any]) -> Spikes:
    counts: Any = values.astype(np.int32)
    if not (counts == values).all() or (counts < 0).any():
        raise CheckFailed(f"onnxruntime: node '{node}' puts out values other than 0, 1, 2, ..., how often it fired")
    found: Spikes = counts
    return found


def _as_spikes(node: str, values: npt.NDArray[Any]) -> Spikes:
    fired: Spikes = values == 1
    if not (fired | (values == 0)).all():
        raise CheckFailed(f"onnxruntime: node '{node}' puts out values other than 0 and 1, a spike is 1")
    return fired


def _differing(given: Mapping[str, Spikes], found: Mapping[str, Spikes]) -> npt.NDArray[np.bool_]:
    """Samples [B] in which some spike differs."""
    differs = [(given[node] != found[node]).any(axis=(0, *range(2, given[node].ndim))) for node in given]
    return np.asarray(np.any(differs, axis=0))
