"""A bundle that is not as it was exported: each command says what is wrong, on one line, and runs nothing of it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from bundles import make
from commands import error
from small_graphs import conv_net, frames

from stdl_export.common.errors import BadInput, Unavailable
from stdl_runtimes import load

FILES = (
    "golden.npz", "graph.dot", "graph.nir", "manifest.json", "model.onnx", "model.probe.onnx", "model.step.onnx",
    "states.npz", "triton/small-step/1/model.onnx", "triton/small-step/config.pbtxt", "triton/small/1/model.onnx",
    "triton/small/config.pbtxt",
)  # fmt: skip
COMMANDS = (("validate",), ("export", "--target", "svg"))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxruntime")
    made = make(tmp_path_factory.mktemp("b") / "net", conv_net(), frames(3, 2, 6, 6), targets=("onnx", "triton", "dot"))
    return made.path


@pytest.fixture
def net(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "net"))


def refused(capsys, net: Path, said: str) -> None:
    """By both commands and by `load`, which touch nothing."""
    before = sorted(path.name for path in net.parent.iterdir())
    for name, *options in COMMANDS:
        assert said in error(capsys, name, net, *options)
    with pytest.raises(BadInput) as refusal:
        load(net)
    assert said in str(refusal.value)
    assert sorted(path.name for path in net.parent.iterdir()) == before


def test_these_are_all_files(original: Path) -> None:
    assert sorted(path.relative_to(original).as_posix() for path in original.rglob("*") if path.is_file()) == [*FILES]


@pytest.mark.parametrize("name", FILES)
def test_a_byte_of_a_file_is_another(capsys, net: Path, name: str) -> None:
    content = bytearray((net / name).read_bytes())
    content[len(content) // 2] ^= 0x40
    (net / name).write_bytes(content)
    refused(capsys, net, name)


@pytest.mark.parametrize("name", FILES)
def test_a_file_ends_early(capsys, net: Path, name: str) -> None:
    (net / name).write_bytes((net / name).read_bytes()[:-7])
    refused(capsys, net, name)


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_missing(capsys, net: Path, name: str) -> None:
    (net / name).unlink()
    refused(capsys, net, name)


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_a_link_that_leads_out(capsys, net: Path, tmp_path: Path, name: str) -> None:
    """Though what it leads to is the file itself."""
    shutil.move(net / name, tmp_path / "elsewhere")
    (net / name).symlink_to(tmp_path / "elsewhere")
    refused(capsys, net, f"'{name}'")


@pytest.mark.parametrize(
    "name", ["more.bin", "triton/small/2/model.onnx", "engine/x.engine", ".hidden", "manifest.json.bak"]
)
def test_a_file_is_there_that_the_manifest_does_not_name(capsys, net: Path, name: str) -> None:
    (net / name).parent.mkdir(parents=True, exist_ok=True)
    (net / name).write_bytes(b"x")
    refused(capsys, net, f"file '{name}' is not named in manifest.json")


def test_a_pipe_is_not_waited_for(capsys, net: Path) -> None:
    (net / "model.onnx").unlink()
    os.mkfifo(net / "model.onnx")
    refused(capsys, net, "file 'model.onnx' is missing")


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "triton/../../outside", "a\\b", "x\0"])
def test_a_name_in_the_manifest_leads_out(capsys, net: Path, name: str) -> None:
    (net.parent / "outside").write_text("x")
    manifest = json.loads((net / "manifest.json").read_text())
    manifest["files"][name] = manifest["files"]["model.onnx"]
    (net / "manifest.json").write_text(json.dumps(manifest))
    refused(capsys, net, "it was refused")


def test_a_journal_behind_a_link_is_not_waited_for(capsys, net: Path, tmp_path: Path) -> None:
    """Somebody sent it along with a damaged bundle."""
    (tmp_path / "elsewhere" / "new").mkdir(parents=True)
    (tmp_path / "elsewhere" / "journal.json").write_text("{}")
    (tmp_path / ".net.adding").symlink_to("elsewhere")
    (net / "model.onnx").write_bytes(b"x")
    refused(capsys, net, "file 'model.onnx' was changed")
    assert (tmp_path / "elsewhere" / "journal.json").read_text() == "{}"


def test_a_file_is_another_when_it_is_needed(net: Path) -> None:
    """Graphs are opened when they are first used; by then the bundle may have been exported into."""
    with load(net) as runtime:
        (net / "model.onnx").touch()
        runtime.run(frames(2, 2, 6, 6))  # written anew, but with the same content
        content = bytearray((net / "model.step.onnx").read_bytes())
        content[len(content) // 2] ^= 1
        (net / "model.step.onnx").write_bytes(content)
        with pytest.raises(BadInput, match=r"file 'model.step.onnx' was changed since it was opened: open it again"):
            runtime.session(2)


def test_a_provider_that_is_not_here(net: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has the CUDA provider")
    with pytest.raises(Unavailable) as reason:
        load(net, "onnxruntime-cuda")
    assert "CUDAExecutionProvider" in str(reason.value)
    assert "\n" not in str(reason.value)
