"""Xylo as a runtime: the specification of a bundle in xylosim, the vendor's model of the chip; not the chip itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
from numpy.typing import NDArray

from stdl_export.arrays import Values
from stdl_export.bundle import Bundle
from stdl_export.chips import xylo_file
from stdl_export.chips.xylo_file import Specification
from stdl_export.chips.xylo_model import MOST_IN
from stdl_export.common.config import validate
from stdl_export.common.errors import BadInput, Unavailable
from stdl_export.manifest import Tolerances
from stdl_runtimes import base, ends
from stdl_runtimes.base import Array, Device, Recorded, Spikes
from stdl_runtimes.chips.xylosim import Simulator
from stdl_runtimes.ends import Arrays, Ends

Integers = NDArray[np.int64]

ARRAYS, REST = "chips/xylo/specification.npz", "chips/xylo/specification.json"

TOLERANCES = Tolerances(precision="int8", flips=1.0, agreement=0.9)
"""Weights of 8 bits and states of 16 are another network: it is judged by its predictions."""


MOST_LATE = 1 << 10
"""Steps: a hidden layer is one, and there are at most so many neurons."""


class Place(pydantic.BaseModel):
    """Where a layer of the graph is: its neurons on the chip, in the graph's order, and how many steps it is late."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    node: str
    output: bool
    late: pydantic.NonNegativeInt
    neurons: tuple[pydantic.NonNegativeInt, ...]


class About(pydantic.BaseModel):
    """What the JSON says beside the specification, as far as it is needed here."""

    model_config = pydantic.ConfigDict(extra="ignore", frozen=True)

    chip: str
    latency: int = pydantic.Field(ge=1, le=MOST_LATE)
    layers: tuple[Place, ...]


@dataclass(frozen=True, eq=False)
class Part:
    """A run of one sample: spikes [T, N] of hidden neurons and [T, O] of outputs, in the chip's own time."""

    hidden: Integers
    output: Integers


class Xylo(base.Runtime):
    """See the module. The chip is `latency` steps late: `run` shows so many empty steps behind the input, and its
    outputs are those that belong to the input's steps. A session is the chip's own time: outputs come when they come.
    """

    name = "xylo"
    modes = ("sequence",)
    tolerances = TOLERANCES

    def __init__(
        self, specification: Specification, about: About, network_ends: Ends, shapes: Mapping[str, Any]
    ) -> None:
        """shapes: of the graph's spiking nodes, without T and B. Unavailable where xylosim is not installed."""
        self.specification, self.about, self.ends, self._shapes = specification, about, network_ends, shapes
        self._simulator = Simulator(specification)

    def describe(self) -> Mapping[str, str]:
        """The chip, and who computes."""
        return {"engine": f"xylosim {version('xylosim')}", "chip": self.about.chip, "latency": str(self.about.latency)}

    def outputs(self, x: Arrays, timesteps: int) -> Arrays:
        """Output spikes [T, B, ...]."""
        return self._made([each.output for each in self._run(x, timesteps)], timesteps)

    def run_recorded(
        self, x: Values, timesteps: int | None = None, guess: Mapping[str, Spikes] | None = None
    ) -> Recorded:
        """And the spikes of every layer, as counts, at the steps that belong to the input's."""
        arrays, steps = self.ends.sequence(x, timesteps)
        parts = self._run(arrays, steps)
        spikes: dict[str, Any] = {}
        for place in self.about.layers:
            fired = [each.output if place.output else each.hidden[:, list(place.neurons)] for each in parts]
            here = np.stack([each[place.late : place.late + steps] for each in fired], axis=1)
            spikes[place.node] = here.reshape(*here.shape[:2], *self._shapes[place.node])
        return Recorded(self._made([each.output for each in parts], steps), spikes)

    def session(self, batch: int, states: Mapping[str, Array] | None = None) -> base.Session:
        """xylosim keeps its states to itself."""
        raise Unavailable("xylo: xylosim does not let its states be read and written: use run")

    def _made(self, fired: list[Integers], steps: int) -> Arrays:
        late = self.about.latency
        (name, shape), *_ = self.ends.outputs.items()
        spikes = np.stack([each[late : late + steps] for each in fired], axis=1)
        return {name: spikes.reshape(*spikes.shape[:2], *shape).astype(np.float32)}

    def _run(self, x: Arrays, timesteps: int) -> list[Part]:
        """Every sample from rest, with empty steps behind it."""
        made = []
        for spikes in np.moveaxis(self._spikes(x, timesteps), 1, 0):
            self._simulator.reset()
            padded = np.concatenate([spikes, np.zeros((self.about.latency, spikes.shape[1]), np.int64)])
            output = self._simulator.run(padded)
            made.append(Part(self._simulator.spikes, output))
        return made

    def _spikes(self, x: Arrays, timesteps: int) -> Integers:
        """Inputs as spikes [T, B, I]; BadInput where they are none."""
        (frames,) = x.values()
        whole = np.rint(frames)
        if (np.abs(frames - whole) > 1e-5).any() or whole.min(initial=0) < 0 or whole.max(initial=0) > MOST_IN:
            raise BadInput(
                f"xylo: inputs must be whole numbers of spikes 0..{MOST_IN}, found {frames.min():.4g} to "
                f"{frames.max():.4g}: encode them as spikes"
            )
        steps = np.broadcast_to(whole, (timesteps, *whole.shape)) if self.ends.repeated else whole
        return steps.reshape(*steps.shape[:2], -1).astype(np.int64)


def load(bundle: Bundle, device: Device) -> Xylo:
    """What `stdl-export --target xylo` put into the bundle; Unavailable without it, or without xylosim."""
    if REST not in bundle.manifest.files or ARRAYS not in bundle.manifest.files:
        raise Unavailable(f"the bundle holds no {REST}: stdl-export {bundle.path} --target xylo")
    specification, about = read(bundle.file(ARRAYS), bundle.file(REST))
    graph = bundle.graph()
    from stdl_export import graph as graphs

    shapes = graphs.shapes(graph)
    network_ends = ends.of_manifest(bundle.manifest)
    if reason := _misfit(
        specification, about, network_ends, {node: shapes.get(node) for node in graphs.neurons(graph)}
    ):
        raise BadInput(f"'{bundle.file(REST)}' does not fit the bundle's graph: {reason}: export it again")
    return Xylo(specification, about, network_ends, shapes)


def load_file(path: Path) -> Xylo:
    """A specification by its JSON file, or by the .npz of the same name: [T, B, I] in, [T, B, O] out."""
    path = path.with_suffix(".json")
    specification, content = xylo_file.read(path.with_suffix(".npz"), path)
    late = content.get("latency", 1)
    if not isinstance(late, int) or not 1 <= late <= MOST_LATE:
        raise BadInput(f"'{path}': latency is {late!r:.40}, accepted are 1 to {MOST_LATE} steps")
    hidden, outputs = specification.hidden, specification.outputs
    places = (
        Place(node="hidden", output=False, late=late - 1, neurons=tuple(range(hidden))),
        Place(node="output", output=True, late=late, neurons=tuple(range(outputs))),
    )
    about = About(chip=str(content.get("chip", "Xylo"))[:40], latency=late, layers=places)
    own = Ends({"input": (specification.inputs,)}, {"output": (outputs,)}, repeated=False, timesteps=None)
    return Xylo(specification, about, own, {"hidden": (hidden,), "output": (outputs,)})


def read(arrays: Path, rest: Path) -> tuple[Specification, About]:
    """Both files, checked."""
    specification, content = xylo_file.read(arrays, rest)
    return specification, validate(About, content, f"'{rest}'")


def _misfit(spec: Specification, about: About, network: Ends, neurons: Mapping[str, Any]) -> str | None:
    """What of the files does not fit the graph; None where all does."""
    if len(network.inputs) != 1 or len(network.outputs) != 1:
        return "it has one input and one output"
    sizes = [int(np.prod(shape)) for shape in (*network.inputs.values(), *network.outputs.values())]
    if sizes != [spec.inputs, spec.outputs]:
        return f"it has {spec.inputs} inputs and {spec.outputs} outputs, the graph {sizes[0]} and {sizes[1]}"
    for place in about.layers:
        shape, most = neurons.get(place.node), spec.outputs if place.output else spec.hidden
        if shape is None:
            return f"'{place.node}' is no spiking node of it"
        if len(place.neurons) != int(np.prod(shape)) or max(place.neurons, default=0) >= most:
            return f"its places of '{place.node}' are not the node's neurons"
        if place.late > about.latency:
            return f"'{place.node}' is later than the outputs"
    return None
