"""Random graphs of leaky neurons with connections that jump over layers, as residual networks have them; and loops."""

from __future__ import annotations

from typing import Any

import nir
import numpy as np

DT = 1e-4


class _Graph:
    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: dict[str, Any] = {}
        self.edges: list[tuple[str, str]] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.spiking: list[str] = []

    def add(self, name: str, node: Any, sources: list[str], shape: tuple[int, ...]) -> str:
        self.nodes[name], self.shapes[name] = node, shape
        self.edges += [(source, name) for source in sources]
        return name

    def eighths(self, *shape: int) -> np.ndarray:
        return (self.rng.integers(-6, 9, size=shape) / 8).astype(np.float32)

    def one_of(self, *options: Any) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def neuron(self, name: str, sources: list[str], shape: tuple[int, ...], cuba: bool = False) -> str:
        channels = (shape[0], *[1] * (len(shape) - 1))

        def values(*options: float) -> np.ndarray:
            drawn = self.rng.choice(np.array(options, np.float32), size=channels)
            return np.ascontiguousarray(np.broadcast_to(drawn, shape))

        def same(value: float) -> np.ndarray:
            return np.full(shape, value, np.float32)

        tau = same(DT * self.one_of(2, 4))
        r = same(1.0) * (tau / np.float32(DT))
        node: Any
        if cuba:
            node = nir.CubaLIF(tau_syn=same(2 * DT), tau_mem=tau, r=r, v_leak=values(0.0, 0.125),
                               v_threshold=values(0.5, 1.0), v_reset=same(0), w_in=values(1.0, 2.0))  # fmt: skip
        elif self.rng.random() < 0.3:
            node = nir.IF(r=same(1 / DT), v_threshold=values(0.5, 1.0, 2.0), v_reset=same(0))
        else:
            node = nir.LIF(tau=tau, r=r, v_leak=values(0.0, 0.125), v_threshold=values(0.5, 1.0), v_reset=same(0))
        self.add(name, node, sources, shape)
        self.spiking.append(name)
        return name

    def conv(self, name: str, source: list[str], outputs: int, kernel: int, stride: int, bias: bool = True) -> str:
        channels = self.shapes[source[0]][0]
        weight = self.eighths(outputs, channels, kernel, kernel)
        added = self.eighths(outputs) if bias else np.zeros(outputs, np.float32)
        node = nir.Conv2d(None, weight, (stride, stride), (kernel // 2, kernel // 2), (1, 1), 1, added)
        return self.add(name, node, source, (outputs, *self.size(source[0], kernel, stride)))

    def size(self, source: str, kernel: int, stride: int) -> tuple[int, ...]:
        """Of the image behind a padded kernel."""
        return tuple((n + 2 * (kernel // 2) - kernel) // stride + 1 for n in self.shapes[source][1:])

    def done(self, mode: str, T: int) -> nir.NIRGraph:
        metadata = {"stdl.dt": DT, "stdl.reset": "v_reset", "stdl.input": mode, "stdl.T": T, "stdl.output": "mean"}
        return nir.NIRGraph(nodes=self.nodes, edges=self.edges, metadata=metadata, type_check=False)


def residual(seed: int, mode: str = "repeat", T: int = 4) -> nir.NIRGraph:
    """A stem, two to four layers whose input is a sum over any earlier layers of that shape, some with a shortcut that
    halves the image, a pool, a readout.
    """
    g = _Graph(seed)
    g.add("input", nir.Input(np.array([2, 6, 5])), [], (2, 6, 5))
    last = g.neuron("a0", [g.conv("c0", ["input"], 3, 3, 1)], (3, 6, 5))
    for at in range(1, 2 + int(g.rng.integers(1, 4))):
        same = [name for name in g.spiking if g.shapes[name] == g.shapes[last]]
        sources = sorted({last, *(name for name in same if g.rng.random() < 0.5)})
        stride, outputs = g.one_of(1, 1, 2), g.one_of(3, 3, 4)
        arriving = [g.conv(f"c{at}", sources, outputs, 3, stride)]
        if g.rng.random() < 0.7:
            fitting = [(name, k, s) for name in g.spiking for k in (1, 3) for s in (1, 2)
                       if g.size(name, k, s) == g.shapes[arriving[0]][1:]]  # fmt: skip
            other, kernel, step = g.one_of(*fitting)
            arriving.append(g.conv(f"s{at}", [other], outputs, kernel, step))
        last = g.neuron(f"a{at}", arriving, g.shapes[arriving[0]])
    shape = g.shapes[last]
    sources = sorted({last, *(name for name in g.spiking if g.shapes[name] == shape and g.rng.random() < 0.4)})
    pool = g.add("pool", nir.AvgPool2d(np.array(shape[1:]), np.array(shape[1:]), np.array([0, 0])), sources,
                 (shape[0], 1, 1))  # fmt: skip
    flat = g.add("flat", nir.Flatten({"input": None}, 0, -1), [pool], (shape[0],))
    g.add("fc", nir.Affine(g.eighths(3, shape[0]), g.eighths(3)), [flat], (3,))
    g.add("output", nir.Output(np.array([3])), ["fc"], (3,))
    return g.done(mode, T)


def delayed(seed: int, T: int = 6) -> nir.NIRGraph:
    """Spikes of a convolution and of a row of neurons, each held for its own time, and some not, by relays."""
    g = _Graph(seed)
    g.add("input", nir.Input(np.array([2, 3, 3])), [], (2, 3, 3))
    g.neuron("a0", [g.conv("c0", ["input"], 2, 3, 1)], (2, 3, 3))
    held = g.add("held0", nir.Delay((g.rng.integers(0, 4, (2, 3, 3)) * DT).astype(np.float32)), ["a0"], (2, 3, 3))
    flat = g.add("flat", nir.Flatten({"input": None}, 0, -1), [held], (18,))
    g.neuron("a1", [g.add("fc1", nir.Affine(g.eighths(4, 18), g.eighths(4)), [flat], (4,))], (4,))
    steps = g.one_of(np.full(4, 2), g.rng.integers(0, 3, 4))
    g.add("held1", nir.Delay((steps * DT).astype(np.float32)), ["a1"], (4,))
    plain = g.add("flat0", nir.Flatten({"input": None}, 0, -1), ["a0"], (18,))
    arriving = [g.add("fc2", nir.Linear(g.eighths(3, 4)), ["held1"], (3,)),
                g.add("skip", nir.Linear(g.eighths(3, 18)), [plain], (3,))]  # fmt: skip
    g.neuron("a2", arriving, (3,))
    g.add("output", nir.Output(np.array([3])), ["a2"], (3,))
    return g.done("sequence", T)


def recurrent(seed: int, T: int = 5, cuba: bool = False) -> nir.NIRGraph:
    """Rows of numbers over time, a layer that reads itself, one behind it, and spikes or a potential as output."""
    g = _Graph(seed)
    g.add("input", nir.Input(np.array([4])), [], (4,))
    fc = g.add("fc0", nir.Linear(g.eighths(5, 4)), ["input"], (5,))
    g.neuron("a0", [fc, "back"], (5,), cuba)
    g.add("back", nir.Linear(g.eighths(5, 5)), ["a0"], (5,))
    fc = g.add("fc1", nir.Linear(g.eighths(3, 5)), ["a0"], (3,))
    if seed % 2:
        last = g.neuron("a1", [fc], (3,), cuba)
    else:
        values = np.full(3, 4 * DT, np.float32), np.ones(3, np.float32), np.zeros(3, np.float32)
        last = g.add("li", nir.LI(*values), [fc], (3,))
    g.add("output", nir.Output(np.array([3])), [last], (3,))
    return g.done("sequence", T)
