"""A NIR graph with its sub-graphs written into it: nodes by path, and for each the paths that are summed to its input.

    given    input -> fc -> hidden -> output          hidden = {input -> lif -> output, lif -> rec -> lif}
    result   input -> fc -> hidden/lif -> output      hidden/lif <- fc, hidden/rec;  hidden/rec <- hidden/lif

The Input and Output of a sub-graph are wires and vanish: whoever reads them reads what arrives there. A value that
reaches a node over several wires is summed as often as it arrives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import nir

Path = str

MAX_FOLLOWED = 10_000  # wires and edges into one node


@dataclass(frozen=True)
class Flat:
    """Nodes without sub-graphs. `sources` are sorted; `wires` are the Inputs and Outputs that vanished, and what
    arrives at each; `wire_cycles` are paths of sub-graphs that feed themselves with nothing in between, and `crowded`
    nodes that more wires lead to than can be followed.
    """

    nodes: Mapping[Path, Any]
    sources: Mapping[Path, tuple[Path, ...]]
    wires: Mapping[Path, tuple[Any, tuple[Path, ...]]] = field(default_factory=dict)
    wire_cycles: tuple[Path, ...] = ()
    crowded: tuple[Path, ...] = ()

    @property
    def inputs(self) -> list[Path]:
        """The graph's own Inputs, by name."""
        return sorted(path for path, node in self.nodes.items() if isinstance(node, nir.Input))

    @property
    def outputs(self) -> list[Path]:
        """The graph's own Outputs, by name."""
        return sorted(path for path, node in self.nodes.items() if isinstance(node, nir.Output))

    def targets(self) -> dict[Path, list[Path]]:
        """The nodes that read each node, sorted, each once."""
        found: dict[Path, list[Path]] = {path: [] for path in self.nodes}
        for target in sorted(self.sources):
            for source in dict.fromkeys(self.sources[target]):
                found[source].append(target)
        return found


def inline(graph: nir.NIRGraph) -> Flat:
    """Write all sub-graphs into the graph. Edges that name no node are left out: `graph.problems` tells them."""
    walk = _Walk()
    walk.graph(graph, "")
    made: dict[Path, tuple[Path, ...]] = {}
    wires: dict[Path, tuple[Any, tuple[Path, ...]]] = {}
    for path, node in walk.nodes.items():
        arriving = tuple(sorted(walk.arriving(path)))
        if path in walk.wires:
            wires[path] = node, arriving
        else:
            made[path] = arriving
    nodes = {path: walk.nodes[path] for path in made}
    return Flat(nodes, made, wires, tuple(sorted(walk.looping)), tuple(sorted(walk.crowded)))


def graphs(graph: nir.NIRGraph, path: Path = "") -> Iterator[tuple[Path, nir.NIRGraph]]:
    """The graph and every sub-graph at any depth, each with its path; that of the whole graph is empty."""
    yield path, graph
    for name, node in graph.nodes.items():
        if isinstance(node, nir.NIRGraph):
            yield from graphs(node, join(path, name))


def join(path: Path, name: str) -> Path:
    """The path of a node in the (sub-)graph at `path`."""
    return f"{path}/{name}" if path else name


def boundaries(graph: nir.NIRGraph, kind: type) -> list[str]:
    """The names of a graph's own Inputs or Outputs, sorted."""
    return sorted(name for name, node in graph.nodes.items() if isinstance(node, kind))


class _Walk:
    """All nodes by path, with their edges as the (sub-)graphs have them."""

    def __init__(self) -> None:
        self.nodes: dict[Path, Any] = {}
        self.wires: set[Path] = set()
        self.into: dict[Path, set[Path]] = {}
        self.looping: set[Path] = set()
        self.crowded: set[Path] = set()

    def graph(self, graph: nir.NIRGraph, path: Path) -> None:
        for name, node in graph.nodes.items():
            inner = join(path, name)
            if isinstance(node, nir.NIRGraph):
                self.graph(node, inner)
                continue
            self.nodes[inner] = node
            self.into.setdefault(inner, set())
            if path and isinstance(node, nir.Input | nir.Output):
                self.wires.add(inner)
        for source, target in graph.edges:
            begin, end = self.end(graph, path, source, nir.Output), self.end(graph, path, target, nir.Input)
            if begin is not None and end is not None:
                self.into.setdefault(end, set()).add(begin)

    def end(self, graph: nir.NIRGraph, path: Path, name: str, side: type) -> Path | None:
        """The node that an edge really begins or ends at: of a sub-graph its Output or Input; None: there is none."""
        node, inner = graph.nodes.get(name), join(path, name)
        while isinstance(node, nir.NIRGraph):
            names = boundaries(node, side)
            if not names:
                return None
            node, inner = node.nodes[names[0]], join(inner, names[0])
        return None if node is None else inner

    def arriving(self, path: Path) -> list[Path]:
        """The real nodes behind all edges into a node, as often as they arrive."""
        found: list[Path] = []
        waiting: list[tuple[Path, tuple[Path, ...]]] = [(source, (path,)) for source in self.into[path]]
        followed = 0
        while waiting:
            source, behind = waiting.pop()
            followed += 1
            if followed > MAX_FOLLOWED:  # wires that part and join again double with every sub-graph
                self.crowded.add(path)
                return []
            if source not in self.wires:
                found.append(source)
            elif source in behind:
                self.looping.add(source)
            else:
                waiting += [(further, (*behind, source)) for further in self.into[source]]
        return found
