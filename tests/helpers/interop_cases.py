"""Graphs for other frameworks to read: all neurons spike, parameters differ where peers allow it, T > 1, batch > 1.

`CASES`: name -> a function that makes the graph; `inputs` has an input for each. Numbers are of the kind that training
gives, but for `ties`, where thresholds are met exactly.
"""

from __future__ import annotations

from collections.abc import Callable

import nir
import numpy as np
import small_graphs
from chains import DT, chain, full, integrate, lif
from small_graphs import assemble

T, BATCH = 8, 3

Graph = Callable[[], nir.NIRGraph]


def draw(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def affine(rng, outputs, inputs, size=0.6, bias=0.1):
    weight = rng.normal(0.05, size, (outputs, inputs)).astype(np.float32)
    return nir.Affine(weight, rng.normal(0.05, bias, outputs).astype(np.float32))


def linear(rng, outputs, inputs, size=0.6):
    return nir.Linear(rng.normal(0.1, size, (outputs, inputs)).astype(np.float32))


def conv(rng, outputs, inputs, kernel=(3, 3), stride=1, padding=1, dilation=1, groups=1, size=0.4):
    weight = rng.normal(0.05, size, (outputs, inputs // groups, *kernel)).astype(np.float32)
    bias = rng.normal(0.05, 0.1, outputs).astype(np.float32)
    return nir.Conv2d(None, weight, stride, padding, dilation, groups, bias)


def cuba(rng, n, *, varied=True, threshold=1.0, v_reset=0.0):
    """A CubaLIF whose gains are not 1."""

    def between(low, high):
        return (rng.uniform(low, high, n) if varied else np.full(n, (low + high) / 2)).astype(np.float32)

    tau_syn, tau_mem = DT / (1 - between(0.3, 0.6)), DT / (1 - between(0.6, 0.9))
    return nir.CubaLIF(
        tau_syn=tau_syn.astype(np.float32),
        tau_mem=tau_mem.astype(np.float32),
        r=(tau_mem / DT * between(0.8, 1.2)).astype(np.float32),
        v_leak=full(0, n),
        v_threshold=between(0.8, 1.2) * np.float32(threshold),
        v_reset=full(v_reset, n),
        w_in=(tau_syn / DT * between(0.5, 0.9)).astype(np.float32),
    )


def mlp() -> nir.NIRGraph:
    rng = draw(1)
    nodes = {
        "fc1": affine(rng, 20, 12), "lif1": lif((20,), beta=0.9), "fc2": linear(rng, 15, 20),
        "lif2": lif((15,), beta=0.7, v_threshold=0.8), "fc3": affine(rng, 4, 15),
    }  # fmt: skip
    return chain((12,), (4,), nodes, T=T)


def beta_per_neuron() -> nir.NIRGraph:
    """Decays, gains and thresholds differ from neuron to neuron."""
    rng = draw(2)
    nodes = {
        "fc1": affine(rng, 20, 12),
        "lif1": lif((20,), beta=rng.uniform(0.3, 0.95, 20), gain=rng.uniform(0.7, 1.3, 20), v_threshold=0.9),
        "fc2": affine(rng, 6, 20),
        "lif2": lif((6,), beta=rng.uniform(0.3, 0.95, 6)),
    }
    nodes["lif2"].v_threshold = rng.uniform(0.6, 1.1, 6).astype(np.float32)
    return chain((12,), (6,), nodes, T=T)


def gains() -> nir.NIRGraph:
    """r = 1, so that the gain is dt / tau, and thresholds of the size of that."""
    rng = draw(3)
    nodes = {
        "fc1": affine(rng, 20, 12), "lif1": lif((20,), beta=0.8, gain=0.2, v_threshold=0.2),
        "fc2": affine(rng, 6, 20), "lif2": lif((6,), beta=0.5, gain=1.7),
    }  # fmt: skip
    return chain((12,), (6,), nodes, T=T)


def leaks() -> nir.NIRGraph:
    """v_leak != 0, which most peers refuse or lose: it moves into the biases."""
    rng = draw(4)
    nodes = {
        "fc1": linear(rng, 20, 12), "lif1": lif((20,), beta=0.8, leak=rng.normal(0.05, 0.1, 20)),
        "fc2": affine(rng, 6, 20), "lif2": lif((6,), beta=0.6, leak=0.1),
    }  # fmt: skip
    return chain((12,), (6,), nodes, T=T)


def resets_at_start() -> nir.NIRGraph:
    """v_reset != 0 where the potential starts at v_reset as well, as in SpikingJelly."""
    rng = draw(5)
    nodes = {
        "fc1": affine(rng, 20, 12), "lif1": lif((20,), beta=0.8, leak=0.2 * -0.3, v_reset=-0.3),
        "fc2": affine(rng, 6, 20), "if2": integrate((6,), v_reset=0.2),
    }  # fmt: skip
    graph = chain((12,), (6,), nodes, T=T)
    graph.metadata["stdl.dialect"] = "spikingjelly"
    return graph


def resets_elsewhere() -> nir.NIRGraph:
    """v_reset != 0 and a start at 0: of the peers, only norse's LIF tells the two apart."""
    rng = draw(6)
    nodes = {
        "fc1": affine(rng, 20, 12), "lif1": lif((20,), beta=0.8, v_reset=-0.3, leak=0.05),
        "fc2": affine(rng, 6, 20), "lif2": lif((6,), beta=0.6, v_reset=0.2),
    }  # fmt: skip
    return chain((12,), (6,), nodes, T=T)


def integrators() -> nir.NIRGraph:
    rng = draw(7)
    nodes = {
        "fc1": affine(rng, 20, 12, size=0.4), "if1": integrate((20,), gain=0.7),
        "fc2": affine(rng, 6, 20, size=0.4), "if2": integrate((6,), v_threshold=1.5),
    }  # fmt: skip
    return chain((12,), (6,), nodes, T=T)


def soft_reset() -> nir.NIRGraph:
    """Inputs so strong that potentials pass twice the threshold: one spike a step all the same."""
    rng = draw(8)
    nodes = {
        "fc1": affine(rng, 20, 12, size=1.0), "lif1": lif((20,), beta=0.9),
        "fc2": affine(rng, 15, 20, size=0.5), "if2": integrate((15,)), "fc3": affine(rng, 4, 15),
    }  # fmt: skip
    return chain((12,), (4,), nodes, T=T, reset="subtract")


def synapses() -> nir.NIRGraph:
    rng = draw(9)
    nodes = {
        "fc1": affine(rng, 20, 12), "cuba1": cuba(rng, 20),
        "fc2": affine(rng, 6, 20), "cuba2": cuba(rng, 6, threshold=0.8),
    }  # fmt: skip
    return chain((12,), (6,), nodes, T=T)


def synapses_alike() -> nir.NIRGraph:
    """One set of numbers a layer, for peers that take no more; the second layer resets softly elsewhere."""
    rng = draw(10)
    nodes = {
        "fc1": affine(rng, 20, 12), "cuba1": cuba(rng, 20, varied=False),
        "fc2": affine(rng, 6, 20), "cuba2": cuba(rng, 6, varied=False, threshold=0.8),
    }  # fmt: skip
    return chain((12,), (6,), nodes, T=T)


def soft_synapses() -> nir.NIRGraph:
    graph = synapses()
    graph.metadata["stdl.reset"] = "subtract"
    return graph


def readout() -> nir.NIRGraph:
    """A leaky integrator that does not spike at the end; its gain is not the peers'."""
    rng = draw(11)
    li = nir.LI(tau=full(5 * DT, 4), r=full(3, 4), v_leak=full(0, 4))
    nodes = {"fc1": affine(rng, 20, 12), "lif1": lif((20,), beta=0.9), "fc2": affine(rng, 4, 20), "li": li}
    return chain((12,), (4,), nodes, T=T)


def images() -> nir.NIRGraph:
    """conv - LIF - average pool - conv - LIF - flatten - Affine, as our exports have it."""
    rng = draw(12)
    pair = np.array([2, 2])
    nodes = {
        "conv1": conv(rng, 5, 2), "lif1": lif((5, 8, 6), beta=0.9), "pool": nir.AvgPool2d(pair, pair, np.array([0, 0])),
        "conv2": conv(rng, 6, 5, (3, 3), (2, 1)), "lif2": lif((6, 2, 3), beta=0.7, v_threshold=0.5),
        "flat": nir.Flatten({"input": np.array([6, 2, 3])}, 0, -1), "fc": affine(rng, 4, 36),
    }  # fmt: skip
    return chain((2, 8, 6), (4,), nodes, T=T)


def convolutions() -> nir.NIRGraph:
    """Groups, strides, dilation, 'same' in front of odd and even kernels, thresholds that differ by channel."""
    rng = draw(13)
    nodes = {
        "conv1": conv(rng, 4, 2, (3, 5), 1, "same"), "lif1": lif((4, 8, 6), beta=0.8),
        "conv2": conv(rng, 8, 4, (3, 3), (2, 1), (1, 2), (1, 2), 2, size=0.6), "if2": integrate((8, 4, 6)),
        "conv3": conv(rng, 4, 8, (2, 2), 1, "same", size=0.3), "lif3": lif((4, 4, 6), beta=0.6),
        "flat": nir.Flatten({"input": np.array([4, 4, 6])}, 0, 2), "fc": linear(rng, 4, 96, 0.3),
    }  # fmt: skip
    nodes["lif1"].v_threshold = np.ascontiguousarray(
        np.broadcast_to(rng.uniform(0.6, 1.2, (4, 1, 1)), (4, 8, 6)).astype(np.float32)
    )
    return chain((2, 8, 6), (4,), nodes, T=T)


def pools() -> nir.NIRGraph:
    """Sums and averages, with and without padding."""
    rng = draw(14)

    def pool(kind, kernel, stride, padding):
        return kind(np.array(kernel), np.array(stride), np.array(padding))

    nodes = {
        "conv1": conv(rng, 4, 2), "lif1": lif((4, 8, 6), beta=0.8), "sum1": pool(nir.SumPool2d, (2, 2), (2, 2), (0, 0)),
        "conv2": conv(rng, 4, 4, size=0.15), "lif2": lif((4, 4, 3), beta=0.8),
        "sum2": pool(nir.SumPool2d, (2, 2), (1, 1), (1, 1)), "conv3": conv(rng, 4, 4, size=0.15),
        "lif3": lif((4, 5, 4), beta=0.8), "mean": pool(nir.AvgPool2d, (3, 2), (2, 2), (1, 1)),
        "flat": nir.Flatten({"input": np.array([4, 3, 3])}, 0, -1), "fc": affine(rng, 4, 36),
    }  # fmt: skip
    return chain((2, 8, 6), (4,), nodes, T=T)


def additions() -> nir.NIRGraph:
    """SEW additions: both summands lead to both readers, one of which is a pool."""
    rng = draw(15)
    nodes = {
        "input": nir.Input(np.array([2, 8, 6])),
        "conv1": conv(rng, 4, 2), "lif1": lif((4, 8, 6), beta=0.8),
        "conv2": conv(rng, 4, 4), "lif2": lif((4, 8, 6), beta=0.7),
        "conv3": conv(rng, 4, 4, size=0.3), "lif3": lif((4, 8, 6), beta=0.6),
        "pool": nir.AvgPool2d(np.array([8, 6]), np.array([8, 6]), np.array([0, 0])),
        "flat": nir.Flatten({"input": np.array([4, 1, 1])}, 0, -1), "fc": affine(rng, 4, 4),
        "output": nir.Output(np.array([4])),
    }  # fmt: skip
    edges = [
        ("input", "conv1"), ("conv1", "lif1"), ("lif1", "conv2"), ("conv2", "lif2"), ("lif1", "conv3"),
        ("lif2", "conv3"), ("conv3", "lif3"), ("lif1", "pool"), ("lif2", "pool"), ("lif3", "pool"),
        ("pool", "flat"), ("flat", "fc"), ("fc", "output"),
    ]  # fmt: skip
    return assemble(nodes, edges, dt=DT, T=T)


def scales() -> nir.NIRGraph:
    """Scale and Threshold, which no peer reads."""
    rng = draw(16)
    nodes = {
        "fc1": affine(rng, 20, 12), "scale": nir.Scale(rng.uniform(0.5, 1.5, 20).astype(np.float32)),
        "lif1": lif((20,), beta=0.9), "fc2": affine(rng, 6, 20),
        "step": nir.Threshold(rng.uniform(0.1, 0.6, 6).astype(np.float32)),
    }  # fmt: skip
    return chain((12,), (6,), nodes, T=T)


def recurrent() -> nir.NIRGraph:
    """A bias on the loop, which acts from the first step for us and from the second for importers."""
    rng = draw(17)
    nodes = {
        "input": nir.Input(np.array([12])), "fc": affine(rng, 10, 12), "lif": lif((10,), beta=0.8),
        "w_rec": affine(rng, 10, 10, 0.4, 0.5), "out": affine(rng, 4, 10), "output": nir.Output(np.array([4])),
    }  # fmt: skip
    edges = [("input", "fc"), ("fc", "lif"), ("lif", "w_rec"), ("w_rec", "lif"), ("lif", "out"), ("out", "output")]
    return assemble(nodes, edges, dt=DT, T=T)


def names() -> nir.NIRGraph:
    """Names that are no attributes, or somebody else's."""
    graph = mlp()
    new = {"fc1": "1.fc", "lif1": "1_fc", "fc2": "type", "lif2": "for", "fc3": "state"}
    nodes = {new.get(name, name): node for name, node in graph.nodes.items()}
    edges = [(new.get(source, source), new.get(target, target)) for source, target in graph.edges]
    return assemble(nodes, edges, dt=DT, T=T)


def lines() -> nir.NIRGraph:
    """Conv1d, with stride, dilation and 'same'."""
    rng = draw(18)

    def conv1d(outputs, inputs, stride, padding, dilation):
        weight = rng.normal(0.1, 0.5, (outputs, inputs, 3)).astype(np.float32)
        return nir.Conv1d(None, weight, stride, padding, dilation, 1, rng.normal(0, 0.1, outputs).astype(np.float32))

    nodes = {
        "conv1": conv1d(4, 2, 1, "same", 2), "lif1": lif((4, 11), beta=0.8), "conv2": conv1d(3, 4, 2, 1, 1),
        "if2": integrate((3, 6)), "flat": nir.Flatten({"input": np.array([3, 6])}, 0, -1), "fc": affine(rng, 4, 18),
    }  # fmt: skip
    return chain((2, 11), (4,), nodes, T=T)


def sums() -> nir.NIRGraph:
    """A readout that adds up."""
    rng = draw(19)
    nodes = {"fc1": affine(rng, 20, 12), "lif1": lif((20,), beta=0.9), "fc2": affine(rng, 4, 20)}
    return chain((12,), (4,), nodes | {"i": nir.I(full(0.7 / DT, 4))}, T=T)


def slower() -> nir.NIRGraph:
    """A dt of its own."""
    graph = beta_per_neuron()
    graph.metadata["stdl.dt"] = 1e-3
    for name in ("lif1", "lif2"):
        graph.nodes[name].tau = graph.nodes[name].tau * np.float32(10)
    return graph


def ties() -> nir.NIRGraph:
    """Every number is exact, and thresholds are met exactly."""
    return small_graphs.conv_net(input="sequence", T=T)


def soft_ties() -> nir.NIRGraph:
    return small_graphs.conv_net(input="sequence", reset="subtract", T=T)


CASES: dict[str, Graph] = {
    make.__name__: make
    for make in (
        mlp, beta_per_neuron, gains, leaks, resets_at_start, resets_elsewhere, integrators, soft_reset, synapses,
        synapses_alike, soft_synapses, readout, images, convolutions, pools, additions, scales, recurrent, names,
        lines, sums, slower, ties, soft_ties,
    )
}  # fmt: skip


def inputs(graph: nir.NIRGraph) -> np.ndarray:
    """[T, BATCH, ...]: halves for graphs of exact numbers, else normal."""
    shape = (T, BATCH, *graph.nodes["input"].input_type["input"])
    if graph.metadata["stdl.dt"] == small_graphs.DT:
        return small_graphs.frames(*shape)
    return draw(99).normal(0.2, 1, shape).astype(np.float32)
