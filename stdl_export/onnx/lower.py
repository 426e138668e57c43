"""A checked NIR graph as an ONNX model: open the graph, walk it in order, emit each node, close and check it.

`sequence` runs all T steps in one call, `step` runs one and takes the states from outside; `probe` (a module of its
own) is the sequence cut behind every neuron. Opset 20 and IR version 10 are what TensorRT-RTX and ONNX Runtime take.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import nir
import numpy as np
import onnx

from stdl_export import graph as graphs
from stdl_export.common.errors import BadInput, join_reasons
from stdl_export.common.files import atomic_file
from stdl_export.onnx.emitter import Dims, Emitter
from stdl_export.onnx.rows import ROWS
from stdl_export.onnx.time import COMPARISONS, TIMESTEPS, Axis, Neuron, TimeForm, Value, over_time, resolve
from stdl_export.primitives import Shape
from stdl_export.program import Node, Program, program
from stdl_export.semantics import Discrete

OPSET = 20
IR_VERSION = 10
INPUT, OUTPUT = "input", "output"
MAX_MODEL_BYTES = (2 << 30) - (1 << 20)  # a protobuf message ends at 2 GiB

LowerNeuron = Callable[[Neuron, Value], Value]


@dataclass(frozen=True)
class State:
    """A state of the step graph: whose it is, the names of its tensors, its shape without B. It starts at 0."""

    node: graphs.NodeName
    var: str
    input: str
    output: str
    shape: Shape


def sequence(graph: nir.NIRGraph, form: TimeForm = "auto") -> onnx.ModelProto:
    """All T steps at once: `input` [T, B, ...] (or [B, ...] where it repeats) -> `output` [T, B, ...].

    T is `stdl.T` of the graph, else dynamic: then it is the input's first size, or, where the input repeats, the second
    input `timesteps`, int64 [1].
    """
    form = resolve(form, graphs.settings(graph).T)
    emit, axis, x = open_sequence(graph)
    y = walk(graph, emit, x, lambda neuron, arriving: over_time(axis, neuron, arriving, form), axis)
    close_sequence(graph, axis, y)
    return model(emit, graph, "sequence", form)


def step(graph: nir.NIRGraph) -> onnx.ModelProto:
    """One step: `input` [B, ...] and every `states(graph)` in -> `output` [B, ...] and every state out."""
    held = {state.node: state for state in states(graph)}
    emit = Emitter(reserved=[INPUT, OUTPUT, *(name for state in held.values() for name in (state.input, state.output))])
    shapes = graphs.shapes(graph)

    def one_step(neuron: Neuron, x: Value) -> Value:
        state = held[neuron.name]
        dims: Dims = ["batch", *neuron.shape]
        v = emit.input(state.input, dims)
        output, v_next = neuron.step(emit, neuron.current(emit, x.name), v, neuron.name)
        assert v_next is not None, "it was not told to drop it"
        emit.output(v_next, state.output, dims)
        return Value(output, timed=False)

    x = emit.input(INPUT, ["batch", *shapes[graphs.input_name(graph)]])
    y = walk(graph, emit, Value(x, timed=False), one_step)
    emit.output(y.name, OUTPUT, ["batch", *shapes[graphs.output_name(graph)]])
    return model(emit, graph, "step")


def states(graph: nir.NIRGraph) -> list[State]:
    """The states of the step graph, in the order of the graph."""
    return [
        State(path, "v", f"state.{path}.v", f"state_out.{path}.v", node.shape)
        for path, node in lowerable(graph).nodes.items()
        if node.numbers is not None
    ]


def walk(graph: nir.NIRGraph, emit: Emitter, x: Value, lower: LowerNeuron, axis: Axis | None = None) -> Value:
    """Emit every node between Input and Output, given the Input's value; `lower` emits neurons. The Output's value."""
    made = lowerable(graph)
    values = {made.inputs[0]: x}
    sums: dict[tuple[graphs.NodeName, ...], Value] = {}  # equal sets of sources are summed once
    for path, node in made.nodes.items():
        if path in values:
            continue
        read = tuple(source.path for source in node.sources)
        if read not in sums:
            sums[read] = _sum(emit, path, [values[source] for source in read], node.in_shape, axis)
        arriving = sums[read]
        if isinstance(node.node, nir.Output):
            values[path] = arriving
        elif node.numbers is not None:
            values[path] = lower(Neuron(path, node.numbers, node.shape), arriving)
        else:
            values[path] = Value(
                ROWS[type(node.node)](emit, path, node.node, arriving.name, node.shape), arriving.timed
            )
    return values[made.outputs[0]]


def lowerable(graph: nir.NIRGraph) -> Program:
    """The program of a checked graph; BadInput with every node that cannot be said in ONNX yet."""
    made = program(graph)
    reasons = [
        f"node '{path}' ({type(node.node).__name__}): {said}"
        for path, node in made.nodes.items()
        for said in _refusals(node)
    ]
    for names, what in ((made.inputs, "Inputs"), (made.outputs, "Outputs")):
        if len(names) > 1:
            reasons.append(f"the graph has {len(names)} {what}, {', '.join(names)}, and one is lowered")
    if reasons:
        raise BadInput(f"ONNX graphs cannot say this yet: {join_reasons(reasons)}; --target nir takes it")
    return made


def _refusals(node: Node) -> Iterator[str]:
    """What of a node is not lowered yet."""
    if any(source.previous for source in node.sources):
        yield "it reads the step before, on a loop"
    if node.numbers is not None:
        yield from _neuron_refusals(node.numbers)
    elif not isinstance(node.node, nir.Input | nir.Output) and type(node.node) not in ROWS:
        yield f"no {type(node.node).__name__} is lowered"
    if isinstance(node.node, nir.Threshold) and node.spike != ">":
        yield f"spike '{node.spike}' is not lowered"
    if isinstance(node.node, nir.Affine | nir.Linear) and np.ndim(node.node.weight) > 2:
        yield f"its weight {np.shape(node.node.weight)} has leading dimensions"


def _neuron_refusals(k: Discrete) -> Iterator[str]:
    if k.kind not in ("IF", "LIF", "LI"):
        yield f"no {k.kind} is lowered"
    said = {
        "spike": k.spike not in COMPARISONS and k.spike,
        "spike_from": k.spike_from != "new" and k.spike_from,
        "reset": k.spikes and k.reset == "none" and k.reset,
        "reset_when": k.reset_when != "now" and k.reset_when,
        "output": k.output != "new" and k.output,
        "v_init": bool(np.any(k.v_init)) and "other than 0",
        "v_min": k.v_min is not None and "given",
        "out_scale": bool(np.any(k.out_scale != 1)) and "other than 1",
    }
    for name, value in said.items():
        if value:
            yield f"{name} '{value}' is not lowered"


def _sum(emit: Emitter, name: str, summands: list[Value], shape: Shape, axis: Axis | None) -> Value:
    """Fan-in, from left to right: the first two sources by name, then one more each."""
    if axis and any(value.timed for value in summands):
        summands = [axis.timed(value, f"{name}/source.{i}", shape) for i, value in enumerate(summands)]
    total = summands[0]
    for i, value in enumerate(summands[1:], start=1):
        total = Value(emit.node("Add", [total.name, value.name], f"{name}/sum.{i}"), value.timed)
    return total


def open_sequence(graph: nir.NIRGraph, reserved: Sequence[str] = ()) -> tuple[Emitter, Axis, Value]:
    """A sequence graph with its input, folded where it is a sequence.

    `reserved` are names of further inputs and outputs.
    """
    said, name = graphs.settings(graph), graphs.input_name(graph)
    shape = graphs.shapes(graph)[name]
    emit = Emitter(reserved=[INPUT, OUTPUT, TIMESTEPS, *reserved])
    repeats = said.input == "repeat"
    x = emit.input(INPUT, [*([] if repeats else [said.T or "time"]), "batch", *shape])
    axis = Axis(emit, said.T, x, repeats)
    return emit, axis, Value(x if repeats else axis.fold(x, name, shape), timed=not repeats)


def close_sequence(graph: nir.NIRGraph, axis: Axis, y: Value) -> None:
    """Make the Output's value the graph's `output` [T, B, ...]."""
    name, said = graphs.output_name(graph), graphs.settings(graph)
    shape = graphs.shapes(graph)[name]
    y = axis.timed(y, name, shape)
    axis.emit.output(axis.unfold(y.name, f"{name}/unfolded", shape), OUTPUT, [said.T or "time", "batch", *shape])


def model(emit: Emitter, graph: nir.NIRGraph, kind: str, form: TimeForm | None = None) -> onnx.ModelProto:
    """The finished model, checked with full shape inference; its metadata says what the manifest says."""
    made = onnx.helper.make_model(
        emit.graph(f"stdl.{kind}"),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="stdl",
        producer_version=version("stdl-toolchain"),
    )
    said = {f"stdl.{key}": value for key, value in asdict(graphs.settings(graph)).items()}
    said |= {"stdl.kind": kind, "stdl.layout": "folded", "stdl.time_form": form}
    onnx.helper.set_model_props(made, {key: str(value) for key, value in said.items() if value is not None})
    if made.ByteSize() > MAX_MODEL_BYTES:
        raise BadInput(f"the network has {made.ByteSize() >> 20} MiB of weights in ONNX: one file holds up to 2 GiB")
    onnx.checker.check_model(made, full_check=True)
    return made


def write(made: onnx.ModelProto, path: Path) -> None:
    """Write a model; the same graph gives the same bytes."""
    with atomic_file(path) as part:
        part.write_bytes(made.SerializeToString(deterministic=True))
