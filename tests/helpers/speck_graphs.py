"""NIR graphs that fit Speck. Weights are whole numbers up to 127, so the chip has them exactly: all must be equal."""

from __future__ import annotations

import json

import nir
import numpy as np

DT = 1e-3


def neurons(shape, threshold: float) -> nir.IF:
    """r dt = 1."""
    full = (np.full(shape, value, np.float32) for value in (1 / DT, threshold, 0.0))
    return nir.IF(*full)


def conv(
    rng, size, channels: int, kernel: int = 3, stride: int = 1, padding: int = 1, biased: bool = False
) -> nir.Conv2d:
    """size: (C, H, W)."""
    weight = _whole(rng, (channels, size[0], kernel, kernel))
    bias = np.zeros(channels, np.float32)
    if biased:
        bias = rng.integers(-9, 10, channels).astype(np.float32)
    return nir.Conv2d(size[1:], weight, stride, padding, 1, 1, bias)


def _whole(rng, shape):
    weight = rng.integers(-40, 60, shape).astype(np.float32)
    weight.reshape(-1)[0] = 127  # the scale is then 1
    return weight


def speck_graph(rng: np.random.Generator, reset: str = "subtract", skip: bool = True, biased: bool = False, T: int = 6):
    """input -> c1 -> (sum pool 2) -> c2, c2 + c1's pool -> c3 -> (average pool 2) -> fc -> output, on 2x8x8."""
    nodes: dict[str, object] = {
        "input": nir.Input({"input": np.array([2, 8, 8])}),
        "c1": conv(rng, (2, 8, 8), 3, biased=biased), "n1": neurons((3, 8, 8), 260),
        "p1": nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
        "c2": conv(rng, (3, 4, 4), 3), "n2": neurons((3, 4, 4), 400),
        "c3": conv(rng, (3, 4, 4), 4), "n3": neurons((4, 4, 4), 500),
        "p3": nir.AvgPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
        "flat": nir.Flatten({"input": np.array([4, 2, 2])}, 0, -1),
        "fc": nir.Affine(4 * _whole(rng, (5, 16)), np.zeros(5, np.float32)), "n4": neurons((5,), 700),
        "output": nir.Output({"output": np.array([5])}),
    }  # fmt: skip
    edges = [("input", "c1"), ("c1", "n1"), ("n1", "p1"), ("p1", "c2"), ("c2", "n2"), ("n2", "c3"), ("c3", "n3"),
             ("n3", "p3"), ("p3", "flat"), ("flat", "fc"), ("fc", "n4"), ("n4", "output")]  # fmt: skip
    if skip:
        edges.append(("p1", "c3"))
    rules = {f"n{k}": {"spike": "floor", "reset": "zero" if reset == "zero" else "subtract"} for k in range(1, 5)}
    rules["n2"]["v_min"] = -300.0
    metadata = {
        "stdl.dt": DT, "stdl.T": T, "stdl.dialect": json.dumps({"base": "nir", "nodes": rules}),
        "stdl.input": "sequence", "stdl.output": "sum",
    }  # fmt: skip
    return nir.NIRGraph(nodes=nodes, edges=edges, metadata=metadata, type_check=False)


def events(rng: np.random.Generator, T: int = 6, samples: int = 7) -> np.ndarray:
    """[T, B, 2, 8, 8], up to 2 a pixel."""
    return rng.integers(0, 3, (T, samples, 2, 8, 8)).astype(np.float32)
