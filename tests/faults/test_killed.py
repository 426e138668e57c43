"""An export that is killed, at each of its moments: the bundle is the one before or the one after, never another."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
from bundles import make
from commands import call, content, start
from small_graphs import conv_net, frames

from stdl_export import bundle as bundles
from stdl_export import graph as graphs
from stdl_export.cli import command as export
from stdl_export.common import changes, console, files

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the export that is killed is forked")

PARTS = ("--target", "triton,svg,onnx", "--time-form", "scan", "--mode", "sequence")


def killed(args: list[str], at: int) -> bool:
    """An export in a process that kills itself when it is about to change the disk for the at-th time; was it done?"""
    child = os.fork()
    if not child:
        count = 0

        def counted(call):
            def or_end(*given, **more):
                nonlocal count
                count += 1
                if count == at:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*given, **more)

            return or_end

        for owner, names in (
            (Path, ("replace", "mkdir", "unlink", "write_bytes")), (changes, ("sync",)), (files, ("sync",)),
            (shutil, ("rmtree",)),
        ):  # fmt: skip
            for name in names:
                setattr(owner, name, counted(getattr(owner, name)))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os._exit(console.run(export, args))
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (0, -signal.SIGKILL)
    return os.waitstatus_to_exitcode(status) == 0


def test_parts_for_a_bundle(tmp_path: Path, capsys) -> None:
    """After each kill the bundle opens; it is then the old or the new one, and the next export goes through."""
    original = make(tmp_path / "original", conv_net(), frames(3, 2, 6, 6)).path
    net, ends = tmp_path / "net", []
    before = bundles.load(original).manifest.files
    for at in range(1, 200, 3):
        shutil.copytree(original, net)
        done = killed([str(net), *PARTS], at)
        found = bundles.load(net).manifest.files
        ends.append(found != before)
        assert ("triton/small/config.pbtxt" in found) == (found["model.onnx"] != before["model.onnx"]) == ends[-1]
        if at % 9 == 4:
            assert call(capsys, "export", net, *PARTS)[0] == 0
            assert "triton/small/config.pbtxt" in bundles.load(net).manifest.files
            assert sorted(path.name for path in tmp_path.iterdir()) == ["net", "original"]
        for path in tmp_path.iterdir():
            if path != original:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        if done:
            break
    assert done, "the last one was not killed"
    assert len(ends) > 6
    assert ends == sorted(ends), "once it is the new one it stays the new one"
    assert ends.count(True) > 2


def test_a_new_bundle(tmp_path: Path, capsys) -> None:
    """After each kill it is there as a whole, or not at all; and the same command makes it."""
    graphs.write(conv_net(), tmp_path / "net.nir")
    net, ends = tmp_path / "net", []
    args = [str(tmp_path / "net.nir"), "--target", "onnx", "--mode", "step", "--golden", "2", "--out", str(net)]
    for at in range(1, 200, 3):
        done = killed(args, at)
        ends.append(net.exists())
        if net.exists():
            bundles.load(net)
            shutil.rmtree(net)
        elif at % 9 == 4:
            assert call(capsys, "export", *args)[0] == 0
            assert sorted(path.name for path in tmp_path.iterdir()) == ["net", "net.nir"]
            shutil.rmtree(net)
        if done:
            break
    assert done
    assert len(ends) > 6
    assert ends == sorted(ends)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_export_that_is_stopped_cleans_up(tmp_path: Path, name: str) -> None:
    """At once, and with all files but the manifest written."""
    net = make(tmp_path / "net", conv_net(), frames(3, 2, 6, 6)).path
    before = content(net)
    stop = (
        "import os, signal, time\n"
        "from stdl_export import bundle\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs ignore it
        f"bundle._write_manifest = lambda *_: (os.kill(os.getpid(), signal.{name}), time.sleep(60))\n"
    )
    running = start("export", net, "--target", "triton,svg", before=stop)
    _, err = running.communicate(timeout=60)
    assert (running.returncode, err.strip()) == (130, "error: stopped")
    assert content(net) == before
    assert [path.name for path in tmp_path.iterdir()] == ["net"]
