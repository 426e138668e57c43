from __future__ import annotations

import contextlib
import time
from pathlib import Path

import h5py
import nir
import numpy as np
import pytest
import random_graphs
from hypothesis import given, settings
from small_graphs import chain, conv_net, full, if_

from stdl_export import graph as graphs
from stdl_export import hdf5
from stdl_export.common.errors import BadInput


@pytest.fixture
def file(tmp_path: Path) -> Path:
    graphs.write(conv_net(), tmp_path / "net.nir")
    return tmp_path / "net.nir"


def refusal(path: Path) -> str:
    with pytest.raises(BadInput) as error:
        graphs.read(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    return str(error.value)


def test_read_back_is_the_same_graph(file: Path) -> None:
    assert graphs.same(graphs.read(file), conv_net()) is None


@settings(max_examples=40)
@given(random_graphs.graphs())
def test_read_back_is_the_same_random_graph(tmp_path_factory: pytest.TempPathFactory, graph: nir.NIRGraph) -> None:
    path = tmp_path_factory.mktemp("nir") / "graph.nir"
    graph.metadata |= {"text": "ü", "yes": True, "number": 3, "third": 1 / 3}
    graphs.write(graph, path)
    back = graphs.read(path)
    assert graphs.same(graph, back) is None
    assert graphs.problems(back) == []
    assert {key: type(value) for key, value in back.metadata.items()} == {
        key: type(value) for key, value in graph.metadata.items()
    }


def test_the_nir_package_reads_what_we_write(file: Path) -> None:
    graph = nir.read(file)  # with its type check
    assert graphs.same(graph, conv_net()) is None


def test_scalars_and_missing_shapes_can_be_written(tmp_path: Path) -> None:
    """nir.write alone crashes on arrays without dimensions and on an input_shape of None."""
    graph = chain(
        nir.Conv2d(None, full(1, 2, 1, 3, 3), 1, 1, 1, 1, full(0, 2)), if_(), shape=(1, 4, 4), output=(2, 4, 4)
    )
    graphs.write(graph, tmp_path / "a.nir")
    back = graphs.read(tmp_path / "a.nir")
    assert graphs.same(graph, back) is None
    assert back.nodes["n0"].input_shape.tolist() == [4, 4]


def test_a_refused_graph_leaves_no_file(tmp_path: Path) -> None:
    graph = conv_net()
    graph.nodes["lif1"].tau[:] = -1
    with pytest.raises(BadInput, match="was not written: node 'lif1'"):
        graphs.write(graph, tmp_path / "net.nir")
    assert list(tmp_path.iterdir()) == []


def test_not_there(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "no.nir")
    assert "no file" in refusal(tmp_path)


def test_not_hdf5(tmp_path: Path) -> None:
    path = tmp_path / "net.nir"
    path.write_text("a text")
    assert "is not an HDF5 file" in refusal(path)


@pytest.mark.parametrize("keep", [0, 8, 100, 1000, 5000, -1])
def test_truncated(file: Path, keep: int) -> None:
    file.write_bytes(file.read_bytes()[:keep])
    assert ("is not a readable HDF5 file" if keep else "is not an HDF5 file") in refusal(file)


def test_damaged_anywhere_is_refused_or_a_graph(file: Path) -> None:
    """Bytes overwritten all over the file: there is one kind of error, no crash and no endless loop."""
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    for start in rng.integers(0, len(whole) - 8, size=100):
        file.write_bytes(whole[:start] + rng.bytes(8) + whole[start + 8 :])
        with contextlib.suppress(BadInput):
            graphs.check(graphs.read(file), str(file))


def test_heaps_that_overlap_are_damage(tmp_path: Path) -> None:
    """8000 heaps, each inside an object of the one before and reaching to the end: walked one by one it takes 10 s."""
    size, units = 256 << 10, 8000
    content = bytearray(size)
    content[: len(hdf5.SIGNATURE)] = hdf5.SIGNATURE
    for at in range(32, 32 + 32 * units, 32):
        hdf5.HEAP_HEADER.pack_into(content, at, hdf5.HEAP, 32 + 32 * units - at)
        hdf5.HEAP_OBJECT.pack_into(content, at + 16, 1, 1, 0, 16 if at < 32 * units else 0)
    (tmp_path / "a.nir").write_bytes(content)
    begun = time.process_time()
    assert "its heap of strings is damaged" in refusal(tmp_path / "a.nir")
    assert time.process_time() - begun < 2


def test_strings_of_a_fixed_length_are_read(file: Path) -> None:
    with h5py.File(file, "r+") as content:
        replace(content["node"], "nodes/lif1/type", np.bytes_(b"LIF"))
        content["node/metadata"]["tags"] = np.array([b"a", b"bc"])
    graph = graphs.read(file)
    assert isinstance(graph.nodes["lif1"], nir.LIF)
    assert graph.metadata["tags"] == '["a", "bc"]'


def test_hdf5_without_a_graph(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.nir", "w") as content:
        content["other"] = 1
    assert "it has no group 'node'" in refusal(tmp_path / "a.nir")


def replace(group: h5py.Group, name: str, value) -> None:
    del group[name]
    group[name] = value


def huge(group: h5py.Group) -> None:
    del group["nodes/lif1/tau"]
    group.create_dataset("nodes/lif1/tau", shape=(1 << 20, 1 << 20), dtype="f4", chunks=(64, 64))


def wide_chunk(group: h5py.Group) -> None:
    del group["nodes/lif1/tau"]
    group.create_dataset("nodes/lif1/tau", shape=(4,), maxshape=(None,), dtype="f8", chunks=((1 << 28) + 1,))


def itself(group: h5py.Group) -> None:
    group["nodes/lif1/again"] = group["nodes"]


def external_data(group: h5py.Group) -> None:
    del group["nodes/lif1/tau"]
    group.create_dataset("nodes/lif1/tau", shape=(4,), dtype="f4", external=[("/etc/hostname", 0, 16)])


def virtual(group: h5py.Group) -> None:
    layout = h5py.VirtualLayout(shape=(4,), dtype="f4")
    layout[:] = h5py.VirtualSource("/tmp/other.h5", "x", shape=(4,))
    del group["nodes/lif1/tau"]
    group.create_virtual_dataset("nodes/lif1/tau", layout)


def reference(group: h5py.Group) -> None:
    del group["nodes/lif1/tau"]
    group["nodes/lif1"].create_dataset("tau", data=group["nodes"].ref, dtype=h5py.ref_dtype)


def many_strings(group: h5py.Group) -> None:
    group.require_group("metadata").create_dataset("x", shape=(1 << 20,), dtype=h5py.string_dtype())


def long_text(group: h5py.Group) -> None:
    group["metadata"]["x"] = "y" * (hdf5.MAX_TEXT + 1)


def wide_text(group: h5py.Group) -> None:
    """One string of a fixed length that costs no bytes in the file."""
    del group["nodes/lif1/type"]
    group.create_dataset("nodes/lif1/type", shape=(1 << 10,), dtype=f"S{1 << 20}", chunks=(1,))


def wide_text_chunk(group: h5py.Group) -> None:
    group.require_group("metadata").create_dataset("x", shape=(1,), maxshape=(None,), dtype="S1024", chunks=(1 << 17,))


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda g: replace(g, "nodes/lif1/tau", h5py.SoftLink("/node/nodes/lif2/tau")), "is a link"),
        (lambda g: replace(g, "nodes/lif1/tau", h5py.ExternalLink("/etc/passwd", "/x")), "is a link"),
        (itself, "is nested deeper than 32 groups"),
        (external_data, "keeps its data in another file"),
        (virtual, "keeps its data in another file"),
        (reference, "has type object"),
        (huge, "brings the declared size above 2 GiB"),
        (wide_chunk, "brings the declared size above 2 GiB"),
        (many_strings, "holds more than 200000 strings"),
        (wide_text, "brings all text above 16 MiB"),
        (wide_text_chunk, "brings all text above 16 MiB"),
        (long_text, "brings all text above 16 MiB"),
        (lambda g: replace(g, "nodes/lif1/tau", h5py.Empty("f4")), "is empty"),
        (lambda g: replace(g, "nodes/lif1/tau", np.zeros(3, [("a", "f4")])), "has type"),
        (lambda g: replace(g, "nodes/lif1/tau", np.zeros(4)), "node 'lif1' (LIF): nir cannot build it"),
        (lambda g: g.pop("nodes/lif1/tau"), "node 'lif1' (LIF): field 'tau' is missing"),
        (lambda g: g.create_dataset("nodes/lif1/tua", data=1), "node 'lif1' (LIF): field 'tua' is unknown"),
        (lambda g: g.create_group("nodes/lif1/x"), "field 'x' is unknown"),
        (
            lambda g: replace(g, "nodes/lif1/type", "LIFF"),
            "node 'lif1': type 'LIFF' is not a NIR primitive; NIR has Affine",
        ),
        (lambda g: g.pop("nodes/lif1/type"), "node 'lif1': it has no type"),
        (lambda g: replace(g, "nodes/lif1", 3), "node 'lif1': it has no type"),
        (
            lambda g: replace(g, "nodes/conv1/padding", "full"),
            "node 'conv1' (Conv2d): nir cannot build it: padding must be",
        ),
        (lambda g: replace(g, "nodes/conv1/weight", 1.0), "node 'conv1' (Conv2d): nir cannot build it"),
        (lambda g: replace(g, "edges", np.zeros((3, 2))), "pairs of names as 'edges'"),
        (lambda g: replace(g, "edges", ["a", "b"]), "pairs of names as 'edges'"),
        (lambda g: g.pop("nodes"), "the graph is not a NIRGraph with a group 'nodes'"),
        (lambda g: replace(g, "type", "LIF"), "the graph is not a NIRGraph"),
        (lambda g: replace(g, "nodes/lif1/type", np.bytes_(b"\xff")), "utf-8"),
    ],
)
def test_what_a_file_may_not_hold(file: Path, edit, said: str) -> None:
    with h5py.File(file, "r+") as content:
        edit(content["node"])
    assert said in refusal(file)


def test_all_unknown_nodes_at_once(file: Path) -> None:
    with h5py.File(file, "r+") as content:
        replace(content["node"], "nodes/lif1/type", "Foo")
        replace(content["node"], "nodes/lif2/type", "Bar")
        content["node"].pop("nodes/conv1/bias")
    said = refusal(file)
    assert all(
        part in said
        for part in ("'lif1': type 'Foo'", "'lif2': type 'Bar'", "'conv1' (Conv2d): field 'bias' is missing")
    )


def test_older_files_are_read(file: Path) -> None:
    """Before nir 1.0.5 there was no v_reset, which then is 0, and no metadata."""
    with h5py.File(file, "r+") as content:
        content["node"].pop("nodes/lif1/v_reset")
        content["node"].pop("metadata")
        replace(content, "version", "0.2.0")
    graph = graphs.read(file)
    assert not graph.nodes["lif1"].v_reset.any()
    assert graphs.settings(graph) == graphs.Settings()


def test_metadata_of_other_writers_becomes_text(file: Path) -> None:
    with h5py.File(file, "r+") as content:
        content["node/metadata"]["tags"] = ["a", "b"]
        content["node/metadata/more/deep"] = np.arange(3)
    metadata = graphs.read(file).metadata
    assert metadata["tags"] == '["a", "b"]'
    assert metadata["more"] == '{"deep": [0, 1, 2]}'


def test_nested_graphs_are_read(tmp_path: Path) -> None:
    inner = chain(nir.CubaLIF(*[full(1, 1, 1)] * 5), shape=(1, 1))
    nodes = {"input": nir.Input(np.array([1])), "inner": inner, "output": nir.Output(np.array([1]))}
    outer = nir.NIRGraph(nodes, [("input", "inner"), ("inner", "output")], type_check=False)
    nir.write(tmp_path / "a.nir", outer)
    read = graphs.read(tmp_path / "a.nir")
    assert isinstance(read.nodes["inner"].nodes["n0"], nir.CubaLIF)
    read.nodes["inner"].metadata.clear()
    said = "; ".join(map(str, graphs.problems(read)))
    assert said == "node 'inner/n0' (CubaLIF): its input has shape (1,), its tau_syn has (1, 1)"


def test_grouped_and_non_square_kernels_are_read(tmp_path: Path) -> None:
    """nir's own type check refuses both."""
    conv = nir.Conv2d(None, full(1, 4, 1, 3, 2), 1, 0, 1, 2, full(0, 4))
    graph = chain(conv, shape=(2, 5, 5), output=(4, 3, 4))
    graphs.write(graph, tmp_path / "a.nir")
    with pytest.raises(ValueError, match="type mismatch"):
        nir.read(tmp_path / "a.nir")
    assert graphs.problems(graphs.read(tmp_path / "a.nir")) == []


def test_parameters_of_several_shapes_are_read(file: Path) -> None:
    """One number for all, or one a channel, beside one for each neuron; nir itself wants one shape."""
    with h5py.File(file, "r+") as content:
        group = content["node/nodes/lif1"]
        replace(group, "tau", np.float32(0.25))
        replace(group, "r", np.arange(4, dtype=np.float32).reshape(4, 1, 1))
        replace(group, "v_leak", np.array([0.5]))
    node = graphs.read(file).nodes["lif1"]
    assert node.tau.shape == node.r.shape == node.v_leak.shape == (4, 6, 6)
    assert (node.tau == 0.25).all()
    assert (node.r[2] == 2).all()
    assert (node.v_leak.dtype, node.v_leak[0, 0, 0]) == (np.float64, 0.5)


@pytest.mark.parametrize("shape", [(), (1,), (2,), (2, 1)])
def test_neurons_with_parameters_of_any_one_shape(tmp_path: Path, shape: tuple[int, ...]) -> None:
    graph = chain(nir.CubaLIF(*[np.asarray(full(1, *shape))] * 5), shape=(2, 3)[: max(1, len(shape))])
    graphs.write(graph, tmp_path / "a.nir")
    assert graphs.same(graphs.read(tmp_path / "a.nir"), graph) is None


def test_files_of_nir_1_0_4_and_older(tmp_path: Path) -> None:
    """No w_in means 1, no v_reset 0; a Conv1d may keep its sizes in arrays of one number."""
    conv = nir.Conv1d(5, full(1, 2, 1, 3), 1, 0, 1, 1, full(0, 2))
    graph = chain(conv, nir.CubaLIF(*[full(2, 2, 3)] * 5, w_in=full(3, 2, 3)), shape=(1, 5), output=(2, 3))
    graphs.write(graph, tmp_path / "a.nir")
    with h5py.File(tmp_path / "a.nir", "r+") as content:
        nodes = content["node/nodes"]
        for field in ("w_in", "v_reset"):
            nodes["n1"].pop(field)
        for field in ("input_shape", "stride", "padding", "dilation"):
            replace(nodes["n0"], field, np.array([nodes["n0"][field][()]]))
        content["node"].pop("metadata")
        replace(content, "version", "0.2.0")
    back = graphs.read(tmp_path / "a.nir")
    assert graphs.problems(back) == []
    assert (back.nodes["n1"].w_in == 1).all()
    assert not back.nodes["n1"].v_reset.any()
    assert graphs.shapes(back)["n0"] == (2, 3)


NAMES = [
    "ü",
    " ",
    "..",
    "a b",
    "'\"",
    "\n",
    "\t",
    "if",
    "0",
    "{}",
    "%s",
    "a" * 300,
    "Affine@cycle",
    "node",
    "type",
    "\u202e",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_any_characters(tmp_path: Path, name: str) -> None:
    inner = nir.NIRGraph(
        {name: if_(1), f"{name}in": nir.Input(np.array([1])), f"{name}out": nir.Output(np.array([1]))},
        [(f"{name}in", name), (name, f"{name}out")],
        {},
        type_check=False,
    )
    graph = chain(if_(1), inner, shape=(1,))
    graph.nodes[name] = graph.nodes.pop("n0")
    graph.edges = [tuple(name if end == "n0" else end for end in edge) for edge in graph.edges]
    graphs.write(graph, tmp_path / "a.nir")
    back = graphs.read(tmp_path / "a.nir")
    assert graphs.same(back, graph) is None
    assert graphs.neurons(back) == [name, f"n1/{name}"]


def test_a_difference_inside_a_sub_graph_is_told(tmp_path: Path) -> None:
    first, second = (chain(chain(if_(1, threshold=value), shape=(1,)), shape=(1,)) for value in (1, 2))
    assert (
        graphs.same(first, second)
        == "node 'n0': node 'n0': v_threshold differs: array([1.], dtype=float32) and array([2.], dtype=float32)"
    )
