"""`stdl-export --explain`: a graph in words. Tables on a terminal, plain lines of any length in a pipe."""

from __future__ import annotations

import io
import math
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click
import nir
import numpy as np
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from stdl_export import graph as graphs
from stdl_export import inline, targets
from stdl_export.common.files import size_text
from stdl_export.explain import parameters
from stdl_export.explain.facts import Loop, fusions, loops, names
from stdl_export.explain.parameters import plain, size
from stdl_export.graph import NodeName, Problem
from stdl_export.inline import Flat
from stdl_export.onnx import lower
from stdl_export.program import Node, Program, Source, program
from stdl_export.targets import Job

BEFORE = "@t-1"
PIPE_WIDTH = 10_000


@dataclass(frozen=True)
class Heading:
    """What is known besides the graph: its name, where it was read from, the dialect in words and who said it."""

    name: str
    where: str
    dialect: str
    said_by: str


def show(heading: Heading, job: Job, wanted: Sequence[str]) -> None:
    """Print the graph of a job, and which of the targets take it; of one that is not accepted what can be said, and
    every reason. It does not raise for such a graph: `graph.check` it afterwards.
    """
    problems = graphs.problems(job.graph)
    parts = _refused(heading, job.graph, problems) if problems else _accepted(heading, job, wanted)
    if sys.stdout.isatty():
        console = Console(highlight=False)
        for part in parts:
            console.print(part)
        return
    text = io.StringIO()
    console = Console(file=text, width=PIPE_WIDTH, highlight=False, color_system=None, force_terminal=False)
    for part in parts:
        console.print(part)
    for line in text.getvalue().splitlines():
        click.echo(line.rstrip())


def _accepted(heading: Heading, job: Job, wanted: Sequence[str]) -> Iterator[RenderableType]:
    made = program(job.graph)
    yield from _heading(heading, job.graph)
    yield from _section("nodes, in the order of execution", _counted([node.node for node in made.nodes.values()]))
    yield _nodes(made, inline.inline(job.graph))
    if any(source.previous for node in made.nodes.values() for source in node.sources):
        yield Text(f"{BEFORE}: the value of the step before, 0 before the first", style="dim")
    yield _totals(made)
    yield from _listed("loops", [line for loop in loops(made) for line in _loop(loop)])
    yield from _listed("sub-graphs", _sub_graphs(job.graph))
    yield from _listed("saved work", fusions(made))
    yield from _listed("states of the step graph", _states(job))
    yield from _listed("remarks", [plain(remark) for remark in graphs.remarks(job.graph)])
    yield from _targets(job, wanted)


def _refused(heading: Heading, graph: nir.NIRGraph, problems: Sequence[Problem]) -> Iterator[RenderableType]:
    """In the order of names: what order they would be executed in may not be known."""
    flat, shapes = inline.inline(graph), graphs.known_shapes(graph, problems)
    wrong = Counter(problem.node for problem in problems)
    yield from _heading(heading, graph)
    yield from _section("nodes, by name", _counted([*flat.nodes.values()]))
    table = _table("#", "node", "type", "puts out", "reads", "what it says")
    order = sorted(flat.nodes)
    number = {path: str(at) for at, path in enumerate(order, start=1)}
    for path in order:
        node, shape = flat.nodes[path], shapes.get(path)
        reads = " + ".join(number[source] for source in flat.sources[path])
        row = [number[path], plain(path), type(node).__name__, size(shape) if shape else "?", reads]
        style = "red" if path in wrong else ""
        table.add_row(*(Text(cell, style=style) for cell in [*row, "; ".join(parameters.fields(node))]))
    yield table
    yield from _listed("sub-graphs", _sub_graphs(graph))
    yield from _listed("not accepted", [plain(problem) for problem in problems])


# --- parts ----------------------------------------------------------------------------------------------------------


def _heading(heading: Heading, graph: nir.NIRGraph) -> Iterator[RenderableType]:
    said = graphs.settings(graph)
    own = {key: value for key, value in graph.metadata.items() if not key.startswith("stdl.")}
    lines = {
        "from": plain(heading.where),
        "made by": ", ".join(f"{plain(key)} {plain(value)}" for key, value in own.items()) or "the file does not say",
        "dialect": f"{plain(heading.dialect)} ({heading.said_by})",
        "dt": f"{said.dt:g}, in the unit of the time constants",
        "T": str(said.T) if said.T is not None else "dynamic",
        "input": "repeat: one frame for all steps" if said.input == "repeat" else "sequence: a frame for each step",
        "output": said.output if said.output != "none" else "none: every step is given",
    }
    yield Text(plain(heading.name), style="bold")
    table = _table("", "")
    table.show_header = False
    for key, value in lines.items():
        table.add_row(Text(key, style="dim"), Text(value))
    yield table


def _section(title: str, rest: str = "") -> Iterator[RenderableType]:
    yield Text("")
    yield Text.assemble((title, "bold"), f": {rest}" if rest else "")


def _listed(title: str, lines: Sequence[str]) -> Iterator[RenderableType]:
    if lines:
        yield from _section(title)
        yield from (Text(f"  {line}") for line in lines)


def _counted(nodes: Sequence[Any]) -> str:
    kinds = Counter(type(node).__name__ for node in nodes)
    return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())


def _nodes(made: Program, flat: Flat) -> Table:
    table = _table("#", "node", "type", "shape", "weights", "MACs", "reads", "what it does")
    number = {path: str(at) for at, path in enumerate(made.nodes, start=1)}
    for path, node in made.nodes.items():
        shape = size(node.shape) if node.in_shape == node.shape else f"{size(node.in_shape)} -> {size(node.shape)}"
        weights, macs = parameters.weights(node.node), parameters.macs(node.node, node.shape)
        does = "; ".join([*parameters.does(node), *_dropped(flat.nodes.get(path), node)])
        cells = [number[path], plain(path), type(node.node).__name__, shape, _amount(weights), _amount(macs)]
        table.add_row(*map(Text, [*cells, _reads(node.sources, number), does]))
    return table


def _dropped(before: Any, node: Node) -> Iterator[str]:
    """What the dialect ignores of a node."""
    if np.any(getattr(before, "bias", 0)) and not np.any(getattr(node.node, "bias", 0)):
        yield "its bias is ignored, as the dialect says"


def _reads(sources: Sequence[Source], number: Mapping[NodeName, str]) -> str:
    return " + ".join(number[source.path] + (BEFORE if source.previous else "") for source in sources)


def _totals(made: Program) -> Text:
    weights = sum(parameters.weights(node.node) for node in made.nodes.values())
    macs = sum(parameters.macs(node.node, node.shape) for node in made.nodes.values())
    neurons = sum(math.prod(made.nodes[path].shape) for path in made.spiking)
    return Text(f"{weights:,} weights and biases, {macs:,} MACs a sample and step, {neurons:,} spiking neurons")


def _loop(loop: Loop) -> Iterator[str]:
    yield f"{names(loop.nodes)}: stepped together"
    for source, target in loop.delayed:
        yield f"  {plain(target)} reads {plain(source)} of the step before"
    if loop.late:
        yield f"  {names(loop.late)}: puts out what is stored, so the loop is a step late there by itself"


def _sub_graphs(graph: nir.NIRGraph) -> list[str]:
    return [f"{plain(path)}: {_counted([*part.nodes.values()])}" for path, part in inline.graphs(graph) if path]


def _states(job: Job) -> list[str]:
    found: dict[str, list[int]] = {}
    for state in lower.states(job.graph, job.arithmetic):
        found.setdefault(state.var, []).append(state.dtype.itemsize * math.prod(state.shape))
    if not found:
        return ["none"]
    lines = [f"{STATES[var]:<34} {len(sizes):>4}  {size_text(sum(sizes)):>10}" for var, sizes in found.items()]
    membrane = "float16 and float32" if job.membrane == "fp16" else "float32"
    return [*lines, f"{f'together, a sample, {membrane}':<40} {size_text(sum(map(sum, found.values()))):>10}"]


STATES = {
    "v": "v, potentials",
    "i": "i, synapses",
    "s": "s, spikes of the step before",
    "delay": "delay, what Delay nodes keep",
    "feedback": "feedback, values read a step later",
}


def _targets(job: Job, wanted: Sequence[str]) -> Iterator[RenderableType]:
    yield from _section("targets")
    table = _table("", "")
    table.show_header = False
    for name in wanted:
        reasons = targets.refusals(job, name)
        verdict = Text("yes", style="green") if not reasons else Text(f"no: {plain('; '.join(reasons))}", style="red")
        table.add_row(Text(f"  {name}"), verdict)
    yield table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for column in columns:
        right = column in ("#", "weights", "MACs")
        table.add_column(column, justify="right" if right else "left", no_wrap=right, overflow="fold")
    return table


def _amount(count: int) -> str:
    """1234567 as 1.23M; nothing for 0."""
    for limit, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= limit:
            return f"{count / limit:.3g}{letter}"
    return str(count) if count else ""
