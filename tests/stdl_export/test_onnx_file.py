"""ONNX files that an engine is not to open: they draw in other files, hold what we never write, or are no models."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import pytest
from bundles import make, rehash
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from small_graphs import conv_net, frames

from stdl_export.common.errors import BadInput
from stdl_export.common.onnx_file import MAX_DEPTH, check
from stdl_export.onnx import lower
from stdl_export.onnx.probe import probe


def external(name: str = "w", location: str = "golden.npz") -> TensorProto:
    """A tensor whose numbers lie elsewhere."""
    tensor = numpy_helper.from_array(np.zeros(3, np.float32), name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def model() -> onnx.ModelProto:
    return lower.sequence(conv_net(T=20), "scan")


def refusal(proto: onnx.ModelProto | bytes, path: Path) -> str:
    path.write_bytes(proto if isinstance(proto, bytes) else proto.SerializeToString())
    with pytest.raises(BadInput) as error:
        check(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    return str(error.value)


def test_what_we_write_is_taken(tmp_path: Path) -> None:
    made = [lower.sequence(conv_net(), form) for form in ("unroll", "scan", "chunks")]
    for number, proto in enumerate([*made, lower.step(conv_net()), probe(conv_net())]):
        path = tmp_path / f"{number}.onnx"
        lower.write(proto, path)
        check(path)


def scan_body(proto: onnx.ModelProto) -> onnx.GraphProto:
    return next(attribute.g for node in proto.graph.node for attribute in node.attribute if attribute.HasField("g"))


def test_tensors_in_other_files_wherever_they_stand(tmp_path: Path) -> None:
    """As a weight, sparse, as a constant's attribute, in a loop's body; and where one of the two marks is left out."""
    sparse = onnx.SparseTensorProto(values=external(), indices=external(), dims=[3])

    def weight(proto):
        proto.graph.initializer.append(external())

    def sparse_weight(proto):
        proto.graph.sparse_initializer.append(sparse)

    def constant(proto):
        proto.graph.node.append(helper.make_node("Constant", [], ["c"], value=external()))

    def sparse_constant(proto):
        proto.graph.node.append(helper.make_node("Constant", [], ["c"], sparse_value=sparse))

    def several(proto):
        proto.graph.node.append(helper.make_node("Constant", [], ["c"]))
        proto.graph.node[-1].attribute.add(name="x", type=onnx.AttributeProto.TENSORS).tensors.append(external())

    def in_a_body(proto):
        scan_body(proto).initializer.append(external())

    def in_a_branch(proto):
        body = helper.make_graph([], "b", [], [], [external()])
        proto.graph.node.append(helper.make_node("If", ["c"], []))
        proto.graph.node[-1].attribute.add(name="x", type=onnx.AttributeProto.GRAPHS).graphs.append(body)

    def only_the_location(proto):
        proto.graph.initializer.append(external())
        proto.graph.initializer[-1].data_location = TensorProto.DEFAULT

    def only_the_mark(proto):
        proto.graph.initializer.append(external())
        del proto.graph.initializer[-1].external_data[:]

    ways = (weight, sparse_weight, constant, sparse_constant, several, in_a_body, in_a_branch)
    for way in (*ways, only_the_location, only_the_mark):
        changed = model()
        way(changed)
        assert "tensor 'w' lie in another file" in refusal(changed, tmp_path / "m.onnx"), way


def test_operators_of_other_domains(tmp_path: Path) -> None:
    """ONNX Runtime's EPContext loads a file that an attribute names."""
    changed = model()
    changed.graph.node.append(helper.make_node("EPContext", ["x"], ["y"], "n", domain="com.microsoft", embed_mode=0))
    assert "uses node 'n' of domain 'com.microsoft'" in refusal(changed, tmp_path / "m.onnx")
    changed = model()
    scan_body(changed).node.append(helper.make_node("Evil", ["x"], ["y"], "n", domain="a\nb"))
    assert r"uses node 'n' of domain 'a\nb'" in refusal(changed, tmp_path / "m.onnx")
    changed = model()
    changed.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert "uses operators of domain 'com.microsoft'" in refusal(changed, tmp_path / "m.onnx")


def test_functions_and_training_are_refused(tmp_path: Path) -> None:
    changed = model()
    changed.functions.add(name="f")
    assert "holds a function" in refusal(changed, tmp_path / "m.onnx")
    changed = model()
    changed.training_info.add()
    assert "holds a training" in refusal(changed, tmp_path / "m.onnx")


def test_graphs_in_graphs(tmp_path: Path) -> None:
    graph = helper.make_graph([], "g", [], [])
    for _ in range(MAX_DEPTH // 3 + 1):  # a graph, a node, an attribute
        graph = helper.make_graph([helper.make_node("If", ["c"], [], then_branch=graph)], "g", [], [])
    assert "graphs inside graphs" in refusal(helper.make_model(graph), tmp_path / "m.onnx")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00",
        b"\xff" * 30,
        b"PK\x03\x04",
        b"\x08\x0a",
        b"\x3a\xff\xff\xff\xff\x0f",
        b"\x0b\x0c",
        b"\x3a\x02\x0a\x7f",
    ],
)
def test_what_is_no_model(tmp_path: Path, content: bytes) -> None:
    assert "is no ONNX model" in refusal(content, tmp_path / "m.onnx")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="does not exist"):
        check(tmp_path / "m.onnx")


def test_a_file_that_ends_early(tmp_path: Path) -> None:
    """Wherever a file is cut it is refused or, where a field of the model itself ends, still holds a graph."""
    whole, path, refused = model().SerializeToString(), tmp_path / "m.onnx", 0
    for size in [*range(64), *range(64, len(whole), 97)]:
        path.write_bytes(whole[:size])
        try:
            check(path)
        except BadInput:
            refused += 1
    assert refused > 80


@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4))
def test_whatever_the_onnx_package_sees_in_another_file_is_refused(changes: list[tuple[float, int]]) -> None:
    """Bytes are changed at random; if what protobuf then reads has a tensor elsewhere, we saw it too."""
    content = bytearray(WHOLE)
    for at, byte in changes:
        content[int(at * len(content))] = byte
    PATH.write_bytes(content)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(bytes(content))
    except Exception:  # its own kinds of errors
        return
    if any(each.external_data or each.data_location for each in tensors(proto.graph)):
        with pytest.raises(BadInput):
            check(PATH)


def tensors(graph: onnx.GraphProto) -> list[TensorProto]:
    attributes = [attribute for node in graph.node for attribute in node.attribute]
    bodies = list(itertools.chain.from_iterable((each.g, *each.graphs) for each in attributes if each.ByteSize()))
    own = [*graph.initializer, *(tensor for each in attributes for tensor in (each.t, *each.tensors))]
    return own + [tensor for body in bodies if body.ByteSize() for tensor in tensors(body)]


@pytest.fixture(autouse=True, scope="module")
def _small_model(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A small file in which most bytes are structure, with a tensor that is all but external."""
    global WHOLE, PATH
    near = numpy_helper.from_array(np.zeros(1, np.float32), "w")
    nodes = [helper.make_node("Constant", [], ["c"], value=near), helper.make_node("Add", ["c", "w"], ["y"])]
    end = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    WHOLE = helper.make_model(helper.make_graph(nodes, "g", [], [end], [near])).SerializeToString()
    PATH = tmp_path_factory.mktemp("m") / "m.onnx"


WHOLE, PATH = b"", Path()


def test_a_bundle_with_such_a_graph_is_not_run(tmp_path: Path) -> None:
    bundle = make(tmp_path / "b", conv_net(), frames(3, 2, 6, 6))
    changed = onnx.load(bundle.path / "model.onnx")
    changed.graph.initializer.append(external())
    onnx.save(changed, bundle.path / "model.onnx")
    with pytest.raises(BadInput, match=r"model.onnx' says that the numbers of tensor 'w' lie in another file"):
        rehash(bundle, ["model.onnx"])
