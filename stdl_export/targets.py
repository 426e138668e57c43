"""What `stdl-export` can write: one row per target. The bundle that the files go into is made in `assemble`."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import nir
import numpy as np

from stdl_export import bundle as bundles
from stdl_export import graph as graphs
from stdl_export import tensorrt, tensorrt_cache, triton
from stdl_export.bundle import Bundle
from stdl_export.chips import base as chips
from stdl_export.chips.registry import CHIPS, chip
from stdl_export.common.config import validate
from stdl_export.common.errors import BadInput, StdlError, join_reasons
from stdl_export.common.files import atomic_file
from stdl_export.explain.drawing import check_size, dot, picture
from stdl_export.explain.svg import svg
from stdl_export.golden_file import GOLDEN, read_golden
from stdl_export.manifest import (
    Arithmetic,
    ChipInfo,
    EngineInfo,
    EngineMode,
    Manifest,
    Membrane,
    Precision,
    StateInfo,
)
from stdl_export.onnx import lower, ranges
from stdl_export.onnx.precision import check_exceptions
from stdl_export.onnx.probe import probe
from stdl_export.onnx.time import TimeForm, resolve
from stdl_export.program import program
from stdl_export.tensorrt import DEFAULTS, BuildOptions, Profile

log = logging.getLogger("stdl")

Mode = Literal["sequence", "step"]

SEQUENCE, STEP, PROBE, STATES = "model.onnx", "model.step.onnx", "model.probe.onnx", "states.npz"
DRAWINGS = {"dot": "graph.dot", "svg": "graph.svg"}


@dataclass(frozen=True)
class Job:
    """What to write: the graph with its final settings, for which modes, in which form, for which batch sizes."""

    graph: nir.NIRGraph
    modes: tuple[Mode, ...]
    form: TimeForm
    profile: Profile
    precision: Precision
    final_states: bool = False
    membrane: Membrane = "fp32"
    fp32_nodes: tuple[str, ...] = ()
    engines: BuildOptions = DEFAULTS
    chips: Mapping[str, Any] = field(default_factory=dict)
    """`--set <chip>.key=value` by the chip's name."""

    @property
    def arithmetic(self) -> Arithmetic:
        """What the graphs compute in."""
        return Arithmetic(precision=self.precision, membrane=self.membrane, fp32_nodes=self.fp32_nodes)


@dataclass
class Parts:
    """What the targets add to a bundle's manifest; `notes` are for the summary, graph_sha256 is of its graph.nir.

    final_states: of model.onnx; None where none was written.
    """

    graph_sha256: str = ""
    states: tuple[StateInfo, ...] = ()
    final_states: bool | None = None
    engines: list[EngineInfo] = field(default_factory=list)
    chips: list[ChipInfo] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Assembled:
    """A bundle's parts when the targets have written theirs: new files in `folder`, the others in the bundle `now`.

    The manifest is the one that the bundle gets; its `files` have the hashes of both (`hashed`).
    """

    folder: Path
    manifest: Manifest
    now: Bundle | None

    def file(self, name: str) -> Path | None:
        """The path of a file that the bundle will have; None where it will have none of that name."""
        if (self.folder / name).is_file():
            return self.folder / name
        return self.now.file(name) if self.now is not None and name in self.now.manifest.files else None

    def hashed(self) -> Assembled:
        """The same with the hashes of all files that there are by now."""
        before = {} if self.now is None else self.now.manifest.files
        files = before | bundles.hashes(self.folder)
        return replace(self, manifest=self.manifest.model_copy(update={"files": files}))


Check = Callable[[Job], list[str] | None]


@dataclass(frozen=True)
class Target:
    """One row: what writes the files, and checks of what it cannot do here.

    A check raises `StdlError`, and may have remarks on what is done but loses much. finish: writes what is made of
    other parts, the bundle's or those of targets beside it, when all of them are there and their hashes are known.
    needs: files of which the bundle must have one, or get it from a target beside this one, `with_target`.
    """

    write: Callable[[Job, Path, Parts], None] | None
    checks: tuple[Check, ...] = ()
    finish: Callable[[Job, Assembled, Parts], None] | None = None
    needs: tuple[str, ...] = ()
    with_target: str | None = None


def write_graph(job: Job, folder: Path, parts: Parts) -> None:
    """The graph itself, for any framework that reads NIR."""
    graphs.write(job.graph, folder / bundles.GRAPH)


def _onnx(job: Job, folder: Path, parts: Parts) -> None:
    """Sequence graph and its probe, step graph and its states."""
    parts.versions["onnx"] = version("onnx")
    if "sequence" in job.modes:
        lower.write(_sequence(job), folder / SEQUENCE)
        parts.final_states = job.final_states
        lower.write(probe(job.graph, job.form, job.arithmetic), folder / PROBE)
    if "step" in job.modes:
        lower.write(lower.step(job.graph, job.arithmetic), folder / STEP)
    if "step" in job.modes or job.final_states:
        _states(job, folder, parts)


def _sequence(job: Job) -> Any:
    return lower.sequence(job.graph, job.form, job.arithmetic, job.final_states)


def _tensorrt(job: Job, folder: Path, parts: Parts) -> None:
    """An engine per mode, from the same ONNX graphs."""
    flavour = tensorrt.flavour()
    (folder / "engine").mkdir(exist_ok=True)
    for mode in _engine_modes(job):
        content = _engine_model(job, mode).SerializeToString()
        engine = tensorrt_cache.engine(flavour, content, f"the {mode} graph", job.profile, job.engines)
        file = flavour.file(mode)
        with atomic_file(folder / file) as part:
            part.write_bytes(engine)
        parts.engines.append(
            EngineInfo(
                file=file,
                flavour=flavour.name,
                version=flavour.version,
                mode=mode,
                tf32=job.engines.tf32,
                batch=job.profile.sizes,
                timesteps=None if mode == "step" else graphs.settings(job.graph).T,
                final_states=job.final_states and mode == "sequence",
                compute_capability=flavour.compute_capability,
                graph_sha256=parts.graph_sha256,
            )
        )
    if "step" in job.modes or job.final_states:
        _states(job, folder, parts)
    parts.versions[flavour.name] = flavour.version
    batch = ":".join(map(str, job.profile.sizes))
    how = f"{job.precision}, TF32 {'on' if job.engines.tf32 else 'off'}, batch {batch}"
    parts.notes.append(f"engines built with {flavour.name} {flavour.version}, {how}")


def _engine_modes(job: Job) -> tuple[EngineMode, ...]:
    probed = "sequence" in job.modes and job.engines.probe and program(job.graph).spiking
    return (*job.modes, "probe") if probed else job.modes


def _engine_model(job: Job, mode: EngineMode) -> Any:
    if mode == "step":
        return lower.step(job.graph, job.arithmetic)
    return probe(job.graph, job.form, job.arithmetic) if mode == "probe" else _sequence(job)


def _dot(job: Job, folder: Path, parts: Parts) -> None:
    """The drawing, for Graphviz."""
    write_drawing(job.graph, folder / DRAWINGS["dot"])


def _svg(job: Job, folder: Path, parts: Parts) -> None:
    """The drawing, for a browser."""
    write_drawing(job.graph, folder / DRAWINGS["svg"])


def _triton(job: Job, made: Assembled, parts: Parts) -> None:
    """Models for a server from the bundle's ONNX graphs, of those that it has and that were asked for."""
    folder, batch, names = made.folder / triton.FOLDER, job.profile.max, []
    sequence, step, states = (made.file(name) for name in (SEQUENCE, STEP, STATES))
    if "sequence" in job.modes and sequence is not None:
        names.append(triton.write_sequence(sequence, folder, made.manifest, batch))
    if "step" in job.modes and step is not None and states is not None:
        names.append(triton.write_step(step, states, folder, made.manifest, batch))
    if not names:
        raise BadInput(f"--target triton: the bundle has no ONNX graph for --mode {job.modes[0]}: add --target onnx")
    parts.notes.append(f"Triton models {', '.join(names)}, batch up to {batch}; not run here, see docs/serving.md")


def write_drawing(graph: nir.NIRGraph, path: Path) -> None:
    """Draw a checked graph, as its file's suffix says: .dot or .svg."""
    text = {".dot": dot, ".svg": svg}[path.suffix](picture(graph))
    with atomic_file(path) as part:
        part.write_text(text, encoding="utf-8")


def _exceptions(job: Job) -> None:
    check_exceptions(program(job.graph), job.arithmetic)


def _time(job: Job) -> None:
    if "sequence" in job.modes:
        resolve(job.form, graphs.settings(job.graph).T)


def _in_onnx(job: Job) -> list[str]:
    """Remarks on what the arithmetic loses."""
    return ranges.check(lower.optimised_program(job.graph), job.arithmetic)


def _engine_here(job: Job) -> list[str]:
    return tensorrt.doubts(tensorrt.flavour())


def _engine_time(job: Job) -> None:
    if "sequence" in job.modes:
        steps = graphs.settings(job.graph).T
        tensorrt.check_time(steps, resolve(job.form, steps))


def _drawable(job: Job) -> None:
    check_size(job.graph)


def _chip(name: str) -> Target:
    """The row of a chip: it needs golden samples to calibrate with, so it is written when they are there."""
    return Target(None, (functools.partial(_chip_takes, name),), finish=functools.partial(_chip_files, name))


def _chip_takes(name: str, job: Job) -> None:
    if refused := chip(name).refusals(job.graph, _chip_options(name, job)):
        raise BadInput(f"{name} does not take the network: {join_reasons(refused)}")


def _chip_files(name: str, job: Job, made: Assembled, parts: Parts) -> None:
    """Everything that a chip's tools load, in a folder of its own."""
    golden = made.file(GOLDEN)
    assert golden is not None, "every bundle has golden samples"
    where = f"{chips.FOLDER}/{name}"
    (made.folder / where).mkdir(parents=True, exist_ok=True)
    given = chips.ChipJob(job.graph, read_golden(golden), _chip_options(name, job))
    written = chip(name).write(given, made.folder / where)
    for line in written.warnings:
        log.warning(f"{name}: {line}")
    parts.notes += [f"{name}: {line}" for line in written.notes]
    parts.chips.append(ChipInfo(chip=name, folder=where, graph_sha256=parts.graph_sha256))


def _chip_options(name: str, job: Job) -> Any:
    return validate(chip(name).Options, job.chips.get(name, {}), f"--set {name}")


TARGETS = {
    "nir": Target(write_graph, (_exceptions,)),
    "onnx": Target(_onnx, (_exceptions, _time, _in_onnx)),
    "tensorrt": Target(_tensorrt, (_exceptions, _in_onnx, _engine_here, _engine_time)),
    "triton": Target(None, (_exceptions, _time, _in_onnx), finish=_triton, needs=(SEQUENCE, STEP), with_target="onnx"),
    "dot": Target(_dot),
    "svg": Target(_svg, (_drawable,)),
    **{name: _chip(name) for name in CHIPS},
}


def check(job: Job, targets: Sequence[str], has: Collection[str] = ()) -> None:
    """Refuse what a target cannot do here, before anything is computed or written. What loses much is a warning.

    has: the files of the bundle that the targets' files come into.
    """
    for target in targets:
        row = TARGETS[target]
        if row.needs and row.with_target not in targets and not {*row.needs} & {*has}:
            raise BadInput(f"--target {target} is made of {' or '.join(row.needs)}: add --target {row.with_target}")
    checks = dict.fromkeys(check for target in targets for check in TARGETS[target].checks)
    for remark in [remark for each in checks for remark in each(job) or ()]:
        log.warning(remark)


def refusals(job: Job, target: str) -> list[str]:
    """Every reason why a target does not take the job here; empty where it does."""
    return [reason for check in TARGETS[target].checks if (reason := _reason(check, job)) is not None]


def _reason(check: Check, job: Job) -> str | None:
    try:
        check(job)
    except StdlError as error:
        return str(error)
    return None


def _states(job: Job, folder: Path, parts: Parts) -> None:
    """`states.npz`: each state before the first step, without B, under its input's name."""
    states = lower.states(job.graph, job.arithmetic)
    initial: dict[str, Any] = {
        state.input: np.broadcast_to(state.initial.astype(state.dtype), state.shape) for state in states
    }
    with atomic_file(folder / STATES) as part, part.open("wb") as file:
        np.savez_compressed(file, **initial)
    parts.states = tuple(
        StateInfo(
            node=state.node,
            var=state.var,
            input=state.input,
            output=state.output,
            shape=state.shape,
            dtype=state.dtype.name,
        )
        for state in states
    )
