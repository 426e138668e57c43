"""The NIR graphs we accept, and all that the parts right of the waist ask of one: order, shapes, settings, problems.

Nodes and shapes have no T and no B. Fan-in is a sum, fan-out is free. Reading and writing are in `nir_file`; what each
primitive accepts is a row in `primitives`.
"""

from __future__ import annotations

import graphlib
import heapq
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import nir
import numpy as np

from stdl_export import nir_file
from stdl_export.common.errors import BadInput, join_reasons
from stdl_export.equality import same as same
from stdl_export.primitives import ACCEPTED, MAX_ELEMENTS, PRIMITIVES, Refused, Shape, shape_of

NodeName = str
Reset = Literal["v_reset", "subtract"]
InputMode = Literal["repeat", "sequence"]
Decoding = Literal["mean", "sum", "last", "none"]

SPIKING = (nir.IF, nir.LIF)
WHOLE_GRAPH = "(graph)"
MAX_REASONS = 50


@dataclass(frozen=True)
class Problem:
    """One reason why a graph is not accepted, with the node it concerns."""

    node: NodeName
    type: str
    reason: str

    def __str__(self) -> str:
        return f"node '{self.node}' ({self.type}): {self.reason}" if self.node != WHOLE_GRAPH else self.reason


@dataclass(frozen=True)
class Settings:
    """What a graph's metadata (`stdl.*`) says about running it. dt in seconds; T is None where it is not fixed."""

    dt: float = 1e-4
    T: int | None = None
    dialect: str = "nir"
    reset: Reset = "v_reset"
    input: InputMode = "sequence"
    output: Decoding = "none"


def read(path: Path) -> nir.NIRGraph:
    """Read a .nir file as the untrusted file that it is; `BadInput` on anything that is not a NIR graph."""
    return nir_file.read(path)


def write(graph: nir.NIRGraph, path: Path) -> None:
    """Write a checked graph; the file is whole or absent, and read back it is the same graph (`same`)."""
    check(graph, f"'{path}' was not written")
    nir_file.write(graph, _input_shapes(graph), path)


def problems(graph: nir.NIRGraph) -> list[Problem]:
    """Every reason why the graph is not accepted, at once, in the order of node names; empty where it is."""
    dangling = [*_edge_problems(graph)]
    found = [*dangling, *_metadata_problems(graph), *_boundary_problems(graph), *_node_problems(graph)]
    if not dangling:
        found += [*_cycle_problems(graph), *_infer(graph, {}, refused={problem.node for problem in found})]
    return sorted(found, key=lambda problem: (problem.node != WHOLE_GRAPH, problem.node))


def check(graph: nir.NIRGraph, where: str) -> None:
    """Raise `BadInput` with all problems on one line, `where` (the file, say) first."""
    found = [str(problem) for problem in problems(graph)]
    if not found:
        return
    if len(found) > MAX_REASONS:
        found[MAX_REASONS:] = [f"and {len(found) - MAX_REASONS} more"]
    if any(type(node) not in PRIMITIVES for node in graph.nodes.values()):
        found.append(f"accepted primitives are {ACCEPTED}")
    raise BadInput(f"{where}: {join_reasons(found)}")


def sources(graph: nir.NIRGraph) -> dict[NodeName, tuple[NodeName, ...]]:
    """The nodes whose outputs are summed to each node's input: unique, sorted by name; sums are made in this order."""
    found: dict[NodeName, set[NodeName]] = {name: set() for name in graph.nodes}
    for source, target in graph.edges:
        found[target].add(source)
    return {name: tuple(sorted(names)) for name, names in found.items()}


def order(graph: nir.NIRGraph) -> list[NodeName]:
    """Node names, each behind its sources; of those that are ready the first by name, whatever the file's order."""
    waiting = {name: len(names) for name, names in sources(graph).items()}
    targets: dict[NodeName, set[NodeName]] = {name: set() for name in graph.nodes}
    for source, target in graph.edges:
        targets[source].add(target)
    ready = sorted(name for name, count in waiting.items() if not count)
    done: list[NodeName] = []
    while ready:
        done.append(heapq.heappop(ready))
        for target in targets[done[-1]]:
            waiting[target] -= 1
            if not waiting[target]:
                heapq.heappush(ready, target)
    return done


def shapes(graph: nir.NIRGraph) -> dict[NodeName, Shape]:
    """The output shape of each node of a checked graph, without T and B."""
    found: dict[NodeName, Shape] = {}
    if refusals := list(_infer(graph, found)):
        raise BadInput(join_reasons(refusals))
    return found


def settings(graph: nir.NIRGraph) -> Settings:
    """Metadata `stdl.dt`, `stdl.T`, `stdl.dialect`, `stdl.reset`, `stdl.input`, `stdl.output` of a checked graph."""
    return Settings(**{_SETTINGS[key].field: value for key, value in graph.metadata.items() if key in _SETTINGS})


def with_settings(graph: nir.NIRGraph, wanted: Settings) -> nir.NIRGraph:
    """The same nodes and edges, with metadata that says `wanted`; all other metadata stays."""
    kept = {key: value for key, value in graph.metadata.items() if key not in _SETTINGS}
    said = {key: getattr(wanted, row.field) for key, row in _SETTINGS.items()}
    metadata = kept | {key: value for key, value in said.items() if value is not None}
    return nir.NIRGraph(nodes=graph.nodes, edges=graph.edges, metadata=metadata, type_check=False)


def reset_of(graph: nir.NIRGraph, name: NodeName) -> Reset:
    """How a spiking node resets: its own metadata `stdl.reset`, else the graph's."""
    own: Reset = graph.nodes[name].metadata.get("stdl.reset", settings(graph).reset)
    return own


def neurons(graph: nir.NIRGraph) -> list[NodeName]:
    """The spiking nodes (IF, LIF) in `order`. An LI has a state but does not spike."""
    return [name for name in order(graph) if isinstance(graph.nodes[name], SPIKING)]


def input_name(graph: nir.NIRGraph) -> NodeName:
    """The one Input of a checked graph."""
    return _only(graph, nir.Input)


def output_name(graph: nir.NIRGraph) -> NodeName:
    """The one Output of a checked graph."""
    return _only(graph, nir.Output)


def _only(graph: nir.NIRGraph, kind: type) -> NodeName:
    (name,) = (name for name, node in graph.nodes.items() if isinstance(node, kind))
    return str(name)


# --- metadata -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Setting:
    """A metadata key: the field of `Settings` it fills, what it may hold in words, and the test for it."""

    field: str
    accepted: str
    choices: tuple[str, ...] = ()

    def holds(self, value: object) -> bool:
        if self.choices:
            return value in self.choices
        if self.field == "dt":
            return isinstance(value, float) and math.isfinite(value) and value > 0
        if self.field == "T":
            return isinstance(value, int) and not isinstance(value, bool) and value >= 1
        return isinstance(value, str)


def _choice(field: str, literal: Any) -> _Setting:
    choices = get_args(literal)
    return _Setting(field, " | ".join(choices), choices)


_SETTINGS = {
    "stdl.dt": _Setting("dt", "a positive number of seconds, as a float"),
    "stdl.T": _Setting("T", "a whole number of time steps, at least 1"),
    "stdl.dialect": _Setting("dialect", "the name of a dialect"),
    "stdl.reset": _choice("reset", Reset),
    "stdl.input": _choice("input", InputMode),
    "stdl.output": _choice("output", Decoding),
}


def _metadata_problems(graph: nir.NIRGraph) -> Iterator[Problem]:
    for reason in _key_reasons(graph.metadata, _SETTINGS):
        yield Problem(WHOLE_GRAPH, "NIRGraph", f"metadata {reason}")
    for name, node in graph.nodes.items():
        spiking = isinstance(node, SPIKING)
        for reason in _key_reasons(node.metadata, {"stdl.reset": _SETTINGS["stdl.reset"]} if spiking else {}):
            yield Problem(name, type(node).__name__, f"metadata {reason}")


def _key_reasons(metadata: Mapping[str, Any], known: Mapping[str, _Setting]) -> Iterator[str]:
    """Only keys `stdl.*` are ours; one we do not know could change what the graph means, so it is refused."""
    for key, value in metadata.items():
        if not isinstance(
            value, str | int | float
        ):  # a bool is an int; nir cannot write None, and reads lists back as bytes
            yield f"{key}={value!r:.40}: accepted are str, int, float and bool (write anything else as a JSON string)"
        elif key in known and not known[key].holds(value):
            yield f"{key}={value!r}: accepted is {known[key].accepted}"
        elif key.startswith("stdl.") and key not in known:
            yield f"{key} is not known here: {'known are ' + ', '.join(known) if known else 'remove it'}"


# --- structure ------------------------------------------------------------------------------------------------------


def _edge_problems(graph: nir.NIRGraph) -> Iterator[Problem]:
    for source, target in graph.edges:
        for missing in {source, target} - set(graph.nodes):
            yield Problem(WHOLE_GRAPH, "NIRGraph", f"edge ('{source}', '{target}') names '{missing}', which is no node")


def _boundary_problems(graph: nir.NIRGraph) -> Iterator[Problem]:
    for kind in (nir.Input, nir.Output):
        names = sorted(name for name, node in graph.nodes.items() if isinstance(node, kind))
        if len(names) != 1:
            found = f"{len(names)} ({', '.join(names)})" if names else "none"
            yield Problem(
                WHOLE_GRAPH, "NIRGraph", f"exactly one {kind.__name__} node is accepted, the graph has {found}"
            )
    entered, left = {target for _, target in graph.edges}, {source for source, _ in graph.edges}
    for name, node in graph.nodes.items():
        if isinstance(node, nir.Input) == (name in entered):
            yield Problem(
                name, type(node).__name__, "an Input takes no edge" if name in entered else "no edge leads to it"
            )
        if isinstance(node, nir.Output) == (name in left):
            yield Problem(
                name, type(node).__name__, "no edge may leave an Output" if name in left else "no edge leaves it"
            )


def _node_problems(graph: nir.NIRGraph) -> Iterator[Problem]:
    for name, node in graph.nodes.items():
        kind = type(node).__name__
        if not name or name == "." or "/" in name or "\0" in name:
            yield Problem(name, kind, "a node's name may not be empty or '.', nor hold '/' or NUL: rename it")
        if isinstance(node, nir.NIRGraph):
            yield Problem(name, kind, "nested graphs are not accepted: write its nodes into the outer graph")
        elif type(node) not in PRIMITIVES:
            yield Problem(name, kind, "this primitive is not accepted")
        else:
            for reason in PRIMITIVES[type(node)].reasons(node):
                yield Problem(name, kind, reason)
            if isinstance(node, SPIKING) and _reset_unused(graph, name):
                yield Problem(
                    name, kind, "v_reset is not 0, but the reset is 'subtract', which does not use it: set it to 0"
                )


def _reset_unused(graph: nir.NIRGraph, name: NodeName) -> bool:
    node = graph.nodes[name]
    reset = node.metadata.get("stdl.reset", graph.metadata.get("stdl.reset"))
    return reset == "subtract" and bool(np.any(node.v_reset))


def _cycle_problems(graph: nir.NIRGraph) -> Iterator[Problem]:
    try:
        graphlib.TopologicalSorter(sources(graph)).prepare()
    except graphlib.CycleError as error:
        path = error.args[1]
        for name in sorted(set(path)):
            yield Problem(name, type(graph.nodes[name]).__name__, f"it lies on a cycle: {' -> '.join(path)}")


def _infer(graph: nir.NIRGraph, found: dict[NodeName, Shape], refused: Collection[NodeName] = ()) -> Iterator[Problem]:
    """Fill `found` with output shapes; what lies behind a refused node is left out, so each cause is told once."""
    incoming = sources(graph)
    for name in order(graph):
        node = graph.nodes[name]
        arriving = [found.get(source) for source in incoming[name]]
        if name in refused or None in arriving:
            continue
        if len(set(arriving)) > 1:
            shaped = ", ".join(f"'{source}' {found[source]}" for source in incoming[name])
            yield Problem(name, type(node).__name__, f"its inputs are summed but differ in shape: {shaped}")
            continue
        try:
            arrived = arriving[0] if arriving else shape_of(node)
            assert arrived is not None
            shape = PRIMITIVES[type(node)].output_shape(node, arrived)
            if math.prod(shape) > MAX_ELEMENTS:
                raise Refused(f"it puts out shape {shape}: accepted are at most {MAX_ELEMENTS} elements a sample")
            found[name] = shape
        except Refused as refusal:
            yield Problem(name, type(node).__name__, str(refusal))


def _input_shapes(graph: nir.NIRGraph) -> dict[NodeName, Shape]:
    outputs = shapes(graph)
    return {name: outputs[names[0]] for name, names in sources(graph).items() if names}
