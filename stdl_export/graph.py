"""The NIR graphs we accept, and all that the parts right of the waist ask of one: order, shapes, settings, problems.

Nodes and shapes have no T and no B. Fan-in is a sum, fan-out is free. A node of a sub-graph has a path, `hidden/lif`.
Reading and writing are in `nir_file`; what each primitive accepts is a row in `primitives`; what a dialect makes of the
structure is in `structure`, and everything at once, for those who compute, in `program`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import nir
import numpy as np

from stdl_export import cycles, dialects, nir_file, semantics, structure
from stdl_export.common.errors import BadInput, join_reasons
from stdl_export.common.names import nearest
from stdl_export.cycles import Uncut
from stdl_export.dialects import Dialect
from stdl_export.equality import same as same
from stdl_export.inline import Flat, boundaries, graphs, inline, join
from stdl_export.primitives import ACCEPTED, MAX_ELEMENTS, PRIMITIVES, Refused, Shape, shape_of
from stdl_export.structure import Structure

NodeName = str
Reset = Literal["v_reset", "subtract"]
InputMode = Literal["repeat", "sequence"]
Decoding = Literal["mean", "sum", "last", "none"]

SPIKING = (nir.IF, nir.LIF, nir.CubaLIF)
WHOLE_GRAPH = "(graph)"
MAX_REASONS = 50
MAX_STEPS = 1 << 20  # T: a number in a file costs nothing, a sequence so long costs memory and hours
DT = 1e-4  # seconds, where neither the graph nor its dialect says one


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
    """What a graph's metadata (`stdl.*`) says about running it. T is None where it is not fixed.

    dt in the unit of the graph's time constants, seconds but for a few frameworks. dialect: a name, or one as JSON
    (`dialects.get`). reset is None for graphs of any dialect but `nir`: those have resets of their own.
    """

    dt: float = DT
    T: int | None = None
    dialect: str = "nir"
    reset: Reset | None = "v_reset"
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
    found = [problem for path, part in graphs(graph) for problem in _part_problems(part, path)]
    dangling = any({*edge} - set(part.nodes) for _, part in graphs(graph) for edge in part.edges)
    flat = inline(graph)
    metadata = [*_metadata_problems(graph)]
    found += [*metadata, *_node_problems(flat)]
    if not any(problem.node == WHOLE_GRAPH for problem in metadata):  # else its dialect and dt are not known
        found += _dialect_problems(graph, flat, {problem.node for problem in found})
        if not dangling:
            found += _structure_problems(graph, flat, {problem.node for problem in found})
    return sorted(dict.fromkeys(found), key=lambda problem: (problem.node != WHOLE_GRAPH, problem.node))


def check(graph: nir.NIRGraph, where: str) -> None:
    """Raise `BadInput` with all problems on one line, `where` (the file, say) first."""
    found = [str(problem) for problem in problems(graph)]
    if not found:
        return
    if len(found) > MAX_REASONS:
        found[MAX_REASONS:] = [f"and {len(found) - MAX_REASONS} more"]
    if any(type(node) not in PRIMITIVES for node in inline(graph).nodes.values()):
        found.append(f"accepted primitives are {ACCEPTED}")
    raise BadInput(f"{where}: {join_reasons(found)}")


def check_metadata(graph: nir.NIRGraph, where: str) -> None:
    """As `check`, but only that its settings can be read; `check` it when they are settled."""
    found = [str(problem) for problem in _metadata_problems(graph) if problem.node == WHOLE_GRAPH]
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
    return structure.structure(flat, dialect(graph), settings(graph).dt, _resets(graph, flat))


def sources(graph: nir.NIRGraph) -> dict[NodeName, tuple[NodeName, ...]]:
    """The nodes whose outputs are summed to each node's input: sorted by name; sums are made in this order."""
    return dict(structure_of(graph).sources)


def order(graph: nir.NIRGraph) -> list[NodeName]:
    """Paths of all nodes in the order of execution; of those that are ready the first by name, not by file."""
    return structure_of(graph).order


def shapes(graph: nir.NIRGraph) -> dict[NodeName, Shape]:
    """The output shape of each node of a checked graph, without T and B."""
    return shapes_of(structure_of(graph))


def shapes_of(made: Structure) -> dict[NodeName, Shape]:
    """The output shape of each node of a checked graph's structure."""
    found: dict[NodeName, Shape] = {}
    refusals = [*_infer(made, found)]
    if refusals:
        raise BadInput(join_reasons(refusals))
    return found


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
    for _ in _infer(made, shapes, refused):
        pass
    return shapes


def settings(graph: nir.NIRGraph) -> Settings:
    """Metadata `stdl.dt`, `stdl.T`, `stdl.dialect`, `stdl.reset`, `stdl.input`, `stdl.output` of a checked graph.

    A dt that the graph does not say is its dialect's, else 1e-4.
    """
    said = {_SETTINGS[key].field: value for key, value in graph.metadata.items() if key in _SETTINGS}
    own = dialects.choices(dialect(graph)).dt
    plain: dict[str, Any] = {} if own is None else {"dt": own}
    if dialects.base(dialect(graph)) != "nir":
        plain["reset"] = None
    return Settings(**plain | said)


def dialect(graph: nir.NIRGraph) -> Dialect:
    """The dialect of a checked graph; `nir` where it names none."""
    return dialects.get(graph.metadata.get("stdl.dialect", "nir"))


def with_settings(graph: nir.NIRGraph, wanted: Settings) -> nir.NIRGraph:
    """The same nodes and edges, with metadata that says `wanted`; all other metadata stays."""
    kept = {key: value for key, value in graph.metadata.items() if key not in _SETTINGS}
    said = {key: getattr(wanted, row.field) for key, row in _SETTINGS.items()}
    if dialects.base(dialects.get(wanted.dialect)) != "nir":
        del said["stdl.reset"]
    metadata = kept | {key: value for key, value in said.items() if value is not None}
    return nir.NIRGraph(nodes=graph.nodes, edges=graph.edges, metadata=metadata, type_check=False)


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


def input_name(graph: nir.NIRGraph) -> NodeName:
    """The one Input of a checked graph; BadInput where it has several, which not every part takes."""
    return _only(inputs(graph), "Inputs")


def output_name(graph: nir.NIRGraph) -> NodeName:
    """The one Output of a checked graph; BadInput as above."""
    return _only(outputs(graph), "Outputs")


def _only(names: list[str], what: str) -> NodeName:
    if len(names) != 1:
        raise BadInput(f"the graph has {len(names)} {what}, {', '.join(names)}: only one is taken here")
    return names[0]


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
            return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_STEPS
        return isinstance(value, str)


def _choice(field: str, literal: Any) -> _Setting:
    choices = get_args(literal)
    return _Setting(field, " | ".join(choices), choices)


_SETTINGS = {
    "stdl.dt": _Setting("dt", "a positive number of seconds, as a float"),
    "stdl.T": _Setting("T", f"a whole number of time steps, from 1 to {MAX_STEPS}"),
    "stdl.dialect": _Setting("dialect", "the name of a dialect, or one as a JSON string"),
    "stdl.reset": _choice("reset", Reset),
    "stdl.input": _choice("input", InputMode),
    "stdl.output": _choice("output", Decoding),
}


def _metadata_problems(graph: nir.NIRGraph) -> Iterator[Problem]:
    for reason in _key_reasons(graph.metadata, _SETTINGS):
        yield Problem(WHOLE_GRAPH, "NIRGraph", f"metadata {reason}")
    for path, part in graphs(graph):
        for name, node in part.nodes.items():
            spiking = isinstance(node, SPIKING)
            for reason in _key_reasons(node.metadata, {"stdl.reset": _SETTINGS["stdl.reset"]} if spiking else {}):
                yield Problem(join(path, name), type(node).__name__, f"metadata {reason}")
    if isinstance(graph.metadata.get("stdl.dialect"), str):
        try:
            dialect(graph)
        except BadInput as error:
            yield Problem(WHOLE_GRAPH, "NIRGraph", f"metadata stdl.dialect: {error}")


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


def _resets(graph: nir.NIRGraph, flat: Flat) -> dict[NodeName, str | None]:
    """What `stdl.reset` says of each spiking node; None where neither it nor the graph says anything."""
    said = graph.metadata.get("stdl.reset")
    return {
        path: node.metadata.get("stdl.reset", said) for path, node in flat.nodes.items() if isinstance(node, SPIKING)
    }


def _dialect_problems(graph: nir.NIRGraph, flat: Flat, refused: Collection[NodeName]) -> Iterator[Problem]:
    """What the graph and its dialect say that does not fit each other."""
    chosen, dt = dialect(graph), settings(graph).dt
    resets = _resets(graph, flat)
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
    except ValueError:  # shapes that do not go together: `_infer` tells it
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
        made = structure.structure(flat, dialect(graph), settings(graph).dt, _resets(graph, flat))
    except Uncut as error:
        path = " -> ".join([*error.nodes, error.nodes[0]])
        for name in sorted(set(error.nodes)):
            kind = type(flat.nodes[name]).__name__ if name in flat.nodes else "Delay"
            yield Problem(name, kind, f"it lies on a cycle: {path}, and {error}")
        return
    yield from _infer(made, {}, refused)


# --- shapes ---------------------------------------------------------------------------------------------------------


def _infer(made: Structure, found: dict[NodeName, Shape], refused: Collection[NodeName] = ()) -> Iterator[Problem]:
    """Fill `found` with output shapes; what lies behind a refused node is left out, so each cause is told once.

    On a loop a node's shape follows from whichever of its sources is known first; all of them are compared afterwards.
    """
    waiting = [path for path in made.order if path not in refused]
    arrived: dict[NodeName, Shape] = {}
    stuck = False
    while waiting:
        left = []
        for path in waiting:
            shape = _arriving(made, path, found, refused, stuck)
            if shape is None:
                left.append(path)
                continue
            stuck = False
            arrived[path] = shape
            try:
                found[path] = _output_shape(made, path, shape)
            except Refused as refusal:
                yield Problem(path, type(made.nodes[path]).__name__, str(refusal))
        if len(left) == len(waiting):
            if stuck:
                break
            stuck = True
        waiting = left
    if not refused and set(arrived) <= set(found):  # else what is told of others is the reason
        for path in waiting:
            reason = "nothing says what shape its input has: no path leads to it from an Input"
            yield Problem(path, type(made.nodes[path]).__name__, reason)
    for path in arrived:
        shaped = [(source, found[source]) for source in dict.fromkeys(made.sources[path]) if source in found]
        if len({shape for _, shape in shaped}) > 1:
            said = ", ".join(f"'{source}' {shape}" for source, shape in shaped)
            reason = f"its inputs are summed but differ in shape: {said}"
            yield Problem(path, type(made.nodes[path]).__name__, reason)


def _arriving(
    made: Structure, path: NodeName, found: Mapping[NodeName, Shape], refused: Collection[NodeName], guess: bool
) -> Shape | None:
    """The shape that a node gets: that of a source, or of an Input itself; where nothing leads on, what it takes."""
    node = made.nodes[path]
    if isinstance(node, nir.Input):
        return _input_shape(node, _readers(made, path, refused))
    for source in made.sources[path]:
        if source in found:
            return found[source]
    return PRIMITIVES[type(node)].input_shape(node) if guess else None


def _output_shape(made: Structure, path: NodeName, arriving: Shape) -> Shape:
    node = made.nodes[path]
    shape = arriving if isinstance(node, nir.Input) else PRIMITIVES[type(node)].output_shape(node, arriving)
    if math.prod(shape) > MAX_ELEMENTS:
        raise Refused(f"it puts out shape {shape}: accepted are at most {MAX_ELEMENTS} elements a sample")
    if path in made.steps and (longest := int(made.steps[path].max())) * math.prod(shape) > MAX_ELEMENTS:
        raise Refused(f"it keeps {longest} steps of {shape}: accepted are at most {MAX_ELEMENTS} elements a sample")
    return shape


def _input_shape(node: nir.Input, readers: list[Any]) -> Shape:
    """What an Input declares, less leading ones where only that fits those who read it; a lone (1,) may be anything."""
    declared = shape_of(node)
    options = [declared[at:] for at in range(len(declared)) if set(declared[:at]) <= {1}]
    if math.prod(declared) == 1:
        options += [shape for each in readers if (shape := PRIMITIVES[type(each)].input_shape(each)) is not None]
    return next((shape for shape in options if all(_takes(each, shape) for each in readers)), declared)


def _readers(made: Structure, path: NodeName, refused: Collection[NodeName]) -> list[Any]:
    """The nodes that an Input's shape must fit, behind a delay that the dialect adds as well."""
    names = {path, f"{path}/delay"}
    found = [made.nodes[to] for to, read in made.sources.items() if names & set(read) and to not in refused]
    return [node for node in found if not isinstance(node, nir.Output)]


def _takes(node: Any, shape: Shape) -> bool:
    try:
        PRIMITIVES[type(node)].output_shape(node, shape)
    except Refused:
        return False
    return True


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
