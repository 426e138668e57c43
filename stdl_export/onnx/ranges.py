"""Do the weights fit the precision? What is refused, and what is said, each in one line with the node's name.

fp16   |w| > 65504                          refused: it would be infinite
       w != 0, half(w) = 0                  said, with how many, from 0.1 % of a node's weights on
       sum|w| max|x| + |b| > 65504          said: the current could overflow, for an x that is known (spikes)
int8   rms of the current's error > 5 % of v_threshold: sqrt(sum (w - w')^2) max|x| |gain| of the neurons behind
       a channel of zeros alone             said
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from stdl_export.common.errors import BadInput, join_reasons
from stdl_export.graph import NodeName
from stdl_export.manifest import Arithmetic
from stdl_export.onnx.cell import float32
from stdl_export.onnx.exactness import Grid, grids
from stdl_export.onnx.precision import channels, half, plan, weighted
from stdl_export.onnx.quantise import quantised
from stdl_export.program import Node, Program

HALF_MAX = float(np.finfo(np.float16).max)
FEW = 0.001  # of a node's weights: one in a million that is next to 0 matters to nobody
LARGE = 0.05  # of v_threshold: what a current may be off by, root mean square with every input active
Numbers = NDArray[np.float64]


def check(made: Program, arithmetic: Arithmetic) -> list[str]:
    """Remarks on what loses more than the precision promises; BadInput with all that cannot be said in it."""
    plan(made, arithmetic)
    if arithmetic.precision == "fp32":
        return []
    nodes = [node for node in weighted(made) if node.path not in arithmetic.fp32_nodes]
    if arithmetic.precision == "int8":
        arriving = grids(made)
        bars = _bars(made)
        return [line for node in nodes for line in _int8(node, arriving.get(node.path), bars.get(node.path))]
    refused = [line for node in nodes for line in _too_large(node)]
    if refused:
        raise BadInput(join_reasons(refused))
    arriving = grids(made)
    return [line for node in nodes for line in (*_lost(node), *_overflow(node, arriving.get(node.path)))]


def _too_large(node: Node) -> Iterator[str]:
    for what, values in (("weights", channels(node)), ("bias", _bias(node))):
        largest = float(np.abs(values).max(initial=0))
        if largest > HALF_MAX:
            yield f"node '{node.path}': its {what} reach {largest:.4g}, fp16 holds up to {HALF_MAX:g}: {_offer(node)}"


def _lost(node: Node) -> Iterator[str]:
    weight = channels(node)
    lost = int(((weight != 0) & (half(weight) == 0)).sum())
    if lost > FEW * weight.size:
        yield f"node '{node.path}': {lost} of {weight.size} weights are too small for fp16 and become 0: {_offer(node)}"


def _overflow(node: Node, arriving: Grid | None) -> Iterator[str]:
    """The largest current there can be, where it is known what comes in."""
    if arriving is None:
        return
    rows = np.abs(np.float64(channels(node)))
    largest = float(
        rows.reshape(len(rows), -1).sum(axis=1).max() * arriving.largest + np.abs(_bias(node)).max(initial=0)
    )
    if largest > HALF_MAX:
        yield f"node '{node.path}': its output can reach {largest:.4g}, fp16 holds up to {HALF_MAX:g}: {_offer(node)}"


def _int8(node: Node, arriving: Grid | None, bar: float | None) -> Iterator[str]:
    """Zero channels, and errors that matter for the neurons behind. An input that is not known counts as up to 1."""
    weight = channels(node)
    small = quantised(weight)
    empty = int((~weight.reshape(len(weight), -1).any(axis=1)).sum())
    if empty:
        yield f"node '{node.path}': all weights of {empty} of {len(weight)} output channels are 0: prune them"
    if bar is None:
        return
    off = np.sqrt((small.error**2).sum(axis=1)) * (1.0 if arriving is None else arriving.largest) / bar
    large = int((off > LARGE).sum())
    if large:
        said = f"int8 weights put the current of {large} of {len(weight)} output channels off by up to {off.max():.0%}"
        yield f"node '{node.path}': {said} of v_threshold: {_offer(node)}"


def _bars(made: Program) -> dict[NodeName, float]:
    """By node the smallest v_threshold / gain of the neurons that its output reaches, through what has no weights."""
    readers: dict[NodeName, list[Node]] = {path: [] for path in made.nodes}
    for node in made.nodes.values():
        for source in node.sources:
            readers[source.path].append(node)
    own = {node.path for node in weighted(made)}
    found: dict[NodeName, float] = {}
    for path in own:
        seen, queue, bars = {path}, [path], [np.inf]
        while queue:
            for reader in readers[queue.pop()]:
                if reader.path in seen or reader.path in own:
                    continue
                seen.add(reader.path)
                if reader.numbers is None:
                    queue.append(reader.path)
                elif reader.spikes:
                    bars.append(_bar(reader))
        if 0 < min(bars) < np.inf:
            found[path] = min(bars)
    return found


def _bar(node: Node) -> float:
    """How large a current reaches the threshold within a step."""
    k = node.numbers
    assert k is not None, "it is a neuron"
    gain = np.abs(np.float64(k.gain)).max() * (1.0 if k.synapse is None else np.abs(np.float64(k.synapse.gain)).max())
    return float(np.abs(np.float64(k.v_threshold)).min() / gain) if gain > 0 else np.inf


def _bias(node: Node) -> Numbers:
    return np.float64(float32(node.node.bias)) if hasattr(node.node, "bias") else np.zeros(0)


def _offer(node: Node) -> str:
    """How to keep it in float32."""
    return f"""keep it fp32 with --set 'precision.nodes."{node.path}"=fp32'"""
