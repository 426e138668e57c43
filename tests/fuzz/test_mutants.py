"""A few of the mutants that `run.py` makes by the thousand (CONTRIBUTING has the command)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("run.py")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="each mutant is a forked process")
def test_mutants_are_refused_on_one_line_or_become_bundles_that_validate(tmp_path: Path) -> None:
    """Of our own graphs, so that they are the same everywhere. Were none valid, the mutants would test nothing."""
    pytest.importorskip("onnxruntime")
    args = ["--own", "--count", "60", "--seed", "3", "--json", str(tmp_path / "numbers.json")]
    done = subprocess.run([sys.executable, str(SCRIPT), *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    ends = json.loads((tmp_path / "numbers.json").read_text())["by_mutation"].values()
    assert sum(each.get("refused", 0) for each in ends) >= 20
    assert sum(each.get("valid", 0) for each in ends) >= 8
