"""What puts out its input is left out, with every bit of the rest."""

from __future__ import annotations

import nir
import numpy as np
import pytest
from judged import judged, kinds
from random_programs import DT, STEPS
from small_graphs import assemble, chain, full, lif

from stdl_export.passes import drop_identities
from stdl_export.program import Source, program

pytest.importorskip("onnxruntime")


def pool(kind: type, kernel: int = 1, stride: int = 1) -> nir.NIRNode:
    return kind(np.array([kernel] * 2), np.array([stride] * 2), np.array([0, 0]))


IDENTITIES: dict[str, nir.NIRNode] = {
    "scale": nir.Scale(full(1, 2, 4, 4)),
    "number": nir.Scale(full(1)),
    "flatten": nir.Flatten({"input": None}, 1, 1),
    "average": pool(nir.AvgPool2d),
    "sum": pool(nir.SumPool2d),
    "delay": nir.Delay(full(0, 2, 4, 4)),
}
OTHERS: dict[str, tuple[nir.NIRNode, tuple[int, ...]]] = {
    "scale": (nir.Scale(np.float32([1, 2]).reshape(2, 1, 1)), (2, 4, 4)),
    "flatten": (nir.Flatten({"input": None}, 1, 2), (2, 16)),
    "average": (pool(nir.AvgPool2d, 2), (2, 3, 3)),
    "sum": (pool(nir.SumPool2d, 1, 2), (2, 2, 2)),
    "delay": (nir.Delay(full(DT, 1)), (2, 4, 4)),
    "threshold": (nir.Threshold(full(0, 1)), (2, 4, 4)),
}


@pytest.mark.parametrize("name", IDENTITIES)
def test_an_identity_goes(name: str) -> None:
    made = judged(chain(lif(2, 4, 4), IDENTITIES[name], lif(2, 4, 4), shape=(2, 4, 4), T=STEPS))
    assert kinds(made) == ["LIF", "LIF"]


@pytest.mark.parametrize("name", OTHERS)
def test_what_does_something_stays(name: str) -> None:
    node, shape = OTHERS[name]
    made = judged(chain(node, shape=(2, 4, 4), output=shape, T=STEPS))
    assert kinds(made) == [type(node).__name__]


def test_a_network_of_identities_is_a_wire() -> None:
    made = judged(chain(*IDENTITIES.values(), shape=(2, 4, 4), T=STEPS))
    assert list(made.nodes) == ["input", "output"]


def summing(*edges: tuple[str, str]) -> nir.NIRGraph:
    """Inputs a and b of numbers that do not add up exactly, `one` their sum."""
    nodes = {name: nir.Input(np.array([2])) for name in ("a", "b", "c")}
    nodes |= {"one": nir.Scale(full(1, 2)), "l": lif(2), "k": lif(2)}
    nodes |= {name: nir.Output(np.array([2])) for name in ("out", "out2", "out3")}
    edges = (("a", "one"), ("b", "one"), *edges)
    used = {name for edge in edges for name in edge}
    return assemble({name: node for name, node in nodes.items() if name in used}, list(edges), T=STEPS)


def test_a_sum_is_handed_on_to_those_who_read_nothing_else() -> None:
    made = judged(summing(("one", "out"), ("one", "out2"), ("one", "l"), ("l", "out3")))
    assert "one" not in made.nodes
    assert [source.path for source in made.nodes["l"].sources] == ["a", "b"]


def test_a_sum_that_is_part_of_another_stays() -> None:
    """(a + b) + c is not a + (b + c): 1e8 - 1e8 + 1."""
    made = program(summing(("c", "out"), ("one", "out")))
    assert drop_identities.run(made) is made


def test_in_a_loop_two_readers_do_not_sum_twice() -> None:
    graph = summing(("one", "l"), ("one", "k"), ("l", "one"), ("k", "one"), ("l", "out"), ("k", "out2"))
    made = program(graph)
    assert len(made.nodes["one"].sources) == 4
    assert {made.nodes[name].sources for name in "lk"} == {(Source("one"),)}
    assert drop_identities.run(made) is made
    judged(graph)


def test_the_step_before_is_handed_on_in_its_loop() -> None:
    nodes = {"input": nir.Input(np.array([2])), "l": lif(2, threshold=0.25), "one": nir.Scale(full(1, 2))}
    edges = [("input", "l"), ("l", "one"), ("one", "l"), ("l", "output")]
    made = judged(assemble(nodes | {"output": nir.Output(np.array([2]))}, edges, T=STEPS))
    assert kinds(made) == ["LIF"]
    assert made.components[1].cyclic
    assert [(source.path, source.previous) for source in made.nodes["l"].sources] == [("input", False), ("l", True)]


def test_the_step_before_is_not_handed_on_out_of_its_loop() -> None:
    """The Output reads what the loop's neuron put out a step ago; the state of that is inside of the loop."""
    nodes = {"input": nir.Input(np.array([2])), "l": lif(2, threshold=0.25), "one": nir.Scale(full(1, 2))}
    edges = [("input", "l"), ("l", "one"), ("one", "l"), ("one", "output")]
    made = judged(assemble(nodes | {"output": nir.Output(np.array([2]))}, edges, T=STEPS))
    assert kinds(made) == ["LIF", "Scale"]


def test_what_is_read_a_step_later_keeps_its_name() -> None:
    nodes = {"input": nir.Input(np.array([2])), "l": lif(2, threshold=0.25), "one": nir.Scale(full(1, 2))}
    edges = [("input", "l"), ("l", "one"), ("one", "l"), ("l", "output")]
    said = '{"graph":{"feedback":"delay_target_input"}}'
    graph = assemble(nodes | {"output": nir.Output(np.array([2]))}, edges, T=STEPS, dialect=said)
    assert program(graph).fed_back == ["one"]
    assert judged(graph).fed_back == ["one"]
