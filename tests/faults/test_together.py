"""Several processes and one bundle: exports wait for each other, none is lost, and readers see no half of one."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest
from bundles import make
from commands import start
from small_graphs import conv_net, frames

from stdl_export import assemble
from stdl_export import bundle as bundles
from stdl_export import graph as graphs
from stdl_export.common import changes
from stdl_export.common.errors import BadInput
from stdl_export.targets import Job
from stdl_export.tensorrt import Profile

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="locks are POSIX's")


def test_two_exports_into_a_bundle_at_once_are_both_in_its_manifest(tmp_path: Path) -> None:
    """Both have read the bundle, and wait, before either may go on."""
    bundle = make(tmp_path / "net", conv_net(), frames(3, 2, 6, 6))
    with changes.changing(bundle.path):
        running = [start("export", bundle.path, "--target", target) for target in ("triton", "svg")]
        for each in running:
            assert each.stderr is not None
            assert each.stderr.readline() == f"another export changes '{bundle.path}': waiting for it\n"
    for each in running:
        out, err = each.communicate(timeout=120)
        assert each.returncode == 0, err
        assert "next: stdl-validate" in out
    manifest = bundles.load(bundle.path).manifest
    assert {"graph.svg", "triton/small/config.pbtxt"} <= manifest.files.keys()
    assert [path.name for path in tmp_path.iterdir()] == ["net"]


def test_two_exports_to_one_new_folder(tmp_path: Path) -> None:
    """The first makes it; the second says that it is there."""
    graphs.write(conv_net(), tmp_path / "net.nir")
    with changes.changing(tmp_path / "net"):
        running = [
            start("export", tmp_path / "net.nir", "--target", "onnx", "--out", tmp_path / "net") for _ in range(2)
        ]
        for each in running:
            assert each.stderr is not None
            while "waiting for it" not in (line := each.stderr.readline()):
                assert line, "it ended without waiting"
    ends = sorted((each.wait(timeout=120), each.communicate()[1]) for each in running)
    assert [code for code, _ in ends] == [0, 2]
    assert f"error: output folder '{tmp_path / 'net'}' is not empty" in ends[1][1]
    bundles.load(tmp_path / "net")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net", "net.nir"]


def test_a_bundle_that_is_exported_into_all_the_time_opens_all_the_time(tmp_path: Path) -> None:
    """Files of the same names are replaced again and again; a reader gets the old ones or the new ones."""
    bundle, ended = make(tmp_path / "net", conv_net(), frames(3, 2, 6, 6)), threading.Event()
    forms = ("unroll", "scan", "chunks")
    errors: list[BaseException] = []

    def write() -> None:
        try:
            for number in range(12):
                job = Job(conv_net(), ("sequence",), forms[number % 3], Profile(), "fp32")
                assemble.add(bundle, job, ["onnx"])
        except BaseException as error:
            errors.append(error)
        finally:
            ended.set()

    writer, seen = threading.Thread(target=write), set()
    writer.start()
    while not ended.is_set():
        seen.add(bundles.load(bundle.path).manifest.files["model.onnx"])
    writer.join()
    assert not errors
    assert len(seen) > 1


def test_another_bundle_in_its_place_is_not_added_to(tmp_path: Path) -> None:
    bundle = make(tmp_path / "net", conv_net(), frames(3, 2, 6, 6))
    os.rename(bundle.path, tmp_path / "old")  # noqa: PTH104
    other = make(tmp_path / "net", conv_net(T=7), frames(3, 2, 6, 6))
    before = other.manifest.files
    with pytest.raises(BadInput, match="was replaced by another one meanwhile"):
        assemble.add(bundle, Job(conv_net(), ("sequence",), "auto", Profile(), "fp32"), ["onnx"])
    assert bundles.load(tmp_path / "net").manifest.files == before
