"""Random feed-forward NIR graphs whose neurons really spike, for hypothesis; and inputs that fit them.

All weights, biases and inputs are small multiples of a power of two, and averages are over 1, 2 or 4 elements. So every
sum of them is exact in float32 whatever its order, every engine sees the very same currents, and thresholds are hit
exactly; what may round (taus that are no powers of two) stays elementwise. Spikes can then be compared bit for bit.
"""

from __future__ import annotations

from typing import Any

import nir
import numpy as np
from drawn_graphs import Builder
from hypothesis import strategies as st

DT = 2.0**-10  # so that tau = 2**k * DT gives decays that are powers of two

Shape = tuple[int, ...]


@st.composite
def graphs(draw: st.DrawFn, input: str | None = None, T: int | str | None = "drawn") -> nir.NIRGraph:
    """A checked graph of one to three blocks; `stdl.input` and `stdl.T` (1 to 6, None: dynamic) as given, or drawn."""
    build = _Builder(draw)
    image = draw(st.booleans())
    name = build.add("input", nir.Input(np.array(build.input_shape(image))), [])
    for block in range(draw(st.integers(1, 3))):
        name = build.block(block, name)
    build.readout(name)
    metadata: dict[str, Any] = {"stdl.dt": DT, "stdl.reset": draw(st.sampled_from(["v_reset", "subtract"]))}
    metadata["stdl.input"] = input or draw(st.sampled_from(["repeat", "sequence"]))
    steps = draw(st.integers(1, 6)) if T == "drawn" else T
    if steps is not None:
        metadata["stdl.T"] = steps
    build.settle_resets(metadata["stdl.reset"])
    return nir.NIRGraph(nodes=build.nodes, edges=build.edges, metadata=metadata, type_check=False)


def inputs(graph: nir.NIRGraph, batch: int, T: int, seed: int = 0) -> np.ndarray:
    """Quarters between -2 and 3 for a graph: [B, ...] or [T, B, ...], as its `stdl.input` says."""
    (node,) = (node for node in graph.nodes.values() if isinstance(node, nir.Input))
    shape = (batch, *node.input_type["input"].tolist())
    if graph.metadata.get("stdl.input") != "repeat":
        shape = (T, *shape)
    return (np.random.default_rng(seed).integers(-8, 13, size=shape) / 4).astype(np.float32)


class _Builder(Builder):
    """A graph that grows at its end; it draws structure from hypothesis and numbers from a generator seeded by it."""

    def __init__(self, draw: st.DrawFn) -> None:
        super().__init__(draw)
        self.shapes: dict[str, Shape] = {}
        self.resets: dict[str, str | None] = {}

    def add(self, name: str, node: nir.NIRNode, sources: list[str], shape: Shape | None = None) -> str:
        """A node behind its sources; shape is that of its output, by default that of its input."""
        self.nodes[name] = node
        self.edges += [(source, name) for source in sources]
        self.shapes[name] = shape or (self.shapes[sources[0]] if sources else tuple(node.input_type["input"].tolist()))
        return name

    def input_shape(self, image: bool) -> Shape:
        return (self.one_of(1, 2, 4), self.one_of(4, 5, 7), self.one_of(4, 6)) if image else (self.one_of(1, 3, 8),)

    def block(self, index: int, source: str) -> str:
        """Weights, sometimes two of them summed, perhaps a scale, a neuron, sometimes a pool."""
        shape = self.shapes[source]
        if len(shape) == 3:
            name = self.conv(f"conv{index}", source)
        else:
            name = self.linear(f"fc{index}", source, self.one_of(2, 5, 6))
        if self.draw(st.booleans()):
            name = self.add(f"scale{index}", nir.Scale(self.powers(self.shapes[name])), [name])
        spikes = self.spiking(f"lif{index}", [name])
        summands = [spikes, self.spiking(f"also{index}", [name])] if self.draw(st.booleans()) else [spikes]
        if len(self.shapes[spikes]) == 3 and self.draw(st.booleans()):
            return self.pool(f"pool{index}", summands)
        if len(summands) == 1:
            return spikes
        # An elementwise node takes the sum in, so that what follows has one source again.
        return self.add(f"sum{index}", nir.Scale(self.powers(self.shapes[spikes])), summands)

    def readout(self, source: str) -> None:
        """Flatten, weights and, now and then, a neuron in front of Output."""
        shape = self.shapes[source]
        if len(shape) == 3:
            dims = self.one_of((0, -1), (0, 2), (-3, -1))
            source = self.add("flatten", nir.Flatten({"input": None}, *dims), [source], (int(np.prod(shape)),))
        name = self.linear("readout", source, 3)
        last = self.one_of("logits", "spikes", "potential", "threshold")
        if last == "spikes":
            name = self.spiking("out_lif", [name])
        if last == "potential":
            tau, r, v_leak = self.taus((3,)), self.ones((3,)), self.eighths((3,))
            name = self.add("out_li", nir.LI(tau=tau, r=r, v_leak=v_leak), [name])
        if last == "threshold":
            name = self.add("out_step", nir.Threshold(self.eighths((3,))), [name])
        self.add("output", nir.Output(np.array([3])), [name])

    def conv(self, name: str, source: str) -> str:
        channels, *image = self.shapes[source]
        groups = self.one_of(*(g for g in (1, 2, 4) if channels % g == 0))
        kernel = self.one_of((3, 3), (1, 1), (2, 3), (3, 2))
        stride, dilation = self.one_of((1, 1), (2, 1), (2, 2)), self.one_of((1, 1), (1, 2))
        padding = self.one_of((1, 1), (0, 1), "same", "valid", 1)
        if padding == "same":
            stride = (1, 1)
        pads = {"same": (0, 0), "valid": (0, 0), 1: (1, 1)}.get(padding, padding)
        if any(size + 2 * p <= d * (k - 1) for size, p, d, k in zip(image, pads, dilation, kernel, strict=True)):
            kernel = (1, 1)  # the image has become too small for a larger one
        weight = self.eighths((self.one_of(4, 8), channels // groups, *kernel))
        node = nir.Conv2d(None, weight, stride, padding, dilation, groups, self.eighths((len(weight),)))
        shape = tuple(
            size if padding == "same" else (size + 2 * p - d * (k - 1) - 1) // s + 1
            for size, p, d, k, s in zip(image, pads, dilation, kernel, stride, strict=True)
        )
        return self.add(name, node, [source], (len(weight), *shape))

    def linear(self, name: str, source: str, outputs: int) -> str:
        weight = self.eighths((outputs, *self.shapes[source]))
        node = nir.Affine(weight, self.eighths((outputs,))) if self.draw(st.booleans()) else nir.Linear(weight)
        return self.add(name, node, [source], (outputs,))

    def pool(self, name: str, sources: list[str]) -> str:
        channels, *image = self.shapes[sources[0]]
        kind = self.one_of(nir.AvgPool2d, nir.SumPool2d)
        kernel = tuple(min(k, size) for k, size in zip(self.one_of((2, 2), (1, 2), (2, 1)), image, strict=True))
        padding = self.one_of((0, 0), tuple(k // 2 for k in kernel))
        stride = self.one_of((2, 2), (1, 2))
        shape = tuple((n + 2 * p - k) // s + 1 for n, p, k, s in zip(image, padding, kernel, stride, strict=True))
        node = kind(np.array(kernel), np.array(stride), np.array(padding))
        return self.add(name, node, sources, (channels, *shape))

    def spiking(self, name: str, sources: list[str]) -> str:
        """An IF or LIF whose parameters vary over all axes, over channels, or not at all."""
        shape = self.shapes[sources[0]]
        v_threshold = self.vary(shape, [0.25, 0.5, 1.0])
        v_reset = self.vary(shape, [0.0, -0.125, 0.125])
        if self.draw(st.booleans()):
            r = self.vary(shape, [1 / DT, 0.5 / DT])
            node = nir.IF(r=r, v_threshold=v_threshold, v_reset=v_reset)
        else:
            tau, v_leak = self.taus(shape), self.vary(shape, [0.0, 0.25])
            r = self.one_of(self.ones(shape), (tau / np.float32(DT)).astype(np.float32))
            node = nir.LIF(tau=tau, r=r, v_leak=v_leak, v_threshold=v_threshold, v_reset=v_reset)
        self.resets[name] = self.one_of(None, None, "v_reset", "subtract")
        return self.add(name, node, sources)

    def settle_resets(self, graph_reset: str) -> None:
        """Write each node's own reset; a soft reset does not use v_reset, so it must be 0 there."""
        for name, own in self.resets.items():
            if own:
                self.nodes[name].metadata["stdl.reset"] = own
            if (own or graph_reset) == "subtract":
                self.nodes[name].v_reset = np.zeros_like(self.nodes[name].v_reset)

    def eighths(self, shape: Shape) -> np.ndarray:
        return (self.rng.integers(-6, 9, size=shape) / 8).astype(np.float32)

    def powers(self, shape: Shape) -> np.ndarray:
        return self.vary(shape, [0.5, 1.0, 2.0])

    def ones(self, shape: Shape) -> np.ndarray:
        return np.ones(shape, np.float32)

    def taus(self, shape: Shape) -> np.ndarray:
        return self.vary(shape, [2 * DT, 4 * DT, *(DT * self.rng.uniform(1.2, 9, size=3))])

    def vary(self, shape: Shape, values: list[float]) -> np.ndarray:
        """Values that vary over all axes, over the first one, or not at all."""
        drawn = {"all": shape, "first": (shape[0], *[1] * (len(shape) - 1)), "none": (1,) * len(shape)}
        picked = self.rng.choice(np.array(values, np.float32), size=drawn[self.one_of(*drawn)])
        return np.ascontiguousarray(np.broadcast_to(picked, shape))
