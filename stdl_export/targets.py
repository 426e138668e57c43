"""What `stdl-export` can write: one row per target, and the bundle that its files go into."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import nir
import numpy as np

from stdl_export import bundle as bundles
from stdl_export import graph as graphs
from stdl_export import tensorrt
from stdl_export.bundle import (
    Bundle,
    EngineInfo,
    GoldenInfo,
    InputInfo,
    Manifest,
    Origin,
    OutputInfo,
    Precision,
    StateInfo,
    Tolerances,
)
from stdl_export.common.files import sha256
from stdl_export.onnx import lower
from stdl_export.onnx.probe import probe
from stdl_export.onnx.time import TimeForm, resolve
from stdl_export.source import Source
from stdl_export.tensorrt import Profile

Mode = Literal["sequence", "step"]

SEQUENCE, STEP, PROBE, STATES = "model.onnx", "model.step.onnx", "model.probe.onnx", "states.npz"


@dataclass(frozen=True)
class Job:
    """What to write: the graph with its final settings, for which modes, in which form, for which batch sizes."""

    graph: nir.NIRGraph
    modes: tuple[Mode, ...]
    form: TimeForm
    profile: Profile
    precision: Precision


@dataclass
class Parts:
    """What the targets add to a bundle's manifest; `notes` are for the summary, graph_sha256 is of its graph.nir."""

    graph_sha256: str = ""
    states: tuple[StateInfo, ...] = ()
    engines: list[EngineInfo] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


Target = Callable[[Job, Path, Parts], None]


def _nir(job: Job, folder: Path, parts: Parts) -> None:
    """The graph itself, for any framework that reads NIR."""
    graphs.write(job.graph, folder / bundles.GRAPH)


def _onnx(job: Job, folder: Path, parts: Parts) -> None:
    """Sequence graph and its probe, step graph and its states."""
    parts.versions["onnx"] = version("onnx")
    if "sequence" in job.modes:
        lower.write(lower.sequence(job.graph, job.form), folder / SEQUENCE)
        lower.write(probe(job.graph, job.form), folder / PROBE)
    if "step" in job.modes:
        lower.write(lower.step(job.graph), folder / STEP)
        _states(job, folder, parts)


def _tensorrt(job: Job, folder: Path, parts: Parts) -> None:
    """An engine per mode, from the same ONNX graphs."""
    flavour = tensorrt.flavour()
    (folder / "engine").mkdir(exist_ok=True)
    for mode in job.modes:
        model = lower.sequence(job.graph, job.form) if mode == "sequence" else lower.step(job.graph)
        engine = tensorrt.build(flavour, model.SerializeToString(), f"the {mode} graph", job.profile)
        file = flavour.file(mode)
        (folder / file).write_bytes(engine)
        parts.engines.append(
            EngineInfo(
                file=file,
                flavour=flavour.name,
                version=flavour.version,
                mode=mode,
                tf32=False,
                batch=job.profile.sizes,
                timesteps=graphs.settings(job.graph).T if mode == "sequence" else None,
                compute_capability=flavour.compute_capability,
                graph_sha256=parts.graph_sha256,
            )
        )
    if "step" in job.modes:
        _states(job, folder, parts)
    parts.versions[flavour.name] = flavour.version
    batch = ":".join(map(str, job.profile.sizes))
    parts.notes.append(f"engines built with {flavour.name} {flavour.version}, fp32, TF32 off, batch {batch}")


TARGETS: dict[str, Target] = {"nir": _nir, "onnx": _onnx, "tensorrt": _tensorrt}


def check(job: Job, targets: Sequence[str]) -> None:
    """Refuse what a target cannot do here, before anything is computed or written."""
    if {"onnx", "tensorrt"} & set(targets):
        lower.lowerable(job.graph)
    if "tensorrt" in targets:
        tensorrt.flavour()
        if "sequence" in job.modes:
            steps = graphs.settings(job.graph).T
            tensorrt.check_time(steps, resolve(job.form, steps))


def create(
    path: Path, source: Source, job: Job, targets: Sequence[str], golden: bundles.Golden, origin: Origin
) -> tuple[Bundle, list[str]]:
    """A new bundle with the graph, the golden samples and what the targets add; and notes for the summary."""
    parts = Parts()

    def fill(folder: Path) -> Manifest:
        _nir(job, folder, parts)
        parts.graph_sha256 = sha256(folder / bundles.GRAPH)
        bundles.write_golden(golden, folder / bundles.GOLDEN)
        for target in targets:
            if target != "nir":
                TARGETS[target](job, folder, parts)
        return _manifest(source, job, parts, GoldenInfo(origin=origin, samples=golden.samples))

    return bundles.create(path, fill), parts.notes


def add(bundle: Bundle, job: Job, targets: Sequence[str]) -> tuple[Bundle, list[str]]:
    """The bundle with what the targets add; its graph and golden samples stay. And notes for the summary."""
    parts = Parts(graph_sha256=bundle.manifest.files[bundles.GRAPH])

    def fill(folder: Path) -> Manifest:
        for target in targets:
            TARGETS[target](job, folder, parts)
        before = bundle.manifest
        replaced = {engine.file for engine in parts.engines}
        engines = [engine for engine in before.engines if engine.file not in replaced] + parts.engines
        return before.model_copy(
            update={
                "states": parts.states or before.states,
                "engines": tuple(engines),
                "versions": before.versions | _versions() | parts.versions,
            }
        )

    return bundles.add(bundle, fill), parts.notes


def _states(job: Job, folder: Path, parts: Parts) -> None:
    """`states.npz`: each state before the first step, without B, under its input's name."""
    states = lower.states(job.graph)
    initial: dict[str, Any] = {state.input: np.broadcast_to(state.initial, state.shape) for state in states}
    np.savez_compressed(folder / STATES, **initial)
    parts.states = tuple(
        StateInfo(node=state.node, var=state.var, input=state.input, output=state.output, shape=state.shape)
        for state in states
    )


def _manifest(source: Source, job: Job, parts: Parts, golden: GoldenInfo) -> Manifest:
    said, shapes = graphs.settings(job.graph), graphs.shapes(job.graph)
    return Manifest(
        network=source.name,
        timesteps=said.T,
        dt=said.dt,
        dialect=said.dialect,
        reset=said.reset,
        input=InputInfo(
            shape=shapes[graphs.input_name(job.graph)],
            encoding=source.encoding,
            encoding_options=source.encoding_options,
            encoding_seed=source.encoding_seed,
            mode=said.input,
        ),
        data=source.data,
        classes=source.classes,
        output=OutputInfo(shape=shapes[graphs.output_name(job.graph)], decoding=said.output),
        golden=golden,
        tolerances=Tolerances(precision=job.precision),
        states=parts.states,
        engines=tuple(parts.engines),
        versions=_versions() | parts.versions,
    )


def _versions() -> dict[str, str]:
    packages = ("stdl-toolchain", "nir", "numpy", "h5py")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}
