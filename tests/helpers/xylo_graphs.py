"""NIR graphs of CubaLIF layers that fit Xylo, with random heterogeneous parameters and feedback."""

from __future__ import annotations

import itertools
import json

import nir
import numpy as np

DT = 1e-3


def cuba(size: int, rng: np.random.Generator, **changed) -> nir.CubaLIF:
    """tau / dt are powers of 2, one each neuron."""
    tau = {name: DT * 2.0 ** rng.integers(1, high, size) for name, high in (("tau_syn", 4), ("tau_mem", 5))}
    values = {
        **tau, "r": tau["tau_mem"] / DT * rng.uniform(0.5, 1.5, size), "v_leak": np.zeros(size),
        "w_in": tau["tau_syn"] / DT * rng.uniform(0.5, 1.5, size), "v_threshold": rng.uniform(0.5, 2, size),
        "v_reset": np.zeros(size),
    }  # fmt: skip
    return nir.CubaLIF(**{name: np.asarray(v, np.float32) for name, v in (values | changed).items()})


def affine(sources: int, targets: int, rng: np.random.Generator, mean: float = 0.15, spread: float = 0.8) -> nir.Affine:
    """Without a bias."""
    weight = rng.normal(mean, spread, (targets, sources)) / np.sqrt(sources)
    return nir.Affine(weight.astype(np.float32), np.zeros(targets, np.float32))


def xylo_graph(
    rng: np.random.Generator, sizes=(5, 12, 9, 4), feedback: bool = False, T: int = 12, **rules
) -> nir.NIRGraph:
    """input -> fc1 -> l1 -> fc2 -> ... -> output; feedback: l1 -> rec -> l1. rules: of nodes, in the dialect."""
    nodes: dict[str, object] = {"input": nir.Input({"input": np.array([sizes[0]])})}
    edges, before = [], "input"
    for k, (sources, targets) in enumerate(itertools.pairwise(sizes), start=1):
        nodes |= {f"fc{k}": affine(sources, targets, rng), f"l{k}": cuba(targets, rng)}
        edges += [(before, f"fc{k}"), (f"fc{k}", f"l{k}")]
        before = f"l{k}"
    last = before
    nodes["output"] = nir.Output({"output": np.array([sizes[-1]])})
    edges.append((last, "output"))
    if feedback:
        nodes["rec"] = affine(sizes[1], sizes[1], rng, -0.1, 0.3)
        edges += [("l1", "rec"), ("rec", "l1")]
    hidden = {f"l{k}": {"spike": "floor"} for k in range(1, len(sizes) - 1)}
    dialect = {"base": "nir", "nodes": {**hidden, last: {"spike": ">="}} | rules}
    metadata = {
        "stdl.dt": DT, "stdl.T": T, "stdl.dialect": json.dumps(dialect), "stdl.reset": "subtract",
        "stdl.input": "sequence", "stdl.output": "sum",
    }  # fmt: skip
    return nir.NIRGraph(nodes=nodes, edges=edges, metadata=metadata, type_check=False)


def inputs(rng: np.random.Generator, graph: nir.NIRGraph, samples: int = 24) -> np.ndarray:
    """Spikes [T, B, I] of 0 to 3."""
    (size,) = graph.nodes["input"].input_type["input"]
    T = graph.metadata["stdl.T"]
    return (rng.integers(0, 4, (T, samples, size)) * (rng.random((T, samples, size)) < 0.5)).astype(np.float32)
