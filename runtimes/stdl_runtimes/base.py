"""What every runtime offers, and the table of those there are.

A runtime is opened on a bundle: `run` takes a whole sequence, `session` goes step by step with state kept between
calls, and where the engine can show single layers, `run_recorded` and `layers` give the spikes inside.
"""

from __future__ import annotations

import abc
import functools
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from stdl_export.common.errors import BadInput, Unavailable
from stdl_export.common.names import unknown
from stdl_runtimes.ends import Arrays, Ends, Result, only, plain
from stdl_runtimes.session import ALL, At, Opened, Session, States

if TYPE_CHECKING:
    from stdl_export.arrays import Values
    from stdl_export.bundle import Bundle
    from stdl_export.manifest import Tolerances

__all__ = [
    "ALL", "REGISTRY", "Array", "At", "Device", "Mode", "Opened", "Options", "Recorded", "Runtime", "Session", "Spikes",
    "States", "load",
]  # fmt: skip

Array = npt.NDArray[np.float32]
Spikes = npt.NDArray[np.bool_]
Mode = Literal["sequence", "step"]
Device = Literal["cpu", "cuda"]
Options = Mapping[str, str]
"""Of a runtime, by name, as `--set <runtime>.<name>=<value>` gives them."""

# Name -> "module" or "module:object" which has `load(bundle, device) -> Runtime`, and raises Unavailable where the
# runtime cannot run here. It may also have `load_file(path) -> Runtime` for a file of its own, and, where it takes
# options, OPTIONS, a sentence that says which; its `load(bundle, device, options)` checks them.
REGISTRY: Mapping[str, str] = MappingProxyType(
    {
        "reference": "stdl_runtimes.reference",
        "onnxruntime": "stdl_runtimes.ort:CPU",
        "onnxruntime-cuda": "stdl_runtimes.ort:CUDA",
        "onnxruntime-tensorrt": "stdl_runtimes.ort:TENSORRT",
        "onnxruntime-nv": "stdl_runtimes.ort:NV",
        "tensorrt": "stdl_runtimes.tensorrt",
        "loihi2": "stdl_runtimes.chips.loihi2",
        "xylo": "stdl_runtimes.chips.xylo",
        "speck": "stdl_runtimes.chips.speck",
    }
)


@dataclass(frozen=True)
class Recorded:
    """The outputs [T, B, ...] of a run, and the spikes [T, B, ...] of each spiking node, by their NIR names."""

    outputs: Arrays
    spikes: dict[str, Spikes]

    @property
    def output(self) -> Array:
        """That of the one Output; BadInput where there are several."""
        return only(self.outputs)


class Runtime(Opened, abc.ABC):
    """A bundle, or a file of its own, opened in one engine.

    Threads: `run` and `session` may be called from several at once where `threads` says so; a session belongs to one.
    """

    name: str
    ends: Ends
    modes: tuple[Mode, ...]
    shows_spikes: bool = False  # does it offer run_recorded and layers?
    largest_session: int | None = None  # samples that one session takes; None: any number
    threads: bool = False  # may several run it at once?
    tolerances: Tolerances | None = None  # what parity allows it; None: what the bundle's manifest says
    refused: tuple[str, ...] = ()  # of a chip: each thing in the network that it cannot do, and what to do

    def describe(self) -> Mapping[str, str]:
        """What is in force, for reports: engine and version, provider, options, threads, by short names."""
        return {}

    def device_bytes(self) -> int | None:
        """Memory of the device that it holds: weights, activations, buffers. None where it cannot tell, or has none."""
        return None

    def timed_parts(self, x: Arrays, timesteps: int) -> Mapping[str, float]:
        """One more run as `outputs`, and where its time went, in milliseconds; empty where the engine cannot tell.

        "h2d", "compute" and "d2h": copies to the device, the engine, copies back, by the device's own clock. "enqueue":
        what the host spends to hand the work over. As trtexec reports them.
        """
        return {}

    def run(self, x: Values, timesteps: int | None = None) -> Result:
        """Output [T, B, ...] of a fresh sequence; of several Outputs a dictionary by their names.

        x: [B, ...] where the network's input is repeated, else [T, B, ...]; of several Inputs a dictionary.
        `timesteps` is needed only where the input is repeated and the bundle leaves T open.
        """
        return plain(self.outputs(*self.ends.sequence(x, timesteps)))

    @abc.abstractmethod
    def outputs(self, x: Arrays, timesteps: int) -> Arrays:
        """The same by node, with inputs and T that were checked."""

    @abc.abstractmethod
    def session(self, batch: int, states: Mapping[str, Array] | None = None) -> Session:
        """A session for `batch` samples; whoever opens it closes it.

        states: where its first step goes on from, as `run_to_states` gave them; the network's start where None, and
        after every `reset`.
        """

    def run_to_states(self, x: Values, timesteps: int | None = None) -> tuple[Result, dict[str, Array]]:
        """As `run`, and all states [B, ...] after the last step by the names of `states.npz`."""
        raise Unavailable(f"{self.name} does not show the states after a sequence")

    def run_recorded(
        self, x: Values, timesteps: int | None = None, guess: Mapping[str, Spikes] | None = None
    ) -> Recorded:
        """As `run`, with the spikes of every spiking node as this engine computes them end to end.

        guess: spikes that may well be the same. It never changes the result, but an engine may be faster with it.
        """
        raise Unavailable(f"{self.name} does not show the spikes inside the network")

    def layers(self, x: Values, spikes: Mapping[str, Spikes], timesteps: int | None = None) -> Recorded:
        """What each spiking node and the outputs make of the given `spikes` of the nodes before them.

        Every layer is computed by itself, so a spike that flips in one has no effect on the next.
        """
        raise Unavailable(f"{self.name} cannot run single layers")


def load(
    source: Bundle | Path | str, runtime: str = "onnxruntime", device: Device = "cpu", options: Options | None = None
) -> Runtime:
    """Open a network in the runtime of that name; `Unavailable` with the reason where it cannot run here.

    source: a bundle, the folder of one, or a file that belongs to the runtime, as a chip's is. options: of the runtime;
    `describe` of what comes back shows all that are in force.
    """
    if runtime not in REGISTRY:
        raise unknown("runtime", runtime, REGISTRY)
    module = opener(REGISTRY[runtime])
    if options and not hasattr(module, "OPTIONS"):
        raise BadInput(f"runtime '{runtime}' takes no options: leave out '{next(iter(options))}'")
    opened: Runtime
    if isinstance(source, Path | str) and not Path(source).is_dir():
        opened = _file_loader(module, runtime, Path(source))(Path(source))
    else:
        bundle = _bundle(Path(source)) if isinstance(source, Path | str) else source
        opened = module.load(bundle, device, options) if options else module.load(bundle, device)
    return opened


def opener(name: str) -> Any:
    """What a line of the registry names: it has `load`."""
    module, _, attribute = name.partition(":")
    found: Any = importlib.import_module(module)
    return functools.reduce(getattr, attribute.split("."), found) if attribute else found


def _file_loader(module: Any, runtime: str, path: Path) -> Any:
    """How the runtime opens a file of its own."""
    if not path.is_file():
        raise BadInput(
            f"'{path}' does not exist: give the folder of a bundle, or a file that runtime '{runtime}' reads"
        )
    if not hasattr(module, "load_file"):
        raise BadInput(f"runtime '{runtime}' reads no single files, '{path}' is one: give the folder of a bundle")
    return module.load_file


def _bundle(path: Path) -> Bundle:
    from stdl_export import bundle  # it reads graphs, and takes its time to import

    return bundle.load(path)
