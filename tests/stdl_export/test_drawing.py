"""Drawings: what is in them is the graph, they are well-formed whatever names say, and no box lies on another."""

from __future__ import annotations

import itertools
import re
import time
from pathlib import Path
from xml.etree import ElementTree

import conformance
import nir
import numpy as np
import pytest
from small_graphs import assemble, chain, conv_net, full, if_, lif

from stdl_export import bundle as bundles
from stdl_export import graph as graphs
from stdl_export.cli import command
from stdl_export.common import console
from stdl_export.common.errors import BadInput
from stdl_export.explain import drawing
from stdl_export.explain.drawing import Picture, dot, picture
from stdl_export.explain.layout import Layout, layout
from stdl_export.explain.svg import svg

SVG = "{http://www.w3.org/2000/svg}"
# A name with '/' never gets here: the graph is refused.
NAMES = [
    '"', "\\", '\\"] evil [label="', "<script>alert(1)<script>", "&lt;", "]]>", "--><svg>", "a\nb", "\\N", "\x1b[0m",
    "漢字", " ",
]  # fmt: skip


def titles(text: str) -> list[str]:
    """The bold line of every node in an SVG."""
    root = ElementTree.fromstring(text)
    return [str(each.text) for each in root.iter(f"{SVG}text") if each.get("class") == "title middle"]


def named(name: str) -> nir.NIRGraph:
    nodes = {"input": nir.Input(np.array([2])), name: lif(2), "output": nir.Output(np.array([2]))}
    return assemble(nodes, [("input", name), (name, "output")])


def looped() -> nir.NIRGraph:
    """input -> fc -> lif -> output, lif -> rec -> fc, and a lif that feeds itself."""
    weight = np.eye(2, dtype=np.float32)
    nodes = {
        "input": nir.Input(np.array([2])), "fc": nir.Linear(weight), "lif": lif(2), "rec": nir.Linear(weight),
        "self": if_(2), "output": nir.Output(np.array([2])),
    }  # fmt: skip
    edges = [
        ("input", "fc"),
        ("fc", "lif"),
        ("lif", "rec"),
        ("rec", "fc"),
        ("lif", "self"),
        ("self", "self"),
        ("self", "output"),
    ]
    return assemble(nodes, edges)


def nested() -> nir.NIRGraph:
    """A sub-graph in a sub-graph; the outer one feeds itself over a wire, its inner one over a Linear."""
    ends = {"input": nir.Input(np.array([2])), "output": nir.Output(np.array([2]))}
    cell = nir.NIRGraph({**ends, "lif": lif(2)}, [("input", "lif"), ("lif", "output")], type_check=False)
    rec = nir.Linear(np.eye(2, dtype=np.float32))
    edges = [("input", "cell"), ("cell", "rec"), ("rec", "cell"), ("cell", "output")]
    outer = nir.NIRGraph({**ends, "cell": cell, "rec": rec}, edges, type_check=False)
    return assemble({**ends, "outer": outer}, [("input", "outer"), ("outer", "outer"), ("outer", "output")])


def by_title(drawn: Picture) -> dict[str, int]:
    return {box.title: at for at, box in enumerate(drawn.boxes)}


def edges(drawn: Picture) -> dict[tuple[str, str], bool]:
    """Edges by the names of their ends: whether they hand over the value of the step before."""
    return {(drawn.boxes[e.source].title, drawn.boxes[e.target].title): e.before for e in drawn.edges}


def inner(drawn: Picture, name: str) -> Picture:
    found = drawn.boxes[by_title(drawn)[name]].inner
    assert found is not None
    return found


def test_a_picture_has_the_nodes_and_edges_of_its_graph() -> None:
    graph = conv_net()
    drawn = picture(graph)
    assert {box.title for box in drawn.boxes} == set(graph.nodes)
    assert set(edges(drawn)) == set(graph.edges)
    assert not any(edges(drawn).values())
    box = drawn.boxes[by_title(drawn)["lif2"]]
    assert box.lines == ("LIF", "decay 0.5, spikes v > 0.5", "4x6x6")
    assert "tau 0.001953" in box.details


def test_edges_that_read_the_step_before_are_dashed() -> None:
    found = edges(picture(looped()))
    assert [pair for pair, before in found.items() if before] == [("lif", "rec"), ("self", "self")]
    text = dot(picture(looped()))
    assert text.count("style=dashed") == 2
    assert svg(picture(looped())).count('class="edge before"') == 3, "and one in the legend"
    assert svg(picture(conv_net())).count('class="edge before"') == 0


def test_what_a_wire_carries_decides_whether_it_is_dashed() -> None:
    drawn = picture(nested())
    assert edges(drawn) == {("input", "outer"): False, ("outer", "outer"): True, ("outer", "output"): False}
    outer = edges(inner(drawn, "outer"))
    assert outer["cell", "rec"] is True, "all that it carries is read a step later"
    assert outer["rec", "cell"] is False
    assert outer["cell", "output"] is False, "one reader reads it now"


def test_a_delay_that_the_dialect_adds_is_told_in_the_box() -> None:
    graph = graphs.with_settings(
        chain(lif(2), shape=(2,)),
        graphs.Settings(dialect='{"graph":{"delays":{"LIF":1}}}'),
    )
    drawn = picture(graph)
    assert len(drawn.boxes) == 3
    assert "then 1 step late" in drawn.boxes[by_title(drawn)["n0"]].lines


@pytest.mark.parametrize("name", NAMES)
def test_names_stay_names_in_svg(name: str) -> None:
    text = svg(picture(named(name)))
    assert sorted(titles(text)) == sorted(["input", "output", {"a\nb": "a\\nb", "\x1b[0m": "\\x1b[0m"}.get(name, name)])
    assert {each.tag.removeprefix(SVG) for each in ElementTree.fromstring(text).iter()} == {
        "svg", "style", "rect", "g", "title", "text", "path"
    }  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names_stay_labels_in_dot(name: str) -> None:
    """Taken apart as Graphviz does: without its quoted strings the text is that of a harmless name."""

    def skeleton(text: str) -> str:
        return re.sub(r'"(?:[^"\\]|\\.)*"', '""', text)

    text = dot(picture(named(name)))
    assert skeleton(text) == skeleton(dot(picture(named("plain"))))
    (label,) = [found for found in re.findall(r'label="((?:[^"\\]|\\.)*)"', text) if "LIF" in found]
    assert not re.search(r"(?<!\\)(?:\\\\)*\\[GNETHLlr]", label), "no escape of Graphviz's own"


def test_long_names_are_cut_and_told_whole() -> None:
    (box,) = [box for box in picture(named("x" * 100 + "end")).boxes if box.title.endswith("end")]
    assert len(box.title) < 30
    assert "x" * 100 + "end" in box.details


def laid(*sources: tuple[int, int], count: int, size: tuple[float, float] = (60, 40)) -> Layout:
    return layout([size] * count, list(sources), list(range(count)))


def test_a_chain_is_a_straight_line_downwards() -> None:
    made = laid((0, 1), (1, 2), (2, 3), count=4)
    assert len({round(x, 3) for x, _ in made.centres}) == 1
    assert [y for _, y in made.centres] == sorted({y for _, y in made.centres})


def test_a_skip_goes_straight_beside_its_block() -> None:
    sizes = [(width, 40.0) for width in (60.0, 40.0, 150.0, 60.0, 60.0)]
    made = layout(sizes, [(0, 1), (1, 2), (2, 3), (3, 4), (0, 4)], list(range(5)))
    assert len({round(x, 2) for x, _ in made.centres}) == 1, "the block stays straight"
    skip = made.routes[4]
    assert len(skip) == 6
    assert len({round(x, 2) for x, _ in skip}) == 1
    assert abs(skip[0][0] - made.centres[2][0]) > 75, "clear of the boxes"


def test_a_fork_is_symmetric_and_no_edge_crosses() -> None:
    made = laid((0, 1), (0, 2), (1, 4), (2, 3), (3, 5), (4, 5), count=6)
    x = [x for x, _ in made.centres]
    assert x[0] == pytest.approx((x[1] + x[2]) / 2, abs=1)
    assert (x[1] < x[2]) == (x[4] < x[3])


def test_a_loop_goes_back_up_at_the_right() -> None:
    made = laid((0, 1), (1, 2), (2, 1), (2, 2), count=3)
    assert made.back == {2, 3}
    assert all(x > made.centres[2][0] + 30 for at in made.back for x, _ in made.routes[at])


def rectangles(text: str) -> list[tuple[float, ...]]:
    """The boxes of an SVG without sub-graphs: left, top, right, bottom."""
    found = []
    for group in ElementTree.fromstring(text).iter(f"{SVG}g"):
        if group.find(f"{SVG}title") is not None:
            left, top, width, height = (float(str(group[1].get(key))) for key in ("x", "y", "width", "height"))
            found.append((left, top, left + width, top + height))
    return found


@pytest.mark.parametrize("seed", range(8))
def test_random_graphs_have_no_boxes_on_each_other(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(5, 25))
    pairs = sorted({(int(a), int(b)) for a, b in rng.integers(0, count, size=(2 * count, 2))})
    sizes = [(float(w), float(h)) for w, h in rng.uniform(20, 150, size=(count, 2))]
    made = layout(sizes, pairs, rng.permutation(count).tolist())
    spans = [(x - w / 2, y - h / 2, x + w / 2, y + h / 2) for (x, y), (w, h) in zip(made.centres, sizes, strict=True)]
    for a, b in itertools.combinations(spans, 2):
        assert a[2] <= b[0] + 1e-3 or b[2] <= a[0] + 1e-3 or a[3] <= b[1] or b[3] <= a[1]
    for at, route in enumerate(made.routes):
        for x, y in route:
            assert -1e-3 <= x <= made.width + 1e-3
            for number, (left, top, right, bottom) in enumerate(spans):
                if number not in pairs[at]:
                    assert not (left < x < right and top < y < bottom), "no edge goes through a box"
    assert min(left for left, *_ in spans) >= -1e-3
    assert max(span[3] for span in spans) <= made.height + 1e-3


def test_boxes_of_sub_graphs_hold_what_is_theirs() -> None:
    text = svg(picture(nested()))
    root = ElementTree.fromstring(text)
    parts = [each for each in root.iter(f"{SVG}rect") if each.get("class") == "part"]
    assert len(parts) == 2
    assert [each.text for each in root.iter(f"{SVG}text") if each.get("class") == "title"] == ["outer", "cell"]
    assert dot(picture(nested())).count("subgraph cluster_") == 2


def test_hundreds_of_nodes_are_drawn_in_seconds() -> None:
    """A deep network with skips over three nodes each."""
    blocks = 100
    nodes: dict[str, nir.NIRNode] = {"input": nir.Input(np.array([2]))}
    made = []
    last = "input"
    for at in range(blocks):
        names = [f"{at:03}.{part}" for part in ("fc1", "lif1", "fc2", "lif2")]
        nodes |= dict(zip(names, [nir.Linear(full(1, 2, 2)), lif(2), nir.Linear(full(1, 2, 2)), lif(2)], strict=True))
        made += [*itertools.pairwise([last, *names]), (last, names[3])]
        last = names[3]
    nodes["output"] = nir.Output(np.array([2]))
    begun = time.perf_counter()
    text = svg(picture(assemble(nodes, [*made, (last, "output")])))
    assert time.perf_counter() - begun < 20
    assert len(rectangles(text)) == 4 * blocks + 2
    middles = {round((left + right) / 2) for left, _, right, _ in rectangles(text)}
    assert max(middles) - min(middles) <= 1, "the main path is straight"


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    graphs.write(conv_net(), tmp_path / "net.nir")
    return tmp_path


def run(*args: str) -> int:
    return console.run(command, list(args))


@pytest.mark.parametrize("kind", ["dot", "svg"])
def test_a_drawing_is_a_file_of_its_own(net: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    assert run("net.nir", "--target", kind, "--out", f"net.{kind}") == 0
    assert "conv2" in (net / f"net.{kind}").read_text(encoding="utf-8")
    assert f"net.{kind}" in capsys.readouterr().out
    assert run("net.nir", "--target", kind, "--out", f"net.{kind}") == 2
    assert "exists already" in capsys.readouterr().err
    assert sorted(path.name for path in net.iterdir()) == sorted(["net.nir", f"net.{kind}"])


def test_drawings_are_parts_of_a_bundle(net: Path) -> None:
    assert run("net.nir", "--target", "nir,dot", "--out", "bundle", "--golden", "2") == 0
    assert run("bundle", "--target", "svg") == 0
    opened = bundles.load(net / "bundle")
    assert {"graph.dot", "graph.svg"} <= set(opened.manifest.files)
    assert "conv2" in titles(opened.file("graph.svg").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--target", "svg,dot", "--out", "x.svg"], "is a drawing, for --target svg alone"),
        (["--target", "onnx", "--out", "x.dot"], "is a drawing, for --target dot alone"),
        (["--target", "svg", "--out", "x.svg", "--golden", "2"], "one .svg file holds no golden samples"),
        (["--target", "svg"], "is not a bundle, so --out is needed"),
    ],
)
def test_options_that_do_not_fit(net: Path, capsys: pytest.CaptureFixture[str], args: list[str], said: str) -> None:
    assert run("net.nir", *args) == 2
    assert said in capsys.readouterr().err
    assert [path.name for path in net.iterdir()] == ["net.nir"]


def test_a_graph_that_is_not_accepted_is_not_drawn(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nir.write(net / "bad.nir", chain(lif(3), shape=(2,)))
    assert run("bad.nir", "--target", "svg", "--out", "x.svg") == 2
    assert capsys.readouterr().err.startswith("error: 'bad.nir': node 'n0' (LIF)")


def test_what_nobody_could_read_is_left_to_graphviz(
    net: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "MAX_BOXES", 8)
    assert run("net.nir", "--target", "svg", "--out", "x.svg") == 2
    assert "an SVG shows up to 8 nodes, the graph has 9: take --target dot" in capsys.readouterr().err
    assert run("net.nir", "--target", "dot", "--out", "x.dot") == 0
    assert run("net.nir", "--explain", "--target", "svg") == 0
    assert "svg  no: an SVG shows up to 8 nodes" in capsys.readouterr().out


def test_edges_that_are_too_many_are_refused_before_they_cost_anything() -> None:
    count = 400
    every = [(a, b) for a in range(count) for b in range(a + 1, count)]
    with pytest.raises(BadInput, match="too long for an SVG"):
        laid(*every, count=count)


@pytest.mark.skipif(not conformance.NAMES, reason=conformance.ABSENT)
@pytest.mark.parametrize("name", conformance.NAMES)
def test_every_conformance_case_is_drawn(name: str) -> None:
    graph = conformance.load(name).graph
    drawn = picture(graph)
    shown = [box for box in drawn.flat() if box.inner is None]
    assert sorted(titles(svg(drawn))) == sorted(box.title for box in shown)
    assert len(shown) == sum(
        not isinstance(n, nir.NIRGraph) for _, part in graphs.graphs(graph) for n in part.nodes.values()
    )
    assert dot(drawn).count(" -> ") == sum(len({*part.edges}) for _, part in graphs.graphs(graph))
