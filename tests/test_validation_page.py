"""docs/validation.md says what there is: its gate file is read, its options exist, no limit and no key is left out."""

import dataclasses
import re
from pathlib import Path

import pytest
import validated

from stdl_runtimes import gate
from stdl_runtimes.cli import command
from stdl_runtimes.limits import LIMITS
from stdl_runtimes.results import Report

PAGE = (Path(__file__).parents[1] / "docs" / "validation.md").read_text(encoding="utf-8")


def test_its_gate_file_is_one(tmp_path):
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, flags=re.DOTALL)
    (tmp_path / "gate.toml").write_text(text)
    found = gate.read(tmp_path / "gate.toml", {})
    assert found.given["min_accuracy"] == 0.97
    assert set(found.runtime) == {"onnxruntime", "onnxruntime step"}
    assert found.compare == gate.Rules()  # it shows what holds without it


def test_its_options_exist_and_all_are_named():
    known = {name for option in command.params for name in option.opts if name.startswith("--")}
    named = set(re.findall(r"--[a-z][a-z0-9-]*", PAGE))
    assert named <= known
    limits = {f"--{name.replace('_', '-')}" for name in LIMITS}
    assert known - named <= limits | {"--data-path"}


def test_every_limit_and_every_key_of_the_file_is_there():
    assert [name for name in LIMITS if f"`{name}`" not in PAGE] == []
    keys = PAGE[PAGE.index("## The JSON file") :]
    assert [field.name for field in dataclasses.fields(Report) if f"`{field.name}`" not in keys] == []


def test_its_python_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
    validated.bundle(tmp_path / "bundle")
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/validation.md", "exec"), {})
    assert "onnxruntime step" in capsys.readouterr().out
