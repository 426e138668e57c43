"""Random NIR graphs full of what passes look for: Scales, identities, equal nodes, parallel edges, zeros, loops.

Parameters and inputs are small multiples of powers of two, so every product and sum of them is exact in float32, and
what passes make of a graph can be compared bit for bit, spikes included. `rough` gives a graph's weights arbitrary
digits.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import nir
import numpy as np
from drawn_graphs import Builder
from hypothesis import strategies as st
from random_programs import DT, STEPS, neuron

from stdl_export import dialects

Shape = tuple[int, ...]
IMAGE: Shape = (2, 4, 3)


@st.composite
def graphs(draw: st.DrawFn, loops: bool = True, repeat: bool | None = None) -> nir.NIRGraph:
    """A checked graph of T = STEPS; `stdl.input` is drawn unless `repeat` says it."""
    build = _Builder(draw)
    for index in range(draw(st.integers(3, 7))):
        build.one_of(build.node, build.node, build.chain, build.parallel)(f"n{index}")
    if loops:
        build.loops()
    build.outputs()
    repeated = draw(st.booleans()) if repeat is None else repeat
    feedback = build.one_of("delay_source_output", "delay_target_input")
    metadata: dict[str, Any] = {"stdl.dt": DT, "stdl.T": STEPS, "stdl.input": "repeat" if repeated else "sequence"}
    metadata["stdl.dialect"] = dialects.text(dialects.checked({"graph": {"feedback": feedback}}, "drawn"))
    return nir.NIRGraph(nodes=build.nodes, edges=build.edges, metadata=metadata, type_check=False)


def rough(graph: nir.NIRGraph, seed: int = 0) -> nir.NIRGraph:
    """The graph with weights, biases and scales that are no multiples of anything."""
    rng, found = np.random.default_rng(seed), copy.deepcopy(graph)
    for _, node in sorted(found.nodes.items()):
        for name in ("weight", "bias", "scale"):
            if hasattr(node, name):
                value = np.asarray(getattr(node, name), np.float32)
                setattr(node, name, (value * rng.uniform(0.5, 1.5, size=value.shape)).astype(np.float32))
    return found


class _Builder(Builder):
    def __init__(self, draw: st.DrawFn) -> None:
        super().__init__(draw)
        self.shapes: dict[str, Shape] = {}
        for name, shape in (("image", IMAGE), ("x", (3,))):
            self.add(name, nir.Input(np.array(shape)), [], shape)

    def add(self, name: str, node: nir.NIRNode, sources: list[str], shape: Shape) -> None:
        self.nodes[name], self.shapes[name] = node, shape
        self.edges += [(source, name) for source in sources]

    def eighths(self, *shape: int) -> np.ndarray:
        return (self.rng.integers(-4, 7, size=shape) / 8).astype(np.float32)

    def chain(self, name: str) -> None:
        """Two or three of weights and Scales in a row, nobody else in between."""
        source = self.one_of(*list(self.shapes)[-2:], *self.shapes)
        for part in range(self.one_of(2, 3)):
            weights = OF_IMAGES["conv"] if len(self.shapes[source]) == 3 else _affine
            node, shape = self.one_of(weights, _scale)(self, self.shapes[source])
            self.add(f"{name}.{part}", node, [source], shape)
            source = f"{name}.{part}"

    def parallel(self, name: str) -> None:
        """Two or three weights that read the same, summed by a neuron or by something else."""
        source = self.one_of(*list(self.shapes)[-2:], *self.shapes)
        kinds = (OF_IMAGES["conv"], _scale) if len(self.shapes[source]) == 3 else (_affine, _linear)
        made = [self.one_of(*kinds)(self, self.shapes[source]) for _ in range(self.one_of(2, 3))]
        for part, (node, shape) in enumerate(made):
            self.add(f"{name}.{part}", node, [source], shape)
        node, shape = self.one_of(*ELEMENTWISE.values())(self, made[0][1])
        self.add(name, node, [f"{name}.{part}" for part, (_, own) in enumerate(made) if own == made[0][1]], shape)

    def node(self, name: str) -> None:
        """A node behind one or two that are there, mostly the newest; or another one just like one of them."""
        copied = [each for each, node in self.nodes.items() if not isinstance(node, nir.Input)]
        if copied and self.one_of(True, False, False, False):
            other = self.one_of(*copied[-2:])
            sources = [source for source, target in self.edges if target == other]
            self.add(name, copy.deepcopy(self.nodes[other]), sources, self.shapes[other])
            return
        source = self.one_of(*list(self.shapes)[-2:], *self.shapes)
        shape = self.shapes[source]
        others = [each for each, like in self.shapes.items() if like == shape and each != source]
        sources = [source] + ([self.one_of(*others)] if others and self.one_of(True, False, False) else [])
        kinds = {**ELEMENTWISE, **(OF_IMAGES if len(shape) == 3 else OF_VECTORS)}
        node, out = kinds[self.one_of(*kinds)](self, shape)
        self.add(name, node, sources, out)

    def loops(self) -> None:
        """Edges back from neurons, through weights, a Scale, or without."""
        safe = [name for name, node in self.nodes.items() if isinstance(node, nir.LIF) and len(self.shapes[name]) == 1]
        for index in range(self.draw(st.integers(0, 2)) if safe else 0):
            source = self.one_of(*safe)
            shape = self.shapes[source]
            back = self.one_of(None, ELEMENTWISE["scale"], _affine, _linear)
            if back is not None:
                node, shape = back(self, shape)
                self.add(f"back{index}", node, [source], shape)
                source = f"back{index}"
            fits = [name for name in self.targets(shape) if (source, name) not in self.edges]
            if fits:
                self.edges.append((source, self.one_of(*fits)))

    def targets(self, shape: Shape) -> list[str]:
        """Nodes in the middle that take this shape."""
        into = {target: self.shapes[source] for source, target in self.edges}
        return [name for name in self.nodes if name[0] == "n" and into[name] == shape]

    def outputs(self) -> None:
        """Whatever nobody reads is an output, a neuron of it as well; and now and then a node in the middle."""
        read = {source for source, _ in self.edges}
        ends = [name for name in self.nodes if name not in read]
        ends += [self.one_of(*self.shapes)] if self.draw(st.booleans()) else []
        for index, name in enumerate(dict.fromkeys(ends)):
            shape = self.shapes[name]
            self.add(f"end{index}", neuron(self.rng, "LIF", shape), [name], shape)
            self.add(f"spikes{index}", nir.Output(np.array(shape)), [f"end{index}"], shape)
            self.add(f"value{index}", nir.Output(np.array(shape)), [name], shape)


Made = tuple[nir.NIRNode, Shape]


def _scale(build: _Builder, shape: Shape) -> Made:
    drawn: Shape = build.one_of((), (1,), shape, (shape[0], *[1] * (len(shape) - 1)))
    values = build.one_of([1], [0], [0.5], [0.5, 1, 2, -1, 0])
    return nir.Scale(np.asarray(build.rng.choice(np.array(values, np.float32), size=drawn), np.float32)), shape


def _affine(build: _Builder, shape: Shape) -> Made:
    return nir.Affine(build.eighths(3, *shape) * build.one_of(1, 1, 0), build.eighths(3)), (3,)


def _linear(build: _Builder, shape: Shape) -> Made:
    if build.one_of(True, False, False):
        return nir.Linear(np.diag(build.eighths(*shape)).astype(np.float32)), shape
    return nir.Linear(build.eighths(3, *shape)), (3,)


def _narrow(build: _Builder, shape: Shape) -> Made:
    return nir.Linear(build.eighths(1, *shape)), (1,)


def _conv(build: _Builder, shape: Shape) -> Made:
    padding, groups = build.one_of(((1, 1), 1), ((1, 1), 2), ("same", 1))
    weight = build.eighths(2, 2 // groups, 3, 3) * build.one_of(1, 1, 1, 0)
    return nir.Conv2d(None, weight, 1, padding, 1, groups, build.eighths(2)), shape


def _pool(build: _Builder, shape: Shape) -> Made:
    kind = build.one_of(nir.AvgPool2d, nir.SumPool2d)
    return kind(np.array([1, 1]), np.array([1, 1]), np.array([0, 0])), shape


def _flat(build: _Builder, shape: Shape) -> Made:
    size = int(np.prod(shape))
    return nir.Flatten({"input": None}, 0, -1), (size,)


ELEMENTWISE: dict[str, Callable[[_Builder, Shape], Made]] = {
    "scale": _scale,
    "again": _scale,
    "delay": lambda build, shape: (nir.Delay(np.float32([DT * build.one_of(0, 0, 1)])), shape),
    "threshold": lambda build, shape: (nir.Threshold(build.eighths(*shape)), shape),
    "lif": lambda build, shape: (neuron(build.rng, "LIF", shape), shape),
}
OF_VECTORS = {"affine": _affine, "affine2": _affine, "linear": _linear, "narrow": _narrow, "flat": _flat}
OF_IMAGES = {"conv": _conv, "conv2": _conv, "conv3": _conv, "pool": _pool, "flatten": _flat}
