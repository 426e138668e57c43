"""Graphs for tests of runtimes: chains of named nodes, neurons given by their coefficients, a network that spikes.

Unlike those of `small_graphs`, whose numbers are exact, these are of the kind that training gives: nothing is dyadic.
"""

import itertools

import nir
import numpy as np
from small_graphs import assemble, full

DT = 1e-4


def chain(shape, out_shape, nodes, **metadata):
    """Input -> nodes in the order of the dict -> Output; metadata `T=4` is written as `stdl.T`."""
    named = {"input": nir.Input(np.array(shape)), **nodes, "output": nir.Output(np.array(out_shape))}
    return assemble(named, list(itertools.pairwise(named)), dt=DT, **metadata)


def lif(shape, *, beta, gain=1.0, leak=0.0, v_threshold=1.0, v_reset=0.0):
    """A LIF from the coefficients of its step: u = beta*v + gain*x + leak, at dt = DT."""
    tau = DT / (1 - np.float64(beta))
    return nir.LIF(
        tau=full(tau, *shape),
        r=full(gain * tau / DT, *shape),
        v_leak=full(leak * tau / DT, *shape),
        v_threshold=full(v_threshold, *shape),
        v_reset=full(v_reset, *shape),
    )


def integrate(shape, *, gain=1.0, v_threshold=1.0, v_reset=0.0):
    """An IF from the coefficients of its step: u = v + gain*x, at dt = DT."""
    return nir.IF(full(gain / DT, *shape), full(v_threshold, *shape), full(v_reset, *shape))


def varied_lif(rng, shape, v_reset=True):
    """A LIF with parameters that differ from neuron to neuron."""
    tau = (DT / (1 - rng.uniform(0.4, 0.9, shape))).astype(np.float32)
    return nir.LIF(
        tau=tau,
        r=(tau / DT * rng.uniform(0.8, 1.2, shape)).astype(np.float32),
        v_leak=rng.normal(0, 0.1, shape).astype(np.float32),
        v_threshold=rng.uniform(0.4, 1.0, shape).astype(np.float32),
        v_reset=(rng.normal(0, 0.1, shape) if v_reset else np.zeros(shape)).astype(np.float32),
    )


def varied_if(rng, shape):
    """An IF with parameters that differ from neuron to neuron."""
    return nir.IF(
        r=(rng.uniform(0.8, 1.2, shape) / DT).astype(np.float32),
        v_threshold=rng.uniform(0.8, 2.0, shape).astype(np.float32),
        v_reset=rng.normal(0, 0.1, shape).astype(np.float32),
    )


def small_network(seed=0, *, T=5, mode="repeat", decoding="mean", readout="affine"):
    """conv - LIF - pool - conv - IF - flatten - affine [- LI], every parameter heterogeneous; all its layers spike."""
    rng = np.random.default_rng(seed)
    weight = _normal(rng, 3, 54, size=0.3)
    weight -= weight.mean(axis=1, keepdims=True)  # no class is favoured: predictions differ from sample to sample
    pair = np.array([2, 2])
    nodes = {
        "conv1": nir.Conv2d(None, _normal(rng, 4, 2, 3, 3, size=0.5), 1, 1, 1, 1, _normal(rng, 4, size=0.1)),
        "lif1": varied_lif(rng, (4, 6, 6)),
        "pool": nir.AvgPool2d(pair, pair, np.array([0, 0])),
        "conv2": nir.Conv2d(None, _normal(rng, 6, 2, 3, 3, size=0.6), 1, "same", 1, 2, _normal(rng, 6, size=0.1)),
        "if2": varied_if(rng, (6, 3, 3)),
        "flat": nir.Flatten({"input": np.array([6, 3, 3])}, 0, -1),
        "fc": nir.Affine(weight, _normal(rng, 3, size=0.1)),
    }
    if readout == "li":
        nodes["li"] = nir.LI(tau=full(3e-4, 3), r=full(2.0, 3), v_leak=_normal(rng, 3, size=0.1))
    said = {"T": T} if T is not None else {}
    return chain((2, 6, 6), (3,), nodes, input=mode, output=decoding, **said)


def _normal(rng, *shape, size):
    return rng.normal(0, size, shape).astype(np.float32)


def exact(graph, x):
    """Weights and inputs as multiples of 1/64 and 1/16: sums do not round, so that it does not matter who adds what."""
    for node in graph.nodes.values():
        for field in ("weight", "bias"):
            if getattr(node, field, None) is not None:
                setattr(node, field, (np.round(getattr(node, field) * 64) / 64).astype(np.float32))
    return graph, (np.round(x * 16) / 16).astype(np.float32)
