"""NIR graphs in HDF5 files.

The file is read by `hdf5`, since the `nir` package follows links into other files and reads whatever size is declared;
the nodes are then made by `nir.dict2NIRNode`, one at a time, so that an error can name its node. nir's own type check
stays off: it is wrong for grouped convolutions and non-square kernels (nir 1.0.8), and `graph.problems` is stricter.
"""

from __future__ import annotations

import copy
import dataclasses
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nir
import numpy as np

from stdl_export import hdf5
from stdl_export.common.errors import BadInput, join_reasons, one_line
from stdl_export.common.files import atomic_file
from stdl_export.inline import join

# Fields that follow from the rest of the graph; files may leave them out.
DERIVED = ("input_shape", "input_type")

NEURON_FIELDS = ("tau", "tau_syn", "tau_mem", "r", "v_leak", "v_threshold", "v_reset", "w_in")

NODE_TYPES: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        nir.Affine, nir.AvgPool2d, nir.Conv1d, nir.Conv2d, nir.CubaLI, nir.CubaLIF, nir.Delay, nir.Flatten, nir.I,
        nir.IF, nir.Input, nir.LI, nir.LIF, nir.Linear, nir.NIRGraph, nir.Output, nir.Scale, nir.SumPool2d,
        nir.Threshold,
    )
}  # fmt: skip


def read(path: Path) -> nir.NIRGraph:
    """The graph in a .nir file; `BadInput` on one line for a file that is anything else."""
    content = hdf5.read(path, "node")
    reasons: list[str] = []
    graph = _graph(content, "", reasons)
    if reasons:
        raise BadInput(f"'{path}': {join_reasons(reasons)}")
    return graph


def write(graph: nir.NIRGraph, input_shapes: Mapping[str, tuple[int, ...]], path: Path) -> None:
    """Write the graph with `nir.write`, derived shapes filled in from `input_shapes` by path: nir writes no None.

    HDF5 makes the file in memory: on a disk that is full it says so in a dozen ways, some of them while Python frees
    its objects.
    """
    content = io.BytesIO()
    nir.write(content, _writable_graph(graph, input_shapes, ""))
    with atomic_file(path) as part:
        part.write_bytes(content.getbuffer())


def fields(node: nir.NIRNode) -> dict[str, Any]:
    """The fields of a node that a file holds, without metadata."""
    if isinstance(node, nir.Input):
        return {"shape": node.input_type["input"]}
    if isinstance(node, nir.Output):
        return {"shape": node.output_type["output"]}
    hidden = ("input_type", "output_type", "metadata")
    found = {field.name: getattr(node, field.name) for field in dataclasses.fields(node) if field.name not in hidden}
    return found | ({"input_type": node.input_type["input"]} if isinstance(node, nir.Flatten) else {})


def _writable_graph(graph: nir.NIRGraph, input_shapes: Mapping[str, tuple[int, ...]], path: str) -> nir.NIRGraph:
    nodes = {}
    for name, node in graph.nodes.items():
        inner = join(path, name)
        if isinstance(node, nir.NIRGraph):
            nodes[name] = _writable_graph(node, input_shapes, inner)
        else:
            nodes[name] = _writable(node, input_shapes.get(inner, ()))
    edges = sorted({(source, target) for source, target in graph.edges})
    return nir.NIRGraph(nodes=nodes, edges=edges, metadata=dict(graph.metadata), type_check=False)


def _writable(node: nir.NIRNode, input_shape: tuple[int, ...]) -> nir.NIRNode:
    """A copy whose fields `nir.write` can store: no None, and scalars instead of arrays without dimensions."""
    node = copy.copy(node)
    for name, value in fields(node).items():
        if isinstance(value, np.ndarray) and value.ndim == 0:
            setattr(node, name, value[()])
    if isinstance(node, nir.Conv1d) and node.input_shape is None:
        node.input_shape = input_shape[1]
    if isinstance(node, nir.Conv2d) and node.input_shape is None:
        node.input_shape = np.array(input_shape[1:])
    if isinstance(node, nir.Flatten) and (node.input_type or {}).get("input") is None:
        node.input_type = {"input": np.array(input_shape)}
    return node


# --- from a dictionary to NIR ---------------------------------------------------------------------------------------


def _graph(content: dict[str, Any], path: str, reasons: list[str]) -> nir.NIRGraph:
    """The graph, or what could be made of it; what could not is appended to `reasons`."""
    nodes: Any = content.get("nodes")
    edges: Any = content.get("edges")
    where = f"node '{path}' (NIRGraph)" if path else "the graph"
    if not _is(content, "NIRGraph") or not isinstance(nodes, dict) or not _are_edges(edges):
        reasons.append(f"{where} is not a NIRGraph with a group 'nodes' and pairs of names as 'edges'")
        nodes, edges = {}, []
    made = {name: _node(item, join(path, name), reasons) for name, item in nodes.items()}
    return nir.NIRGraph(
        nodes={name: node for name, node in made.items() if node is not None},
        edges=[(str(source), str(target)) for source, target in edges],
        metadata=_metadata(content),
        type_check=False,
    )


def _is(content: Mapping[str, Any], kind: str) -> bool:
    said = content.get("type")
    return isinstance(said, str) and said == kind


def _are_edges(edges: Any) -> bool:
    if isinstance(edges, np.ndarray):
        return edges.size == 0  # without edges, nir writes an empty array of numbers
    return isinstance(edges, list) and all(isinstance(edge, list) and len(edge) == 2 for edge in edges)


def _node(content: Any, path: str, reasons: list[str]) -> nir.NIRNode | None:
    name = content.get("type") if isinstance(content, dict) else None
    if name is not None and not isinstance(name, str):
        reasons.append(f"node '{path}': its type is no text")
        return None
    if name == "NIRGraph":
        return _graph(content, path, reasons)
    if name not in NODE_TYPES:
        said = f"type {name!r} is not a NIR primitive" if name else "it has no type"
        reasons.append(f"node '{path}': {said}; NIR has {', '.join(NODE_TYPES)}")
        return None
    wrong = _field_reasons(NODE_TYPES[name], content)
    if not wrong:
        try:
            return _make(content)
        except (AssertionError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            wrong = [f"nir cannot build it: {one_line(str(error)) or type(error).__name__:.160}"]
    reasons.extend(f"node '{path}' ({name}): {reason}" for reason in wrong)
    return None


def _make(content: dict[str, Any]) -> nir.NIRNode:
    content = {key: value for key, value in content.items() if key != "metadata"} | {"metadata": _metadata(content)}
    if content["type"] in ("Conv1d", "Conv2d"):
        content.setdefault("input_shape", None)
    if content["type"] == "Conv1d" and np.size(content["input_shape"]) == 1 and content["input_shape"] is not None:
        content["input_shape"] = np.asarray(content["input_shape"]).item()  # nir takes no [20]
    content |= _broadcast({key: value for key, value in content.items() if key in NEURON_FIELDS})
    with np.errstate(all="ignore"):  # nir infers an output shape of its own, dividing by the stride
        return nir.dict2NIRNode(content)


def _broadcast(parameters: dict[str, Any]) -> dict[str, Any]:
    """Neuron parameters in one shape, as nir wants them, where files hold one number for all, or one a channel."""
    arrays = {key: np.asarray(value) for key, value in parameters.items()}
    ranks = {array.ndim for array in arrays.values() if array.size > 1}
    if len(ranks) != 1 or len({array.shape for array in arrays.values()}) == 1:
        return parameters
    (rank,) = ranks
    full = {key: array.reshape((1,) * rank) if array.size == 1 else array for key, array in arrays.items()}
    try:
        shape = np.broadcast_shapes(*(array.shape for array in full.values()))
    except ValueError:
        return parameters  # nir says what is wrong
    return {key: np.ascontiguousarray(np.broadcast_to(array, shape)) for key, array in full.items()}


def _field_reasons(kind: type, content: dict[str, Any]) -> list[str]:
    """Fields that are missing or unknown. nir's Input and Output call their one field `shape`."""
    known = {field.name: field.default is dataclasses.MISSING for field in dataclasses.fields(kind) if field.init}
    if kind in (nir.Input, nir.Output):
        known = {"shape": True}
    known |= {field: False for field in DERIVED if field in known} | {"type": True, "metadata": False}
    missing = [f"field '{field}' is missing" for field, required in known.items() if required and field not in content]
    extra = [f"field '{field}' is unknown" for field in content if field not in known]
    groups = [
        f"'{field}' is a group" for field, value in content.items() if isinstance(value, dict) and field != "metadata"
    ]
    return missing + extra + groups


def _metadata(content: dict[str, Any]) -> dict[str, Any]:
    """Metadata as str, int, float and bool; what other writers keep in lists or groups becomes one JSON string."""
    metadata = content.get("metadata", {})
    if not isinstance(metadata, dict):
        return {}
    return {key: _plain(value) for key, value in metadata.items()}


def _plain(value: Any) -> str | int | float | bool:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str | int | float):
        return value
    return json.dumps(value, default=lambda array: np.asarray(array).tolist())
