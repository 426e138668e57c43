"""Mutations of .nir files: what damage, other tools' bugs and malice leave of one. Each is a row in `MUTATIONS`.

A mutation changes a file in place, drawn from a seeded generator. Those of `BYTES` do not know HDF5; the others edit
its data sets with h5py, since `nir` would refuse to write most of what comes out.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

Draw = np.random.Generator
HUGE = [2**31 - 1, 2**31, 2**40, 2**62, -1, 0, 10**6, 10**9]
ODD_NAMES = ["", ".", "..", "a/b", " ", "\n", "ü", "a" * 300, "input", "%s{}", "'\"", "Affine@cycle", "-1", "\u202e"]


def flip_bits(path: Path, rng: Draw) -> None:
    """One to four bits anywhere."""
    content = bytearray(path.read_bytes())
    for _ in range(rng.integers(1, 5)):
        content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)


def change_bytes(path: Path, rng: Draw) -> None:
    """A run of bytes is 0, 255 or random."""
    content = bytearray(path.read_bytes())
    at, length = int(rng.integers(len(content))), int(rng.integers(1, 33))
    run = [bytes(length), b"\xff" * length, rng.bytes(length)][rng.integers(3)]
    content[at : at + length] = run[: len(content) - at]
    path.write_bytes(content)


def change_header(path: Path, rng: Draw) -> None:
    """A byte of the first 2 KiB, where HDF5 keeps its structure."""
    content = bytearray(path.read_bytes())
    content[rng.integers(min(2048, len(content)))] = int(rng.integers(256))
    path.write_bytes(content)


def cut(path: Path, rng: Draw) -> None:
    """The file ends early."""
    content = path.read_bytes()
    path.write_bytes(content[: rng.integers(len(content))])


def move_block(path: Path, rng: Draw) -> None:
    """A block of the file is copied over another."""
    content = bytearray(path.read_bytes())
    length = int(rng.integers(1, 257))
    source, target = (int(rng.integers(max(1, len(content) - length))) for _ in range(2))
    content[target : target + length] = content[source : source + length]
    path.write_bytes(content)


# --- fields ---------------------------------------------------------------------------------------------------------


def _data_sets(file: h5py.File, under: str = "") -> list[str]:
    found: list[str] = []
    file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
    return [name for name in found if under in name]


def _groups(file: h5py.File) -> list[str]:
    """Groups of nodes, those of sub-graphs included."""
    found: list[str] = []
    file.visititems(lambda name, item: found.append(name) if name.split("/")[-2:-1] == ["nodes"] else None)
    return found


def _pick(options: list[Any], rng: Draw) -> Any:
    return options[rng.integers(len(options))]


def _put(file: h5py.File, name: str, value: Any) -> None:
    del file[name]
    file[name] = value


def change_number(path: Path, rng: Draw) -> None:
    """One number of a field, or all, is NaN, infinite, negative, 0, tiny or huge."""
    with h5py.File(path, "r+") as file:
        name = _pick([name for name in _data_sets(file, "nodes/") if file[name].dtype.kind in "iuf"], rng)
        value = np.array(file[name][()])
        if value.dtype.kind == "f":
            new = _pick([np.nan, np.inf, -np.inf, -1.0, 0.0, -0.0, 1e-45, 1e30, 3e38, -3e38, 1e-12, 7.5], rng)
        else:
            new = _pick([number for number in HUGE if abs(number) <= np.iinfo(value.dtype).max], rng)
        if value.ndim and value.size and rng.integers(2):
            value.reshape(-1)[rng.integers(value.size)] = new
        else:
            value[...] = new
        _put(file, name, value)


def change_shape(path: Path, rng: Draw) -> None:
    """A field is empty, 0-d, longer, shorter, transposed, or has a dimension more."""
    with h5py.File(path, "r+") as file:
        name = _pick([name for name in _data_sets(file, "nodes/") if file[name].dtype.kind in "iuf"], rng)
        value = np.atleast_1d(file[name][()])
        changes: list[Callable[[], Any]] = [
            lambda: value[:0], lambda: value.reshape(-1)[:1].reshape(()), lambda: np.concatenate([value, value]),
            lambda: value[:-1], lambda: value.T, lambda: value[None], lambda: value[..., None],
            lambda: value.reshape(-1), lambda: np.zeros((0, 3), value.dtype), lambda: np.ones((1,) * 20, value.dtype),
        ]  # fmt: skip
        _put(file, name, _pick(changes, rng)())


def change_type(path: Path, rng: Draw) -> None:
    """A field has another type: text, other numbers, opaque, compound, references."""
    with h5py.File(path, "r+") as file:
        name = _pick(_data_sets(file, "node"), rng)
        value = file[name][()]
        numbers = np.asarray(value) if np.asarray(value).dtype.kind in "iufb" else np.zeros(2)
        finite = np.nan_to_num(numbers)
        options: list[Callable[[], Any]] = [
            lambda: "text", lambda: ["some", "text"], lambda: "", lambda: finite.astype(np.int8),
            lambda: finite.astype(np.uint64), lambda: finite.astype(np.float16), lambda: finite.astype(bool),
            lambda: finite.astype(np.float64), lambda: finite.astype(np.complex64), lambda: np.void(b"opaque"),
            lambda: np.zeros(2, [("a", "f4"), ("b", "i4")]), lambda: h5py.Empty("f"), lambda: "0.5",
            lambda: np.asarray(finite, dtype=">f4"), lambda: np.bytes_(b"\xff\xfe"), lambda: "NIRGraph",
        ]  # fmt: skip
        _put(file, name, _pick(options, rng)())


def drop_field(path: Path, rng: Draw) -> None:
    """A data set or a group is gone."""
    with h5py.File(path, "r+") as file:
        del file[_pick([*_data_sets(file), *_groups(file)], rng)]


def add_field(path: Path, rng: Draw) -> None:
    """A field that no node has, or one of another node."""
    with h5py.File(path, "r+") as file:
        names = _data_sets(file)
        source, group = _pick(names, rng), _pick(_groups(file), rng)
        name = f"{group}/{_pick([source.split('/')[-1], 'extra', 'tau', 'metadata', 'nodes', 'edges'], rng)}"
        if name not in file and isinstance(file[group], h5py.Group):
            file[name] = file[source][()]


def change_kind(path: Path, rng: Draw) -> None:
    """A node is said to be of another type."""
    kinds = ["LIF", "IF", "Linear", "NIRGraph", "Conv2d", "Delay", "Flatten", "Input", "Output", "Nothing", "CubaLIF"]
    with h5py.File(path, "r+") as file:
        _put(file, _pick([name for name in _data_sets(file) if name.endswith("/type")], rng), _pick(kinds, rng))


def declare_huge(path: Path, rng: Draw) -> None:
    """A chunked field declares a shape that nothing could hold; the file stays small."""
    with h5py.File(path, "r+") as file:
        name = _pick(_data_sets(file, "nodes/"), rng)
        shape = _pick([(2**40,), (2**20, 2**20), (2**62,), (3, 2**30)], rng)
        kind = _pick(["f4", "i8", "S16", h5py.string_dtype()], rng)
        del file[name]
        file.create_dataset(name, shape=shape, dtype=kind, chunks=(1,) * (len(shape) - 1) + (1024,))


def link(path: Path, rng: Draw) -> None:
    """A soft, external or circular link in the place of something."""
    with h5py.File(path, "r+") as file:
        name = _pick([*_data_sets(file), *_groups(file)], rng)
        del file[name]
        links = [h5py.SoftLink("/node/nodes"), h5py.SoftLink("/nowhere"), h5py.ExternalLink("/etc/passwd", "/")]
        file[name] = _pick([*links, h5py.ExternalLink(path.name, "/node"), file["node"]], rng)


# --- edges, names, metadata -----------------------------------------------------------------------------------------


def change_edges(path: Path, rng: Draw) -> None:
    """An edge is removed, added, doubled, turned round, or leads nowhere."""
    with h5py.File(path, "r+") as file:
        name = _pick([name for name in _data_sets(file) if name.endswith("edges")], rng)
        edges = [[bytes(end).decode() for end in edge] for edge in file[name][()]]
        nodes = [*file[name.rsplit("/", 1)[0] + "/nodes"]]
        at = int(rng.integers(len(edges)))
        change = rng.integers(6)
        if change == 0:
            del edges[at]
        elif change == 1:
            edges.append([_pick(nodes, rng), _pick(nodes, rng)])
        elif change == 2:
            edges.append(edges[at])
        elif change == 3:
            edges[at] = edges[at][::-1]
        elif change == 4:
            edges[at][rng.integers(2)] = _pick(ODD_NAMES, rng)
        else:
            edges = [[*edge, "more"] for edge in edges]
        _put(file, name, np.array(edges, dtype=h5py.string_dtype()).reshape(-1, len(edges[0]) if edges else 2))


def rename(path: Path, rng: Draw) -> None:
    """A node gets an odd name; its edges follow it, mostly."""
    with h5py.File(path, "r+") as file:
        group = _pick(_groups(file), rng)
        parent, old = group.rsplit("/", 1)
        new = _pick([name for name in ODD_NAMES if name not in ("", ".", "..", *file[parent])], rng)
        file.move(group, f"{parent}/{new}")
        name = parent.rsplit("/", 1)[0] + "/edges"
        if rng.integers(4) and name in file:
            edges = [[bytes(end).decode() for end in edge] for edge in file[name][()]]
            edges = [[new if end == old else end for end in edge] for edge in edges]
            _put(file, name, np.array(edges, dtype=h5py.string_dtype()))


def nest(path: Path, rng: Draw) -> None:
    """A whole graph is put in the place of a node, or deep inside itself."""
    with h5py.File(path, "r+") as file:
        for _ in range(int(rng.integers(1, 4))):
            group = _pick(_groups(file), rng)
            file.copy("node", file, "copied")
            del file[group]
            file.move("copied", group)


def metadata(path: Path, rng: Draw) -> None:
    """Metadata of a type, or with a value, that it cannot have."""
    keys = ["stdl.dt", "stdl.T", "stdl.dialect", "stdl.reset", "stdl.input", "stdl.output", "stdl.new", "other", "a/b"]
    values = [
        -1, 0, 2**62, 1e-30, 1e30, float("nan"), "text", "", "{}", "{" * 5000, [1, 2], "repeat", "mean", "nir", "norse",
        '{"graph": {"dt": 1e-3}}', '{"nodes": {"x": {"reset": "none"}}}', True, "subtract", 3, "\n", np.zeros((3, 3)),
    ]  # fmt: skip
    with h5py.File(path, "r+") as file:
        owner = _pick(["node", *_groups(file)], rng)
        if isinstance(file[owner], h5py.Group):
            name = f"{owner}/metadata/{_pick(keys, rng)}"
            if name in file:
                del file[name]
            if isinstance(file.get(f"{owner}/metadata", file), h5py.Group):
                file[name] = _pick(values, rng)


BYTES = (flip_bits, change_bytes, change_header, cut, move_block)
MUTATIONS: dict[str, Callable[[Path, Draw], None]] = {
    mutation.__name__: mutation
    for mutation in (
        *BYTES, change_number, change_shape, change_type, drop_field, add_field, change_kind, declare_huge, link,
        change_edges, rename, nest, metadata,
    )
}  # fmt: skip


def change_dialect(path: Path, rng: Draw) -> None:
    """A choice of a dialect in a `case.json` is another value, or one that there is not."""
    values = ["", ">", "none", "v_reset", -1, 1e308, True, None, [], {}, "1/0", "exp(exp(9**9))", "(" * 500, 10**9]
    content = json.loads(path.read_text(encoding="utf-8"))
    part = content.get("dialect", content)
    while isinstance(part, dict) and part:
        key = _pick(sorted(part), rng)
        if not isinstance(part[key], dict) or not part[key] or not rng.integers(4):
            part[_pick([key, key, key, "unknown"], rng)] = _pick(values, rng)
            break
        part = part[key]
    path.write_text(json.dumps(content), encoding="utf-8")
