"""The Inputs and Outputs of a network: what its callers give and get, checked in one place for all runtimes.

Callers may write a plain array for the only Input and get one from the only Output; of several they give and get a
dictionary by the nodes' names. Inside, it is always the dictionary.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stdl_export.common.errors import BadInput
from stdl_export.common.names import unknown

if TYPE_CHECKING:  # importing the package is to load nothing heavy
    from stdl_export.arrays import Values
    from stdl_export.graph import NodeName
    from stdl_export.manifest import Manifest, TensorInfo
    from stdl_export.primitives import Shape
    from stdl_export.program import Program

Array = npt.NDArray[np.float32]
Arrays = dict[str, Array]
"""By the names of the nodes."""

Result = Any
"""An array where the network has one Output, else a dictionary of arrays by the Outputs' names."""


@dataclass(frozen=True)
class Ends:
    """Inputs and Outputs by their shapes without T and B; whether a frame is repeated, and T where it is fixed."""

    inputs: Mapping[NodeName, Shape]
    outputs: Mapping[NodeName, Shape]
    repeated: bool
    timesteps: int | None

    @property
    def batch_axis(self) -> int:
        """Where the samples of an input are: [B, ...] (repeated) or [T, B, ...]."""
        return 0 if self.repeated else 1

    def sequence(self, x: Values, asked: int | None = None) -> tuple[Arrays, int]:
        """The inputs of a run, float32 by node, and T; BadInput where they do not fit the network or each other.

        T is the length of the sequences, else what was asked for, else what is fixed.
        """
        arrays = self._arrays(x)
        for name, each in arrays.items():
            self._check_sample(name, each.shape[self.batch_axis + 1 :])
        lengths = {self._length(each, asked) for each in arrays.values()}
        if len(lengths) > 1 or len({each.shape[self.batch_axis] for each in arrays.values()}) > 1:
            shapes = ", ".join(f"'{name}' {each.shape}" for name, each in arrays.items())
            raise BadInput(f"the inputs differ in time steps or samples: {shapes}")
        return arrays, lengths.pop()

    def frames(self, x: Values, batch: int) -> Arrays:
        """The inputs [B, ...] of one step, float32 by node; refuses another batch than the session's."""
        arrays = self._arrays(x)
        for name, each in arrays.items():
            self._check_sample(name, each.shape[1:])
            if len(each) != batch:
                raise BadInput(
                    f"a frame of {len(each)} samples came to a session of {batch}: open one with batch {len(each)}"
                )
        return arrays

    def frame(self, x: Values) -> Arrays:
        """The inputs [...] of one step of one sample, float32 by node."""
        arrays = self._arrays(x)
        for name, each in arrays.items():
            self._check_sample(name, each.shape)
        return arrays

    def samples(self, x: Arrays) -> int:
        """B of the inputs of a run."""
        return int(next(iter(x.values())).shape[self.batch_axis])

    def parts(self, x: Arrays, samples: int) -> list[Arrays]:
        """The inputs of a run cut into parts of a few samples."""
        batch = self.samples(x)
        if batch == 0:
            raise BadInput("there are no samples to run: the batch is empty")
        cuts = range(samples, batch, samples)
        split = {name: np.split(each, cuts, axis=self.batch_axis) for name, each in x.items()}
        return [{name: each[at] for name, each in split.items()} for at in range(len(cuts) + 1)]

    def steps(self, x: Arrays, timesteps: int) -> list[Arrays]:
        """The frames [B, ...] of every step of a run."""
        if self.repeated:
            return [x] * timesteps
        return [{name: each[t] for name, each in x.items()} for t in range(timesteps)]

    def taken(self, x: Arrays, samples: Any) -> Arrays:
        """Some samples of the inputs of a run, by number."""
        return {name: each.take(samples, self.batch_axis) for name, each in x.items()}

    def _arrays(self, x: Values) -> Arrays:
        if not isinstance(x, Mapping):
            if len(self.inputs) != 1:
                names = ", ".join(self.inputs)
                raise BadInput(f"the graph has {len(self.inputs)} Inputs, {names}: give an array for each")
            x = dict.fromkeys(self.inputs, x)
        for name in x:
            if name not in self.inputs:
                raise unknown("Input", name, self.inputs)
        if missing := sorted(set(self.inputs) - set(x)):
            raise BadInput(f"there is no array for Input '{missing[0]}': give one for each of {', '.join(self.inputs)}")
        return {name: np.asarray(x[name], dtype=np.float32) for name in self.inputs}

    def _check_sample(self, name: NodeName, sample: Shape) -> None:
        expected = self.inputs[name]
        if sample != expected:
            where = f" for Input '{name}'" if len(self.inputs) > 1 else ""
            raise BadInput(f"a sample of shape {sample} was given{where}, the graph takes {expected}")

    def _length(self, x: Array, asked: int | None) -> int:
        found = (asked or self.timesteps) if self.repeated else len(x)
        if found is None:
            raise BadInput("the bundle leaves the number of time steps open: say how many")
        for wanted in (self.timesteps, asked):
            if wanted is not None and wanted != found:
                reason = f"{found} time steps were asked for, {wanted} are fixed"
                raise BadInput(f"{reason}: export with --timesteps {found}")
        return found


def of_program(made: Program) -> Ends:
    """Those of a graph."""
    inputs, outputs = ({path: made.nodes[path].shape for path in paths} for paths in (made.inputs, made.outputs))
    return Ends(inputs, outputs, made.settings.input == "repeat", made.settings.T)


def of_manifest(manifest: Manifest) -> Ends:
    """Those of a bundle."""
    inputs, outputs = (_shapes(tensors) for tensors in (manifest.input.tensors, manifest.output.tensors))
    return Ends(inputs, outputs, manifest.input.mode == "repeat", manifest.timesteps)


def by_node(values: Values, names: Collection[NodeName]) -> Arrays:
    """Golden values, in which the only one stands alone, by the names of the nodes; less where they do not fit."""
    if isinstance(values, Mapping):
        return dict(values)
    return dict.fromkeys(names, values) if len(names) == 1 else {}


def named(arrays: Arrays, tensors: Sequence[TensorInfo]) -> dict[str, Array]:
    """Arrays by the names of the tensors of ONNX graphs and engines, in one piece each."""
    return {tensor.name: np.ascontiguousarray(arrays[tensor.node]) for tensor in tensors}


def plain(outputs: Arrays) -> Result:
    """What callers get: the only one of the outputs, else all of them by name."""
    return next(iter(outputs.values())) if len(outputs) == 1 else outputs


def only(outputs: Arrays) -> Array:
    """The only one of the outputs; BadInput where there are several."""
    if len(outputs) != 1:
        raise BadInput(f"the graph has {len(outputs)} Outputs, {', '.join(outputs)}: take one of `outputs`")
    return next(iter(outputs.values()))


def joined(parts: Sequence[Arrays]) -> Arrays:
    """Outputs [T, B, ...] of parts of the samples as those of all samples."""
    return {name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}


def stacked(steps: Sequence[Arrays]) -> Arrays:
    """Outputs [B, ...] of every step as [T, B, ...]."""
    return {name: np.stack([step[name] for step in steps]) for name in steps[0]}


def _shapes(tensors: Sequence[TensorInfo]) -> dict[NodeName, Shape]:
    return {tensor.node: tensor.shape for tensor in tensors}
