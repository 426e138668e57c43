"""What a program says about itself beyond its nodes: loops, and what is computed less often than it is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import nir

from stdl_export import passes
from stdl_export.explain.parameters import plain
from stdl_export.graph import NodeName
from stdl_export.program import Program, Source


@dataclass(frozen=True)
class Loop:
    """A component with a cycle: its nodes in order, the edges that read the step before, and the nodes that put out
    what is stored (they need no such edge).
    """

    nodes: tuple[NodeName, ...]
    delayed: tuple[tuple[NodeName, NodeName], ...]
    late: tuple[NodeName, ...]


def loops(made: Program) -> list[Loop]:
    """All loops of a program, in the order of execution."""
    return [
        Loop(
            tuple(node.path for node in component.nodes),
            tuple((each.path, node.path) for node in component.nodes for each in node.sources if each.previous),
            tuple(node.path for node in component.nodes if node.late),
        )
        for component in made.components
        if component.cyclic
    ]


def fusions(made: Program) -> list[str]:
    """What of the graph is computed less often than it is written, or need not be computed: one line each."""
    return [*_hoisted(made), *_shared_sums(made), *_passed(made)]


def _hoisted(made: Program) -> Iterator[str]:
    if made.settings.input != "repeat":
        return
    once = [path for path in made.timeless if not isinstance(made.nodes[path].node, nir.Input | nir.Output)]
    if once:
        yield f"computed once, not at every step, since the input is repeated: {names(once)}"


def _shared_sums(made: Program) -> Iterator[str]:
    """Equal sets of sources are summed once; inside of a loop each node sums for itself."""
    readers: dict[tuple[Source, ...], list[NodeName]] = {}
    for component in made.components:
        for node in () if component.cyclic else component.nodes:
            if len(node.sources) > 1:
                readers.setdefault(node.sources, []).append(node.path)
    for sources, reading in readers.items():
        if len(reading) > 1:
            yield f"summed once: {' + '.join(plain(each.path) for each in sources)}, for {names(reading)}"


def _passed(made: Program) -> Iterator[str]:
    """What the passes take away, a line for each pass."""
    gone: dict[str, list[NodeName]] = {}
    for name, after in passes.applied(made):
        gone.setdefault(name, []).extend(path for path in made.nodes if path not in after.nodes)
        made = after
    for each in passes.PASSES:
        if gone.get(each.name):
            yield f"{each.says}: {names(gone[each.name])}"


def names(paths: Sequence[NodeName], most: int = 12) -> str:
    """Paths in a sentence; of many the first ones, and how many more there are."""
    shown = ", ".join(map(plain, paths[:most]))
    return shown if len(paths) <= most else f"{shown} and {len(paths) - most} more"
