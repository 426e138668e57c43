"""Small NIR graphs written by hand, for tests that need to know every number."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import nir
import numpy as np

DT = 2.0**-10


def full(value: float, *shape: int) -> np.ndarray:
    return np.full(shape, value, np.float32)


def if_(*shape: int, threshold: float = 1.0, v_reset: float = 0.0) -> nir.IF:
    """An IF with gain 1 at DT."""
    return nir.IF(r=full(1 / DT, *shape), v_threshold=full(threshold, *shape), v_reset=full(v_reset, *shape))


def lif(*shape: int, threshold: float = 1.0, v_reset: float = 0.0, v_leak: float = 0.0) -> nir.LIF:
    """A LIF with decay 1/2 and gain 1 at DT."""
    return nir.LIF(
        tau=full(2 * DT, *shape),
        r=full(2, *shape),
        v_leak=full(v_leak, *shape),
        v_threshold=full(threshold, *shape),
        v_reset=full(v_reset, *shape),
    )


def chain(
    *nodes: nir.NIRNode, shape: tuple[int, ...], output: tuple[int, ...] | None = None, **stdl: Any
) -> nir.NIRGraph:
    """Input -> n0 -> n1 -> ... -> Output, with metadata `stdl.<key>` and dt = DT."""
    named = {f"n{i}": node for i, node in enumerate(nodes)}
    names = ["input", *named, "output"]
    ends = {"input": nir.Input(np.array(shape)), "output": nir.Output(np.array(output or shape))}
    return assemble(ends | named, list(pairwise(names)), **stdl)


def assemble(nodes: dict[str, nir.NIRNode], edges: list[tuple[str, str]], **stdl: Any) -> nir.NIRGraph:
    """A graph with metadata `stdl.<key>` and dt = DT, not type-checked."""
    metadata = {f"stdl.{key}": value for key, value in ({"dt": DT} | stdl).items()}
    return nir.NIRGraph(nodes=nodes, edges=edges, metadata=metadata, type_check=False)


def conv_net(**stdl: Any) -> nir.NIRGraph:
    """2x6x6 -> conv -> LIF -> conv -> LIF, both summed -> average pool -> flatten -> Affine; both LIFs spike."""
    rng = np.random.default_rng(3)

    def weight(*shape: int) -> np.ndarray:
        return (rng.integers(-6, 9, size=shape) / 8).astype(np.float32)

    nodes = {
        "input": nir.Input(np.array([2, 6, 6])),
        "conv1": nir.Conv2d((6, 6), weight(4, 2, 3, 3), 1, 1, 1, 1, weight(4)),
        "lif1": lif(4, 6, 6),
        "conv2": nir.Conv2d((6, 6), weight(4, 4, 3, 3), 1, 1, 1, 1, weight(4)),
        "lif2": lif(4, 6, 6, threshold=0.5),
        "pool": nir.AvgPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
        "flatten": nir.Flatten({"input": np.array([4, 3, 3])}, 0, -1),
        "readout": nir.Affine(weight(5, 36), weight(5)),
        "output": nir.Output(np.array([5])),
    }
    names = ["input", "conv1", "lif1", "conv2", "lif2", "pool", "flatten", "readout", "output"]
    edges = [*pairwise(names), ("lif1", "pool")]
    return assemble(nodes, edges, **({"T": 4, "input": "repeat", "output": "mean"} | stdl))


def frames(*shape: int, seed: int = 0) -> np.ndarray:
    """Quarters between -2 and 3, float32: sums with the weights above are exact."""
    return (np.random.default_rng(seed).integers(-8, 13, size=shape) / 4).astype(np.float32)
