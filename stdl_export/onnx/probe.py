"""`model.probe.onnx`: the sequence graph cut behind every spiking node, to compare engines layer by layer.

    sequence   ... -> conv1 -> lif1 -> conv2 -> lif2 -> ... -> output
    probe      ... -> conv1 -> lif1 -> `probe_out.lif1`
                         `probe_in.lif1` -> conv2 -> lif2 -> `probe_out.lif2`
                                               `probe_in.lif2` -> ... -> output

Fed the reference's spikes, `probe_out` shows what each layer does wrong by itself; an error does not travel. What is
cut are spikes {0, 1, ...}, before any `out_scale`. The nodes of a loop cannot be fed one by one: a loop runs whole, on
what is fed to it from outside, each of its spiking nodes has its `probe_out`, and `probe_in` goes to whoever reads it
outside the loop.
"""

from __future__ import annotations

from collections.abc import Sequence

import nir
import onnx

from stdl_export.graph import NodeName
from stdl_export.manifest import FP32, Arithmetic
from stdl_export.onnx.cell import Cell
from stdl_export.onnx.delay import DelayCell
from stdl_export.onnx.loop import LoopCell
from stdl_export.onnx.lower import close_sequence, in_sequence, model, open_sequence, optimised_program, probe_names
from stdl_export.onnx.neuron import NeuronCell
from stdl_export.onnx.precision import plan
from stdl_export.onnx.time import TimeForm, Value, over_time, resolve
from stdl_export.onnx.walk import walk
from stdl_export.program import Node


def probe(graph: nir.NIRGraph, form: TimeForm = "auto", arithmetic: Arithmetic = FP32) -> onnx.ModelProto:
    """The probe graph: inputs as in `lower.sequence` and `probe_in.<node>`, outputs those too, and `probe_out.<node>`.

    All of them but a repeated input are [T, B, ...].
    """
    made = optimised_program(graph)
    steps = made.settings.T
    form = resolve(form, steps)
    spiking = made.spiking
    ends = [name for path in spiking for name in probe_names(path)]
    emit, axis, frames = open_sequence(made, plan(made, arithmetic), ends)
    uncut = in_sequence(axis, form)

    def cut(cell: Cell, arriving: list[Value]) -> dict[NodeName, Value]:
        """Neuron -> `probe_out`; `probe_in` -> whoever follows."""
        if isinstance(cell, DelayCell):
            return uncut(cell, arriving)
        outputs = [value.name for value in over_time(axis, cell, arriving, form)] if cell.outputs else []
        fed = [through(node, raw) if node.spikes else raw for node, raw in zip(_nodes(cell), outputs, strict=True)]
        return {path: Value(name, timed=True) for path, name in cell.finish(emit, fed).items()}

    def through(node: Node, raw: str) -> str:
        name, dims = node.path, [steps or "time", "batch", *node.shape]
        fed, shown = probe_names(name)
        emit.output(axis.unfold(raw, f"{name}/unfolded", node.shape), shown, dims)
        return axis.fold(emit.input(fed, dims), f"{name}/fed", node.shape)

    values = walk(made, emit, frames, cut, axis, wanted=spiking)
    close_sequence(made, axis, values)
    return model(emit, made, "probe", form)


def _nodes(cell: Cell) -> Sequence[Node]:
    """The nodes that a cell's outputs come from."""
    if isinstance(cell, LoopCell):
        return [node for path, node in cell.nodes.items() if path in cell.wanted]
    assert isinstance(cell, NeuronCell)
    return [cell.node]
