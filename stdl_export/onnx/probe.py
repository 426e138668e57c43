"""`model.probe.onnx`: the sequence graph cut behind every spiking neuron, to compare engines layer by layer.

    sequence   ... -> conv1 -> lif1 -> conv2 -> lif2 -> ... -> output
    probe      ... -> conv1 -> lif1 -> `probe_out.lif1`
                         `probe_in.lif1` -> conv2 -> lif2 -> `probe_out.lif2`
                                               `probe_in.lif2` -> ... -> output

Fed the reference's spikes, `probe_out` shows what each layer does wrong by itself; an error does not travel.
"""

from __future__ import annotations

import nir
import onnx

from stdl_export import graph as graphs
from stdl_export.onnx.lower import close_sequence, model, open_sequence, walk
from stdl_export.onnx.time import Neuron, TimeForm, Value, over_time, resolve


def probe(graph: nir.NIRGraph, form: TimeForm = "auto") -> onnx.ModelProto:
    """The probe graph: inputs as in `lower.sequence` and `probe_in.<node>`, outputs `probe_out.<node>` and `output`.

    All of them but a repeated input are [T, B, ...].
    """
    steps = graphs.settings(graph).T
    form = resolve(form, steps)
    spiking = set(graphs.neurons(graph))
    probes = [f"probe_{side}.{name}" for name in spiking for side in ("in", "out")]
    emit, axis, x = open_sequence(graph, probes)

    def cut(neuron: Neuron, arriving: Value) -> Value:
        """Neuron -> `probe_out`; `probe_in` -> whoever follows."""
        value = over_time(axis, neuron, arriving, form)
        if neuron.name not in spiking:
            return value
        name, dims = neuron.name, [steps or "time", "batch", *neuron.shape]
        emit.output(axis.unfold(value.name, f"{name}/unfolded", neuron.shape), f"probe_out.{name}", dims)
        fed = emit.input(f"probe_in.{name}", dims)
        return Value(axis.fold(fed, f"{name}/fed", neuron.shape), timed=True)

    y = walk(graph, emit, x, cut, axis)
    close_sequence(graph, axis, y)
    return model(emit, graph, "probe", form)
