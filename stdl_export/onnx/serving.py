"""A bundle's ONNX graph as a server takes it: with the batch as the first axis of every input and output.

Our sequences are [T, B, ...]; a server that puts the requests of several clients together does so along axis 0. So a
Transpose goes before each such input and behind each such output, and nothing else changes:

    input [B, T, ...] -> Transpose -> the graph as it was -> Transpose -> output [B, T, ...]
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from stdl_export.common.errors import BadInput, one_line
from stdl_export.common.files import atomic_file

# What reading and checking raise; a ValueError is a text that is no UTF-8.
_UNSOUND = (DecodeError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError, MemoryError)

BATCH = "batch"  # how our graphs call that size


@dataclass(frozen=True)
class End:
    """An input or output of a graph: its ONNX element type, and its sizes, with the batch as 'batch', others -1."""

    name: str
    type: str
    dims: tuple[int | str, ...]


@dataclass(frozen=True)
class Ends:
    """All inputs and outputs of a graph, in its order."""

    inputs: tuple[End, ...]
    outputs: tuple[End, ...]


def write_batch_first(source: Path, target: Path) -> Ends:
    """Write the graph of a bundle's file for a server, checked with full shape inference, and say what its ends are.

    A graph whose inputs and outputs have the batch first already, as those of single steps have, stays as it is. The
    file is untrusted: `BadInput` where it is no sound graph.
    """
    try:
        model = onnx.load(source, load_external_data=False)
        late = [end.name for end in (*model.graph.input, *model.graph.output) if _batch_axis(end) == 1]
        if late:
            _turn(model.graph, late)
        onnx.checker.check_model(model, full_check=True)
    except _UNSOUND as error:
        reason = one_line(str(error)) or "it needs too much memory"
        raise BadInput(f"'{source}' is no sound ONNX graph: {reason:.200}; export it again") from None
    with atomic_file(target) as part:
        part.write_bytes(model.SerializeToString(deterministic=True))
    return Ends(tuple(map(_end, model.graph.input)), tuple(map(_end, model.graph.output)))


def _batch_axis(end: onnx.ValueInfoProto) -> int | None:
    names = [dim.dim_param for dim in end.type.tensor_type.shape.dim]
    return names.index(BATCH) if BATCH in names else None


def _turn(graph: onnx.GraphProto, late: Collection[str]) -> None:
    """Put the Transposes in, in place; inside, what was called `input` has another name."""
    taken = _names(graph)
    inner = {name: _free(f"{name}/time_first", taken) for name in late}
    _rename(graph, inner)
    turned = {end.name: end for end in (*graph.input, *graph.output) if end.name in inner}
    for end in turned.values():
        shape, kept = end.type.tensor_type.shape, onnx.TensorShapeProto()
        kept.CopyFrom(shape)
        for axis, dim in enumerate((kept.dim[1], kept.dim[0])):
            shape.dim[axis].CopyFrom(dim)
    before, behind = (
        [_transpose(end, inner) for end in ends if end.name in inner] for ends in (graph.input, graph.output)
    )
    nodes = [
        *(onnx.helper.make_node("Transpose", [name], [inside], inside, perm=perm) for name, inside, perm in before),
        *graph.node,
        *(onnx.helper.make_node("Transpose", [inside], [name], inside, perm=perm) for name, inside, perm in behind),
    ]
    del graph.node[:]
    graph.node.extend(nodes)


def _transpose(end: onnx.ValueInfoProto, inner: Mapping[str, str]) -> tuple[str, str, list[int]]:
    return end.name, inner[end.name], [1, 0, *range(2, len(end.type.tensor_type.shape.dim))]


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Use other names for some values in every node, bodies of loops included where they mean the same value."""
    for node in graph.node:
        for field in (node.input, node.output):
            field[:] = [names.get(name, name) for name in field]
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                own = {value.name for value in body.input} | {name for each in body.node for name in each.output}
                _rename(body, {name: new for name, new in names.items() if name not in own})
                for value in body.output:  # a body may hand on a value from outside
                    if value.name not in own:
                        value.name = names.get(value.name, value.name)
    for info in graph.value_info:
        info.name = names.get(info.name, info.name)


def _names(graph: onnx.GraphProto) -> set[str]:
    """Every name of a value in a graph and the bodies in it."""
    found = {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    for node in graph.node:
        found |= {*node.input, *node.output, node.name}
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                found |= _names(body)
    return found


def _free(name: str, taken: Collection[str]) -> str:
    while name in taken:
        name += "'"
    return name


def _end(value: onnx.ValueInfoProto) -> End:
    kind = value.type.tensor_type
    dims = tuple(
        dim.dim_value or (BATCH if dim.dim_param == BATCH else -1) for dim in kind.shape.dim
    )  # a size that is open has no value
    return End(value.name, onnx.TensorProto.DataType.Name(kind.elem_type), dims)
