"""A graph as a picture: boxes and edges as its file has them, sub-graphs as boxes around theirs; in DOT and in SVG.

Nothing is installed for it: Graphviz draws the DOT, and the SVG has a layout of its own (`layout`), since the layout
libraries in Python need the Graphviz binary, a compiled graph library, or are no longer kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import nir

from stdl_export.common.errors import BadInput
from stdl_export.explain import parameters
from stdl_export.explain.parameters import plain, size
from stdl_export.graph import NodeName
from stdl_export.inline import Flat, boundaries, inline, join
from stdl_export.inline import graphs as parts
from stdl_export.primitives import shape_of
from stdl_export.program import Node, Program, program

MAX_BOXES = 2000  # of an SVG: more than that nobody reads
LONGEST_NAME = 28


@dataclass(frozen=True)
class Family:
    """Types that are coloured alike: what the legend calls them, the colour of the box and that of its border."""

    name: str
    fill: str
    stroke: str


ENDS = Family("inputs, outputs", "#e9eaf0", "#5d6275")
WEIGHTS = Family("weights", "#dbe8fb", "#3467ad")
CONVOLUTIONS = Family("convolutions", "#d5f0e8", "#22806a")
SPIKING = Family("spiking neurons", "#ffe2bf", "#c26a10")
POTENTIALS = Family("potentials, thresholds", "#fbf1bd", "#978012")
RESHAPING = Family("pools, flatten", "#f0f0f0", "#777777")
DELAYS = Family("delays", "#ecdff8", "#7b49b1")

FAMILIES: dict[type, Family] = {
    nir.Input: ENDS, nir.Output: ENDS,
    nir.Affine: WEIGHTS, nir.Linear: WEIGHTS, nir.Scale: WEIGHTS,
    nir.Conv1d: CONVOLUTIONS, nir.Conv2d: CONVOLUTIONS,
    nir.IF: SPIKING, nir.LIF: SPIKING, nir.CubaLIF: SPIKING,
    nir.LI: POTENTIALS, nir.CubaLI: POTENTIALS, nir.I: POTENTIALS, nir.Threshold: POTENTIALS,
    nir.AvgPool2d: RESHAPING, nir.SumPool2d: RESHAPING, nir.Flatten: RESHAPING,
    nir.Delay: DELAYS,
}  # fmt: skip


@dataclass(frozen=True)
class Box:
    """A node: its name, further lines, all about it in `details`; `inner` is what a sub-graph holds.

    rank: where it stands in the order of execution. All texts are plain, and not escaped for any format yet.
    """

    title: str
    lines: tuple[str, ...]
    details: str
    family: Family
    rank: int
    inner: Picture | None = None


@dataclass(frozen=True)
class Edge:
    """From one box of a picture to another, by number; `before`: it hands over the value of the step before."""

    source: int
    target: int
    before: bool


@dataclass(frozen=True)
class Picture:
    """Boxes and edges of a (sub-)graph, and the numbers of the boxes where edges from outside enter and leave."""

    boxes: tuple[Box, ...]
    edges: tuple[Edge, ...]
    entry: int
    exit: int

    def flat(self) -> Iterator[Box]:
        """All boxes, those of sub-graphs too."""
        for box in self.boxes:
            yield box
            if box.inner is not None:
                yield from box.inner.flat()


def check_size(graph: nir.NIRGraph) -> None:
    """BadInput for a graph that is too large for an SVG."""
    flat = inline(graph)
    if (count := len(flat.nodes) + len(flat.wires)) > MAX_BOXES:
        raise BadInput(f"an SVG shows up to {MAX_BOXES} nodes, the graph has {count}: take --target dot and Graphviz")


def picture(graph: nir.NIRGraph) -> Picture:
    """The picture of a checked graph under its own metadata."""
    return _Drawer(graph).part(graph, "")


class _Drawer:
    """What is needed to draw each part: the program, and which edges carry which of its values."""

    def __init__(self, graph: nir.NIRGraph) -> None:
        self.made: Program = program(graph)
        self.flat: Flat = inline(graph)
        self.rank = {path: at for at, path in enumerate(self.made.nodes, start=1)}
        self.previous = {
            (source.path, path) for path, node in self.made.nodes.items() for source in node.sources if source.previous
        }
        self.readers: dict[NodeName, list[NodeName]] = {}
        for path, part in parts(graph):
            for source, target in part.edges:
                begin, end = _end(part, path, source, nir.Output), _end(part, path, target, nir.Input)
                self.readers.setdefault(begin, []).append(end)

    def part(self, graph: nir.NIRGraph, path: NodeName) -> Picture:
        """A graph or the sub-graph at `path`."""
        number = {name: at for at, name in enumerate(graph.nodes)}
        edges = sorted({(number[source], number[target], source, target) for source, target in graph.edges})
        return Picture(
            tuple(self.box(name, node, join(path, name)) for name, node in graph.nodes.items()),
            tuple(Edge(i, k, self.before(graph, path, source, target)) for i, k, source, target in edges),
            number[boundaries(graph, nir.Input)[0]],
            number[boundaries(graph, nir.Output)[0]],
        )

    def box(self, name: str, node: nir.NIRNode, path: NodeName) -> Box:
        if isinstance(node, nir.NIRGraph):
            inner = self.part(node, path)
            rank = max(
                (box.rank for box in inner.flat() if box.inner is None and box.rank <= len(self.rank)), default=0
            )
            return Box(_short(name), (), plain(path), ENDS, rank, inner)
        made = self.made.nodes.get(path)
        if made is None:  # the Input or Output of a sub-graph
            arriving = self.flat.wires[path][1]
            shape = self.made.nodes[arriving[0]].shape if arriving else shape_of(node)
            rank = 0 if isinstance(node, nir.Input) else len(self.rank) + 1
            return Box(_short(name), (size(shape),), plain(path), ENDS, rank)
        lines = _lines(made)
        if self.delayed(path):
            lines.append(f"then {parameters.step(self.made.nodes[f'{path}/delay'])[0]}")
        details = "; ".join([plain(path), type(node).__name__, *parameters.does(made)])
        return Box(_short(name), tuple(lines), details, FAMILIES[type(node)], self.rank[path])

    def before(self, graph: nir.NIRGraph, path: NodeName, source: str, target: str) -> bool:
        """Does all that goes over this edge arrive a step later?"""
        begin, end = _end(graph, path, source, nir.Output), _end(graph, path, target, nir.Input)
        behind = self.flat.wires[begin][1] if begin in self.flat.wires else (begin,)
        behind = tuple(f"{each}/delay" if self.delayed(each) else each for each in behind)
        pairs = [(each, reader) for each in behind for reader in self.ahead(end)]
        return bool(pairs) and all(pair in self.previous for pair in pairs)

    def delayed(self, path: NodeName) -> bool:
        """Has the dialect put a delay behind this node?"""
        return f"{path}/delay" in self.made.nodes and f"{path}/delay" not in self.flat.nodes

    def ahead(self, path: NodeName) -> list[NodeName]:
        """The nodes that read what arrives at a path, over any number of wires."""
        found, waiting, seen = [], [path], set()
        while waiting:
            each = waiting.pop()
            if each not in self.flat.wires:
                found.append(each)
            elif each not in seen:
                waiting += self.readers.get(each, [])
            seen.add(each)
        return found


def _end(graph: nir.NIRGraph, path: NodeName, name: str, side: type) -> NodeName:
    """The path that an edge of a checked graph really begins or ends at."""
    node, inner = graph.nodes[name], join(path, name)
    while isinstance(node, nir.NIRGraph):
        (name,) = boundaries(node, side)
        node, inner = node.nodes[name], join(inner, name)
    return inner


def _short(name: str) -> str:
    """A name of any length as a title: of a long one both ends."""
    shown = plain(name)
    half = LONGEST_NAME // 2
    return shown if len(shown) <= LONGEST_NAME else f"{shown[: half - 1]}…{shown[-half:]}"


def _lines(node: Node) -> list[str]:
    """Type and geometry, decay and threshold, and the shape that is put out."""
    return [f"{type(node.node).__name__}{_geometry(node)}", *_numbers(node), size(node.shape)]


def _geometry(node: Node) -> str:
    if isinstance(node.node, nir.Conv1d | nir.Conv2d):
        stride = next((f", {text}" for text in parameters.fields(node.node) if text.startswith("stride")), "")
        return f" {size(node.node.weight.shape[2:])}{stride}"
    return ""


def _numbers(node: Node) -> list[str]:
    if node.numbers is not None:
        fires = f", spikes {parameters.fires(node.numbers)}" if node.spikes else ""
        return [f"decay {parameters.extent(node.numbers.decay)}{fires}"]
    return parameters.step(node)


# --- DOT ------------------------------------------------------------------------------------------------------------


def dot(drawn: Picture) -> str:
    """The picture in the language of Graphviz. Names stand in labels only, quoted; nodes are called n0, n1, ..."""
    lines = [
        "digraph {",
        '  node [shape=box style="rounded,filled" fontname="Helvetica" fontsize=11]',
        '  edge [color="#555b66" arrowsize=0.7]',
        *_dot_part(drawn, "n", "  "),
        "}",
    ]
    return "\n".join(lines) + "\n"


def _dot_part(drawn: Picture, name: str, indent: str) -> Iterator[str]:
    for at, box in enumerate(drawn.boxes):
        if box.inner is None:
            label = "\\n".join(map(_dot_text, [box.title, *box.lines]))
            colours = f'fillcolor="{box.family.fill}" color="{box.family.stroke}"'
            yield f'{indent}{name}{at} [label="{label}" tooltip="{_dot_text(box.details)}" {colours}]'
            continue
        yield f"{indent}subgraph cluster_{name}{at} {{"
        yield f'{indent}  label="{_dot_text(box.title)}" style=rounded color="#8a90a0" fontname="Helvetica" fontsize=11'
        yield from _dot_part(box.inner, f"{name}{at}_", f"{indent}  ")
        yield f"{indent}}}"
    for edge in drawn.edges:
        begin = _dot_end(drawn, name, edge.source, "exit")
        end = _dot_end(drawn, name, edge.target, "entry")
        yield f"{indent}{begin} -> {end}{' [style=dashed constraint=false]' if edge.before else ''}"


def _dot_end(drawn: Picture, name: str, at: int, side: str) -> str:
    """The node that an edge really begins or ends at: of a sub-graph its Output or Input."""
    inner = drawn.boxes[at].inner
    if inner is None:
        return f"{name}{at}"
    return _dot_end(inner, f"{name}{at}_", inner.exit if side == "exit" else inner.entry, side)


def _dot_text(text: str) -> str:
    """In quotes of DOT a backslash begins an escape, which may stand for the node's name and the like."""
    return text.replace("\\", "\\\\").replace('"', '\\"')
