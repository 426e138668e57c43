"""The disk is full while a bundle is written: the file that had no room is named, and nothing is there that was not."""

from __future__ import annotations

import itertools
import resource
import shutil
from pathlib import Path

import pytest
from bundles import make
from commands import call, content, error
from small_graphs import conv_net, frames

from stdl_export import graph as graphs

ROOM = (0, 150, 5000, 15_000, 40_000)  # bytes that a file may have, less than graph.nir has


@pytest.fixture
def room():
    """Sets how long a file may become, as a full disk or quota does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def full(capsys, room, size: int, *args: object) -> str:
    """The line that is said when no file may be longer than that; what pytest itself writes may."""
    room(size)
    try:
        return error(capsys, "export", *args)
    finally:
        room(resource.RLIM_INFINITY)


@pytest.mark.parametrize("size", ROOM)
def test_a_new_bundle_is_not_there(tmp_path: Path, capsys, room, size: int) -> None:
    graphs.write(conv_net(), tmp_path / "net.nir")
    line = full(capsys, room, size, tmp_path / "net.nir", "--target", "onnx,triton,svg", "--out", tmp_path / "net")
    assert f"'{tmp_path}/net/graph.nir' could not be written: File too large; make room and export again" in line
    assert [path.name for path in tmp_path.iterdir()] == ["net.nir"]


ORDERS = ("svg,onnx,triton", "onnx,triton,svg")  # what comes first is first without room


def test_parts_are_not_added_whichever_file_has_no_room(tmp_path: Path, capsys, room) -> None:
    """Each file is the one without room in turn: of the lengths that they have, one byte less is too little."""
    bundle, named = make(tmp_path / "net", conv_net(), frames(3, 2, 6, 6)), set()
    before = content(bundle.path)
    shutil.copytree(bundle.path, tmp_path / "with" / "net")
    parts = {order: ("--target", order, "--time-form", "scan") for order in ORDERS}
    assert call(capsys, "export", tmp_path / "with" / "net", *parts[ORDERS[0]])[0] == 0
    after = content(tmp_path / "with" / "net")
    sizes = sorted({len(made) for name, made in after.items() if before.get(name) != made})
    for size, order in itertools.product(sizes, ORDERS):
        line = full(capsys, room, size - 1, bundle.path, *parts[order])
        assert "could not be written: File too large; make room and export again" in line
        named.add(line.split("'")[1].removeprefix(f"{bundle.path}/"))
        assert content(bundle.path) == before
        assert sorted(path.name for path in tmp_path.iterdir()) == ["net", "with"]
    assert len(named) > 2, named
    assert named <= after.keys()
    assert call(capsys, "export", bundle.path, *parts[ORDERS[1]])[0] == 0
    assert content(bundle.path) == after


@pytest.mark.parametrize("option", ["--json", "--report", "--junit", "--markdown"])
def test_what_a_validation_writes_is_whole_or_not_there(tmp_path: Path, capsys, room, option: str) -> None:
    """An earlier one stays."""
    pytest.importorskip("onnxruntime")
    bundle = make(tmp_path / "net", conv_net(), frames(3, 2, 6, 6))
    (tmp_path / "out").mkdir()
    file = tmp_path / "out" / "file"
    file.write_text("earlier")
    room(100)
    try:
        code, lines = call(capsys, "validate", bundle.path, "--runtime", "reference,onnxruntime", option, file)
    finally:
        room(resource.RLIM_INFINITY)
    assert (code, lines) == (2, [f"error: '{file}': File too large"])
    assert content(tmp_path / "out") == {"file": b"earlier"}
