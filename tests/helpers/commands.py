"""The commands as users call them: exit code and the lines on stderr; in this process, or in one of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from stdl_export.cli import command as export
from stdl_export.common import console
from stdl_runtimes.cli import command as validate

COMMANDS = {"export": export, "validate": validate}
MODULES = {"export": "stdl_export.cli", "validate": "stdl_runtimes.cli"}


def call(capsys, name: str, *args: object) -> tuple[int, list[str]]:
    """`stdl-<name>` in this process."""
    capsys.readouterr()
    code = console.run(COMMANDS[name], [*map(str, args)])
    return code, capsys.readouterr().err.splitlines()


def error(capsys, name: str, *args: object) -> str:
    """The one line that the command says; its exit code is 2."""
    code, lines = call(capsys, name, *args)
    assert (code, len(lines)) == (2, 1), lines
    assert lines[0].startswith("error: ")
    return lines[0]


def start(name: str, *args: object, before: str = "") -> subprocess.Popen[str]:
    """`stdl-<name>` in a process of its own; `before` is Python that it runs first."""
    code = f"{before}\nfrom {MODULES[name]} import entry\nentry()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
