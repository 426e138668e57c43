"""Loihi 2 as a target: a netx file for Lava's reader, what the reader has to be told, and a report.

network.net     the layers (`netx`)                       network.json    the rest: `loihi2_side.Side`
report.json     what the mapping takes, what was lost     mapping.svg     the mapping as a picture

What is written is read back, and samples are run through it on the chip's own time: it must be, bit for bit, the
network that was calibrated. That is as far as it goes: the model is equal to Lava's CPU processes, no chip was there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import nir
import numpy as np
import pydantic
from numpy.typing import NDArray

from stdl_export import graph as graphs
from stdl_export.chips import loihi2_build, loihi2_report, loihi2_side, netx_read, netx_write
from stdl_export.chips.base import ChipJob, ChipOptions, Refusal, Refused, Written
from stdl_export.chips.loihi2_build import Built, Structure
from stdl_export.chips.loihi2_model import Aligned, Simulation
from stdl_export.chips.loihi2_report import LIMITS as LIMITS
from stdl_export.chips.loihi2_side import InputSide, LayerSide, OutputSide, ReaderSide, Side
from stdl_export.chips.netx import ReaderOptions, same
from stdl_export.common.config import Count
from stdl_export.common.errors import BadInput, CheckFailed, join_reasons
from stdl_export.common.files import atomic_file

NETWORK, SIDE, REPORT, PICTURE = "network.net", "network.json", "report.json", "mapping.svg"
ON_TIME = 2  # samples that are run with all delays

__all__ = ["LIMITS", "Options", "refusals", "write"]


class Options(ChipOptions):
    """levels: of an analog input above its lowest (where None, as many as it has, at most 63, else 31). samples: to
    calibrate with (where None, as many golden samples as there is time for).
    """

    levels: Annotated[int, pydantic.Field(ge=1, le=65535)] | None = None
    samples: Count | None = None


def refusals(graph: nir.NIRGraph, options: Options) -> list[Refusal]:
    """Every reason why the structure of a checked graph is none for the chip."""
    refused: list[Refusal] = []
    loihi2_build.structure(graph, refused)
    return refused


def write(job: ChipJob, folder: Path) -> Written:
    """Calibrate, write, read back and compare; BadInput with every reason where the numbers do not fit."""
    options: Options = job.options
    made = _structure(job.graph)
    x, steps = job.golden.input, job.golden.timesteps
    assert isinstance(x, np.ndarray), "there is one Input"
    built = _built(made, x, steps, options)
    side = _side(built, steps)
    netx_write.write(built.network, folder / NETWORK)
    loihi2_side.write(side, folder / SIDE)
    _check(built, side, folder / NETWORK, x, steps)
    outcome = loihi2_build.run(built, x, steps, built.samples)
    mapping = loihi2_report.mapping(built)
    lost = loihi2_report.loss(built, outcome, job.golden, graphs.settings(job.graph).output)
    with atomic_file(folder / REPORT) as part:
        part.write_text(json.dumps({"mapping": mapping.data, "loss": lost.data}, indent=2) + "\n", encoding="utf-8")
    with atomic_file(folder / PICTURE) as part:
        part.write_text(mapping.svg(), encoding="utf-8")
    warnings = [*loihi2_report.warnings(lost, mapping), *_ties(made)]
    return Written(mapping, [*loihi2_report.notes(lost), *mapping.table], warnings)


def _structure(graph: nir.NIRGraph) -> Structure:
    refused: list[Refusal] = []
    made = loihi2_build.structure(graph, refused)
    if made is None:
        raise BadInput(f"loihi2 does not take the network: {join_reasons(refused)}")
    return made


def _built(made: Structure, x: NDArray[np.float32], steps: int, options: Options) -> Built:
    try:
        built = loihi2_build.build(made, x, steps, options.levels, options.samples)
        refused = loihi2_build.refusals(built)
    except Refused as reason:
        refused = [reason.refusal]
    if refused:
        raise BadInput(f"loihi2 does not take the network: {join_reasons(refused)}")
    return built


def _side(built: Built, steps: int) -> Side:
    found, depth = built.structure.found, len(built.layers)
    bits = loihi2_build.message_bits(built.levels)
    last = built.structure.links[-1].unit
    return Side(
        timesteps=built.structure.timesteps,
        depth=depth,
        reader=ReaderSide(input_message_bits=bits, reset_interval=steps + depth + 1, reset_offset=1),
        input=InputSide(
            node=found.input,
            shape=found.input_shape,
            repeat=built.structure.repeat,
            most=built.levels.most,
            low=tuple(map(float, built.levels.low)),
            step=tuple(map(float, built.levels.step)),
        ),
        layers=tuple(
            LayerSide(
                node=each.link.unit.path,
                shape=each.link.unit.shape,
                own=each.own,
                carries=tuple(stream.source for stream in each.link.puts[1:]),
                scale=each.scale,
            )
            for each in built.layers
        ),
        output=OutputSide(node=found.output, shape=last.shape, shown=built.shown, factor=built.factor),
    )


def _check(built: Built, side: Side, path: Path, x: NDArray[np.float32], steps: int) -> None:
    """The file is the network, and on the chip's own time it does what it does without delays."""
    network = netx_read.read(path)
    if not same(network, built.network):
        raise CheckFailed(f"loihi2: '{path.name}' read back is another network: this is a fault of the writer")
    part = next(loihi2_build.parts(x, built.structure.repeat, ON_TIME))
    batch = loihi2_build.samples_of(part, built.structure.repeat)
    model = Aligned([each.layer for each in built.layers], batch, built.options)
    assert network.input_shape is not None
    late = Simulation(network, batch, side.reader.options, network.input_shape)
    shown = list(loihi2_build.frames(built, part, steps))
    expected: list[list[NDArray[np.float64]]] = []
    for frame in shown:
        model.step(frame)
        expected.append([each.neurons.v for each in model.stages])
    for t in range(steps + side.depth):
        late.step(shown[t] if t < steps else np.zeros_like(shown[0]))
        for k, each in enumerate(late.stages):
            if k < t <= k + steps and not np.array_equal(each.neurons.v, expected[t - k - 1][k]):
                raise BadInput(_fires_early(built, k))


def _fires_early(built: Built, k: int) -> str:
    """Only loops and delays bring what was fired before a layer was cleared into it."""
    link = built.structure.links[k]
    whose = "its own spikes from before its input arrives come back to it"
    if link.delay is not None:
        whose = "spikes from before the input arrives come to it by its delays"
    return (
        f"loihi2 does not take the network: node '{link.unit.path}': {whose}, as biases act from the first step on: "
        "train its layer, and those before it, without biases above v_threshold"
    )


def _ties(made: Structure) -> Sequence[str]:
    """What a threshold that counts when it is only reached becomes."""
    return [
        f"node '{link.unit.path}': it fires at its threshold, the chip above it: exact ties differ"
        for link in made.links
        if link.unit.numbers is not None and link.unit.numbers.spikes and link.unit.numbers.spike == ">="
    ]


def reader_options(side: Side, steps: int) -> ReaderOptions:
    """What the reader is told for a run of so many steps."""
    told = side.reader.options
    return ReaderOptions(told.input_message_bits, steps + side.depth + 1, told.reset_offset)
