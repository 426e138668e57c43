"""Mutations of a bundle: what damage and malice make of its manifest, its ONNX graphs and its arrays.

Each changes one file in place, drawn from a seeded generator, or makes the folder another. Afterwards the manifest may
be written again with the right hashes (`rehash`): whoever changes a file on purpose changes its hash too.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from mutations import BYTES, _pick
from onnx import TensorProto, helper, numpy_helper

Draw = np.random.Generator
Mutation = Callable[[Path, Draw], None]
MANIFEST = "manifest.json"
ARRAYS = ("golden.npz", "states.npz")
SECRET = "secret"
"""A file beside the folder that the bundle lies in, which nothing is to open."""

VALUES = [
    None, True, False, 0, -1, 1, 7, 2**31, 2**63, 10**30, 0.0, -1.5, 1e308, "", "x", "../x", "/etc/passwd", "\n",
    "\ud800", "a" * 2000, "\u202e", [], {}, [[]], [None], {"a": 1}, "float64", "mean", "repeat", "sequence",
    [10**9, 10**9],
]  # fmt: skip
NAMES = [
    "../outside", "../../secret", "/etc/hostname", "..", ".", "", "a\\b", "model.onnx/..", "./model.onnx", "deep/er/x",
    "\0", "x" * 5000, "\n", "engine/tensorrt_rtx.step.engine", "manifest.json", "CON", "golden.npz/x", "~/x", "%s",
    "//etc/hostname",
]  # fmt: skip


# --- manifest -------------------------------------------------------------------------------------------------------


def _manifest(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads((bundle / MANIFEST).read_text())
    change(content)
    (bundle / MANIFEST).write_text(json.dumps(content))


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every place in a JSON value that could be another: (what holds it, key or number)."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    return [place for key in keys for place in [(value, key), *_places(value[key])]]


def change_value(bundle: Path, rng: Draw) -> None:
    """A value anywhere is another."""

    def change(content: dict[str, Any]) -> None:
        holder, key = _pick(_places(content), rng)
        holder[key] = _pick(VALUES, rng)

    _manifest(bundle, change)


def swap_values(bundle: Path, rng: Draw) -> None:
    """A value is that of another place."""

    def change(content: dict[str, Any]) -> None:
        (holder, key), (other, from_key) = _pick(_places(content), rng), _pick(_places(content), rng)
        holder[key] = json.loads(json.dumps(other[from_key]))

    _manifest(bundle, change)


def drop_key(bundle: Path, rng: Draw) -> None:
    """Something is left out."""

    def change(content: dict[str, Any]) -> None:
        holder, key = _pick(_places(content), rng)
        del holder[key]

    _manifest(bundle, change)


def add_key(bundle: Path, rng: Draw) -> None:
    """Something more stands there."""

    def change(content: dict[str, Any]) -> None:
        holders = [content, *(holder[key] for holder, key in _places(content) if isinstance(holder[key], dict))]
        _pick(holders, rng)[_pick(["extra", "files", "dt", "../x", "node"], rng)] = _pick(VALUES, rng)

    _manifest(bundle, change)


def name_file(bundle: Path, rng: Draw) -> None:
    """A file has another name, which may lead out, and a hash of a file that is there, of one outside, or of none."""
    secret = bundle.parents[1] / SECRET
    name, outside = _pick([*NAMES, str(secret)], rng), hashlib.sha256(secret.read_bytes()).hexdigest()

    def change(content: dict[str, Any]) -> None:
        files = content["files"]
        hashes = [*files.values(), outside, "0" * 64, "x"]
        if rng.integers(2):
            del files[_pick([*files], rng)]
        files[name] = _pick(hashes, rng)

    _manifest(bundle, change)


def name_engine(bundle: Path, rng: Draw) -> None:
    """An engine that is none, or lies elsewhere."""

    def change(content: dict[str, Any]) -> None:
        file = _pick([*NAMES, *content["files"]], rng)
        engine = {
            "file": file, "flavour": _pick(["tensorrt", "tensorrt_rtx"], rng), "version": _pick(["10.3", ""], rng),
            "mode": _pick(["sequence", "step"], rng), "tf32": False, "batch": _pick([[1, 1, 16], [4, 2, 1]], rng),
            "timesteps": _pick([None, 4], rng), "compute_capability": _pick([None, "8.7"], rng),
            "graph_sha256": content["files"]["graph.nir"],
        }  # fmt: skip
        content["engines"] = [engine] * int(rng.integers(1, 3))

    _manifest(bundle, change)


def odd_text(bundle: Path, rng: Draw) -> None:
    """The manifest is no JSON, or JSON that readers disagree about."""
    text = (bundle / MANIFEST).read_text()
    options = [
        text[: rng.integers(len(text) + 1)], "", "[]", "null", "[" * 100_000, '{"a":' * 50_000, text + text,
        text.replace('"dt"', '"dt": 1, "dt"', 1), text.replace('"files": {', '"files": {"x": "y",', 1), "\ufeff" + text,
        text.replace("4", "NaN", 1), text.replace("4", "1e999", 1), text.replace("4", "9" * 5000, 1),
    ]  # fmt: skip
    (bundle / MANIFEST).write_text(_pick(options, rng))


# --- ONNX graphs ----------------------------------------------------------------------------------------------------


def _graphs(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    """A graph and the bodies in it."""
    bodies = [each.g for node in graph.node for each in node.attribute if each.type == onnx.AttributeProto.GRAPH]
    return [graph, *(inner for body in bodies for inner in _graphs(body))]


def _onnx(bundle: Path, rng: Draw, change: Callable[[onnx.ModelProto, onnx.GraphProto], None]) -> None:
    file = bundle / _pick(sorted(path.name for path in bundle.glob("*.onnx")), rng)
    model = onnx.load(file, load_external_data=False)
    change(model, _pick(_graphs(model.graph), rng))
    file.write_bytes(model.SerializeToString())


def draw_in_a_file(bundle: Path, rng: Draw) -> None:
    """A tensor's numbers lie in another file: of the bundle, of the system, beside the bundle."""
    secret = str(bundle.parents[1] / SECRET)
    places = [
        "golden.npz",
        secret,
        "../outside",
        "/proc/self/mem",
        "",
        "graph.nir",
        "../" * 12 + secret,
        "../../secret",
    ]

    def change(model: onnx.ModelProto, graph: onnx.GraphProto) -> None:
        tensors = [
            *graph.initializer,
            *(each.t for node in graph.node for each in node.attribute if each.HasField("t")),
        ]
        if not tensors:
            graph.initializer.append(numpy_helper.from_array(np.zeros(2, np.float32), "more"))
            tensors = [graph.initializer[-1]]
        tensor = _pick(tensors, rng)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=_pick(places, rng))
        for key in ("offset", "length"):
            if rng.integers(2):
                tensor.external_data.add(key=key, value=_pick(["0", "8", "-1", str(2**62), "x"], rng))

    _onnx(bundle, rng, change)


def change_node(bundle: Path, rng: Draw) -> None:
    """A node has another operator, domain, input or output, or is gone, doubled or moved."""
    operators = [
        "Add",
        "MatMul",
        "Where",
        "Cast",
        "Loop",
        "Scan",
        "If",
        "Identity",
        "NonZero",
        "ConstantOfShape",
        "Evil",
    ]

    def change(model: onnx.ModelProto, graph: onnx.GraphProto) -> None:
        if not graph.node:
            return
        at, names = (
            int(rng.integers(len(graph.node))),
            [name for node in graph.node for name in (*node.input, *node.output)],
        )
        node, what = graph.node[at], rng.integers(7)
        if what == 0:
            node.op_type = _pick(operators, rng)
        elif what == 1:
            node.domain = _pick(["com.microsoft", "evil", "ai.onnx"], rng)
        elif what == 2 and node.input:
            node.input[int(rng.integers(len(node.input)))] = _pick([*names, "", "nobody"], rng)
        elif what == 3 and node.output:
            node.output[int(rng.integers(len(node.output)))] = _pick([*names, "", "nobody"], rng)
        elif what == 4:
            del graph.node[at]
        elif what == 5:
            graph.node.append(node)
        else:
            graph.node.insert(0, node)

    _onnx(bundle, rng, change)


def change_attribute(bundle: Path, rng: Draw) -> None:
    """An attribute has another value or type, or there is one more."""

    def change(model: onnx.ModelProto, graph: onnx.GraphProto) -> None:
        if not graph.node:
            return
        node = _pick(list(graph.node), rng)
        name = _pick([*(each.name for each in node.attribute), "axis", "perm", "to", "value"], rng)
        values = [0, -1, 2**40, 1.5, float("nan"), "text", [1, 2, 3], [-9], [2**40], np.zeros(0, np.float32)]
        value = _pick(values, rng)
        value = numpy_helper.from_array(value) if isinstance(value, np.ndarray) else value
        kept = [each for each in node.attribute if each.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute(name, value)])

    _onnx(bundle, rng, change)


def change_weight(bundle: Path, rng: Draw) -> None:
    """A weight has other numbers, another shape or type, or less bytes than its shape says."""

    def change(model: onnx.ModelProto, graph: onnx.GraphProto) -> None:
        if not graph.initializer:
            return
        tensor = _pick(list(graph.initializer), rng)
        what = rng.integers(5)
        if what == 0:
            value = numpy_helper.to_array(tensor).copy()
            value.reshape(-1)[...] = _pick([0, -1, 100], rng)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
        elif what == 1:
            tensor.dims[:] = [_pick([0, -1, 2**31, 2**62, 3], rng) for _ in range(rng.integers(4))]
        elif what == 2:
            tensor.data_type = int(rng.integers(0, 25))
        elif what == 3:
            tensor.raw_data = tensor.raw_data[: len(tensor.raw_data) // 2]
        else:
            tensor.name = _pick(["", "input", "nobody"], rng)

    _onnx(bundle, rng, change)


def change_end(bundle: Path, rng: Draw) -> None:
    """An input or output has another name, type or size, or there is one more or less."""

    def change(model: onnx.ModelProto, graph: onnx.GraphProto) -> None:
        ends = _pick([model.graph.input, model.graph.output], rng)
        if not ends:
            return
        end, what = _pick(list(ends), rng), rng.integers(5)
        if what == 0:
            end.name = _pick(["", "input", "nobody", "state.x.v"], rng)
        elif what == 1:
            end.type.tensor_type.elem_type = int(rng.integers(0, 17))
        elif what == 2:
            for dim in end.type.tensor_type.shape.dim:
                dim.dim_value = _pick([0, -1, 3, 2**40], rng)
        elif what == 3:
            ends.append(end)
        else:
            del ends[:]

    _onnx(bundle, rng, change)


def change_versions(bundle: Path, rng: Draw) -> None:
    """Another IR version or opset, another domain, or none."""

    def change(model: onnx.ModelProto, graph: onnx.GraphProto) -> None:
        what = rng.integers(4)
        if what == 0:
            model.ir_version = _pick([0, 3, 99, -1], rng)
        elif what == 1:
            model.opset_import[0].version = _pick([0, 1, 7, 99, -1, 2**40], rng)
        elif what == 2:
            model.opset_import.append(helper.make_opsetid(_pick(["com.microsoft", "evil", ""], rng), 1))
        else:
            model.functions.add(name="f", domain="evil")

    _onnx(bundle, rng, change)


def need_memory(bundle: Path, rng: Draw) -> None:
    """A constant that nothing could hold is made when the graph is opened, or a tensor is far too long."""

    def change(model: onnx.ModelProto, graph: onnx.GraphProto) -> None:
        shape = numpy_helper.from_array(np.array(_pick([[2**40], [2**20, 2**20], [-5], [2**62, 4]], rng)), "huge_shape")
        model.graph.initializer.append(shape)
        model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["huge_shape"], ["huge"]))
        out = model.graph.output[0].name
        for node in model.graph.node[1:]:
            node.output[:] = ["was_output" if name == out else name for name in node.output]
        model.graph.node.append(helper.make_node("ReduceSum", ["huge"], ["summed"]))
        model.graph.node.append(helper.make_node("Add", ["was_output", "summed"], [out]))

    _onnx(bundle, rng, change)


def change_file(bundle: Path, rng: Draw) -> None:
    """Bytes of a graph, of arrays, of the .nir file or of a chip's are others: see `mutations`."""
    files = (path for path in bundle.rglob("*") if path.name != MANIFEST and path.is_file())
    names = sorted(path.relative_to(bundle).as_posix() for path in files)
    _pick(list(BYTES), rng)(bundle / _pick(names, rng), rng)


# --- arrays ---------------------------------------------------------------------------------------------------------


def change_arrays(bundle: Path, rng: Draw) -> None:
    """An array of golden.npz or states.npz has other numbers, another shape, type or name, or is an object."""
    file = bundle / _pick(ARRAYS, rng)
    with np.load(file) as stored:
        arrays = {name: stored[name] for name in stored.files}
    name = _pick([*arrays], rng)
    value, what = arrays[name], rng.integers(8)
    changes: list[Callable[[], Any]] = [
        lambda: value[:0], lambda: np.concatenate([value, value]), lambda: value.astype(np.float64),
        lambda: np.full_like(value, np.nan if value.dtype.kind == "f" else 3), lambda: value[None],
        lambda: np.array([{"a": 1}], dtype=object), lambda: value.reshape(-1), lambda: np.array("text"),
    ]  # fmt: skip
    arrays[name] = changes[what]()
    if not rng.integers(4):
        arrays[_pick(["x", "../x", "count:nobody", "labels", "input:x", "state.x.v"], rng)] = arrays.pop(name)
    np.savez(file, **arrays)


# --- the folder -----------------------------------------------------------------------------------------------------


def change_json(bundle: Path, rng: Draw) -> None:
    """A value in a chip's own description is another, or gone; of a bundle without any, a byte of a file."""
    files = sorted(path for path in bundle.rglob("*.json") if path.name != MANIFEST)
    if not files:
        change_file(bundle, rng)
        return
    file = _pick(files, rng)
    content = json.loads(file.read_text())
    holder, key = _pick(_places(content), rng)
    if rng.integers(3):
        holder[key] = _pick(VALUES, rng)
    else:
        del holder[key]
    file.write_text(json.dumps(content))


def change_folder(bundle: Path, rng: Draw) -> None:
    """A file is gone, a folder, a link that leads out, or one more; or a stopped export lies beside the bundle."""
    names = sorted(path.name for path in bundle.iterdir() if path.is_file() and not path.is_symlink())
    if not names:
        return
    file, what = bundle / _pick(names, rng), rng.integers(6)
    if what == 0:
        file.unlink()
    elif what == 1:
        file.unlink()
        file.mkdir()
    elif what == 2:
        content = file.read_bytes()
        file.unlink()
        (bundle.parent / "outside").write_bytes(content)
        file.symlink_to(
            _pick(["../../secret", "../outside", "nowhere", str(bundle.parent / "outside"), file.name], rng)
        )
    elif what == 3:
        (bundle / _pick(["weights.bin", "..x", "\u202e", ".hidden"], rng)).write_text("x")
    elif what == 4:
        file.unlink()
        os.mkfifo(file)
    else:
        leave_a_journal(bundle, rng)


def leave_a_journal(bundle: Path, rng: Draw) -> None:
    """What a stopped export leaves, with names that lead out, links, or hashes of what is not there."""
    work = bundle.parent / f".{bundle.name}.adding"
    (work / "new").mkdir(parents=True)
    (work / "new" / "x").write_text("x")
    digest = hashlib.sha256(b"x").hexdigest()
    now = hashlib.sha256((bundle / MANIFEST).read_bytes()).hexdigest()
    files = {_pick(["x", *NAMES], rng): _pick([digest, "0" * 64], rng)}
    journal: Any = {"index": _pick([MANIFEST, "x", "../outside"], rng), "before": now, "after": digest, "files": files}
    if rng.integers(3) == 0:
        journal[_pick([*journal], rng)] = _pick(VALUES, rng)
    (work / "journal.json").write_text(json.dumps(journal))
    if rng.integers(4) == 0:
        (work / "new" / MANIFEST).symlink_to(bundle.parents[1] / SECRET)


def rehash(bundle: Path) -> None:
    """Write the hashes of the files that the manifest names as they are now, where it still is a manifest."""
    if not (bundle / MANIFEST).is_file():
        return  # a pipe, perhaps
    try:
        content = json.loads((bundle / MANIFEST).read_text())
        files = content["files"]
        for name in files:
            path = bundle / name
            if path.resolve().is_relative_to(bundle.resolve()) and path.is_file():
                files[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        (bundle / MANIFEST).write_text(json.dumps(content))
    except (ValueError, TypeError, KeyError, AttributeError, OSError, RuntimeError):  # of a manifest that is none
        return


IN_THE_MANIFEST: tuple[Mutation, ...] = (change_value, swap_values, drop_key, add_key, name_file, name_engine, odd_text)
IN_FILES: tuple[Mutation, ...] = (
    draw_in_a_file, change_node, change_attribute, change_weight, change_end, change_versions, need_memory, change_file,
    change_arrays, change_json,
)  # fmt: skip
MUTATIONS: dict[str, Mutation] = {each.__name__: each for each in (*IN_THE_MANIFEST, *IN_FILES, change_folder)}
