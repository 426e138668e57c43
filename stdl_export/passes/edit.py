"""A program while a pass changes it: nodes by path, who reads each, and what must stay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import nir

from stdl_export import cycles
from stdl_export.graph import NodeName
from stdl_export.program import Component, Node, Program, Source


class Edit:
    """The nodes of a program, to be put in other words. A pass walks `paths`, changes, and hands over `done()`.

    fed_back: nodes whose value of the step before is read. looped: nodes that are stepped in a loop, and in which.
    """

    def __init__(self, made: Program) -> None:
        self.nodes = dict(made.nodes)
        self.fed_back = frozenset(made.fed_back)
        loops = [each.nodes for each in made.components if each.cyclic]
        self.looped = {node.path: number for number, nodes in enumerate(loops) for node in nodes}
        self._made = made
        self._readers: dict[NodeName, Counter[NodeName]] = {path: Counter() for path in made.nodes}
        for node in made.nodes.values():
            self._count(node, 1)

    @property
    def paths(self) -> list[NodeName]:
        """All nodes in the order of execution; some may be gone when it is their turn."""
        return list(self._made.nodes)

    def readers(self, path: NodeName) -> list[NodeName]:
        """Who reads a node, each as often as it does."""
        return list(self._readers[path].elements())

    def removable(self, path: NodeName) -> bool:
        """Is it a node that no runtime and no manifest knows?"""
        node = self.nodes[path]
        known = isinstance(node.node, nir.Input | nir.Output) or path in self.fed_back
        return not known and node.numbers is None and (node.steps is None or not node.steps.any())

    def sum_stays(self, path: NodeName) -> bool:
        """May the readers of a node take its sources instead: does no sum change its order, is none computed twice?

        Sums outside of loops are shared by all who read just them; in a loop each node sums for itself. The step before
        is read inside of its loop only.
        """
        sources, readers, loop = self.nodes[path].sources, self.readers(path), self.looped.get(path)
        if any(source.previous for source in sources) and any(self.looped.get(reader) != loop for reader in readers):
            return False
        alone = all(self.nodes[reader].sources == (Source(path),) for reader in readers)
        return len(sources) == 1 or (alone and (len(readers) == 1 or path not in self.looped))

    def put(self, node: Node) -> None:
        """Put a node in the place of that with its path. Stateless nodes that nobody reads any more go."""
        before = self.nodes[node.path]
        self.nodes[node.path] = node
        self._count(node, 1)
        self._count(before, -1)
        self._prune(before.sources)

    def bypass(self, path: NodeName, sources: Sequence[Source]) -> None:
        """Let every reader of a node take `sources` in its place; the node goes."""
        for reader in dict.fromkeys(self.readers(path)):
            node = self.nodes[reader]
            new = [each for old in node.sources for each in (sources if old == Source(path) else (old,))]
            self.put(replace(node, sources=tuple(new)))

    def done(self) -> Program:
        """The program as it is now: the very same object where nothing was changed."""
        if self.nodes == self._made.nodes:  # nodes compare by identity
            return self._made
        return _program(self._made, self.nodes)

    def _count(self, node: Node, change: int) -> None:
        for source in node.sources:
            readers = self._readers[source.path]
            readers[node.path] += change
            if not readers[node.path]:
                del readers[node.path]

    def _prune(self, sources: Sequence[Source]) -> None:
        waiting = list(sources)
        while waiting:
            path = waiting.pop().path
            if path in self.nodes and not self._readers[path] and self.removable(path):
                node = self.nodes.pop(path)
                self._count(node, -1)
                waiting += node.sources


def _program(made: Program, nodes: dict[NodeName, Node]) -> Program:
    """The program of other nodes: which are loops, and in which order they run."""
    sources = {path: [source.path for source in node.sources] for path, node in nodes.items()}
    now = {(source.path, path) for path, node in nodes.items() for source in node.sources if not source.previous}
    before = {(source.path, path) for path, node in nodes.items() for source in node.sources if source.previous}
    late = {path for path, node in nodes.items() if node.late}
    found = cycles.components(sources, before - now, late)  # who reads both waits for what is read now
    components = tuple(Component(tuple(nodes[path] for path in each.nodes), each.cyclic) for each in found)
    place = {path: number for number, each in enumerate(found) for path in each.nodes}
    assert all(place[source] == place[target] for source, target in before), "the step before is read in loops only"
    ordered = {node.path: node for each in components for node in each.nodes}
    return Program(ordered, components, made.inputs, made.outputs, made.settings)
