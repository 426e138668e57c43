"""A few of the mutants that `bundles.py` makes by the hundred, and whether their watch sees what it is to see."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("bundles.py")

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forked processes, watched by inotify")


def test_mutants_of_bundles_are_refused_on_one_line_or_used_and_open_nothing_outside(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    args = ["--count", "50", "--seed", "5", "--json", str(tmp_path / "numbers.json")]
    done = subprocess.run([sys.executable, str(SCRIPT), *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    ends = json.loads((tmp_path / "numbers.json").read_text())["by_mutation"].values()
    assert sum(each.get("refused", 0) for each in ends) >= 25
    assert sum(each.get("valid", 0) for each in ends) >= 8


OPENS = """
import ctypes, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from opened import Watch
folder = Path(sys.argv[2])
watch = Watch([Path(sys.prefix), Path(sys.base_prefix), folder / "own"], [folder, folder / "guarded" / "file"])
(folder / "own" / "file").read_text()
assert watch.opened() == [], watch.found
(folder / "own" / "link").read_text()
(folder / "by_python").read_text()
libc = ctypes.CDLL(None)
for name in ("by_c", "guarded/file"):
    libc.open(str(folder / name).encode(), 0)
print(*sorted({Path(each).relative_to(folder) for each in watch.opened()}))
"""


def test_the_watch_sees_what_python_and_c_libraries_open(tmp_path: Path) -> None:
    for name in ("own/file", "by_python", "by_c", "guarded/file", "linked"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    os.symlink(tmp_path / "linked", tmp_path / "own" / "link")  # noqa: PTH211
    args = [sys.executable, "-c", OPENS, str(SCRIPT.parent), str(tmp_path)]
    done = subprocess.run(args, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["by_c", "by_python", "guarded/file", "linked"]
