"""TensorRT and TensorRT-RTX: the bundle's engines on an NVIDIA GPU, the whole sequence or single steps.

Everything that can be known is checked before an engine is opened, and each obstacle is one sentence.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from stdl_export import graph as graphs
from stdl_export.arrays import Values
from stdl_export.bundle import Bundle
from stdl_export.common.errors import BadInput, Unavailable, one_line
from stdl_export.manifest import EngineInfo, EngineMode, Tolerances
from stdl_runtimes import base, cuda, ends, probing, states
from stdl_runtimes.base import Array, Device, Mode, Options
from stdl_runtimes.cuda import Cuda
from stdl_runtimes.ends import Arrays, Result
from stdl_runtimes.tensorrt_bound import Bound, Tensor, of_manifest
from stdl_runtimes.tensorrt_engine import Engine, check, open_engine
from stdl_runtimes.tensorrt_steps import Steps, filled

log = logging.getLogger("stdl")

OPTIONS = "cuda_graph=false"
MODES: tuple[Mode, ...] = ("sequence", "step")
KEPT = (
    4  # batch sizes whose buffers, contexts and graphs are kept: a caller that gives any number must not fill the GPU
)


class TensorRt(probing.Probing):
    """The engines of one bundle on one GPU, by mode. The one that shows single layers is opened when it is asked for.

    Threads: runs wait for each other; sessions have streams of their own, and each may have a thread.
    """

    name = "tensorrt"
    threads = True

    def __init__(
        self,
        bundle: Bundle,
        device: Cuda,
        engines: dict[EngineMode, Engine],
        probe: EngineInfo | None = None,
        *,
        cuda_graphs: bool = True,
    ) -> None:
        self._bundle, self._device, self._engines, self._graphs = bundle, device, engines, cuda_graphs
        self.ends = ends.of_manifest(bundle.manifest)
        self._bound: dict[tuple[EngineMode, int], Bound] = {}
        self._said: dict[EngineMode, str] = {}  # of CUDA graphs
        self._lock = threading.RLock()  # contexts are made, and sequences run, one at a time
        self._probe, self.shows_spikes = probe, probe is not None
        self.modes = tuple(mode for mode in MODES if mode in engines)
        self.largest_session = engines["step"].batch[2] if "step" in engines else None
        if any(engine.info.tf32 for engine in engines.values()) and bundle.manifest.tolerances.precision == "fp32":
            self.tolerances = Tolerances.of("fp16")  # both round products to 10 bits

    def describe(self) -> Mapping[str, str]:
        """Flavour, GPU, driver, how the engines were built; of each mode that was run, whether by a CUDA graph."""
        said = {
            "engine": ", ".join(
                sorted({f"{each.info.flavour} {each.info.version}" for each in self._engines.values()})
            ),
            "gpu": f"{self._device.name}, SM {self._device.compute_capability}",
            "driver": f"CUDA {self._device.driver}",
        }
        for mode, engine in self._engines.items():
            batch = ":".join(map(str, engine.batch))
            said[f"{mode} engine"] = f"batch {batch}, TF32 {'on' if engine.info.tf32 else 'off'}"
            said[f"{mode} cuda_graph"] = self._said.get(mode, "asked for" if self._graphs else "off, as asked for")
        return said

    def device_bytes(self) -> int:
        """Weights as far as TensorRT tells, what contexts compute in, and our buffers; open sessions included."""
        return self._device.allocated + sum(engine.device_bytes() for engine in self._engines.values())

    def timed_parts(self, x: Arrays, timesteps: int) -> Mapping[str, float]:
        """Of a batch in parts, all parts together. Empty where the bundle has no sequence engine that runs."""
        if "sequence" not in self._engines:
            return {}
        took: dict[str, float] = {}
        with self._lock:
            for bound, padded, _ in self._parts(x):
                for part, milliseconds in bound.timed(padded).items():
                    took[part] = took.get(part, 0.0) + milliseconds
        return took

    def outputs(self, x: Arrays, timesteps: int) -> Arrays:
        """Outputs [T, B, ...]; a batch larger than the engine takes is run in parts, a smaller one is filled up."""
        with self._lock:
            return ends.joined([outputs for outputs, _ in self._run(x, ())])

    def run_to_states(self, x: Values, timesteps: int | None = None) -> tuple[Result, dict[str, Array]]:
        """The same with one more copy from the device for each state."""
        states.check_final(self._engine("sequence").info.final_states, self._bundle)
        arrays, _ = self.ends.sequence(x, timesteps)
        infos = self._bundle.manifest.states
        with self._lock:
            parts = list(self._run(arrays, [info.output for info in infos]))
        last = {info.input: np.concatenate([found[info.output] for _, found in parts]) for info in infos}
        return ends.plain(ends.joined([outputs for outputs, _ in parts])), last

    def fired(self, x: Arrays, spikes: Arrays, length: int) -> tuple[Arrays, Arrays]:
        """The probe engine; see `Probing`."""
        self._open_probe()
        axis, fed = self.ends.batch_axis, {probing.names(node)[0]: each for node, each in spikes.items()}
        smallest, _, largest = self._engine("probe").batch
        found: list[Arrays] = []
        for start in range(0, self.ends.samples(x), largest):
            at = slice(start, start + largest)
            given = {name: each[:, at] if axis else each[at] for name, each in x.items()}
            real = self.ends.samples(given)
            padded = filled(given, axis, smallest) | filled(
                {name: each[:, at] for name, each in fed.items()}, 1, smallest
            )
            with self._lock:
                outputs = self._bind("probe", max(real, smallest)).run(padded)
            found.append({name: output[:, :real] for name, output in outputs.items()})
        whole = ends.joined(found)
        shown = {node: whole.pop(probing.names(node)[1]) for node in spikes}
        return whole, shown

    def session(self, batch: int, states: Mapping[str, Array] | None = None) -> base.Session:
        """A session on the step engine, with buffers and a stream of its own."""
        with self._lock:
            opened = Steps(self._device, self._engine("step"), self._bundle, batch, states, self._graphs)
        self._said["step"] = opened.graph
        return opened

    def close(self) -> None:
        """Give back all memory on the device but that of sessions."""
        for bound in self._bound.values():
            bound.close()
        self._bound.clear()
        for engine in self._engines.values():
            engine.close()

    def _run(self, x: Arrays, wanted: Sequence[str]) -> Iterator[tuple[Arrays, Arrays]]:
        """For each part of the samples its outputs, and the `wanted` states [B, ...]."""
        for bound, padded, real in self._parts(x):
            outputs = {name: output[:, :real] for name, output in bound.run(padded).items()}
            yield outputs, {name: state[:real] for name, state in bound.read(wanted).items()}

    def _parts(self, x: Arrays) -> Iterator[tuple[Bound, Arrays, int]]:
        """Parts of the samples that the engine takes, each filled up, and how many of a part are real."""
        smallest, _, largest = self._engine("sequence").batch
        for part in self.ends.parts(x, largest):
            padded = filled(part, self.ends.batch_axis, smallest)
            yield self._bind("sequence", self.ends.samples(padded)), padded, self.ends.samples(part)

    def _engine(self, mode: EngineMode) -> Engine:
        if mode not in self._engines:
            raise Unavailable(f"the bundle has no {mode} engine that runs here: add one with --mode {mode}")
        return self._engines[mode]

    def _bind(self, mode: EngineMode, batch: int) -> Bound:
        with self._lock:
            bound = self._bound.pop((mode, batch), None)
            if bound is None:
                while len(self._bound) >= KEPT:
                    self._bound.pop(next(iter(self._bound))).close()
                bound = Bound(self._device, self._engine(mode), self._tensors(mode), batch, graphs=self._graphs)
                self._said[mode] = bound.graph
            self._bound[mode, batch] = bound  # behind all that were used before it
            return bound

    def _tensors(self, mode: EngineMode) -> tuple[list[Tensor], list[Tensor]]:
        """Inputs and Outputs; of the probe engine also what each spiking node is fed and puts out."""
        inputs, outputs = of_manifest(self._bundle.manifest, self._engine(mode).info)
        if mode == "probe":
            timed, shapes = outputs[0].before, graphs.shapes(self._network)
            for node in graphs.neurons(self._network):
                fed, shown = probing.names(node)
                inputs.append(Tensor(fed, fed, timed, shapes[node]))
                outputs.append(Tensor(shown, shown, timed, shapes[node]))
        return inputs, outputs

    def _open_probe(self) -> None:
        with self._lock:
            if "probe" not in self._engines and self._probe is not None:
                self._engines["probe"] = open_engine(self._bundle, self._probe, self._device)


def load(bundle: Bundle, device: Device, options: Options | None = None) -> TensorRt:
    """Open the bundle's engines on the GPU; `Unavailable` with the first obstacle. `device` has no say: it is CUDA."""
    cuda_graphs = _graphs(options or {})
    if not bundle.manifest.engines:
        raise Unavailable(f"the bundle has no engine: add one with stdl-export {bundle.path} --target tensorrt")
    try:
        gpu = cuda.open_device()
        return TensorRt(bundle, gpu, _engines(bundle, gpu), _probe(bundle, gpu), cuda_graphs=cuda_graphs)
    except Unavailable as reason:
        raise Unavailable(f"built, not run: {reason}") from None


def _graphs(options: Options) -> bool:
    for name, value in options.items():
        if name != "cuda_graph":
            raise BadInput(f"runtime 'tensorrt' has no option '{name}': it takes {OPTIONS}")
        if value not in ("true", "false"):
            raise BadInput(f"cuda_graph is '{value}': give true or false")
    return options.get("cuda_graph", "true") == "true"


def _engines(bundle: Bundle, gpu: Cuda) -> dict[EngineMode, Engine]:
    """The engines that run here, one a mode: TensorRT's before RTX's, which was built without seeing this GPU.

    A mode that has none is said in the log, no mode at all is `Unavailable`.
    """
    found: dict[EngineMode, Engine] = {}
    refusals: dict[str, EngineMode] = {}
    for info in _in_order(bundle):
        if info.mode in found or info.mode == "probe":
            continue
        try:
            found[info.mode] = open_engine(bundle, info, gpu)
        except Unavailable as reason:
            refusals[f"{info.file}: {reason}"] = info.mode
    if not found:
        raise Unavailable("; ".join(refusals))
    for refusal, mode in refusals.items():
        if mode not in found:
            log.warning("tensorrt does not run mode %s: %s", mode, one_line(refusal))
    return found


def _probe(bundle: Bundle, gpu: Cuda) -> EngineInfo | None:
    """The engine that shows single layers, where one may run here. That it has none leaves parity to the outputs."""
    for info in _in_order(bundle):
        if info.mode == "probe":
            try:
                check(info, bundle, gpu)
            except Unavailable as reason:
                log.warning("tensorrt does not show single layers: %s", one_line(f"{info.file}: {reason}"))
                continue
            return info
    return None


def _in_order(bundle: Bundle) -> list[EngineInfo]:
    return sorted(bundle.manifest.engines, key=lambda info: info.flavour != "tensorrt")
