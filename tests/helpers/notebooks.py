"""Runs a notebook without Jupyter: its code cells in order, in one namespace; their outputs are kept as there.

    python tests/helpers/notebooks.py examples/notebooks/NAME.ipynb     # writes the outputs into the file

What a cell prints is its stream; the value of its last expression is its result, as text and, where it has a
`_repr_svg_`, as a picture.
"""

from __future__ import annotations

import ast
import contextlib
import io
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat


def run(notebook: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    """The notebook with its outputs; files that it writes go into the folder. Exceptions of cells are raised."""
    names: dict[str, Any] = {"__name__": "__main__"}
    before = Path.cwd()
    os.chdir(folder)
    try:
        cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
        for count, cell in enumerate(cells, 1):
            cell.execution_count, cell.outputs = count, _outputs(cell.source, names, count)
    finally:
        os.chdir(before)
    return notebook


def _outputs(source: str, names: dict[str, Any], count: int) -> list[nbformat.NotebookNode]:
    tree, printed, value = ast.parse(source), io.StringIO(), None
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, f"<cell {count}>", "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), f"<cell {count}>", "eval"), names)
    outputs = []
    if printed.getvalue():
        outputs.append(nbformat.v4.new_output("stream", name="stdout", text=printed.getvalue()))
    if value is not None:
        data = {"text/plain": repr(value)} | (
            {"image/svg+xml": value._repr_svg_()} if hasattr(value, "_repr_svg_") else {}
        )
        outputs.append(nbformat.v4.new_output("execute_result", data, execution_count=count))
    return outputs


def main() -> None:
    """Run the notebook that is named, and write it with its outputs."""
    path = Path(sys.argv[1])
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        run(notebook, Path(folder))
    nbformat.write(notebook, path)


if __name__ == "__main__":
    main()
