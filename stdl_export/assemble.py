"""The bundle that an export makes or adds to: what the targets wrote, golden samples, and the manifest about them."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import nir

from stdl_export import bundle as bundles
from stdl_export import graph as graphs
from stdl_export.bundle import Bundle
from stdl_export.common.errors import BadInput
from stdl_export.common.files import sha256
from stdl_export.common.names import unknown
from stdl_export.golden_file import GOLDEN, Golden, write_golden
from stdl_export.manifest import GoldenInfo, InputInfo, Manifest, Origin, OutputInfo, TensorInfo, Tolerances
from stdl_export.onnx import lower
from stdl_export.program import Program, program
from stdl_export.source import Source
from stdl_export.targets import TARGETS, Assembled, Job, Parts, write_graph


def create(
    path: Path, source: Source, job: Job, targets: Sequence[str], golden: Golden, origin: Origin
) -> tuple[Bundle, list[str]]:
    """A new bundle with the graph, the golden samples and what the targets add; and notes for the summary."""
    parts = Parts()

    def fill(folder: Path) -> Manifest:
        write_graph(job, folder, parts)
        parts.graph_sha256 = sha256(folder / bundles.GRAPH)
        write_golden(golden, folder / GOLDEN)
        _write(job, [target for target in targets if target != "nir"], folder, parts)
        made = _manifest(source, job, parts, GoldenInfo(origin=origin, samples=golden.samples))
        return _finish(job, targets, Assembled(folder, made, None), parts)

    return bundles.create(path, fill), parts.notes


def add(bundle: Bundle, job: Job, targets: Sequence[str]) -> tuple[Bundle, list[str]]:
    """The bundle with what the targets add; its graph and golden samples stay. And notes for the summary."""
    parts = Parts(graph_sha256=bundle.manifest.files[bundles.GRAPH])

    def fill(folder: Path, now: Bundle) -> Manifest:
        before = now.manifest
        if before.arithmetic != job.arithmetic:
            raise BadInput(f"bundle '{bundle.path}' was replaced by another one meanwhile: export again")
        _write(job, targets, folder, parts)
        replaced = {engine.file for engine in parts.engines}
        engines = [engine for engine in before.engines if engine.file not in replaced] + parts.engines
        made = before.model_copy(
            update={
                "states": parts.states or before.states,
                "final_states": before.final_states if parts.final_states is None else parts.final_states,
                "engines": tuple(engines),
                "versions": before.versions | _versions() | parts.versions,
            }
        )
        return _finish(job, targets, Assembled(folder, made, now), parts)

    return bundles.add(bundle, fill), parts.notes


def _write(job: Job, targets: Sequence[str], folder: Path, parts: Parts) -> None:
    for target in targets:
        if (write := TARGETS[target].write) is not None:
            write(job, folder, parts)


def _finish(job: Job, targets: Sequence[str], made: Assembled, parts: Parts) -> Manifest:
    """What is written of the finished parts; it may add to the versions, the chips and the notes only."""
    for target in targets:
        if (finish := TARGETS[target].finish) is not None:
            finish(job, made.hashed(), parts)
    new = {info.chip for info in parts.chips}
    chips = [info for info in made.manifest.chips if info.chip not in new] + parts.chips
    versions = made.manifest.versions | parts.versions
    return made.manifest.model_copy(update={"versions": versions, "chips": tuple(chips)})


def _manifest(source: Source, job: Job, parts: Parts, golden: GoldenInfo) -> Manifest:
    said, made = graphs.settings(job.graph), program(job.graph)
    return Manifest(
        network=source.name,
        timesteps=said.T,
        dt=said.dt,
        dialect=said.dialect,
        reset=said.reset,
        input=InputInfo(
            mode=said.input,
            encoding=source.encoding,
            encoding_options=source.encoding_options,
            encoding_seed=source.encoding_seed,
            tensors=_tensors(made, lower.input_names(made)),
        ),
        data=source.data,
        classes=source.classes,
        output=OutputInfo(
            decoding=said.output,
            prediction=prediction(job.graph, source.prediction),
            tensors=_tensors(made, lower.output_names(made)),
        ),
        golden=golden,
        arithmetic=job.arithmetic,
        tolerances=Tolerances.of(job.precision),
        states=parts.states,
        final_states=bool(parts.final_states),
        engines=tuple(parts.engines),
        versions=_versions() | parts.versions,
    )


def prediction(graph: nir.NIRGraph, named: graphs.NodeName | None) -> graphs.NodeName | None:
    """The Output that classifies a sample: the only one, or the one that was named; BadInput where it is none."""
    outputs = graphs.outputs(graph)
    if named is not None and named not in outputs:
        raise unknown("Output (--set prediction)", named, outputs)
    return outputs[0] if len(outputs) == 1 else named


def _tensors(made: Program, names: Mapping[graphs.NodeName, str]) -> tuple[TensorInfo, ...]:
    return tuple(TensorInfo(node=path, name=name, shape=made.nodes[path].shape) for path, name in names.items())


def _versions() -> dict[str, str]:
    packages = ("stdl-toolchain", "nir", "numpy", "h5py")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}
