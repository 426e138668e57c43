"""`stdl-export --explain`: what it says of a graph is true, and it says something of every graph."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import conformance
import nir
import numpy as np
import pytest
from small_graphs import DT, assemble, chain, conv_net, full, if_, lif

from stdl_export import graph as graphs
from stdl_export import targets
from stdl_export.cli import command
from stdl_export.common import console
from stdl_export.explain import facts, parameters
from stdl_export.program import program

END = nir.Output(np.array([2]))
Explain = Callable[..., tuple[int, str, str]]


@pytest.fixture
def explain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Explain:
    """Write a graph, explain it, and check that this wrote nothing: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(graph: nir.NIRGraph | Path, *args: str) -> tuple[int, str, str]:
        path = Path("g.nir")
        if isinstance(graph, Path):
            path = graph
        else:
            path.unlink(missing_ok=True)
            nir.write(path, graph)
        before = sorted(Path().rglob("*"))
        capsys.readouterr()
        code = console.run(command, [str(path), "--explain", *args])
        assert sorted(Path().rglob("*")) == before
        return code, *capsys.readouterr()

    return run


def row(said: str, name: str) -> str:
    """The one line of the table of nodes for a node."""
    (found,) = [line for line in said.splitlines() if re.match(rf" *\d+  {re.escape(name)} ", line)]
    return found


def section(said: str, title: str) -> list[str]:
    """The lines under a title, without indentation."""
    lines = said.splitlines()
    begin = next(at for at, line in enumerate(lines) if line.split(":")[0] == title) + 1
    end = next((at for at in range(begin, len(lines)) if not lines[at]), len(lines))
    return [line.strip() for line in lines[begin:end]]


def recurrent(**stdl: object) -> nir.NIRGraph:
    """input -> fc -> hidden {lif <-> rec} -> output."""
    hidden = assemble(
        {
            "input": nir.Input(np.array([3])),
            "lif": lif(3),
            "output": nir.Output(np.array([3])),
            "rec": nir.Linear(np.eye(3, dtype=np.float32)),
        },
        [("input", "lif"), ("lif", "rec"), ("rec", "lif"), ("lif", "output")],
    )
    hidden.metadata.clear()
    nodes = {
        "input": nir.Input(np.array([2])),
        "fc": nir.Affine(full(1, 3, 2), full(0.5, 3)),
        "hidden": hidden,
        "output": nir.Output(np.array([3])),
    }
    return assemble(nodes, [("input", "fc"), ("fc", "hidden"), ("hidden", "output")], **stdl)


def test_the_nodes_stand_in_the_order_of_execution_with_shapes_and_counts(explain: Explain) -> None:
    code, said, _ = explain(conv_net())
    assert code == 0
    names = [re.split(r"  +", line.strip())[1] for line in said.splitlines() if re.match(r" *\d+  ", line)]
    assert names == graphs.order(conv_net())
    assert "2x6x6 -> 4x6x6" in row(said, "conv1")
    weights, macs = re.split(r"  +", row(said, "conv1").strip())[4:6]
    assert (weights, macs) == ("76", "2.59k"), "4*2*9 weights and 4 biases; 72 weights at 36 places"
    assert "3 + 5" in row(said, "pool"), "it reads lif1 and lif2, by their numbers"
    assert "409 weights and biases, 7,956 MACs a sample and step, 288 spiking neurons" in said


def test_the_heading_says_dialect_time_and_who_made_it(explain: Explain) -> None:
    graph = conv_net()
    graph.metadata["creator"] = "some framework 1.2"
    _, said, _ = explain(graph)
    assert "creator some framework 1.2" in said
    assert re.search(r"dialect +nir: .*\(nobody says one\)", said)
    assert re.search(r"T +4\n", said)
    assert "repeat: one frame for all steps" in said
    assert re.search(r"output +mean\n", said)
    _, said, _ = explain(
        graph, "--dialect", "snntorch", "--timesteps", "dynamic", "--dt", "0.25", "--set", "output=sum"
    )
    assert re.search(r"dialect +snntorch: .*\(the command line says it\)", said)
    assert re.search(r"T +dynamic\n", said)
    assert re.search(r"dt +0.25,", said)
    assert re.search(r"output +sum\n", said)
    _, said, _ = explain(conv_net(dialect="norse"))
    assert re.search(r"dialect +norse: .*\(the graph says it\)", said)


def test_a_neuron_is_told_as_its_dialect_takes_it(explain: Explain) -> None:
    neuron = nir.LIF(
        tau=np.array([2 * DT, 4 * DT], np.float32), r=full(2, 2), v_leak=full(0.25, 2), v_threshold=full(1, 2),
        v_reset=full(0, 2),
    )  # fmt: skip
    _, said, _ = explain(chain(neuron, shape=(2,)))
    said = row(said, "n0")
    assert "tau 0.001953..0.003906" in said
    assert "decay 0.5..0.75, gain 0.5..1, leak 0.0625..0.125" in said
    assert "spikes v > 1; reset v = 0" in said
    _, said, _ = explain(
        chain(neuron, shape=(2,)), "--set", "dialect.reset=subtract", "--set", 'dialect.nodes.n0.spike=">="'
    )
    assert "spikes v >= 1; reset v - threshold" in row(said, "n0")


def test_a_loop_says_what_is_read_a_step_later(explain: Explain) -> None:
    _, said, _ = explain(recurrent())
    number = row(said, "hidden/lif").split()[0]
    assert f"{number}@t-1" in row(said, "hidden/rec")
    assert section(said, "loops") == [
        "hidden/rec, hidden/lif: stepped together",
        "hidden/rec reads hidden/lif of the step before",
    ]
    assert section(said, "sub-graphs") == ["hidden: 1 Input, 1 LIF, 1 Output, 1 Linear"]
    assert "loops" not in explain(conv_net())[1]


def test_states_are_counted_in_bytes(explain: Explain) -> None:
    _, said, _ = explain(conv_net())
    lines = section(said, "states of the step graph")
    assert lines[0].endswith("2     1.1 KiB"), "2 LIFs of 144 float32"
    assert section(explain(chain(nir.Scale(full(2, 2)), shape=(2,)))[1], "states of the step graph") == ["none"]


def test_saved_work(explain: Explain) -> None:
    graph = conv_net()
    graph.nodes["again"] = lif(4, 6, 6)
    graph.nodes["other"] = nir.Output(np.array([4, 6, 6]))
    graph.nodes["same"] = nir.Scale(full(1, 4, 6, 6))
    graph.edges += [("lif1", "again"), ("lif2", "again"), ("again", "same"), ("same", "other")]
    assert facts.fusions(program(graph)) == [
        "computed once, not at every step, since the input is repeated: conv1",
        "summed once: lif1 + lif2, for again, pool",
        "puts out what goes in: same",
    ]
    graph.metadata["stdl.input"] = "sequence"
    assert facts.fusions(program(graph))[0].startswith("summed once")


def test_targets_and_every_reason_against_them(explain: Explain) -> None:
    _, said, _ = explain(conv_net(), "--timesteps", "dynamic")
    lines = section(said, "targets")
    assert [line.split()[0] for line in lines] == list(targets.TARGETS)
    assert re.fullmatch(r"onnx +yes", lines[1])
    assert re.match(r"tensorrt +no: .*fixed T: give --timesteps N", lines[2])
    lines = section(explain(conv_net(), "--target", "onnx,svg")[1], "targets")
    assert [line.split()[0] for line in lines] == ["onnx", "svg"]
    two = assemble(
        {"a": nir.Input(np.array([2])), "lif": if_(2), "state.lif.v": END, "o": END},
        [("a", "lif"), ("lif", "state.lif.v"), ("lif", "o")],
    )
    (line,) = section(explain(two, "--target", "onnx")[1], "targets")
    assert "two inputs or outputs called 'state.lif.v'" in line


@pytest.mark.parametrize(
    ("graph", "reasons", "seen"),
    [
        (chain(nir.Linear(full(1, 3, 2)), lif(4), shape=(2,)), ["its tau has (4,)"], ["n0", "n1", "weight 3x2"]),
        (
            chain(nir.LI(full(-1, 2), full(1, 2), full(0, 2)), nir.Scale(full(np.nan, 2)), shape=(2,)),
            ["tau is not positive everywhere", "scale holds NaN"],
            ["tau -1", "n1"],
        ),
        (
            assemble(
                {"input": nir.Input(np.array([2])), "w": nir.Linear(full(1, 2, 2)), "output": END},
                [("input", "w"), ("w", "w"), ("w", "output")],
            ),
            ["it lies on a cycle: w -> w"],
            ["1 + 3"],
        ),
        (
            assemble({"input": nir.Input(np.array([2])), "w": if_(2)}, [("input", "w"), ("w", "nowhere")]),
            ["names 'nowhere', which is no node", "at least one Output"],
            ["v_threshold 1"],
        ),
    ],
)  # fmt: skip
def test_a_graph_that_is_not_accepted_is_shown_with_every_reason(
    explain: Explain, graph: nir.NIRGraph, reasons: list[str], seen: list[str]
) -> None:
    path = Path("bad.nir")
    nir.write(path, graph)
    code, said, err = explain(path)
    assert code == 2
    assert err.startswith("error: 'bad.nir': ")
    assert err.count("\n") == 1
    told = "\n".join(section(said, "not accepted"))
    for reason in reasons:
        assert reason in told
        assert reason in err
    for text in seen:
        assert text in said


def test_known_shapes_stop_where_the_graph_is_wrong(explain: Explain) -> None:
    _, said, _ = explain(chain(nir.Linear(full(1, 3, 2)), lif(4), shape=(2,)))
    assert re.split(r"  +", row(said, "n0").strip())[3] == "3"
    assert re.split(r"  +", row(said, "n1").strip())[3] == "?"


def test_a_file_that_is_no_graph_is_one_line(explain: Explain, tmp_path: Path) -> None:
    (tmp_path / "bad.nir").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(64))
    code, said, err = explain(Path("bad.nir"))
    assert (code, said) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("args", [["--out", "x"], ["--golden", "3"], ["--inputs", "x.npz"]])
def test_options_that_would_write(explain: Explain, args: list[str]) -> None:
    code, said, err = explain(conv_net(), *args)
    assert (code, said) == (2, "")
    assert "--explain writes nothing" in err


def test_without_a_target_explain_is_offered(capsys: pytest.CaptureFixture[str]) -> None:
    assert console.run(command, ["g.nir", "--out", "x"]) == 2
    assert "or give --explain" in capsys.readouterr().err


ODD = [
    "a\x1b[31mred", "new\nline", "tab\there", "[bold]markup[red]", ":smile:", "<b>&amp;", 'quo"te', "back\\N", "ünï",
    "漢字", "a" * 300, "\u202eright to left", "{path}", "%s", "emoji😀", " ",
]  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_names_reach_the_terminal_as_letters(explain: Explain, name: str) -> None:
    nodes = {"input": nir.Input(np.array([2])), name: lif(2), "output": nir.Output(np.array([2]))}
    code, said, err = explain(assemble(nodes, [("input", name), (name, "output")]))
    assert (code, err) == (0, "")
    assert parameters.plain(name) in said
    assert all(letter.isprintable() or letter == "\n" for letter in said)
    assert len([line for line in said.splitlines() if re.match(r" *\d+  ", line)]) == 3


def test_on_a_terminal_it_is_a_table_of_its_width(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nir.write(tmp_path / "g.nir", conv_net())
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert console.run(command, [str(tmp_path / "g.nir"), "--explain"]) == 0
    said = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert max(map(len, said.splitlines())) <= 100
    assert "conv1" in said


def test_a_bundle_is_explained_as_it_was_exported(explain: Explain, tmp_path: Path) -> None:
    graphs.write(conv_net(), tmp_path / "net.nir")
    args = ["net.nir", "--target", "nir", "--out", "bundle", "--golden", "2", "--dialect", "snntorch", "--dt", "1e-3"]
    assert console.run(command, args) == 0
    code, said, _ = explain(Path("bundle"))
    assert code == 0
    assert said.startswith("net\n")
    assert re.search(r"dialect +snntorch: .*\(the graph says it\)", said)
    assert re.search(r"dt +0.001,", said)


ELSEWHERE = "  (tensorrt|onnx|loihi2|xylo|speck|spinnaker2) "
"""What is installed differs; chips have their own pages."""


@pytest.mark.skipif(not conformance.NAMES, reason=conformance.ABSENT)
def test_the_example_in_the_documentation_is_what_is_printed(explain: Explain, tmp_path: Path) -> None:
    shutil.copy(conformance.FOLDER / "rockpool-import-braille-subgraph" / "graph.nir", tmp_path / "braille.nir")
    text = (Path(__file__).parents[2] / "docs" / "explain.md").read_text(encoding="utf-8")
    (options,) = re.findall(r"`stdl-export braille.nir (.*) --explain`\n", text)
    shown = [line[4:] for line in text.splitlines() if line.startswith("    ")]
    said = explain(Path("braille.nir"), *options.split())[1].splitlines()
    begin = shown.index("braille")
    lines = [line for line in said if line and not re.match(ELSEWHERE, line)]
    assert [line for line in lines if line not in shown[begin:]] == []
    assert "tensorrt" in text


@pytest.mark.skipif(not conformance.NAMES, reason=conformance.ABSENT)
@pytest.mark.parametrize("name", conformance.NAMES)
def test_every_conformance_case_is_explained(explain: Explain, name: str) -> None:
    folder = conformance.FOLDER / name
    code, said, err = explain(folder / "graph.nir", "--dialect", str(folder / "case.json"))
    assert (code, err) == (0, "")
    made = program(conformance.load(name).graph)
    for path in made.nodes:
        assert row(said, parameters.plain(path))
    delayed = [(s.path, path) for path, node in made.nodes.items() for s in node.sources if s.previous]
    told = [line for line in said.splitlines() if re.match(r"    .* reads .* of the step before$", line)]
    assert sorted(line.strip() for line in told) == sorted(f"{to} reads {by} of the step before" for by, to in delayed)
