"""Any graph is explained and drawn, and any damaged one is explained with every reason."""

from __future__ import annotations

import contextlib
import copy
import io
import random
import re
from xml.etree import ElementTree

import nir
import numpy as np
import random_programs
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from stdl_export import graph as graphs
from stdl_export.explain.drawing import dot, picture
from stdl_export.explain.parameters import plain
from stdl_export.explain.report import Heading, show
from stdl_export.explain.svg import svg
from stdl_export.program import program
from stdl_export.targets import TARGETS, Job
from stdl_export.tensorrt import Profile

several = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def explained(graph: nir.NIRGraph) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        show(
            Heading("g", "g.nir", "nir", "a test"),
            Job(graph, ("sequence", "step"), "auto", Profile(), "fp32"),
            [*TARGETS],
        )
    return out.getvalue()


def rows(said: str) -> list[str]:
    return [line for line in said.splitlines() if re.match(r" *\d+  ", line)]


@several
@given(random_programs.graphs())
def test_any_graph_is_explained(graph: nir.NIRGraph) -> None:
    said, made = explained(graph), program(graph)
    note(said)
    assert [re.split(r"  +", row.strip())[1] for row in rows(said)] == [plain(path) for path in made.nodes]
    read = sum(source.previous for node in made.nodes.values() for source in node.sources)
    assert sum(row.count("@t-1") for row in rows(said)) == read
    assert len(re.findall(r"^    .* reads .* of the step before$", said, flags=re.MULTILINE)) == read


@several
@given(random_programs.graphs())
def test_any_graph_is_drawn(graph: nir.NIRGraph) -> None:
    drawn, made = picture(graph), program(graph)
    leaves = [
        node for _, part in graphs.graphs(graph) for node in part.nodes.values() if type(node) is not nir.NIRGraph
    ]
    groups = [each for each in ElementTree.fromstring(svg(drawn)).iter() if each.tag.endswith("}title")]
    assert len(groups) == len(leaves)
    assert len(re.findall(r"^ *n[0-9_]+ \[label=", dot(drawn), flags=re.MULTILINE)) == len(leaves)
    if not any(source.previous for node in made.nodes.values() for source in node.sources):
        assert "dashed" not in dot(drawn)


@several
@given(random_programs.graphs(), st.randoms(use_true_random=False), st.integers(1, 3))
def test_a_damaged_graph_is_explained_with_every_reason(graph: nir.NIRGraph, chance: random.Random, times: int) -> None:
    broken = copy.deepcopy(graph)
    for _ in range(times):
        chance.choice(DAMAGES)(chance.choice([part for _, part in graphs.graphs(broken)]), chance)
    said, problems = explained(broken), graphs.problems(broken)
    note(said)
    assert ("not accepted" in said) == bool(problems)
    for problem in problems:
        assert f"  {plain(problem)}\n" in said


def _number(part: nir.NIRGraph, chance: random.Random) -> None:
    """A NaN, a negative or a far too large number in a parameter."""
    fields = [(node, key) for node in part.nodes.values() for key, value in vars(node).items() if _real(value)]
    if fields:
        node, key = chance.choice(fields)
        value = np.array(getattr(node, key))
        value.reshape(-1)[0] = chance.choice([np.nan, -1, 1e38])
        setattr(node, key, value)


def _shape(part: nir.NIRGraph, chance: random.Random) -> None:
    """A parameter with one axis more, or without elements."""
    fields = [(node, key) for node in part.nodes.values() for key, value in vars(node).items() if _real(value)]
    if fields:
        node, key = chance.choice(fields)
        value = getattr(node, key)
        setattr(node, key, chance.choice([value[None], value[:0] if value.ndim else value[None], value.astype("S")]))


def _real(value: object) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.size > 0


def _edge(part: nir.NIRGraph, chance: random.Random) -> None:
    """An edge less, or one to anywhere."""
    if chance.random() < 0.5 and part.edges:
        part.edges.remove(chance.choice(part.edges))
    else:
        names = [*part.nodes, "nowhere"]
        part.edges.append((chance.choice(names), chance.choice(names)))


def _node(part: nir.NIRGraph, chance: random.Random) -> None:
    """A node less; its edges stay."""
    del part.nodes[chance.choice([*part.nodes])]


DAMAGES = [_number, _shape, _edge, _node]
