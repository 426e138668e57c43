"""Many streams on one device: sensors that come and go share one session, each in a row of its batch."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from stdl_export.common.errors import BadInput
from stdl_runtimes.ends import Arrays, Result, plain
from stdl_runtimes.session import Opened, Session, States

if TYPE_CHECKING:
    from stdl_export.arrays import Values
    from stdl_runtimes.base import Runtime


class Streams(Opened):
    """Up to `most` streams in one session of that batch: a stream that gets no frame in a step keeps its state exactly.

    Threads: all methods may be called from several threads at once; one step runs at a time. A row belongs to whoever
    opened it.
    """

    def __init__(self, runtime: Runtime, most: int) -> None:
        """Room for `most` streams at a time; BadInput where the runtime's sessions are smaller."""
        largest = runtime.largest_session
        if most < 1 or (largest is not None and most > largest):
            raise BadInput(f"a session of {runtime.name} has 1 to {largest or 'any number of'} rows, not {most}")
        self._session: Session = runtime.session(most)
        self._lock = threading.Lock()
        self._open: set[int] = set()
        self.ends, self.most = self._session.ends, most

    @property
    def rows(self) -> tuple[int, ...]:
        """The streams that are open, in order."""
        with self._lock:
            return tuple(sorted(self._open))

    def open(self) -> int:
        """Begin a stream: the number of its row, which starts afresh. BadInput where all rows are taken."""
        with self._lock:
            free = next((row for row in range(self.most) if row not in self._open), None)
            if free is None:
                raise BadInput(f"all {self.most} streams are open: close one, or make room for more")
            self._session.reset([free])
            self._open.add(free)
            return free

    def close(self, row: int | None = None) -> None:
        """End a stream, and let the next one have its row; without a number end all, and give the memory back."""
        with self._lock:
            if row is None:
                self._open.clear()
                self._session.close()
            else:
                self._open.remove(self._known(row))

    def step(self, frames: Mapping[int, Values]) -> dict[int, Result]:
        """Advance the streams that have a frame: frames [...] without a batch, and outputs [...], by row."""
        with self._lock:
            rows = np.array([self._known(row) for row in frames], np.intp)
            if not len(rows):
                return {}
            held = np.array(sorted(self._open.difference(frames)), np.intp)  # rows that nobody has may change
            outputs = self._session.advance_some(self._together(frames), rows, held)
        return {row: plain({name: y[at] for name, y in outputs.items()}) for at, row in enumerate(frames)}

    def reset(self, row: int) -> None:
        """Begin a stream anew."""
        with self._lock:
            self._session.reset([self._known(row)])

    def state(self, row: int) -> States:
        """A stream's states [1, ...], for `put_state` of these or other streams of the network."""
        with self._lock:
            return self._session.read_state([self._known(row)])

    def put_state(self, row: int, states: States) -> None:
        """Let a stream go on from these states [1, ...]."""
        with self._lock:
            self._session.write_state(states, [self._known(row)])

    def _known(self, row: int) -> int:
        if row not in self._open:
            raise BadInput(f"stream {row} is not open: open gives the numbers")
        return row

    def _together(self, frames: Mapping[int, Values]) -> Arrays:
        """One frame [rows, ...] by node."""
        each = [self.ends.frame(frame) for frame in frames.values()]
        return {name: np.stack([frame[name] for frame in each]) for name in each[0]}
