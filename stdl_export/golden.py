"""Golden samples: those that training recorded, or what the reference computes where there are none that fit."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nir
import numpy as np
from numpy.typing import NDArray

from stdl_export import graph as graphs
from stdl_export.arrays import Values, labelled, mapped, read_arrays
from stdl_export.common.errors import BadInput
from stdl_export.golden_file import INPUT, Golden
from stdl_export.manifest import Origin
from stdl_export.program import Program, program
from stdl_export.source import Recorded
from stdl_runtimes import reference

log = logging.getLogger("stdl")

SAMPLES = 32  # where the reference computes them; training keeps more
STEPS = 16  # where T is dynamic
SEED = 0
SCALES = [2.0**power for power in range(-4, 11)]  # of seeded inputs
TRIAL_SAMPLES = 2
TRIAL_STEPS = 256  # a few hundred steps tell whether a layer is silent
MAX_SPIKES = 1 << 32  # of all neurons, samples and steps, which the reference holds as a byte each
MAX_DRAWN = 1 << 28  # numbers in all seeded inputs together


def choose(
    graph: nir.NIRGraph, recorded: Recorded | None, inputs: Path | None, samples: int | None
) -> tuple[Golden, Origin]:
    """The golden samples for a bundle of this graph: on `inputs`, else as recorded, else on seeded inputs.

    Recorded outputs hold only under the settings they were computed with. Under others (another dt, say) the reference
    computes new ones from the recorded inputs, and that is said.
    """
    mode = graphs.settings(graph).input
    if inputs is not None:
        x, labels = read_inputs(inputs, graphs.inputs(graph))
        x = mapped(x, lambda each: each[:samples] if mode == "repeat" else each[:, :samples])
        try:
            return from_reference(graph, x, None if labels is None else labels[:samples]), "reference"
        except BadInput as error:
            raise BadInput(f"'{inputs}': {error}") from None
    if recorded is None:
        return from_reference(graph, seeded_input(graph, samples or SAMPLES)), "reference"
    golden = recorded.golden.head(samples or recorded.golden.samples, recorded.settings.input)
    if _still_hold(golden, recorded.settings, graphs.settings(graph)):
        return golden, recorded.origin
    log.warning("the recorded outputs do not hold under the new settings: the reference computes the golden outputs")
    return from_reference(graph, golden.input, golden.labels), "reference"


def from_reference(graph: nir.NIRGraph, x: Values, labels: NDArray[np.integer] | None = None) -> Golden:
    """What the reference gives for inputs x: [B, ...] where `stdl.input` is "repeat", else [T, B, ...]."""
    if not all(np.isfinite(each).all() for each in labelled(INPUT, x).values()):
        raise BadInput("the golden inputs hold NaN or infinity")
    made = program(graph)
    _check_spikes(made, x)
    result = _run(made, x, _steps(made))
    for name, found in result.outputs.items():
        if not np.isfinite(found).all():
            raise BadInput(
                f"node '{name}' puts out infinity or NaN on the golden inputs, so nothing can equal it: check "
                "the numbers of the nodes before it, or give smaller inputs with --inputs"
            )
    counts = {name: fired.sum(axis=0, dtype=np.int32) for name, fired in result.spikes.items()}
    output = result.output if len(result.outputs) == 1 else result.outputs
    golden = Golden(mapped(x, lambda each: np.asarray(each, dtype=np.float32)), output, labels, counts)
    golden.check("golden samples")
    return golden


def seeded_input(graph: nir.NIRGraph, samples: int) -> Values:
    """Normal numbers from a fixed seed, times the power of two at which most layers spike, but not always.

    Of several Inputs a dictionary; all have the same scale.
    """
    x = _drawn(graph, samples)
    _check_spikes(program(graph), x)
    if not graphs.neurons(graph):
        return x
    mode = graphs.settings(graph).input

    def few(each: NDArray[np.float32]) -> NDArray[np.float32]:
        return each[:TRIAL_SAMPLES] if mode == "repeat" else each[:TRIAL_STEPS, :TRIAL_SAMPLES]

    made, trial = _of_any_time(program(graph)), mapped(x, few)
    steps = min(graphs.settings(graph).T or STEPS, TRIAL_STEPS)
    liveliness = {scale: _liveliness(made, steps, _scaled(trial, scale)) for scale in SCALES}
    best = max(liveliness, key=liveliness.__getitem__)
    if -math.inf < liveliness[best][0] <= 0:  # what cannot be counted at any scale is an error, said when it runs
        log.warning("some layer never spikes, or always does, on seeded input: give real samples with --inputs")
    return _scaled(x, best)


def _drawn(graph: nir.NIRGraph, samples: int) -> Values:
    """Normal numbers for every Input."""
    said, shapes = graphs.settings(graph), graphs.shapes(graph)
    front = (samples,) if said.input == "repeat" else (said.T or STEPS, samples)
    sizes = {name: (*front, *shapes[name]) for name in graphs.inputs(graph)}
    if sum(map(math.prod, sizes.values())) > MAX_DRAWN:
        size = " and ".join(map(str, sizes.values()))
        reason = f"seeded inputs of shape {size} are more than {MAX_DRAWN} numbers"
        raise BadInput(f"{reason}: give fewer samples with --golden, or real ones with --inputs")
    rng = np.random.default_rng(SEED)
    drawn = {name: rng.normal(size=size).astype(np.float32) for name, size in sizes.items()}
    return drawn if len(drawn) > 1 else next(iter(drawn.values()))


def _scaled(x: Values, scale: float) -> Values:
    return mapped(x, lambda each: each * np.float32(scale))


def read_inputs(path: Path, names: Sequence[str]) -> tuple[Values, NDArray[np.integer] | None]:
    """An array for each Input, as the network takes it, and where given `labels` [B], of an .npz file.

    One Input's array is called `input`, those of several as their nodes or as in `golden.npz`, `input:<node>`.
    """
    arrays = read_arrays(path)
    found: dict[str, Any] = {}
    for name in names:
        wanted = [INPUT] if len(names) == 1 else [f"{INPUT}:{name}", name]
        key = next((key for key in wanted if key in arrays), None)
        x = None if key is None else arrays[key]
        if x is None or x.dtype.kind not in "fiub" or x.ndim < 2:
            has = ", ".join(f"'{one:.80}' {each.dtype}{[*each.shape]}" for one, each in arrays.items()) or "none"
            raise BadInput(f"'{path}' has no array '{wanted[-1]}' of numbers, [B, ...] or [T, B, ...]; it has {has}")
        found[name] = x.astype(np.float32)
    return found if len(names) > 1 else found[names[0]], arrays.get("labels")


def _liveliness(made: Program, steps: int, x: Values) -> list[float]:
    """How far each layer is from silence, or from a spike of every neuron at every step, the one that is worst off
    first; below 0 where some fire more often than that, or too often to be counted.
    """
    try:
        spikes = _run(made, x, steps).spikes
    except BadInput:
        return [-math.inf]
    rates = [float(fired.mean()) for fired in spikes.values()]
    return sorted(min(rate, 1 - rate) for rate in rates)


def _run(made: Program, x: Values, steps: int) -> reference.Result:
    """steps: of one frame that is repeated; a sequence has its own."""
    return reference.run_program(made, x, T=None if made.settings.input == "sequence" else steps)


def _of_any_time(made: Program) -> Program:
    """The program where T is dynamic: it runs for fewer steps."""
    return replace(made, settings=replace(made.settings, T=None))


def _steps(made: Program) -> int:
    return made.settings.T or STEPS


def _check_spikes(made: Program, x: Values) -> None:
    """BadInput before memory runs out, some minutes into the run."""
    first = next(iter(labelled(INPUT, x).values()))
    steps, batch = (_steps(made), len(first)) if made.settings.input == "repeat" else first.shape[:2]
    neurons = sum(math.prod(made.nodes[path].shape) for path in made.spiking)
    if steps * batch * neurons > MAX_SPIKES:
        size = f"{neurons} neurons, {batch} samples and {steps} steps"
        raise BadInput(f"golden samples of {size} are too many: give fewer samples with --golden, or fewer steps")


def _still_hold(golden: Golden, before: graphs.Settings, now: graphs.Settings) -> bool:
    """A dynamic T takes outputs of any T; the decoding is not part of them."""
    same_step = (before.dt, before.dialect, before.reset, before.input) == (now.dt, now.dialect, now.reset, now.input)
    return same_step and now.T in (None, golden.timesteps)
