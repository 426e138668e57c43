"""Golden samples: those that training recorded, or what the reference computes where there are none that fit."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import nir
import numpy as np
from numpy.typing import NDArray

from stdl_export import graph as graphs
from stdl_export.bundle import Golden, Origin, read_arrays
from stdl_export.common.errors import BadInput
from stdl_export.program import Program, program
from stdl_export.source import Recorded
from stdl_runtimes import reference

log = logging.getLogger("stdl")

SAMPLES = 32  # where the reference computes them; training keeps more
STEPS = 16  # where T is dynamic
SEED = 0
SCALES = [2.0**power for power in range(-4, 11)]  # of seeded inputs
TRIAL_SAMPLES = 2
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
        x, labels = read_inputs(inputs)
        x = x[:samples] if mode == "repeat" else x[:, :samples]
        return from_reference(graph, x, None if labels is None else labels[:samples]), "reference"
    if recorded is None:
        return from_reference(graph, seeded_input(graph, samples or SAMPLES)), "reference"
    golden = recorded.golden.head(samples or recorded.golden.samples, recorded.settings.input)
    if _still_hold(golden, recorded.settings, graphs.settings(graph)):
        return golden, recorded.origin
    log.warning("the recorded outputs do not hold under the new settings: the reference computes the golden outputs")
    return from_reference(graph, golden.input, golden.labels), "reference"


def from_reference(graph: nir.NIRGraph, x: NDArray[np.float32], labels: NDArray[np.integer] | None = None) -> Golden:
    """What the reference gives for inputs x: [B, ...] where `stdl.input` is "repeat", else [T, B, ...]."""
    if not np.isfinite(x).all():
        raise BadInput("the golden inputs hold NaN or infinity")
    result = _run(program(graph), x)
    counts = {name: fired.sum(axis=0, dtype=np.int32) for name, fired in result.spikes.items()}
    golden = Golden(np.asarray(x, dtype=np.float32), result.output, labels, counts)
    golden.check("golden samples")
    return golden


def seeded_input(graph: nir.NIRGraph, samples: int) -> NDArray[np.float32]:
    """Normal numbers from a fixed seed, times the power of two at which most layers spike, but not always."""
    said = graphs.settings(graph)
    shape = (samples, *graphs.shapes(graph)[graphs.input_name(graph)])
    size = shape if said.input == "repeat" else (said.T or STEPS, *shape)
    if math.prod(size) > MAX_DRAWN:
        reason = f"seeded inputs of shape {size} are more than {MAX_DRAWN} numbers"
        raise BadInput(f"{reason}: give fewer samples with --golden, or real ones with --inputs")
    drawn = np.random.default_rng(SEED).normal(size=size)
    x = drawn.astype(np.float32)
    if not graphs.neurons(graph):
        return x
    trial = x[:TRIAL_SAMPLES] if said.input == "repeat" else x[:, :TRIAL_SAMPLES]
    made = program(graph)
    liveliness = {scale: _liveliness(made, trial * np.float32(scale)) for scale in SCALES}
    best = max(liveliness, key=liveliness.__getitem__)
    if liveliness[best][0] <= 0:
        log.warning("some layer never spikes, or always does, on seeded input: give real samples with --inputs")
    scaled: NDArray[np.float32] = x * np.float32(best)
    return scaled


def read_inputs(path: Path) -> tuple[NDArray[np.float32], NDArray[np.integer] | None]:
    """`input`, as the network takes it, and where given `labels` [B], of an .npz file."""
    arrays = read_arrays(path)
    x = arrays.get("input")
    if x is None or x.dtype.kind not in "fiub" or x.ndim < 2:
        raise BadInput(f"'{path}' has no array 'input' of numbers, [B, ...] or [T, B, ...]; it has {', '.join(arrays)}")
    return x.astype(np.float32), arrays.get("labels")


def _liveliness(made: Program, x: NDArray[np.float32]) -> list[float]:
    """How far each layer is from silence, or from a spike of every neuron at every step, the one that is worst off
    first; below 0 where some fire more often than that.
    """
    rates = [float(fired.mean()) for fired in _run(made, x).spikes.values()]
    return sorted(min(rate, 1 - rate) for rate in rates)


def _run(made: Program, x: NDArray[np.float32]) -> reference.Result:
    said = made.settings
    return reference.run_program(made, x, T=None if said.input == "sequence" else said.T or STEPS)


def _still_hold(golden: Golden, before: graphs.Settings, now: graphs.Settings) -> bool:
    """A dynamic T takes outputs of any T; the decoding is not part of them."""
    same_step = (before.dt, before.dialect, before.reset, before.input) == (now.dt, now.dialect, now.reset, now.input)
    return same_step and now.T in (None, len(golden.output))
