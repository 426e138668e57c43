"""The NIR graphs we accept, and all that the parts right of the waist ask of one: order, shapes, settings, problems.

Nodes and shapes have no T and no B. Fan-in is a sum, fan-out is free. A node of a sub-graph has a path, `hidden/lif`.
This is the face that others import. Behind it: files are read and written in `nir_file`, settings in `metadata`, what
is refused in `acceptance`, shapes in `shapes`; what each primitive accepts is a row in `primitives`, what a dialect
makes of the structure is in `structure`, and everything at once, for those who compute, in `program`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import nir

from stdl_export import nir_file, semantics, structure
from stdl_export.acceptance import metadata_problems
from stdl_export.acceptance import problems as problems
from stdl_export.common.errors import BadInput, join_reasons
from stdl_export.cycles import Uncut
from stdl_export.equality import same as same
from stdl_export.inline import boundaries, inline
from stdl_export.inline import graphs as graphs
from stdl_export.metadata import DT as DT
from stdl_export.metadata import SPIKING, resets
from stdl_export.metadata import Decoding as Decoding
from stdl_export.metadata import InputMode as InputMode
from stdl_export.metadata import NodeName as NodeName
from stdl_export.metadata import Reset as Reset
from stdl_export.metadata import Settings as Settings
from stdl_export.metadata import dialect as dialect
from stdl_export.metadata import settings as settings
from stdl_export.metadata import with_settings as with_settings
from stdl_export.primitives import ACCEPTED, PRIMITIVES, Shape, shape_of
from stdl_export.problem import WHOLE_GRAPH, limited
from stdl_export.problem import Problem as Problem
from stdl_export.shapes import infer
from stdl_export.shapes import shapes_of as shapes_of
from stdl_export.structure import Structure


def read(path: Path) -> nir.NIRGraph:
    """Read a .nir file as the untrusted file that it is; `BadInput` on anything that is not a NIR graph."""
    return nir_file.read(path)


def write(graph: nir.NIRGraph, path: Path) -> None:
    """Write a checked graph; the file is whole or absent, and read back it is the same graph (`same`)."""
    check(graph, f"'{path}' was not written")
    nir_file.write(graph, _input_shapes(graph), path)


def check(graph: nir.NIRGraph, where: str) -> None:
    """Raise `BadInput` with all problems on one line, `where` (the file, say) first."""
    found = [str(problem) for problem in problems(graph)]
    if not found:
        return
    found = limited(found)
    if any(type(node) not in PRIMITIVES for node in inline(graph).nodes.values()):
        found.append(f"accepted primitives are {ACCEPTED}")
    raise BadInput(f"{where}: {join_reasons(found)}")


def check_metadata(graph: nir.NIRGraph, where: str) -> None:
    """As `check`, but only that its settings can be read; `check` it when they are settled."""
    found = [str(problem) for problem in metadata_problems(graph) if problem.node == WHOLE_GRAPH]
    if found:
        raise BadInput(f"{where}: {join_reasons(found)}")


def remarks(graph: nir.NIRGraph) -> list[str]:
    """What of a checked graph is accepted, but other than it says or hardly meant: one line each, for a warning."""
    found = [*_declared_otherwise(graph)]
    made, dt = structure_of(graph), settings(graph).dt
    for path in sorted(made.rules):
        if type(made.nodes[path]).__name__ in structure.STATEFUL:
            said = semantics.remarks(made.nodes[path], made.rules[path], dt)
            found += [f"node '{path}': {remark}" for remark in said]
    return found


def structure_of(graph: nir.NIRGraph) -> Structure:
    """What the graph's dialect makes of a checked graph: nodes, what they read, the order of execution."""
    flat = inline(graph)
    return structure.structure(flat, dialect(graph), settings(graph).dt, resets(graph, flat))


def sources(graph: nir.NIRGraph) -> dict[NodeName, tuple[NodeName, ...]]:
    """The nodes whose outputs are summed to each node's input: sorted by name; sums are made in this order."""
    return dict(structure_of(graph).sources)


def order(graph: nir.NIRGraph) -> list[NodeName]:
    """Paths of all nodes in the order of execution; of those that are ready the first by name, not by file."""
    return structure_of(graph).order


def shapes(graph: nir.NIRGraph) -> dict[NodeName, Shape]:
    """The output shape of each node of a checked graph, without T and B."""
    return shapes_of(structure_of(graph))


def known_shapes(graph: nir.NIRGraph, found: Iterable[Problem]) -> dict[NodeName, Shape]:
    """The output shapes of a graph that is not accepted, less those that its `problems` leave open."""
    refused, flat = {problem.node for problem in found}, inline(graph)
    adapted = any(isinstance(flat.nodes.get(path), nir.Flatten | nir.Delay) for path in refused)
    if WHOLE_GRAPH in refused or adapted or flat.wire_cycles or flat.crowded:
        return {}
    shapes: dict[NodeName, Shape] = {}
    try:
        made = structure_of(graph)
    except Uncut:
        return {}
    for _ in infer(made, shapes, refused):
        pass
    return shapes


def reset_of(graph: nir.NIRGraph, name: NodeName) -> Reset | None:
    """How a spiking node resets in dialect `nir`: its own metadata `stdl.reset`, else the graph's."""
    own: Reset | None = inline(graph).nodes[name].metadata.get("stdl.reset", settings(graph).reset)
    return own


def neurons(graph: nir.NIRGraph) -> list[NodeName]:
    """The spiking nodes (IF, LIF, CubaLIF) in `order`. An LI has a state but does not spike."""
    made = structure_of(graph)
    return [path for path in made.order if isinstance(made.nodes[path], SPIKING)]


def inputs(graph: nir.NIRGraph) -> list[NodeName]:
    """The graph's own Inputs, by name."""
    return boundaries(graph, nir.Input)


def outputs(graph: nir.NIRGraph) -> list[NodeName]:
    """The graph's own Outputs, by name."""
    return boundaries(graph, nir.Output)


def _declared_otherwise(graph: nir.NIRGraph) -> Iterator[str]:
    """Inputs and Outputs, those of sub-graphs too, that declare another shape than the one they have."""
    found, flat = shapes(graph), inline(graph)
    known = {path: (node, found[path]) for path, node in flat.nodes.items() if isinstance(node, nir.Input | nir.Output)}
    known |= {path: (node, found[arriving[0]]) for path, (node, arriving) in flat.wires.items() if arriving}
    for path, (node, shape) in sorted(known.items()):
        if shape_of(node) != shape:
            kind, declared = type(node).__name__, shape_of(node)
            yield f"node '{path}' ({kind}) declares shape {declared}, but has {shape}: that is taken"


def _input_shapes(graph: nir.NIRGraph) -> dict[NodeName, Shape]:
    made = structure_of(graph)
    found = shapes_of(made)
    return {path: found[names[0]] for path, names in made.sources.items() if names}
