"""A checked NIR graph made ready to be computed: what the NumPy reference and the ONNX lowering both walk.

for component in program.components:                      a lone node, or a loop (`cyclic`), in order of execution
    for node in component.nodes:
        x = sum of the sources, each now or at the step before (`previous`), 0 before the first
        stateless nodes compute; neurons step with `numbers`; Delay nodes are `steps` late
    late nodes put out what is stored when it is their turn, and take their x at the end of the component's step
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import nir
import numpy as np
from numpy.typing import NDArray

from stdl_export import graph as graphs
from stdl_export.dialects import Spike
from stdl_export.graph import NodeName, Settings
from stdl_export.primitives import Shape
from stdl_export.semantics import Discrete, discretise
from stdl_export.structure import STATEFUL, Steps


@dataclass(frozen=True)
class Source:
    """A summand of a node's input: the value of `path` in this step, or in the step before (0 before the first)."""

    path: NodeName
    previous: bool = False


@dataclass(frozen=True, eq=False)
class Node:
    """One node. `path` joins the names of sub-graphs with '/', `node` is the NIR primitive with its parameters.

    in_shape, shape: of what goes in and comes out, without T and B (of an Input both are what it puts out).
    sources: what is summed, in this order; a path that arrives twice is there twice. numbers: of a neuron (IF, LIF,
    CubaLIF, LI, CubaLI, I). steps: of a Delay, whole numbers that broadcast against the shape. spike: of a Threshold,
    how it compares. late: what it puts out depends on what is stored alone.
    """

    path: NodeName
    node: Any
    in_shape: Shape
    shape: Shape
    sources: tuple[Source, ...]
    numbers: Discrete | None = None
    steps: Steps | None = None
    spike: Spike = ">"
    late: bool = False

    @property
    def spikes(self) -> bool:
        """Is it an IF, LIF or CubaLIF?"""
        return self.numbers is not None and self.numbers.spikes

    @property
    def stateful(self) -> bool:
        """Does it keep anything between steps?"""
        return self.numbers is not None or self.steps is not None


@dataclass(frozen=True, eq=False)
class Constant:
    """In the place of a NIR primitive: a value that no input reaches, of the node's shape. Only passes write it."""

    value: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Component:
    """Nodes in the order of execution within a step. `cyclic`: they are a loop, to be stepped together."""

    nodes: tuple[Node, ...]
    cyclic: bool


@dataclass(frozen=True, eq=False)
class Program:
    """A graph to compute. `nodes` in the order of execution; `inputs` and `outputs` are paths, by name."""

    nodes: Mapping[NodeName, Node]
    components: tuple[Component, ...]
    inputs: tuple[NodeName, ...]
    outputs: tuple[NodeName, ...]
    settings: Settings

    @property
    def spiking(self) -> list[NodeName]:
        """The nodes that spike, in the order of execution."""
        return [path for path, node in self.nodes.items() if node.spikes]

    @property
    def fed_back(self) -> list[NodeName]:
        """The nodes whose value of the step before somebody reads, in the order of execution."""
        read = {source.path for node in self.nodes.values() for source in node.sources if source.previous}
        return [path for path in self.nodes if path in read]

    @property
    def timeless(self) -> list[NodeName]:
        """The nodes with no memory in themselves or before them: where one frame is repeated, they never change."""
        found: dict[NodeName, None] = {}
        for path, node in self.nodes.items():
            now = all(source.path in found and not source.previous for source in node.sources)
            if now and not node.stateful:
                found[path] = None
        return list(found)

    def before(self) -> dict[NodeName, set[NodeName]]:
        """For each node the spiking nodes on any path that leads to it, itself included where it is on a loop."""
        found: dict[NodeName, set[NodeName]] = {}
        for component in self.components:
            own = {node.path for node in component.nodes}
            leading = {source.path for node in component.nodes for source in node.sources} - own
            spiking = {path for path in leading | (own if component.cyclic else set()) if self.nodes[path].spikes}
            reached = spiking.union(*(found[path] for path in leading))
            found |= dict.fromkeys(own, reached)
        return found


def program(graph: nir.NIRGraph) -> Program:
    """The program of a checked graph under its own metadata: dialect, dt, resets."""
    made = graphs.structure_of(graph)
    shapes, settings = graphs.shapes_of(made), graphs.settings(graph)
    nodes = {}
    for path in made.order:
        node, rule, read = made.nodes[path], made.rules.get(path), made.sources[path]
        numbers = None
        if type(node).__name__ in STATEFUL:
            assert rule is not None, "every neuron has one"
            numbers = discretise(node, rule, settings.dt)
        nodes[path] = Node(
            path=path,
            node=node,
            in_shape=shapes[read[0]] if read else shapes[path],
            shape=shapes[path],
            sources=tuple(Source(source, (source, path) in made.previous) for source in read),
            numbers=numbers,
            steps=made.steps.get(path),
            spike=(rule.spike if rule is not None else None) or ">",
            late=path in made.late,
        )
    components = tuple(Component(tuple(nodes[path] for path in each.nodes), each.cyclic) for each in made.components)
    return Program(nodes, components, tuple(graphs.inputs(graph)), tuple(graphs.outputs(graph)), settings)
