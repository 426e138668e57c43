from __future__ import annotations

import nir
import numpy as np
import pytest
import random_graphs
from hypothesis import given, settings
from hypothesis import strategies as st
from small_graphs import DT, assemble, chain, conv_net, full, if_, lif

from stdl_export import graph as graphs
from stdl_export.common.errors import BadInput


class Foreign(nir.ir.node.NIRNode):
    """A node type that NIR does not have."""

    def __init__(self) -> None:
        self.metadata = {}


def reasons(graph: nir.NIRGraph) -> str:
    return "; ".join(map(str, graphs.problems(graph)))


def conv(weight: tuple[int, ...], stride=1, padding=0, dilation=1, groups=1) -> nir.Conv2d:
    return nir.Conv2d(None, full(1, *weight), stride, padding, dilation, groups, full(0, weight[0]))


def test_a_good_graph_has_no_problems() -> None:
    graph = conv_net()
    assert graphs.problems(graph) == []
    graphs.check(graph, "a test")
    assert graphs.inputs(graph) == ["input"]
    assert graphs.outputs(graph) == ["output"]
    assert graphs.neurons(graph) == ["lif1", "lif2"]


@settings(max_examples=60)
@given(random_graphs.graphs())
def test_random_graphs_have_no_problems(graph: nir.NIRGraph) -> None:
    assert graphs.problems(graph) == []


@settings(max_examples=30)
@given(random_graphs.graphs(), st.randoms(use_true_random=False))
def test_order_does_not_depend_on_the_order_in_the_file(graph: nir.NIRGraph, random) -> None:
    names, edges = list(graph.nodes), list(graph.edges) + graph.edges[:1]
    random.shuffle(names)
    random.shuffle(edges)
    shuffled = nir.NIRGraph({name: graph.nodes[name] for name in names}, edges, graph.metadata, type_check=False)
    order = graphs.order(shuffled)
    assert order == graphs.order(graph)
    assert all(order.index(source) < order.index(target) for source, target in edges)
    assert graphs.same(graph, shuffled) is None


def test_sources_are_unique_and_sorted() -> None:
    nodes = {"i": nir.Input(np.array([1])), "b": if_(1), "a": if_(1), "o": nir.Output(np.array([1]))}
    graph = assemble(nodes, [("i", "b"), ("i", "a"), ("b", "o"), ("a", "o"), ("b", "o")])
    assert graphs.sources(graph)["o"] == ("a", "b")
    assert graphs.problems(graph) == []


@pytest.mark.parametrize(
    ("node", "image", "expected"),
    [
        (conv((4, 2, 3, 3)), (2, 7, 6), (4, 5, 4)),
        (conv((4, 2, 3, 3), stride=2, padding=1), (2, 7, 6), (4, 4, 3)),
        (conv((4, 2, 3, 3), stride=(2, 1), padding=(0, 1)), (2, 7, 6), (4, 3, 6)),
        (conv((4, 2, 3, 2), dilation=(2, 3)), (2, 7, 6), (4, 3, 3)),
        (conv((4, 1, 3, 3), groups=2), (2, 7, 6), (4, 5, 4)),
        (conv((4, 2, 4, 3), padding="same", dilation=2), (2, 7, 6), (4, 7, 6)),
        (conv((4, 2, 7, 6), padding="valid"), (2, 7, 6), (4, 1, 1)),
        (nir.AvgPool2d(np.array([2]), np.array(2), np.array([0, 0])), (3, 7, 6), (3, 3, 3)),
        (nir.SumPool2d(np.array([3, 2]), np.array([1, 2]), np.array([1, 0])), (3, 7, 6), (3, 7, 3)),
        (nir.Flatten({"input": None}, 0, -1), (2, 3, 4), (24,)),
        (nir.Flatten({"input": None}), (2, 3, 4), (2, 12)),
        (nir.Flatten({"input": None}, -2, -2), (2, 3, 4), (2, 3, 4)),
        (nir.Linear(full(1, 5, 4)), (4,), (5,)),
    ],
)
def test_shapes(node: nir.NIRNode, image: tuple[int, ...], expected: tuple[int, ...]) -> None:
    graph = chain(node, shape=image, output=expected)
    assert reasons(graph) == ""
    assert graphs.shapes(graph)["n0"] == expected


def broken_lif(**fields: np.ndarray) -> nir.LIF:
    node = lif(4)
    for name, value in fields.items():
        setattr(node, name, value)
    return node


@pytest.mark.parametrize(
    ("node", "shape", "said"),
    [
        (broken_lif(tau=full(0, 4)), (4,), "tau is not positive"),
        (broken_lif(tau=full(np.nan, 4)), (4,), "tau holds NaN"),
        (broken_lif(r=np.full(4, 1e300)), (4,), "r holds NaN, infinity or a number too large for float32"),
        (broken_lif(v_leak=np.full(4, 1j)), (4,), "v_leak has type complex"),
        (broken_lif(v_threshold=full(1, 3)), (4,), "its v_threshold has (3,)"),
        (lif(4), (5,), "its input has shape (5,), its tau has (4,)"),
        (nir.Affine(full(1, 2, 3), full(1, 3)), (3,), "bias must be (2,)"),
        (nir.Linear(full(1, 2, 3)), (4,), "its weight (2, 3) takes (3,)"),
        (nir.Linear(full(1, 2, 2, 3)), (3,), "its weight (2, 2, 3) takes (2, 3)"),
        (nir.Affine(full(1, 2, 2, 3), full(1, 3)), (2, 3), "bias must be (2, 2)"),
        (conv((4, 2, 3, 3), groups=3), (6, 5, 5), "groups=[3] does not divide its 4 output channels"),
        (conv((4, 2, 3, 3)), (3, 5, 5), "it takes (2, height, width)"),
        (conv((4, 2, 3, 3)), (2, 2, 5), "larger than its padded input image"),
        (conv((4, 2, 3, 3), stride=0), (2, 5, 5), "stride=[0, 0]: accepted are one or two whole numbers of at least 1"),
        (conv((4, 2, 3, 3), stride=2, padding="same"), (2, 5, 5), "'same' takes stride 1 only"),
        (conv((4, 2, 3, 3), dilation=(1.5, 1)), (2, 5, 5), "accepted are whole numbers"),
        (conv((4, 2, 3)), (2, 5, 5), "accepted is (outputs, inputs / groups, height, width)"),
        (nir.Conv2d((9, 9), full(1, 4, 2, 3, 3), 1, 0, 1, 1, full(0, 4)), (2, 5, 5), "input_shape=[9, 9]"),
        (
            nir.AvgPool2d(np.array([2, 2]), np.array([2, 2]), np.array([2, 0])),
            (2, 5, 5),
            "not smaller than kernel_size",
        ),
        (
            nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
            (4,),
            "it takes (channels, height, width)",
        ),
        (
            conv((4, 2, 3, 3), padding=2**40),
            (2, 5, 5),
            "padding=[1099511627776, 1099511627776]: accepted are",
        ),
        (
            conv((4, 2, 3, 3), stride=2**31),
            (2, 5, 5),
            "of at most 2147483647",
        ),
        (conv((4, 2, 3, 3), dilation=2**62), (2, 5, 5), "at most 2147483647"),
        (conv((4, 2, 3, 3), stride=10**5, padding=10**5), (2, 5, 5), "its image is (200005, 200005) with its padding"),
        (
            nir.AvgPool2d(np.array([10**9] * 2), np.array([10**9] * 2), np.array([9 * 10**8] * 2)),
            (2, 5, 5),
            "its image is (1800000005, 1800000005) with its padding: accepted are at most 268435456 elements",
        ),
        (nir.Flatten({"input": None}, 0, 3), (2, 5, 5), "end_dim=[3]: its input has 3 dimensions"),
        (nir.Flatten({"input": None}, 2, 1), (2, 5, 5), "start_dim=2 lies behind end_dim=1"),
        (nir.Scale(full(1, 4)), (5,), "its scale has (4,)"),
        (conv((1 << 16, 1, 1, 1)), (1, 64, 65), "puts out shape (65536, 64, 65): accepted are at most 268435456"),
        (nir.I(r=full(1, 4)), (5,), "its input has shape (5,), its r has (4,)"),
        (nir.CubaLIF(full(1, 4), full(-1, 4), *[full(1, 4)] * 3), (4,), "tau_mem is not positive"),
        (nir.CubaLI(full(np.nan, 4), *[full(1, 4)] * 3), (4,), "tau_syn holds NaN"),
        (nir.Conv1d(None, full(1, 4, 2, 3), 1, 0, 1, 1, full(0, 4)), (2, 5, 5), "it takes (2, length)"),
        (nir.Conv1d(9, full(1, 4, 2, 3), 1, 0, 1, 1, full(0, 4)), (2, 5), "input_shape=9, but its input image is (5,)"),
        (nir.Conv1d(None, full(1, 4, 2, 3), 1, "same", 1, 1, full(0, 3)), (2, 5), "bias must be (4,)"),
        (nir.Delay(full(-DT, 4)), (4,), "its delay is negative"),
        (nir.Delay(full(2**20 * DT, 400)), (400,), "it keeps 1048576 steps of (400,): accepted are at most 268435456"),
        (nir.Flatten({"input": np.array([2.5])}, 0, -1), (2, 5, 5), "input_type=[2.5]: accepted are one or more sizes"),
        (nir.Delay(full(1.5 * DT, 4)), (4,), "its delay is 1.5 steps of 0.000976562: accepted are whole numbers"),
        (
            nir.Flatten({"input": np.array([2, 5, 4])}, 0, -1),
            (2, 5, 5),
            "input_type=(2, 5, 4), but its input has shape",
        ),
        (broken_lif(tau=full(DT / 4, 4)), (4,), "its decay, 1-dt/tau, is -3: the step of 0.000976562 is unstable"),
        (broken_lif(tau=full(1, 3)), (4,), "its tau has (3,)"),
    ],
)
def test_what_a_node_may_not_be(node: nir.NIRNode, shape: tuple[int, ...], said: str) -> None:
    with np.errstate(divide="ignore"):
        found = reasons(chain(node, shape=shape))
    assert said in found
    assert "node 'n0'" in found


def graph_with(edit) -> nir.NIRGraph:
    graph = conv_net()
    edit(graph)
    return graph


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda g: g.edges.append(("lif1", "nothere")), "edge ('lif1', 'nothere') names 'nothere', which is no node"),
        (
            lambda g: g.edges.append(("conv2", "conv2")),
            "node 'conv2' (Conv2d): it lies on a cycle: conv2 -> conv2, and",
        ),
        (
            lambda g: g.edges.append(("readout", "flatten")),
            "a cycle: flatten -> readout -> flatten, and neither a neuron",
        ),
        (
            lambda g: g.edges.append(("input", "lif1")),
            "summed but differ in shape: 'conv1' (4, 6, 6), 'input' (2, 6, 6)",
        ),
        (lambda g: g.edges.append(("readout", "input")), "node 'input' (Input): an Input takes no edge"),
        (lambda g: g.edges.append(("output", "readout")), "node 'output' (Output): no edge may leave an Output"),
        (lambda g: g.edges.remove(("input", "conv1")), "node 'conv1' (Conv2d): no edge leads to it"),
        (lambda g: g.edges.remove(("readout", "output")), "node 'readout' (Affine): no edge leaves it"),
        (
            lambda g: g.nodes.update(more=nir.Input(np.array([1]))),
            "node 'more' (Input): no edge leaves it",
        ),
        (lambda g: g.nodes.pop("output"), "at least one Output node is needed, the graph has none"),
        (lambda g: g.nodes.update({"a/b": if_(1)}), "a node's name may not be empty or '.', nor hold '/' or NUL"),
        (lambda g: g.nodes.update(sub=conv_net()), "node 'sub' (NIRGraph): no edge leads to it"),
        (lambda g: g.nodes.update(output=nir.Output(np.array([6]))), "it declares shape (6,), its input has (5,)"),
        (lambda g: g.nodes.update(input=nir.Input(np.array([2, 0, 6]))), "node 'input' (Input): shape=[2, 0, 6]"),
        (lambda g: g.metadata.update({"stdl.dt": -1.0}), "metadata stdl.dt=-1.0: accepted is a positive number"),
        (lambda g: g.metadata.update({"stdl.dt": float("nan")}), "metadata stdl.dt=nan"),
        (lambda g: g.metadata.update({"stdl.T": 0}), "metadata stdl.T=0: accepted is a whole number"),
        (lambda g: g.metadata.update({"stdl.T": 2**62}), "stdl.T=4611686018427387904: accepted is a whole number of"),
        (lambda g: g.metadata.update({"stdl.T": True}), "metadata stdl.T=True"),
        (lambda g: g.metadata.update({"stdl.reset": "soft"}), "stdl.reset='soft': accepted is v_reset | subtract"),
        (lambda g: g.metadata.update({"stdl.rest": "subtract"}), "metadata stdl.rest is not known here"),
        (lambda g: g.metadata.update({"stdl.reset": []}), "metadata stdl.reset=[]"),
        (lambda g: g.nodes["lif1"].metadata.update({"stdl.reset": "x"}), "node 'lif1' (LIF): metadata stdl.reset='x'"),
        (lambda g: g.nodes["lif1"].metadata.update({"stdl.reset": "[[0.0]]"}), "metadata stdl.reset='[[0.0]]'"),
        (lambda g: g.nodes["pool"].metadata.update({"stdl.reset": "subtract"}), "node 'pool' (AvgPool2d): metadata"),
        (lambda g: g.metadata.update(note=None), "metadata note=None: accepted are str, int, float and bool"),
    ],
)
def test_what_a_graph_may_not_be(edit, said: str) -> None:
    assert said in reasons(graph_with(edit))


def test_a_reset_that_would_ignore_v_reset_is_refused() -> None:
    graph = chain(lif(2, v_reset=0.5), shape=(2,), reset="subtract")
    assert "node 'n0' (LIF): v_reset is not 0, but the reset is 'subtract'" in reasons(graph)
    graph.nodes["n0"].metadata["stdl.reset"] = "v_reset"
    assert reasons(graph) == ""


def test_every_reason_at_once() -> None:
    def edit(graph: nir.NIRGraph) -> None:
        graph.nodes["lif1"].tau[:] = 0
        graph.nodes["pool"] = Foreign()
        graph.nodes["readout"].bias = full(1, 7)
        graph.nodes["conv1"].groups = 3
        graph.metadata["stdl.T"] = -1

    with pytest.raises(BadInput) as error:
        graphs.check(graph_with(edit), "'net.nir'")
    line = str(error.value)
    assert line.startswith("'net.nir': metadata stdl.T=-1")
    assert "\n" not in line
    for said in (
        "'lif1' (LIF): tau",
        "'pool' (Foreign): this primitive",
        "'readout' (Affine): bias",
        "'conv1' (Conv2d): groups=[3]",
    ):
        assert said in line
    assert line.endswith("accepted primitives are " + line.rpartition("accepted primitives are ")[2])
    assert "Conv2d, CubaLI, CubaLIF" in line.rpartition("accepted primitives are ")[2]


def test_settings_have_defaults_and_travel_in_metadata() -> None:
    bare = nir.NIRGraph(conv_net().nodes, conv_net().edges, {"author": "me"}, type_check=False)
    assert graphs.settings(bare) == graphs.Settings(1e-4, None, "nir", "v_reset", "sequence", "none")
    wanted = graphs.Settings(2e-3, 7, "nir", "subtract", "repeat", "sum")
    said = graphs.with_settings(bare, wanted)
    assert graphs.settings(said) == wanted
    assert said.metadata["author"] == "me"
    assert graphs.settings(graphs.with_settings(said, graphs.Settings())).T is None


def test_reset_of_a_node_overrides_the_graphs() -> None:
    graph = conv_net(reset="subtract")
    graph.nodes["lif2"].metadata["stdl.reset"] = "v_reset"
    assert graphs.reset_of(graph, "lif1") == "subtract"
    assert graphs.reset_of(graph, "lif2") == "v_reset"


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda g: g.nodes.pop("output"), "node 'output' is in one graph only"),
        (lambda g: g.edges.pop(), "edge ('lif1', 'pool') is in one graph only"),
        (
            lambda g: g.metadata.update({"stdl.T": 5}),
            "the graph's metadata: 'stdl.T' is 4 in one graph, 5 in the other",
        ),
        (lambda g: g.metadata.pop("stdl.T"), "'stdl.T' is in one graph only"),
        (lambda g: g.nodes["lif1"].metadata.update(a=1), "node 'lif1': metadata: 'a' is in one graph only"),
        (lambda g: g.nodes.update(lif1=if_(4, 6, 6)), "node 'lif1': LIF in one graph, IF in the other"),
        (lambda g: g.nodes["readout"].bias.put(1, 9), "node 'readout': bias differs"),
        (lambda g: setattr(g.nodes["conv1"], "stride", (2, 1)), "node 'conv1': stride differs: (1, 1) and (2, 1)"),
        (
            lambda g: setattr(g.nodes["lif1"], "r", g.nodes["lif1"].r.astype(float)),
            "r differs: float32 (4, 6, 6) and float64",
        ),
        (lambda g: g.nodes.update(input=nir.Input(np.array([2, 6, 7]))), "node 'input': shape differs"),
    ],
)
def test_same_tells_the_first_difference(edit, said: str) -> None:
    assert graphs.same(conv_net(), conv_net()) is None
    assert said in (graphs.same(conv_net(), graph_with(edit)) or "")


def test_a_loop_whose_shape_nothing_says_is_refused():
    """No Input leads into it, and neither a Flatten nor a neuron with scalar parameters says what it takes."""
    nodes = {
        "input": nir.Input(np.array([2])),
        "flatten": nir.Flatten({"input": None}, 0, -1),
        "neuron": if_(),
        "output": nir.Output(np.array([2])),
    }
    found = graphs.problems(assemble(nodes, [("input", "output"), ("flatten", "neuron"), ("neuron", "flatten")]))
    assert [problem.node for problem in found] == ["flatten", "neuron"]
    assert "nothing says what shape its input has" in str(found[0])
