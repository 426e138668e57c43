"""A bundle: a folder that carries a network and the proof that it runs right (design: graph, engines, golden samples).

`manifest.json` names every file with its SHA-256 and says all that a runtime needs to know. It is written last; a
folder without it is no bundle, and one with files it does not name is refused: an ONNX graph could draw them in.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import nir
import numpy as np
import pydantic
from numpy.typing import NDArray

from stdl_export import graph as graphs
from stdl_export.common.config import validate
from stdl_export.common.errors import BadInput, one_line
from stdl_export.common.files import atomic_file, atomic_folder, inside, sha256

SCHEMA_VERSION: Literal[1] = 1
MANIFEST = "manifest.json"
GRAPH = "graph.nir"
GOLDEN = "golden.npz"

MAX_MANIFEST_BYTES = 16 << 20
MAX_ARRAY_BYTES = 8 << 30  # all arrays of an .npz file together, unpacked

COUNT = "count:"

Precision = Literal["fp32"]
Origin = Literal["trained", "reference"]


class _Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class InputInfo(_Model):
    """What goes in: shape without T and B; `repeat` is one frame [B, ...] for all steps, `sequence` is [T, B, ...].

    encoding: the encoder that makes it of samples, with its options and its seed; "frames": recordings as they are.
    """

    shape: tuple[pydantic.PositiveInt, ...]
    dtype: Literal["float32"] = "float32"
    encoding: str | None = None
    encoding_options: dict[str, bool | int | float | str] = {}
    encoding_seed: pydantic.NonNegativeInt = 0
    mode: graphs.InputMode


class DataInfo(_Model):
    """The data set it was trained on, and its options.

    The network takes (x - mean) / std per channel, x: what comes of the encoder, pictures being in [0, 1].
    """

    name: str
    options: dict[str, Any] = {}
    mean: tuple[float, ...]
    std: tuple[pydantic.PositiveFloat, ...]


class OutputInfo(_Model):
    """What comes out: shape without T and B, and how the T outputs become one answer."""

    shape: tuple[pydantic.PositiveInt, ...]
    decoding: graphs.Decoding


class GoldenInfo(_Model):
    """Who computed the golden outputs: the trained network, or the reference from the graph."""

    origin: Origin
    samples: pydantic.PositiveInt


class Tolerances(_Model):
    """What parity allows: the share of flips further than `flip_margin` from the threshold, and the agreement."""

    precision: Precision = "fp32"
    flip_margin: pydantic.NonNegativeFloat = 1e-5
    flips: pydantic.NonNegativeFloat = 0.0
    agreement: float = pydantic.Field(0.999, ge=0, le=1)


class StateInfo(_Model):
    """One state of the step graph: its tensors' names, and its shape without B. It starts as `states.npz` says."""

    node: str
    var: str
    input: str
    output: str
    shape: tuple[pydantic.PositiveInt, ...]
    dtype: Literal["float32"] = "float32"


class EngineInfo(_Model):
    """A TensorRT engine: `batch` is its profile (min, opt, max), `graph_sha256` of the graph.nir it was made from."""

    file: str
    flavour: Literal["tensorrt", "tensorrt_rtx"]
    version: str
    mode: Literal["sequence", "step"]
    tf32: bool
    batch: tuple[pydantic.PositiveInt, pydantic.PositiveInt, pydantic.PositiveInt]
    timesteps: pydantic.PositiveInt | None
    compute_capability: str | None
    graph_sha256: str


class Manifest(_Model):
    """`manifest.json`. dt in seconds; timesteps is None where T is dynamic; files maps names to SHA-256."""

    schema_version: Literal[1] = SCHEMA_VERSION
    network: str
    timesteps: pydantic.PositiveInt | None
    dt: pydantic.PositiveFloat
    dialect: str
    reset: graphs.Reset | None
    input: InputInfo
    data: DataInfo | None
    classes: tuple[str, ...] | None
    output: OutputInfo
    golden: GoldenInfo
    tolerances: Tolerances = Tolerances()
    states: tuple[StateInfo, ...] = ()
    engines: tuple[EngineInfo, ...] = ()
    versions: dict[str, str]
    files: dict[str, str] = {}

    @property
    def settings(self) -> graphs.Settings:
        """What the graph's own metadata must say too."""
        return graphs.Settings(self.dt, self.timesteps, self.dialect, self.reset, self.input.mode, self.output.decoding)


@dataclass(frozen=True)
class Golden:
    """Samples with the outputs that count as right.

    input: what the network takes, float32 [B, ...] (`repeat`) or [T, B, ...]; output: before decoding, float32
    [T, B, ...]; labels: [B]; counts: spikes of each neuron summed over T, by node, int [B, ...].
    """

    input: NDArray[np.float32]
    output: NDArray[np.float32]
    labels: NDArray[np.integer[Any]] | None = None
    counts: dict[graphs.NodeName, NDArray[np.integer[Any]]] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        """B."""
        return int(self.output.shape[1])

    def check(self, where: str) -> None:
        """Refuse arrays that do not fit each other."""
        if not self.input.dtype == self.output.dtype == np.float32 or self.input.ndim < 2 or self.output.ndim < 3:
            raise BadInput(f"{where}: input [B, ...] or [T, B, ...] and output [T, B, ...] must be float32")
        batched = dict(self.counts) if self.labels is None else {"labels": self.labels, **self.counts}
        for name, array in batched.items():
            if array.dtype.kind not in "iu" or array.shape[:1] != (self.samples,):
                raise BadInput(f"{where}: '{name}' must hold whole numbers, one row for each of {self.samples} samples")
        if not self.samples or self.samples not in self.input.shape[:2]:
            raise BadInput(f"{where}: input {self.input.shape} and output {self.output.shape} differ in samples")

    def head(self, samples: int, mode: graphs.InputMode) -> Golden:
        """The first samples only."""
        return Golden(
            self.input[:samples] if mode == "repeat" else self.input[:, :samples],
            self.output[:, :samples],
            None if self.labels is None else self.labels[:samples],
            {name: count[:samples] for name, count in self.counts.items()},
        )


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files all have the hashes that its manifest says."""

    path: Path
    manifest: Manifest

    def file(self, name: str) -> Path:
        """The path of a file that the manifest names; it lies in the bundle's folder."""
        if name not in self.manifest.files:
            raise BadInput(f"bundle '{self.path}' has no '{name}': export it with stdl-export {self.path} --target ...")
        return inside(self.path, name)

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
    """Open a bundle: the schema first, then every hash. `BadInput` names a file that is missing, changed or foreign."""
    manifest = _read_manifest(path)
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
    for name in (GRAPH, GOLDEN, *(engine.file for engine in manifest.engines)):
        if name not in manifest.files:
            raise BadInput(f"bundle '{path}': {MANIFEST} names no hash for '{name}': export it again")
    _refuse_unnamed(path, manifest)
    return Bundle(path, manifest)


def create(path: Path, fill: Callable[[Path], Manifest]) -> Bundle:
    """Make a new bundle: `fill` writes its files into the folder it is given, and returns the manifest less `files`."""
    with atomic_folder(path) as folder:
        manifest = fill(folder)
        _write_manifest(folder / MANIFEST, manifest.model_copy(update={"files": _hashes(folder)}))
    return load(path)


def add(bundle: Bundle, fill: Callable[[Path], Manifest]) -> Bundle:
    """Add files to a bundle, or replace some; the manifest is replaced last. `fill` as in `create`.

    Replacing a file of the same name is seen as damage until the new manifest is there: a stop in between never passes
    for a good bundle.
    """
    folder = Path(tempfile.mkdtemp(dir=bundle.path.parent, prefix=f".{bundle.path.name}.", suffix=".part"))
    try:
        manifest = fill(folder)
        hashes = _hashes(folder)
        files = bundle.manifest.files | hashes
        with _undone_on_error(bundle.path, folder / "replaced", list(hashes)):
            for name in hashes:
                target = inside(bundle.path, name)
                target.parent.mkdir(parents=True, exist_ok=True)
                (folder / name).replace(target)  # both lie in the same file system: whole or not at all
            _write_manifest(bundle.path / MANIFEST, manifest.model_copy(update={"files": files}))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return load(bundle.path)


@contextlib.contextmanager
def _undone_on_error(bundle: Path, aside: Path, names: list[str]) -> Iterator[None]:
    """Keep the files that are about to be replaced, and put them back where the block fails."""
    kept = [name for name in names if (bundle / name).exists()]
    for name in kept:
        (aside / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(bundle / name, aside / name)
    try:
        yield
    except BaseException:
        for name in names:
            if name in kept:
                (aside / name).replace(bundle / name)
            else:
                (bundle / name).unlink(missing_ok=True)
        raise


def write_golden(golden: Golden, path: Path) -> None:
    """Write `golden.npz`: arrays `input`, `output`, `labels` (where known) and `count:<node>`."""
    golden.check("golden samples")
    arrays: dict[str, Any] = {"input": golden.input, "output": golden.output}
    if golden.labels is not None:
        arrays["labels"] = golden.labels
    arrays |= {COUNT + name: count for name, count in golden.counts.items()}
    with atomic_file(path) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)


def read_golden(path: Path) -> Golden:
    """Read `golden.npz` as an untrusted file: no pickles, sizes limited, shapes that fit each other."""
    arrays = read_arrays(path)
    counts = {name.removeprefix(COUNT): array for name, array in arrays.items() if name.startswith(COUNT)}
    if missing := {"input", "output"} - set(arrays):
        raise BadInput(f"'{path}' holds no golden samples: '{min(missing)}' is missing")
    golden = Golden(arrays["input"], arrays["output"], arrays.get("labels"), counts)
    golden.check(f"'{path}'")
    return golden


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of an .npz file, without unpickling, and only if together they stay below a limit."""
    try:
        with zipfile.ZipFile(path) as file:
            size = sum(item.file_size for item in file.infolist())
        if size > MAX_ARRAY_BYTES:
            raise BadInput(f"'{path}' unpacks to {size} bytes, more than {MAX_ARRAY_BYTES}: it was refused")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except FileNotFoundError:
        raise BadInput(f"'{path}' does not exist: check the path") from None
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise BadInput(f"'{path}' is not a readable .npz file of plain arrays: {one_line(str(error)):.160}") from None


def _read_manifest(path: Path) -> Manifest:
    file = path / MANIFEST
    if not file.is_file():
        raise BadInput(f"'{path}' is no bundle: it has no {MANIFEST}; give a folder that stdl-export wrote")
    if file.stat().st_size > MAX_MANIFEST_BYTES:
        raise BadInput(f"'{file}' is larger than {MAX_MANIFEST_BYTES >> 20} MiB: it was refused")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"'{file}' is not JSON: {one_line(str(error)):.160}") from None
    if not isinstance(content, dict) or content.get("schema_version") != SCHEMA_VERSION:
        found = content.get("schema_version") if isinstance(content, dict) else None
        raise BadInput(
            f"'{file}' has schema version {found!r}, this version of stdl reads {SCHEMA_VERSION}: export it again"
        )
    return validate(Manifest, content, f"'{file}'")


def _misfit(manifest: Manifest, graph: nir.NIRGraph) -> str | None:
    """What the manifest says of inputs and outputs that the graph says otherwise; None where they agree."""
    shapes = graphs.shapes(graph)
    into, out = shapes[graphs.input_name(graph)], shapes[graphs.output_name(graph)]
    if manifest.input.shape != into or manifest.output.shape != out:
        return f"it says {manifest.input.shape} -> {manifest.output.shape}, the graph {into} -> {out}"
    if manifest.classes is not None and len(manifest.classes) != math.prod(out):
        return f"it names {len(manifest.classes)} classes for {math.prod(out)} outputs"
    if manifest.data is not None and not len(manifest.data.mean) == len(manifest.data.std) == into[0]:
        return f"it normalises {len(manifest.data.mean)} channels of {into[0]}"
    return None


def _refuse_unnamed(path: Path, manifest: Manifest) -> None:
    """Refuse whatever lies in the folder and has no hash, links to folders included."""
    named = {MANIFEST, *(PurePosixPath(name).as_posix() for name in manifest.files)}
    for found in sorted(path.rglob("*")):
        name = found.relative_to(path).as_posix()
        if name not in named and (found.is_symlink() or not found.is_dir()):
            raise BadInput(f"bundle '{path}': file '{name}' is not named in {MANIFEST}: remove it or export again")


def _write_manifest(path: Path, manifest: Manifest) -> None:
    with atomic_file(path) as part:
        part.write_text(json.dumps(manifest.model_dump(mode="json"), indent=2) + "\n", encoding="utf-8")


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): sha256(file) for file in files}
