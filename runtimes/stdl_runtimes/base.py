"""What every runtime offers, and the table of those there are.

A runtime is opened on a bundle: `run` takes a whole sequence, `session` goes step by step with state kept between
calls, and where the engine can show single layers, `run_recorded` and `layers` give the spikes inside.
"""

from __future__ import annotations

import abc
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from stdl_export.common.errors import BadInput, Unavailable
from stdl_export.common.names import unknown

if TYPE_CHECKING:
    from stdl_export.bundle import Bundle

Array = npt.NDArray[np.float32]
Spikes = npt.NDArray[np.bool_]
Mode = Literal["sequence", "step"]
Device = Literal["cpu", "cuda"]
T = TypeVar("T", bound="Opened")

# Name -> module with `load(bundle, device) -> Runtime`, which raises Unavailable where the runtime cannot run here.
REGISTRY: Mapping[str, str] = MappingProxyType(
    {
        "reference": "stdl_runtimes.reference",
        "onnxruntime": "stdl_runtimes.ort",
        "tensorrt": "stdl_runtimes.tensorrt",
    }
)


@dataclass(frozen=True)
class Recorded:
    """Output [T, B, ...] of a run, and the spikes [T, B, ...] of each spiking node by its NIR name."""

    output: Array
    spikes: dict[str, Spikes]


class Opened:
    """Something that holds memory of an engine. A context manager: leaving it gives the memory back."""

    def close(self) -> None:
        """Give back what the engine holds; nothing else may be called afterwards."""

    def __enter__(self: T) -> T:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class Session(Opened, abc.ABC):
    """A network between steps: `step` takes a frame [B, ...], gives the output [B, ...] and keeps the state."""

    @abc.abstractmethod
    def step(self, frame: Array) -> Array:
        """Advance one time step."""

    @abc.abstractmethod
    def reset(self) -> None:
        """Forget everything: the next step is the first of a new sequence."""


class Runtime(Opened, abc.ABC):
    """A bundle opened in one engine."""

    name: str
    modes: tuple[Mode, ...]
    shows_spikes: bool = False  # does it offer run_recorded and layers?
    largest_session: int | None = None  # samples that one session takes; None: any number

    @abc.abstractmethod
    def run(self, x: Array, timesteps: int | None = None) -> Array:
        """Output [T, B, ...] of a fresh sequence.

        x: [B, ...] where the network's input is repeated, else [T, B, ...]. `timesteps` is needed only where the input
        is repeated and the bundle leaves T open.
        """

    @abc.abstractmethod
    def session(self, batch: int) -> Session:
        """A session for `batch` samples, with the state at its start; whoever opens it closes it."""

    def run_recorded(
        self, x: Array, timesteps: int | None = None, guess: Mapping[str, Spikes] | None = None
    ) -> Recorded:
        """As `run`, with the spikes of every spiking node as this engine computes them end to end.

        guess: spikes that may well be the same. It never changes the result, but an engine may be faster with it.
        """
        raise Unavailable(f"{self.name} does not show the spikes inside the network")

    def layers(self, x: Array, spikes: Mapping[str, Spikes], timesteps: int | None = None) -> Recorded:
        """What each spiking node and the output make of the given `spikes` of the nodes before them.

        Every layer is computed by itself, so a spike that flips in one has no effect on the next.
        """
        raise Unavailable(f"{self.name} cannot run single layers")


def load(bundle: Bundle, runtime: str = "onnxruntime", device: Device = "cpu") -> Runtime:
    """Open a bundle in the runtime of that name; `Unavailable` with the reason where it cannot run here."""
    if runtime not in REGISTRY:
        raise unknown("runtime", runtime, REGISTRY)
    module: Any = importlib.import_module(REGISTRY[runtime])
    opened: Runtime = module.load(bundle, device)
    return opened


def sequence_length(x: Array, repeated: bool, known: int | None, asked: int | None) -> int:
    """T of a run: the length of the sequence, else what was asked for, else what the bundle says."""
    found = (asked or known) if repeated else len(x)
    if found is None:
        raise BadInput("the bundle leaves the number of time steps open: say how many")
    for wanted in (known, asked):
        if wanted is not None and wanted != found:
            raise BadInput(f"{found} time steps were asked for, {wanted} are fixed: export with --timesteps {found}")
    return found


def check_sample(sample: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Refuse a sample whose shape is not the network's."""
    if sample != expected:
        raise BadInput(f"a sample of shape {sample} was given, the graph takes {expected}")


def checked_frame(frame: npt.ArrayLike, batch: int, expected: tuple[int, ...]) -> Array:
    """A frame [B, ...] as float32; refuses another batch than the session's and samples of another shape."""
    checked: Array = np.asarray(frame, dtype=np.float32)
    check_sample(checked.shape[1:], expected)
    if len(checked) != batch:
        raise BadInput(
            f"a frame of {len(checked)} samples came to a session of {batch}: open one with batch {len(checked)}"
        )
    return checked


def parts(x: Array, repeated: bool, samples: int) -> list[Array]:
    """The input cut into parts of a few samples: along axis 0 of [B, ...] (repeated) or axis 1 of [T, B, ...]."""
    axis = 0 if repeated else 1
    if x.shape[axis] == 0:
        raise BadInput("there are no samples to run: the batch is empty")
    return np.split(x, range(samples, x.shape[axis], samples), axis=axis)
