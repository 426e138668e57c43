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

from stdl_export.common.errors import Unavailable
from stdl_export.common.names import unknown
from stdl_runtimes.ends import Arrays, Ends, Result, only, plain

if TYPE_CHECKING:
    from stdl_export.arrays import Values
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
    """The outputs [T, B, ...] of a run, and the spikes [T, B, ...] of each spiking node, by their NIR names."""

    outputs: Arrays
    spikes: dict[str, Spikes]

    @property
    def output(self) -> Array:
        """That of the one Output; BadInput where there are several."""
        return only(self.outputs)


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

    ends: Ends
    batch: int

    def step(self, frame: Values) -> Result:
        """Advance one time step: frame [B, ...] -> output [B, ...]; of several Inputs or Outputs a dictionary."""
        return plain(self.advance(self.ends.frames(frame, self.batch)))

    @abc.abstractmethod
    def advance(self, frames: Arrays) -> Arrays:
        """The same by node, with frames that were checked; what comes out is the caller's own."""

    @abc.abstractmethod
    def reset(self) -> None:
        """Forget everything: the next step is the first of a new sequence."""


class Runtime(Opened, abc.ABC):
    """A bundle opened in one engine."""

    name: str
    ends: Ends
    modes: tuple[Mode, ...]
    shows_spikes: bool = False  # does it offer run_recorded and layers?
    largest_session: int | None = None  # samples that one session takes; None: any number

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


def load(bundle: Bundle, runtime: str = "onnxruntime", device: Device = "cpu") -> Runtime:
    """Open a bundle in the runtime of that name; `Unavailable` with the reason where it cannot run here."""
    if runtime not in REGISTRY:
        raise unknown("runtime", runtime, REGISTRY)
    module: Any = importlib.import_module(REGISTRY[runtime])
    opened: Runtime = module.load(bundle, device)
    return opened
