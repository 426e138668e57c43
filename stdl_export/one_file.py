"""An export that is one file and no bundle: the graph, for any framework or for one peer, or a drawing of it."""

from __future__ import annotations

import logging
from pathlib import Path

import click
import nir

from stdl_export import graph as graphs
from stdl_export import targets
from stdl_export.common.errors import BadInput
from stdl_export.common.files import size_text
from stdl_export.interop.adapt import Adapted, adapt
from stdl_export.targets import Job

log = logging.getLogger("stdl")

NEXT = {
    "nir": "next: nir.read('{path}') in Python with the nir package, or the importer of your framework",
    "dot": "next: dot -Tpdf '{path}', with Graphviz",
    "svg": "next: open '{path}' in a browser",
}


def write(job: Job, target: str, peer: str | None, path: Path) -> None:
    """A graph or a drawing as a file of its own, and what to do with it."""
    if path.exists():
        raise BadInput(f"'{path}' exists already: choose another --out or remove it first")
    targets.check(job, [target])
    if peer is not None:
        _write_for(adapt(job.graph, peer), path)
        return
    if target != "nir":
        targets.write_drawing(job.graph, path)
    else:
        graphs.write(job.graph, path)
    _say_written(job.graph, path)
    click.echo(NEXT[target].format(path=path))


def _write_for(made: Adapted, path: Path) -> None:
    """The file for a peer, and how to read it there."""
    graphs.write(made.graph, path)
    _say_written(made.graph, path)
    for remark in made.remarks:
        log.warning(remark)
    click.echo(f"next: in Python with {made.title}:")
    for line in made.reader(path):
        click.echo(f"  {line}")


def _say_written(graph: nir.NIRGraph, path: Path) -> None:
    click.echo(f"{path}  {size_text(path.stat().st_size)}, {len(graph.nodes)} nodes")
