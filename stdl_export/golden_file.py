"""Golden samples and `golden.npz`, the file that holds them: of a run folder, of a bundle."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stdl_export.arrays import Array, Values, labelled, mapped, read_arrays, unlabelled
from stdl_export.common.errors import BadInput
from stdl_export.common.files import atomic_file
from stdl_export.graph import InputMode, NodeName

GOLDEN = "golden.npz"
INPUT, OUTPUT, COUNT = "input", "output", "count:"


@dataclass(frozen=True)
class Golden:
    """Samples with the outputs that count as right.

    input: what the network takes, float32 [B, ...] (`repeat`) or [T, B, ...]; output: before decoding, float32
    [T, B, ...]; labels: [B]; counts: spikes of each neuron summed over T, by node, int [B, ...].
    """

    input: Values
    output: Values
    labels: NDArray[np.integer[Any]] | None = None
    counts: dict[NodeName, NDArray[np.integer[Any]]] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        """B."""
        return int(self._first_output.shape[1])

    @property
    def timesteps(self) -> int:
        """T."""
        return len(self._first_output)

    @property
    def _first_output(self) -> Array:
        return next(iter(labelled(OUTPUT, self.output).values()))

    def check(self, where: str) -> None:
        """Refuse arrays that do not fit each other."""
        inputs, outputs = labelled(INPUT, self.input), labelled(OUTPUT, self.output)
        for arrays, axes in ((inputs, 2), (outputs, 3)):
            if not arrays or any(each.dtype != np.float32 or each.ndim < axes for each in arrays.values()):
                raise BadInput(f"{where}: input [B, ...] or [T, B, ...] and output [T, B, ...] must be float32")
        batched = dict(self.counts) if self.labels is None else {"labels": self.labels, **self.counts}
        for name, array in batched.items():
            if array.dtype.kind not in "iu" or array.shape[:1] != (self.samples,):
                raise BadInput(f"{where}: '{name}' must hold whole numbers, one row for each of {self.samples} samples")
        for name, x in inputs.items():
            if not self.samples or self.samples not in x.shape[:2]:
                raise BadInput(f"{where}: {name} {x.shape} and output {self._first_output.shape} differ in samples")
        if not self.timesteps:
            raise BadInput(f"{where}: the outputs have no time steps")
        for name, y in outputs.items():
            if y.shape[:2] != self._first_output.shape[:2]:
                raise BadInput(f"{where}: {name} {y.shape} and {self._first_output.shape} differ in time or samples")

    def head(self, samples: int, mode: InputMode) -> Golden:
        """The first samples only."""
        return Golden(
            mapped(self.input, lambda x: x[:samples] if mode == "repeat" else x[:, :samples]),
            mapped(self.output, lambda y: y[:, :samples]),
            None if self.labels is None else self.labels[:samples],
            {name: count[:samples] for name, count in self.counts.items()},
        )


def write_golden(golden: Golden, path: Path) -> None:
    """Write `golden.npz`: arrays `input`, `output`, `labels` (where known) and `count:<node>`.

    Of several Inputs or Outputs they are `input:<node>`, `output:<node>`.
    """
    golden.check("golden samples")
    arrays: dict[str, Any] = labelled(INPUT, golden.input) | labelled(OUTPUT, golden.output)
    if golden.labels is not None:
        arrays["labels"] = golden.labels
    arrays |= {COUNT + name: count for name, count in golden.counts.items()}
    with atomic_file(path) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)


def read_golden(path: Path) -> Golden:
    """Read `golden.npz` as an untrusted file: no pickles, sizes limited, shapes that fit each other."""
    arrays = read_arrays(path)
    counts = {name.removeprefix(COUNT): array for name, array in arrays.items() if name.startswith(COUNT)}
    x, y = unlabelled(INPUT, arrays), unlabelled(OUTPUT, arrays)
    if x is None or y is None:
        raise BadInput(f"'{path}' holds no golden samples: '{INPUT if x is None else OUTPUT}' is missing")
    golden = Golden(x, y, arrays.get("labels"), counts)
    golden.check(f"'{path}'")
    return golden
