"""Every reason why a graph is not accepted, at once: its metadata, names and edges, nodes, dialect and structure."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import nir
import numpy as np

from stdl_export import cycles, dialects, semantics, structure
from stdl_export.common.errors import BadInput
from stdl_export.common.names import nearest
from stdl_export.cycles import Uncut
from stdl_export.dialects import Dialect
from stdl_export.inline import Flat, boundaries, graphs, inline, join
from stdl_export.metadata import SETTINGS, SPIKING, NodeName, dialect, key_reasons, settings
from stdl_export.metadata import resets as resets_of
from stdl_export.primitives import PRIMITIVES
from stdl_export.problem import WHOLE_GRAPH, Problem
from stdl_export.shapes import infer


def problems(graph: nir.NIRGraph) -> list[Problem]:
    """Every reason why the graph is not accepted, at once, in the order of node names; empty where it is."""
    found = [problem for path, part in graphs(graph) for problem in _part_problems(part, path)]
    dangling = any({*edge} - set(part.nodes) for _, part in graphs(graph) for edge in part.edges)
    flat = inline(graph)
    metadata = [*metadata_problems(graph)]
    found += [*metadata, *_node_problems(flat)]
    if not any(problem.node == WHOLE_GRAPH for problem in metadata):  # else its dialect and dt are not known
        found += _dialect_problems(graph, flat, {problem.node for problem in found})
        if not dangling:
            found += _structure_problems(graph, flat, {problem.node for problem in found})
    return sorted(dict.fromkeys(found), key=lambda problem: (problem.node != WHOLE_GRAPH, problem.node))


def metadata_problems(graph: nir.NIRGraph) -> Iterator[Problem]:
    """What the metadata of the graph and of its nodes say that is not known or holds something else."""
    for reason in key_reasons(graph.metadata, SETTINGS):
        yield Problem(WHOLE_GRAPH, "NIRGraph", f"metadata {reason}")
    for path, part in graphs(graph):
        for name, node in part.nodes.items():
            spiking = isinstance(node, SPIKING)
            for reason in key_reasons(node.metadata, {"stdl.reset": SETTINGS["stdl.reset"]} if spiking else {}):
                yield Problem(join(path, name), type(node).__name__, f"metadata {reason}")
    if isinstance(graph.metadata.get("stdl.dialect"), str):
        try:
            dialect(graph)
        except BadInput as error:
            yield Problem(WHOLE_GRAPH, "NIRGraph", f"metadata stdl.dialect: {error}")


def _part_problems(graph: nir.NIRGraph, path: NodeName) -> Iterator[Problem]:
    """What is wrong with the edges, names and boundaries of the graph, or of the sub-graph at `path`."""
    whole = path or WHOLE_GRAPH
    for source, target in graph.edges:
        for missing in sorted({source, target} - set(graph.nodes)):
            yield Problem(whole, "NIRGraph", f"edge ('{source}', '{target}') names '{missing}', which is no node")
    for kind in (nir.Input, nir.Output):
        names = boundaries(graph, kind)
        if not names:
            yield Problem(whole, "NIRGraph", f"at least one {kind.__name__} node is needed, the graph has none")
        elif path and len(names) > 1:
            said = f"{len(names)} {kind.__name__} nodes ({', '.join(names)})"
            yield Problem(path, "NIRGraph", f"a sub-graph has {said}: an edge cannot say which, so one is accepted")
    entered, left = {target for _, target in graph.edges}, {source for source, _ in graph.edges}
    for name, node in graph.nodes.items():
        for reason in _name_reasons(name, node, name in entered, name in left):
            yield Problem(join(path, name), type(node).__name__, reason)


def _name_reasons(name: NodeName, node: nir.NIRNode, entered: bool, left: bool) -> Iterator[str]:
    if not name or name == "." or "/" in name or "\0" in name:
        yield "a node's name may not be empty or '.', nor hold '/' or NUL: rename it"
    if isinstance(node, nir.Input) == entered:
        yield "an Input takes no edge" if entered else "no edge leads to it"
    if isinstance(node, nir.Output) == left:
        yield "no edge may leave an Output" if left else "no edge leaves it"


def _node_problems(flat: Flat) -> Iterator[Problem]:
    everything = {**flat.nodes, **{path: node for path, (node, _) in flat.wires.items()}}
    for path, node in everything.items():
        kind = type(node).__name__
        if type(node) not in PRIMITIVES:
            yield Problem(path, kind, "this primitive is not accepted")
            continue
        for reason in PRIMITIVES[type(node)].reasons(node):
            yield Problem(path, kind, reason)
    for path in flat.wire_cycles:
        yield Problem(path, "NIRGraph", "the sub-graph feeds itself with no node in between")
    for path in flat.crowded:
        yield Problem(path, "NIRGraph", "more wires of sub-graphs lead to it than can be followed: write it plainer")


def _dialect_problems(graph: nir.NIRGraph, flat: Flat, refused: Collection[NodeName]) -> Iterator[Problem]:
    """What the graph and its dialect say that does not fit each other."""
    chosen, dt = dialect(graph), settings(graph).dt
    resets = resets_of(graph, flat)
    own = dialects.choices(chosen).dt
    if (
        "stdl.dt" in graph.metadata
        and dialects.text(chosen) not in dialects.DIALECTS
        and chosen.graph.dt not in (None, dt)
    ):
        yield Problem(WHOLE_GRAPH, "NIRGraph", f"metadata stdl.dt={dt:g}, but its dialect says dt {own:g}: drop one")
    if (base := dialects.base(chosen)) != "nir" and any(reset is not None for reset in resets.values()):
        said = f"metadata stdl.reset is for dialect nir, '{base}' has resets of its own: remove it"
        yield Problem(WHOLE_GRAPH, "NIRGraph", said)
    yield from _unknown_paths(flat, chosen)
    rules = structure.rules_of(flat, chosen, resets, cycles.on_cycles(flat.sources))
    for path, node in flat.nodes.items():
        kind = type(node).__name__
        if path in refused:
            continue
        if path in rules:
            wrong = dialects.reasons(kind, chosen.nodes.get(path, dialects.Rule())) or dialects.reasons(
                kind, rules[path]
            )
            for reason in wrong or _number_reasons(node, rules[path], dt):
                yield Problem(path, kind, reason)
            if resets.get(path) == "subtract" and np.any(node.v_reset):
                yield Problem(
                    path, kind, "v_reset is not 0, but the reset is 'subtract', which does not use it: set it to 0"
                )
        elif isinstance(node, nir.Flatten | nir.Delay):
            yield from (Problem(path, kind, reason) for reason in _adaption_reasons(node, chosen, dt))


def _number_reasons(node: Any, rule: dialects.Rule, dt: float) -> list[str]:
    if type(node).__name__ not in structure.STATEFUL:
        return []
    try:
        semantics.discretise(node, rule, dt)
    except BadInput as error:
        return [str(error)]
    except ValueError:  # shapes that do not go together: `shapes.infer` tells it
        return []
    return []


def _adaption_reasons(node: Any, chosen: Dialect, dt: float) -> list[str]:
    try:
        if isinstance(node, nir.Delay):
            semantics.steps(node.delay, dt)
        elif dialects.choices(chosen).flatten_dims == "batch":
            structure.without_batch(node)
    except BadInput as error:
        return [str(error)]
    return []


def _unknown_paths(flat: Flat, chosen: Dialect) -> Iterator[Problem]:
    """Nodes that a dialect names and that the graph does not have, or that take no choices."""
    for path in chosen.nodes:
        kind = type(flat.nodes[path]).__name__ if path in flat.nodes else None
        if kind is not None and kind not in dialects.FIELDS and chosen.nodes[path].said():
            takes = ", ".join(dialects.FIELDS)
            yield Problem(path, kind, f"the dialect has choices for it, but only {takes} take any")
        elif kind is None:
            yield _no_such(flat, f"dialect.nodes names '{path}'", path)
    for path in dialects.choices(chosen).drop_bias or ():
        node = flat.nodes.get(path)
        if node is None and not path.endswith(dialects.CYCLE):
            yield _no_such(flat, f"dialect.graph.drop_bias names '{path}'", path)
        elif node is not None and not hasattr(node, "bias"):
            yield Problem(path, type(node).__name__, "dialect.graph.drop_bias names it, but it has no bias")


def _no_such(flat: Flat, said: str, path: NodeName) -> Problem:
    guess = nearest(path, flat.nodes)
    hint = f": did you mean '{guess}'?" if guess else ""
    return Problem(WHOLE_GRAPH, "NIRGraph", f"{said}, which is no node{hint}")


def _structure_problems(graph: nir.NIRGraph, flat: Flat, refused: Collection[NodeName]) -> Iterator[Problem]:
    """Cycles that nothing delays, and shapes that do not fit; what hangs on a refused node is left out."""
    if any(isinstance(flat.nodes.get(path), nir.Flatten | nir.Delay) for path in refused):
        return  # what the dialect makes of them is not known
    if flat.wire_cycles or flat.crowded:
        return  # what the dialect makes of them is not known
    try:
        made = structure.structure(flat, dialect(graph), settings(graph).dt, resets_of(graph, flat))
    except Uncut as error:
        path = " -> ".join([*error.nodes, error.nodes[0]])
        for name in sorted(set(error.nodes)):
            kind = type(flat.nodes[name]).__name__ if name in flat.nodes else "Delay"
            yield Problem(name, kind, f"it lies on a cycle: {path}, and {error}")
        return
    yield from infer(made, {}, refused)
