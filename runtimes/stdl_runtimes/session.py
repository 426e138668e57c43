"""A network between time steps: what every runtime's session offers, and its states as arrays and as a file.

States go by the names that `states.npz` of a bundle has (`state.<node>.<var>`), each [B, ...]. A file of states is
safetensors: it is read without running anything in it, and may come from another machine or another runtime.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from stdl_export.common.errors import BadInput, one_line
from stdl_export.common.files import atomic_file, require_writable
from stdl_export.common.names import unknown
from stdl_runtimes.ends import Arrays, Ends, Result, plain

if TYPE_CHECKING:
    from stdl_export.arrays import Values

T = TypeVar("T", bound="Opened")

States = dict[str, npt.NDArray[Any]]
"""By name, [B, ...] each."""

Rows = Sequence[int] | npt.NDArray[np.integer[Any]]
"""Numbers of rows of the batch, 0 <= row < B."""

At = slice | npt.NDArray[np.intp]
"""Rows that were checked, as an index."""

ALL: At = slice(None)
HEADER_BYTES = 1 << 20  # names and shapes, at most
FORMAT = "stdl session states 1"  # in the header of a file of states


class Opened:
    """Something that holds memory of an engine. A context manager: leaving it gives the memory back."""

    def close(self) -> None:
        """Give back what the engine holds; nothing else may be called afterwards."""

    def __enter__(self: T) -> T:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class Session(Opened, abc.ABC):
    """A network between steps: `step` takes a frame [B, ...], gives the output [B, ...] and keeps the state.

    Threads: one at a time may use a session. Sessions of one runtime share nothing that changes, so each may have a
    thread of its own, except where the runtime says otherwise. `Streams` is a session that threads may share.

    An engine gives `ends`, `batch` and `initial`, and writes `advance`, `_read` and `_write`.
    """

    ends: Ends
    batch: int
    initial: Mapping[str, npt.NDArray[Any]]  # every state before the first step, [B, ...], by name, in its type

    def step(self, frame: Values, rows: Rows | None = None) -> Result:
        """Advance one time step: frame [B, ...] -> output [B, ...]; of several Inputs or Outputs a dictionary.

        rows: only these are advanced. The frame and the output then have as many samples as there are rows, in their
        order, and the states of all other rows stay as they are, bit for bit.
        """
        if rows is None:
            return plain(self.advance(self.ends.frames(frame, self.batch)))
        chosen = self._chosen(rows)
        others = np.setdiff1d(np.arange(self.batch), chosen, assume_unique=True)
        return plain(self.advance_some(self.ends.frames(frame, len(chosen)), chosen, held=others))

    @abc.abstractmethod
    def advance(self, frames: Arrays) -> Arrays:
        """The same by node, with frames that were checked; what comes out is the caller's own."""

    def advance_some(self, frames: Arrays, rows: At, held: At) -> Arrays:
        """The same for some rows; those `held` keep their state, the rest may get any."""
        whole = {name: np.zeros((self.batch, *each.shape[1:]), each.dtype) for name, each in frames.items()}
        for name, each in frames.items():
            whole[name][rows] = each
        outputs = self._advance_holding(whole, held)
        return {name: output[rows] for name, output in outputs.items()}

    def reset(self, rows: Rows | None = None) -> None:
        """Forget everything, or all that these rows know: their next step is the first of a new sequence."""
        at = self._at(rows)
        self._write({name: each[at] for name, each in self.initial.items()}, at)

    @property
    def state(self) -> States:
        """All states between the last step and the next; copies. Setting it lets the session go on from there."""
        return self.read_state()

    @state.setter
    def state(self, states: Mapping[str, npt.NDArray[Any]]) -> None:
        self.write_state(states)

    def read_state(self, rows: Rows | None = None) -> States:
        """Copies of the states, of all rows or of these, in their order."""
        return self._read(self._at(rows))

    def write_state(self, states: Mapping[str, npt.NDArray[Any]], rows: Rows | None = None) -> None:
        """Go on from these states, which have as many samples as there are rows.

        BadInput where one is missing, unknown, or of another shape or kind; then nothing was changed.
        """
        at = self._at(rows)
        self._write(self._checked(states, self.batch if isinstance(at, slice) else len(at), "same_kind"), at)

    def save_state(self, path: Path | str, rows: Rows | None = None) -> None:
        """Write the states as a safetensors file; it is whole or absent."""
        from safetensors.numpy import save

        path = Path(path)
        require_writable(path)
        states = {name: np.ascontiguousarray(each) for name, each in self.read_state(rows).items()}  # it writes memory
        with atomic_file(path) as part:
            part.write_bytes(save(states, {"format": FORMAT}))

    def load_state(self, path: Path | str, rows: Rows | None = None) -> None:
        """Go on from a file of `save_state`; BadInput where it does not fit, and then nothing was changed.

        It may have been written in a narrower type, by a bundle in fp16 for one in fp32; a wider one is refused.
        """
        at = self._at(rows)
        samples = self.batch if isinstance(at, slice) else len(at)
        most = 8 * samples * sum(math.prod(each.shape[1:]) for each in self.initial.values()) + HEADER_BYTES
        try:
            self._write(self._checked(read_file(Path(path), most), samples, "safe"), at)
        except BadInput as error:
            raise BadInput(f"states '{path}': {error}") from None

    @abc.abstractmethod
    def _read(self, at: At) -> States:
        """Copies of the states of these rows."""

    @abc.abstractmethod
    def _write(self, states: Mapping[str, npt.NDArray[Any]], at: At) -> None:
        """Set the states of these rows; every name is there, and shapes and types are right."""

    def _advance_holding(self, frames: Arrays, held: At) -> Arrays:
        """`advance`, after which the rows `held` have the states they had before."""
        before = self._read(held)
        outputs = self.advance(frames)
        self._write(before, held)
        return outputs

    def _at(self, rows: Rows | None) -> At:
        return ALL if rows is None else self._chosen(rows)

    def _chosen(self, rows: Rows) -> npt.NDArray[np.intp]:
        """Row numbers as an index; refuses what is none, and a row that is named twice."""
        found = np.atleast_1d(np.asarray(rows))
        if found.ndim != 1 or (found.size and found.dtype.kind not in "iu"):
            raise BadInput(f"rows are whole numbers in one list, not {one_line(str(rows)):.60}")
        if found.size and not 0 <= found.min() <= found.max() < self.batch:
            raise BadInput(f"the session has rows 0 to {self.batch - 1}, not {found.min()} to {found.max()}")
        if len(np.unique(found)) != len(found):
            raise BadInput(f"a row is named twice in {one_line(str(rows)):.60}: name each once")
        return found.astype(np.intp)

    def _checked(self, states: Mapping[str, npt.NDArray[Any]], samples: int, casting: Any) -> States:
        """All states, in their types."""
        for name in states:
            if name not in self.initial:
                raise unknown("state", name, self.initial)
        found: States = {}
        for name, start in self.initial.items():
            shape = (samples, *start.shape[1:])
            if name not in states or np.shape(states[name]) != shape:
                raise BadInput(f"there is no state '{name}' {shape}: give all states of the network, of {samples} rows")
            each = np.asarray(states[name])
            if not np.can_cast(each.dtype, start.dtype, casting):
                raise BadInput(f"state '{name}' is {each.dtype}, the network stores {start.dtype}")
            found[name] = each.astype(start.dtype, order="C", copy=False)
        return found


def read_file(path: Path, most: int) -> States:
    """The arrays of a file of `save_state`; BadInput where it is none, or has more than `most` bytes."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise BadInput("there is no such file: check the path")
    if path.stat().st_size > most:
        raise BadInput(f"it has {path.stat().st_size} bytes, more than the states of this network")
    try:
        with safe_open(str(path), framework="np") as file:
            if (file.metadata() or {}).get("format") != FORMAT:
                raise BadInput("it was not written by save_state")
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        raise BadInput(f"it is not a whole safetensors file ({one_line(str(error)):.120})") from None
