"""A bundle: a folder that carries a network and the proof that it runs right (design: graph, engines, golden samples).

`manifest.json` names every file with its SHA-256 and says all that a runtime needs to know. It is written last; a
folder without it is no bundle, and one with files it does not name is refused: an ONNX graph could draw them in.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath

import nir

from stdl_export import graph as graphs
from stdl_export.common import changes, onnx_file
from stdl_export.common.config import read_json_object, validate
from stdl_export.common.errors import BadInput
from stdl_export.common.files import FULL, atomic_file, inside, require_empty, sha256, sync_tree
from stdl_export.golden_file import GOLDEN, Golden, read_golden
from stdl_export.manifest import SCHEMA_VERSION, Manifest

MANIFEST = "manifest.json"
GRAPH = "graph.nir"

MAX_MANIFEST_BYTES = 16 << 20
ATTEMPTS = 20  # to read a bundle that is exported into again and again


Stamp = tuple[int, int, int] | None


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files all have the hashes that its manifest says."""

    path: Path
    manifest: Manifest
    stamps: Mapping[str, Stamp] = field(default_factory=dict, compare=False, repr=False)
    """Of each file when its hash was checked."""

    def file(self, name: str) -> Path:
        """The path of a file that the manifest names, in the bundle's folder; it is still the one that was checked."""
        if name not in self.manifest.files:
            raise BadInput(f"bundle '{self.path}' has no '{name}': export it with stdl-export {self.path} --target ...")
        path = inside(self.path, name)
        touched = name in self.stamps and _stamp(path) != self.stamps[name]
        if touched and not (path.is_file() and sha256(path) == self.manifest.files[name]):
            raise BadInput(f"bundle '{self.path}': file '{name}' was changed since it was opened: open it again")
        return path

    def graph(self) -> nir.NIRGraph:
        """The checked graph; what its metadata says agrees with the manifest."""
        graph = graphs.read(self.file(GRAPH))
        graphs.check(graph, f"'{self.path / GRAPH}'")
        if graphs.settings(graph) != self.manifest.settings:
            ours, theirs = asdict(graphs.settings(graph)), asdict(self.manifest.settings)
            key = next(key for key in ours if ours[key] != theirs[key])
            said = f"{key} = {ours[key]}, {MANIFEST} says {theirs[key]}"
            raise BadInput(f"bundle '{self.path}': {GRAPH} says {said}: export it again")
        if misfit := _misfit(self.manifest, graph):
            raise BadInput(f"bundle '{self.path}': {MANIFEST} does not fit its graph: {misfit}: export it again")
        return graph

    def golden(self) -> Golden:
        """The golden samples."""
        golden = read_golden(self.file(GOLDEN))
        if golden.samples != self.manifest.golden.samples:
            said = f"{golden.samples} samples, {MANIFEST} says {self.manifest.golden.samples}"
            raise BadInput(f"bundle '{self.path}': {GOLDEN} has {said}: export it again")
        return golden


def load(path: Path) -> Bundle:
    """Open a bundle: the schema first, then every hash. `BadInput` names a file that is missing, changed or foreign.

    An export that was killed while it replaced files is finished first; one that replaces them now is waited for.
    """
    for _ in range(ATTEMPTS - 1):
        changes.settle(path)
        before = _stamp(path / MANIFEST)
        try:
            return _load(path)
        except BadInput:
            if not changes.renaming(path) and _stamp(path / MANIFEST) == before:
                raise  # no export came in between
    return _load(path)


def _stamp(path: Path) -> Stamp:
    """What changes where a file is written or replaced; None where there is none."""
    with contextlib.suppress(OSError):
        found = path.stat()
        return found.st_ino, found.st_size, found.st_mtime_ns
    return None


def _load(path: Path) -> Bundle:
    manifest = _read_manifest(path)
    stamps = {name: _stamp(inside(path, name)) for name in manifest.files}
    for name, expected in manifest.files.items():
        file = inside(path, name)
        if not file.is_file():
            raise BadInput(
                f"bundle '{path}': file '{name}' is missing: copy the whole folder again, or export it again"
            )
        if sha256(file) != expected:
            raise BadInput(
                f"bundle '{path}': file '{name}' was changed: its SHA-256 is not what {MANIFEST} says; export it again"
            )
        if file.suffix == ".onnx":
            onnx_file.check(file)  # else an engine would open what other files it names
    for name in (GRAPH, GOLDEN, *(engine.file for engine in manifest.engines)):
        inside(path, name)  # it is said in messages, and opened
        if name not in manifest.files:
            raise BadInput(f"bundle '{path}': {MANIFEST} names no hash for '{name}': export it again")
    _refuse_unnamed(path, manifest)
    return Bundle(path, manifest, stamps)


def require_outside(path: Path, file: Path) -> None:
    """Refuse an output inside a bundle: with a file that its manifest does not name, it could not be opened again."""
    if (path / MANIFEST).is_file() and path.resolve() in file.resolve().parents:
        raise BadInput(f"'{file}' lies in the bundle '{path}', which holds its own files only: choose another path")


def create(path: Path, fill: Callable[[Path], Manifest]) -> Bundle:
    """Make a new bundle: `fill` writes its files into the folder it is given, and returns the manifest less `files`."""
    require_empty(path)
    with changes.changing(path) as new, _named_where_full(new, path):
        require_empty(path)  # another export may have been first
        manifest = fill(new)
        _write_manifest(new / MANIFEST, manifest, hashes(new))
        sync_tree(new)
        new.replace(path.resolve())  # POSIX: replaces an empty folder
    return load(path)


def add(bundle: Bundle, fill: Callable[[Path, Bundle], Manifest]) -> Bundle:
    """Add files to a bundle, or replace some; the manifest is replaced last (see `changes`). `fill` as in `create`.

    Exports into one bundle wait for each other: `fill` gets it as it is when its turn has come. The graph is still the
    one of `bundle`, else `BadInput`.
    """
    with changes.changing(bundle.path) as new, _named_where_full(new, bundle.path):
        now = _load(bundle.path)
        if now.manifest.files[GRAPH] != bundle.manifest.files[GRAPH]:
            raise BadInput(f"bundle '{bundle.path}' was replaced by another one meanwhile: export again")
        manifest = fill(new, now)
        added = hashes(new)
        _write_manifest(new / MANIFEST, manifest, now.manifest.files | added)
        changes.commit(bundle.path, MANIFEST, added)
    return load(bundle.path)


@contextlib.contextmanager
def _named_where_full(new: Path, path: Path) -> Iterator[None]:
    """An error of a full disk says the bundle's file that had no room, not where it lay for the time being."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        file = Path(error.filename or new)
        name = path / file.relative_to(new) if file.is_relative_to(new) else path
        raise BadInput(
            f"'{name}' could not be written: {os.strerror(error.errno)}; make room and export again"
        ) from None


def _read_manifest(path: Path) -> Manifest:
    file = inside(path, MANIFEST)
    if not file.is_file():
        raise BadInput(f"'{path}' is no bundle: it has no {MANIFEST}; give a folder that stdl-export wrote")
    content = read_json_object(file, MAX_MANIFEST_BYTES, "export it again")
    if (version := content.get("schema_version")) != SCHEMA_VERSION:
        raise BadInput(
            f"'{file}' has schema version {version!r:.40}, this version of stdl reads {SCHEMA_VERSION}: export it again"
        )
    return validate(Manifest, content, f"'{file}'")


def _misfit(manifest: Manifest, graph: nir.NIRGraph) -> str | None:
    """What the manifest says of inputs and outputs that the graph says otherwise; None where they agree."""
    shapes, found = graphs.shapes(graph), manifest.output
    for kind, tensors, paths in (
        ("Inputs", manifest.input.tensors, graphs.inputs(graph)),
        ("Outputs", found.tensors, graphs.outputs(graph)),
    ):
        said, real = {tensor.node: tensor.shape for tensor in tensors}, {path: shapes[path] for path in paths}
        if said != real or len(said) != len(tensors):
            return f"its {kind} are {_shapes(said)}, the graph's {_shapes(real)}"
    if found.prediction not in (None, *graphs.outputs(graph)):
        return f"its prediction '{found.prediction}' is no Output of the graph"
    if manifest.classes is not None and (reason := class_misfit(graph, found.prediction, manifest.classes)):
        return reason
    if manifest.data is None:
        return None
    if len(manifest.input.tensors) != 1:
        return f"it normalises the samples of a data set for {len(manifest.input.tensors)} Inputs"
    if not len(manifest.data.mean) == len(manifest.data.std) == manifest.input.shape[0]:
        return f"it normalises {len(manifest.data.mean)} channels of {manifest.input.shape[0]}"
    return None


def class_misfit(graph: nir.NIRGraph, prediction: graphs.NodeName | None, classes: Sequence[str]) -> str | None:
    """Why class names do not fit the Output that they are about; None where they do."""
    if prediction is None:
        return f"it names {len(classes)} classes, but not which of the Outputs is the prediction"
    outputs = math.prod(graphs.shapes(graph)[prediction])
    return None if len(classes) == outputs else f"it names {len(classes)} classes for {outputs} outputs"


def _shapes(shapes: Mapping[graphs.NodeName, tuple[int, ...]]) -> str:
    return ", ".join(f"'{name}' {shape}" for name, shape in shapes.items())


def _refuse_unnamed(path: Path, manifest: Manifest) -> None:
    """Refuse whatever lies in the folder and has no hash, links to folders included."""
    named = {MANIFEST, *(PurePosixPath(name).as_posix() for name in manifest.files)}
    for found in sorted(path.rglob("*")):
        name = found.relative_to(path).as_posix()
        if name not in named and (found.is_symlink() or not found.is_dir()):
            raise BadInput(f"bundle '{path}': file '{name}' is not named in {MANIFEST}: remove it or export again")


def _write_manifest(path: Path, manifest: Manifest, files: Mapping[str, str]) -> None:
    whole = manifest.model_copy(update={"files": dict(files)})
    with atomic_file(path) as part:
        part.write_text(json.dumps(whole.model_dump(mode="json"), indent=2) + "\n", encoding="utf-8")


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in a folder, by its name there."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): sha256(file) for file in files}
