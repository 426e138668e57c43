"""Where a cycle takes its one step of delay, and in which order nodes are computed. Names and edges only, no NIR.

A `late` node puts out what its stored state says, so it waits for nothing within a step and needs no cut. All other
cycles are cut: some edges read the value of the step before (0 before the first).
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Sources = Mapping[str, Sequence[str]]
Edge = tuple[str, str]


@dataclass(frozen=True)
class Component:
    """Nodes in the order of execution. `cyclic`: together they are a loop, over time or within a step."""

    nodes: tuple[str, ...]
    cyclic: bool


class Uncut(Exception):
    """A cycle that no rule can cut; `nodes` lie on it, in order."""

    def __init__(self, nodes: Sequence[str], reason: str) -> None:
        super().__init__(reason)
        self.nodes = tuple(nodes)


def on_cycles(sources: Sources) -> set[str]:
    """Every node that lies on a cycle."""
    return {name for group in _groups(sources) for name in group if len(group) > 1 or name in sources[name]}


def dead_cycle(sources: Sources, alive: Collection[str]) -> list[str] | None:
    """A cycle none of whose nodes is `alive` (can hold a step's delay), in order; None where there is none."""
    rest = {name: [source for source in names if source not in alive] for name, names in sources.items()}
    rest |= {name: [] for name in alive}
    return next((cycle for _, cycle in _closing(_targets(rest), sorted(rest), set())), None)


def delay_source_output(
    sources: Sources, roots: Iterable[str], stateful: Collection[str], late: Collection[str]
) -> set[Edge]:
    """The edges that read the step before: those out of neurons.

    Depth-first from the Inputs (`roots`), nodes in order of their names; an edge back to the path is cut where the path
    leaves its last stateful node; the walk then goes on as if that edge had never been.
    """
    targets = _targets({name: [] if name in late else names for name, names in sources.items()})
    cut: set[Edge] = set()
    for path, cycle in _closing(targets, [*sorted(roots), *sorted(sources)], cut):
        edge = _leaving(cycle, stateful)
        cut.add(edge)
        while path.nodes[-1] != edge[0]:
            path.pop()  # what hangs on the edge may be reached another way
    return cut


def _closing(
    targets: Mapping[str, Sequence[str]], starts: Iterable[str], cut: Collection[Edge]
) -> Iterator[tuple[_Path, list[str]]]:
    """A depth-first walk that stops at each cycle it closes, with its path and the cycle's nodes.

    Before it goes on, the path may be shortened and edges added to `cut`, which it then does not take.
    """
    done: set[str] = set()  # no cycle leads through these any more
    for start in starts:
        path = _Path(targets, [] if start in done else [start])
        while path.nodes:
            target = path.step()
            if target is None:
                done.add(path.pop())
            elif target in path.place:
                yield path, path.nodes[path.place[target] :]
            elif target not in done and (path.nodes[-1], target) not in cut:
                path.push(target)


def _leaving(cycle: Sequence[str], stateful: Collection[str]) -> Edge:
    """The edge by which a cycle leaves the last of its stateful nodes."""
    holders = [at for at, name in enumerate(cycle) if name in stateful]
    if not holders:
        raise Uncut(cycle, "no node on it has a state")
    return cycle[holders[-1]], cycle[(holders[-1] + 1) % len(cycle)]


class _Path:
    """A path of a depth-first walk: its nodes, the place of each, and which targets of each are still to be walked."""

    def __init__(self, targets: Mapping[str, Sequence[str]], nodes: Iterable[str]) -> None:
        self.nodes: list[str] = []
        self.place: dict[str, int] = {}
        self._targets = targets
        self._left: list[Iterator[str]] = []
        for name in nodes:
            self.push(name)

    def push(self, name: str) -> None:
        self.place[name] = len(self.nodes)
        self.nodes.append(name)
        self._left.append(iter(self._targets[name]))

    def pop(self) -> str:
        self._left.pop()
        name = self.nodes.pop()
        del self.place[name]
        return name

    def step(self) -> str | None:
        """The next target of the last node; None where it has no more."""
        return next(self._left[-1], None)


def delay_target_input(
    sources: Sources, roots: Collection[str], ends: Collection[str], late: Collection[str]
) -> set[Edge]:
    """The edges that read the step before, as nirtorch's interpreter has it: those out of recurrent weights.

    Nodes are taken in order of their names, the first Input first and those before it last; one whose inputs are not
    there yet goes back to the end of the queue. But a node with several inputs reads those that it leads to itself, and
    that are not there yet, from the step before. Outputs (`ends`) come last.
    """
    names = sorted(name for name in sources if name not in ends)
    first = next((at for at, name in enumerate(names) if name in roots), 0)
    queue = deque([*names[first:], *names[:first]])
    groups = {name: number for number, group in enumerate(_groups(sources)) for name in group}
    done: set[str] = set(late)
    cut: set[Edge] = set()
    waited = 0
    while queue:
        name = queue.popleft()
        missing = [] if name in late else [source for source in sources[name] if source not in done]
        behind = [source for source in missing if groups[source] == groups[name]]
        if len(set(sources[name])) > 1 and len(behind) == len(missing):
            cut |= {(source, name) for source in missing}
        elif missing:
            queue.append(name)
            waited += 1
            if waited > len(queue):
                raise Uncut(sorted({name, *missing}), "no Input leads into it, so nothing says where it begins")
            continue
        done.add(name)
        waited = 0
    return cut


def components(sources: Sources, cut: Collection[Edge], late: Collection[str]) -> list[Component]:
    """The strongly connected components, each behind those it reads; of those that are ready the first by name.

    Within a loop the order is that of one step: an edge that is cut, or that leads into a late node, is not waited for.
    """
    groups = _groups(sources)
    number = {name: at for at, group in enumerate(groups) for name in group}
    between: dict[int, set[int]] = {at: set() for at in range(len(groups))}
    for name, names in sources.items():
        between[number[name]] |= {number[source] for source in names} - {number[name]}
    first = [min(group) for group in groups]
    found = []
    for at in _ordered(between, lambda at: first[at]):
        group = set(groups[at])
        inner = {
            name: {source for source in sources[name] if source in group and (source, name) not in cut}
            if name not in late
            else set()
            for name in group
        }
        cyclic = len(group) > 1 or any(name in sources[name] for name in group)
        found.append(Component(tuple(_ordered(inner, str)), cyclic))
    return found


def _ordered(waiting: Mapping[Any, Collection[Any]], key: Callable[[Any], str]) -> list[Any]:
    """Topological order; of those that are ready the first by key."""
    left = {name: len(set(names)) for name, names in waiting.items()}
    targets = _targets({name: list(dict.fromkeys(names)) for name, names in waiting.items()})
    ready = [(key(name), name) for name, count in left.items() if not count]
    heapq.heapify(ready)
    done = []
    while ready:
        done.append(heapq.heappop(ready)[1])
        for target in targets[done[-1]]:
            left[target] -= 1
            if not left[target]:
                heapq.heappush(ready, (key(target), target))
    assert len(done) == len(waiting), "every cycle was cut"
    return done


def _targets(sources: Mapping[Any, Collection[Any]]) -> dict[Any, list[Any]]:
    """Who reads each node, sorted, each once."""
    found: dict[Any, list[Any]] = {name: [] for name in sources}
    for target in sorted(sources):
        for source in dict.fromkeys(sources[target]):
            found[source].append(target)
    return found


def _groups(sources: Sources) -> list[list[str]]:
    """The strongly connected components (Tarjan, without recursion), in no particular order."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    held: set[str] = set()
    found: list[list[str]] = []
    for start in sources:
        if start in number:
            continue
        path = [(start, iter(sources[start]))]
        number[start] = low[start] = len(number)
        stack.append(start)
        held.add(start)
        while path:
            name, further = path[-1]
            source = next(further, None)
            if source is None:
                path.pop()
                if path:
                    low[path[-1][0]] = min(low[path[-1][0]], low[name])
                if low[name] == number[name]:
                    group = [stack.pop()]
                    while group[-1] != name:
                        group.append(stack.pop())
                    found.append(group)
                    held -= set(group)
            elif source not in number:
                number[source] = low[source] = len(number)
                stack.append(source)
                held.add(source)
                path.append((source, iter(sources[source])))
            elif source in held:
                low[name] = min(low[name], number[source])
    return found
