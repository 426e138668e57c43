"""The step engine as a session: states stay on the device, and so do resets of rows.

There are two sets of states. A step reads one and writes the other, then they change places; a CUDA graph was captured
for each direction. Rows are contiguous, so a reset of some, and rows that are held, are copies on the device.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from stdl_export.arrays import Values
from stdl_export.bundle import Bundle
from stdl_export.common.errors import BadInput
from stdl_runtimes import base, ends, states
from stdl_runtimes.base import Array
from stdl_runtimes.cuda import AnyArray, Cuda
from stdl_runtimes.ends import Arrays
from stdl_runtimes.session import Rows
from stdl_runtimes.tensorrt_bound import Bound, of_manifest
from stdl_runtimes.tensorrt_engine import Engine


class Steps(base.Session):
    """A session of `batch` rows; where the engine takes no batch as small, rows of zeros fill it up."""

    def __init__(
        self, device: Cuda, engine: Engine, bundle: Bundle, batch: int, begin: Mapping[str, Array] | None, graphs: bool
    ) -> None:
        smallest, _, largest = engine.batch
        if not 1 <= batch <= largest:
            raise BadInput(f"the step engine takes 1 to {largest} samples, not {batch}: build it with --batch {batch}")
        self.ends = ends.of_manifest(bundle.manifest)
        self.batch, self._size = batch, max(batch, smallest)
        self.initial = states.initial(bundle, batch)
        infos, tensors = bundle.manifest.states, of_manifest(bundle.manifest, engine.info)
        self._bound = Bound(device, engine, tensors, self._size, states=infos, graphs=graphs)
        addresses = self._bound.addresses
        self._sets = [
            {info.input: addresses[info.input] for info in infos},
            {info.input: addresses[info.output] for info in infos},
        ]
        self._way = 0  # the set that the next step reads
        self._row = {name: each[0].nbytes for name, each in self.initial.items()}
        try:
            self._first = {name: self._placed(name, each[0]) for name, each in self.initial.items()}
            self.reset()
            if begin is not None:
                self._write(states.given(bundle.manifest.states, begin, batch), base.ALL)
        except BaseException:
            self._bound.close()
            raise

    @property
    def graph(self) -> str:
        """Whether CUDA graphs run it, or why not."""
        return self._bound.graph

    def advance(self, frames: Arrays) -> Arrays:
        """One launch; the sets change places."""
        outputs = self._bound.run(filled(frames, 0, self._size), self._way)
        self._way = 1 - self._way
        if self.batch == self._size:
            return outputs
        return {name: output[: self.batch] for name, output in outputs.items()}

    def reset(self, rows: Rows | None = None) -> None:
        """Copies on the device, from the one row that every row starts as."""
        spans = [(0, self._size)] if rows is None else _spans(self._at(rows))
        for first, count in spans:
            for name, address in self._sets[self._way].items():
                self._fill(self._first[name], address + first * self._row[name], self._row[name], count)

    def timed_parts(self, frame: Values) -> Mapping[str, float]:
        """One step, and where its time went, as `Runtime.timed_parts` says it."""
        took = self._bound.timed(filled(self.ends.frames(frame, self.batch), 0, self._size), self._way)
        self._way = 1 - self._way
        return took

    def close(self) -> None:
        """Give back the memory."""
        self._bound.close()

    def _placed(self, name: str, row: AnyArray) -> int:
        """Where on the device the row is that every row starts as."""
        address, host = self._bound.allocate(row.nbytes), self._bound.host(name)
        host[0] = row
        self._bound.stream.upload(host[:1], address)
        self._bound.stream.wait()
        return address

    def _fill(self, source: int, target: int, row: int, count: int) -> None:
        """One row to `count` rows in a line: what is there already is doubled, so that few copies do."""
        self._bound.stream.copy(source, target, row)
        done = 1
        while done < count:
            more = min(done, count - done)
            self._bound.stream.copy(target, target + done * row, more * row)
            done += more

    def _read(self, at: base.At) -> base.States:
        """From the set that the next step reads."""
        for name, address in self._sets[self._way].items():
            host, row = self._bound.host(name), self._row[name]
            for first, count in self._spans(at):
                self._bound.stream.download(address + first * row, host[first : first + count])
        self._bound.stream.wait()
        return {name: self._bound.host(name)[: self.batch][at].copy() for name in self.initial}

    def _write(self, states: Mapping[str, AnyArray], at: base.At) -> None:
        for name, address in self._sets[self._way].items():
            host, row = self._bound.host(name), self._row[name]
            host[: self.batch][at] = states[name]
            for first, count in self._spans(at):
                self._bound.stream.upload(host[first : first + count], address + first * row)
        self._bound.stream.wait()  # the pinned memory is free again

    def _advance_holding(self, frames: Arrays, held: base.At) -> Arrays:
        """What a step read is still there after it."""
        outputs = self.advance(frames)
        before, after = self._sets[1 - self._way], self._sets[self._way]
        for first, count in self._spans(held):
            for name, row in self._row.items():
                at = first * row
                self._bound.stream.copy(before[name] + at, after[name] + at, count * row)
        return outputs

    def _spans(self, at: base.At) -> Iterator[tuple[int, int]]:
        return iter([(0, self.batch)] if isinstance(at, slice) else _spans(at))


def _spans(at: base.At) -> list[tuple[int, int]]:
    """(first, count) of each run of neighbouring rows: one copy does for all of it."""
    rows = np.sort(np.asarray(at))
    if not rows.size:
        return []
    runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
    return [(int(run[0]), len(run)) for run in runs]


def filled(x: Arrays, axis: int, size: int) -> Arrays:
    """Samples of zeros behind those of x, so that there are at least `size`."""
    if all(each.shape[axis] >= size for each in x.values()):
        return x
    return {
        name: np.pad(each, [(0, max(size - each.shape[at], 0) if at == axis else 0) for at in range(each.ndim)])
        for name, each in x.items()
    }
