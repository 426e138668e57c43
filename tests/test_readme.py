"""The README is run: its commands in order, in an empty folder; its Makefile targets and links exist.

Training is made short (one epoch, few samples): what is tested is that each command works as written, not accuracy.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHORTER = ["--set", "train.epochs=1", "--set", "data.train_limit=100", "--set", "data.test_limit=40"]
PLACEHOLDER = re.compile(r"\b(FOLDER|BUNDLE|DIR)\b")


def commands() -> list[str]:
    """Every command line in the README's shell blocks, in order."""
    blocks = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def test_every_command_of_the_readme_runs(tmp_path):
    found = commands()
    assert len(found) >= 10
    for tool in ("stdl-train", "stdl-export", "stdl-validate"):
        assert any(line.startswith(tool) for line in found)
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    (tmp_path / "gate.toml").write_text("min_agreement = 0.5\n", encoding="utf-8")
    for line in found:
        if PLACEHOLDER.search(line):
            continue
        words = shlex.split(line)
        if "tensorrt" in line and not _tensorrt():
            continue
        if words[0] == "stdl-train" and "--list" not in words and "--plan" not in words:
            words += SHORTER
        tool = Path(sys.executable).parent / words[0]
        done = subprocess.run(
            [str(tool), *words[1:]], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        # a network that has seen 100 pictures decides by a hair: rounding it for a chip may cost too much
        allowed = (0, 1) if words[0] == "stdl-validate" and "loihi2" in words else (0,)
        assert done.returncode in allowed, f"{line}\n{done.stdout}\n{done.stderr}"
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert (tmp_path / "validation.json").stat().st_size > 1000


def _tensorrt() -> bool:
    try:
        import tensorrt_rtx  # noqa: F401
    except ImportError:
        return False
    return True


def test_the_two_commands_are_targets_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"make (\w+)", README):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "models/README.md", "runtimes/README.md"])
def test_links_lead_somewhere(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / document).parent.joinpath(target).exists(), target
