"""A network with several Inputs and Outputs that spikes: an image and a vector in, four Outputs at different depths."""

import nir
import numpy as np

from stdl_export import graph as graphs

DT = 2.0**-10
IMAGE, VECTOR = "output", "probe in é"  # Inputs
DEEP, TWICE, SHALLOW, WIRE = "input", "labels", "probe_out", "x.npy"  # Outputs


def network(mode="sequence", T=6):
    """Names are as odd as they may be; `labels` and `input` are fed by one node, `x.npy` is an Input's own value."""
    rng = np.random.default_rng(3)

    def lif(*shape):
        tau = rng.uniform(2, 6, shape) * DT
        threshold = rng.uniform(0.4, 0.8, shape)
        tensors = (tau, rng.uniform(1, 2, shape), np.zeros(shape), threshold, np.zeros(shape))
        return nir.LIF(*(each.astype(np.float32) for each in tensors))

    def weights(*shape, scale=1.0):
        return (rng.normal(size=shape) * scale).astype(np.float32)

    li = nir.LI(*(np.full(5, value, np.float32) for value in (4 * DT, 1, 0)))
    nodes = {
        IMAGE: nir.Input(np.array([2, 4, 4])),
        VECTOR: nir.Input(np.array([3])),
        "conv": nir.Conv2d((4, 4), weights(3, 2, 3, 3, scale=0.4), 1, (1, 1), (1, 1), 1, weights(3, scale=0.1)),
        "lif1": lif(3, 4, 4),
        "flatten": nir.Flatten({"input": np.array([3, 4, 4])}, 0, -1),
        "fc": nir.Affine(weights(5, 48, scale=0.3), weights(5, scale=0.1)),
        "side": nir.Affine(weights(5, 3, scale=0.8), weights(5, scale=0.1)),
        "lif2": lif(5),
        "rec": nir.Linear(weights(5, 5, scale=0.3)),
        "li": li,
        DEEP: nir.Output(np.array([5])),
        TWICE: nir.Output(np.array([5])),
        SHALLOW: nir.Output(np.array([3, 4, 4])),
        WIRE: nir.Output(np.array([3])),
    }
    edges = [(IMAGE, "conv"), ("conv", "lif1"), ("lif1", "flatten"), ("flatten", "fc"), (VECTOR, "side")]
    edges += [("fc", "lif2"), ("side", "lif2"), ("lif2", "rec"), ("rec", "lif2"), ("lif2", "li")]
    edges += [("li", DEEP), ("li", TWICE), ("lif1", SHALLOW), (VECTOR, WIRE)]
    metadata = {"stdl.dt": DT, "stdl.input": mode, "stdl.output": "mean"} | ({} if T is None else {"stdl.T": T})
    graph = nir.NIRGraph(nodes=nodes, edges=edges, metadata=metadata, type_check=False)
    graphs.check(graph, "several")
    return graph


def inputs(mode="sequence", batch=4, T=6, seed=1):
    """An array for each Input."""
    rng, front = np.random.default_rng(seed), (batch,) if mode == "repeat" else (T, batch)
    return {
        name: rng.normal(0.5, 1, (*front, *shape)).astype(np.float32)
        for name, shape in ((IMAGE, (2, 4, 4)), (VECTOR, (3,)))
    }
