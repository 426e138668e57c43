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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import nir
import numpy as np
import pydantic
from numpy.typing import NDArray

from stdl_export import graph as graphs
from stdl_export.common.config import read_json, validate
from stdl_export.common.errors import BadInput, one_line
from stdl_export.common.files import atomic_file, atomic_folder, inside, sha256

SCHEMA_VERSION: Literal[2] = 2  # 1: one input and one output, with no names
MANIFEST = "manifest.json"
GRAPH = "graph.nir"
GOLDEN = "golden.npz"

MAX_MANIFEST_BYTES = 16 << 20
MAX_ARRAY_BYTES = 8 << 30  # all arrays of an .npz file together, unpacked

INPUT, OUTPUT, COUNT = "input", "output", "count:"

Array = NDArray[np.float32]

Values = Array | Mapping[graphs.NodeName, Array]
"""What goes in or comes out: an array, or, of several Inputs or Outputs, one for each by its name."""

Precision = Literal["fp32", "fp16", "int8"]
Membrane = Literal["fp32", "fp16"]
Origin = Literal["trained", "reference"]


class _Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TensorInfo(_Model):
    """An Input or Output by its path, and what its tensor is called in graphs and engines; shape without T and B."""

    node: str
    name: str
    shape: tuple[pydantic.PositiveInt, ...]
    dtype: Literal["float32"] = "float32"


class InputInfo(_Model):
    """What goes in, all of it alike: `repeat` is one frame [B, ...] for all steps, `sequence` is [T, B, ...].

    encoding: where there is one Input and it is known, the encoder that makes it of samples, with its options and its
    seed; "frames": recordings as they are.
    """

    mode: graphs.InputMode
    encoding: str | None = None
    encoding_options: dict[str, bool | int | float | str] = {}
    encoding_seed: pydantic.NonNegativeInt = 0
    tensors: tuple[TensorInfo, ...] = pydantic.Field(min_length=1)

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the one Input; BadInput where there are several."""
        if len(self.tensors) != 1:
            names = ", ".join(f"'{tensor.node}'" for tensor in self.tensors)
            raise BadInput(f"the network has {len(self.tensors)} Inputs, {names}: give an array for each, by name")
        return self.tensors[0].shape


class DataInfo(_Model):
    """The data set it was trained on, and its options.

    The network takes (x - mean) / std per channel, x: what comes of the encoder, pictures being in [0, 1].
    """

    name: str
    options: dict[str, Any] = {}
    mean: tuple[float, ...]
    std: tuple[pydantic.PositiveFloat, ...]


class OutputInfo(_Model):
    """What comes out, and how the T outputs of each Output become one answer.

    prediction: the Output that classifies the sample, the only one that classes and labels are about; None where there
    are several and none was named.
    """

    decoding: graphs.Decoding
    prediction: str | None
    tensors: tuple[TensorInfo, ...] = pydantic.Field(min_length=1)


class GoldenInfo(_Model):
    """Who computed the golden outputs: the trained network, or the reference from the graph."""

    origin: Origin
    samples: pydantic.PositiveInt


class Tolerances(_Model):
    """What parity allows: the share of flips further than `flip_margin` from the threshold, and the agreement.

    outputs: how far outputs may be off where all spikes are the same, relative to the largest output.
    """

    precision: Precision = "fp32"
    flip_margin: pydantic.NonNegativeFloat = 1e-5
    flips: pydantic.NonNegativeFloat = 0.0
    agreement: float = pydantic.Field(0.999, ge=0, le=1)
    outputs: pydantic.NonNegativeFloat = 1e-4  # in fp32, sums of thousands of terms differ by less

    @classmethod
    def of(cls, precision: Precision) -> Tolerances:
        """Those of a precision. Layers are judged strictly, one by one; whole networks carry each flip on."""
        return TOLERANCES[precision]


TOLERANCES: dict[Precision, Tolerances] = {
    "fp32": Tolerances(),
    "fp16": Tolerances(precision="fp16", flips=0.0002, agreement=0.98, outputs=5e-3),
    "int8": Tolerances(precision="int8", flips=0.003, agreement=0.9, outputs=3e-2),
}


class Arithmetic(_Model):
    """What the graphs compute in: nodes with weights in `precision`, but for `fp32_nodes`; v and i are stored so."""

    precision: Precision = "fp32"
    membrane: Membrane = "fp32"
    fp32_nodes: tuple[str, ...] = ()

    def said(self) -> dict[str, str]:
        """As an ONNX graph's metadata say it."""
        exceptions = {"fp32_nodes": json.dumps(self.fp32_nodes)} if self.fp32_nodes else {}
        return {"precision": self.precision, "membrane": self.membrane, **exceptions}


FP32 = Arithmetic()


class StateInfo(_Model):
    """One state of the step graph: its tensors' names, and its shape without B. It starts as `states.npz` says."""

    node: str
    var: str
    input: str
    output: str
    shape: tuple[pydantic.PositiveInt, ...]
    dtype: Literal["float32", "float16"] = "float32"


class EngineInfo(_Model):
    """A TensorRT engine: `batch` is its profile (min, opt, max), `graph_sha256` of the graph.nir it was made from."""

    file: str
    flavour: Literal["tensorrt", "tensorrt_rtx"]
    version: str
    mode: Literal["sequence", "step"]
    tf32: bool
    batch: tuple[pydantic.PositiveInt, pydantic.PositiveInt, pydantic.PositiveInt]
    timesteps: pydantic.PositiveInt | None
    final_states: bool = False
    compute_capability: str | None
    graph_sha256: str


class Manifest(_Model):
    """`manifest.json`. dt in seconds; timesteps is None where T is dynamic; files maps names to SHA-256."""

    schema_version: Literal[2] = SCHEMA_VERSION
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
    arithmetic: Arithmetic = FP32
    tolerances: Tolerances = Tolerances()
    states: tuple[StateInfo, ...] = ()
    final_states: bool = False
    """Does model.onnx put out every state after the last step, each as its `output`?"""
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

    input: Values
    output: Values
    labels: NDArray[np.integer[Any]] | None = None
    counts: dict[graphs.NodeName, NDArray[np.integer[Any]]] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        """B."""
        return int(self._first_output.shape[1])

    @property
    def timesteps(self) -> int:
        """T."""
        return len(self._first_output)

    @property
    def _first_output(self) -> Array:
        return next(iter(labelled(OUTPUT, self.output).values()))

    def check(self, where: str) -> None:
        """Refuse arrays that do not fit each other."""
        inputs, outputs = labelled(INPUT, self.input), labelled(OUTPUT, self.output)
        for arrays, axes in ((inputs, 2), (outputs, 3)):
            if not arrays or any(each.dtype != np.float32 or each.ndim < axes for each in arrays.values()):
                raise BadInput(f"{where}: input [B, ...] or [T, B, ...] and output [T, B, ...] must be float32")
        batched = dict(self.counts) if self.labels is None else {"labels": self.labels, **self.counts}
        for name, array in batched.items():
            if array.dtype.kind not in "iu" or array.shape[:1] != (self.samples,):
                raise BadInput(f"{where}: '{name}' must hold whole numbers, one row for each of {self.samples} samples")
        for name, x in inputs.items():
            if not self.samples or self.samples not in x.shape[:2]:
                raise BadInput(f"{where}: {name} {x.shape} and output {self._first_output.shape} differ in samples")
        for name, y in outputs.items():
            if y.shape[:2] != self._first_output.shape[:2]:
                raise BadInput(f"{where}: {name} {y.shape} and {self._first_output.shape} differ in time or samples")

    def head(self, samples: int, mode: graphs.InputMode) -> Golden:
        """The first samples only."""
        return Golden(
            mapped(self.input, lambda x: x[:samples] if mode == "repeat" else x[:, :samples]),
            mapped(self.output, lambda y: y[:, :samples]),
            None if self.labels is None else self.labels[:samples],
            {name: count[:samples] for name, count in self.counts.items()},
        )


def mapped(values: Values, change: Callable[[Array], Array]) -> Values:
    """The values, each of them changed."""
    if isinstance(values, Mapping):
        return {name: change(array) for name, array in values.items()}
    return change(values)


def labelled(kind: str, values: Values) -> dict[str, Array]:
    """The values as `golden.npz` calls them: `input`, or of several `input:<node>`."""
    if isinstance(values, Mapping):
        return {f"{kind}:{name}": array for name, array in values.items()}
    return {kind: values}


def _unlabelled(kind: str, arrays: Mapping[str, Array]) -> Values | None:
    """The inverse; None where there are none."""
    mark = f"{kind}:"
    several = {name.removeprefix(mark): array for name, array in arrays.items() if name.startswith(mark)}
    return several or arrays.get(kind)


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
    """Write `golden.npz`: arrays `input`, `output`, `labels` (where known) and `count:<node>`.

    Of several Inputs or Outputs they are `input:<node>`, `output:<node>`.
    """
    golden.check("golden samples")
    arrays: dict[str, Any] = labelled(INPUT, golden.input) | labelled(OUTPUT, golden.output)
    if golden.labels is not None:
        arrays["labels"] = golden.labels
    arrays |= {COUNT + name: count for name, count in golden.counts.items()}
    with atomic_file(path) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)


def read_golden(path: Path) -> Golden:
    """Read `golden.npz` as an untrusted file: no pickles, sizes limited, shapes that fit each other."""
    arrays = read_arrays(path)
    counts = {name.removeprefix(COUNT): array for name, array in arrays.items() if name.startswith(COUNT)}
    x, y = _unlabelled(INPUT, arrays), _unlabelled(OUTPUT, arrays)
    if x is None or y is None:
        raise BadInput(f"'{path}' holds no golden samples: '{INPUT if x is None else OUTPUT}' is missing")
    golden = Golden(x, y, arrays.get("labels"), counts)
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
        content = read_json(file.read_text(encoding="utf-8"))
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


def _write_manifest(path: Path, manifest: Manifest) -> None:
    with atomic_file(path) as part:
        part.write_text(json.dumps(manifest.model_dump(mode="json"), indent=2) + "\n", encoding="utf-8")


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): sha256(file) for file in files}
