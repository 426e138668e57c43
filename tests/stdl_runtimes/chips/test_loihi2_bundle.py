"""What a bundle holds for Loihi 2 as a runtime: the chip's own time, single steps, and the file that goes with it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import random_graphs
from bundles import make, rehash
from skip_graphs import recurrent, residual
from small_graphs import DT, chain, full, lif

import stdl_runtimes
from stdl_export.common.console import run
from stdl_export.common.errors import BadInput, Unavailable
from stdl_runtimes import cli, reference


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory):
    graph = residual(3)
    path = tmp_path_factory.mktemp("bundles") / "small"
    return make(path, graph, random_graphs.inputs(graph, 20, 4), labels=np.arange(20) % 3, targets=("loihi2",))


@pytest.mark.parametrize("seed", [3, 8, 21])
def test_steps_are_the_sequence_and_spikes_are_near_the_reference(tmp_path: Path, seed: int) -> None:
    graph = residual(seed, "sequence")
    x = random_graphs.inputs(graph, 6, 4)
    made = make(tmp_path / "bundle", graph, x, targets=("loihi2",))
    with stdl_runtimes.load(made, "loihi2") as runtime:
        recorded = runtime.run_recorded(x)
        np.testing.assert_array_equal(runtime.run(x), recorded.output)
        with runtime.session(6) as session:
            np.testing.assert_array_equal([session.step(frame) for frame in x], recorded.output)
    wanted = reference.run(graph, x)
    assert set(recorded.spikes) == set(wanted.spikes)
    for node, spikes in wanted.spikes.items():
        assert recorded.spikes[node].shape == spikes.shape
        assert np.mean(recorded.spikes[node] == spikes) > 0.8
        assert abs(recorded.spikes[node].mean() - spikes.mean()) < 0.1


@pytest.mark.parametrize("seed", [2, 3])
def test_sessions_go_on_from_states_of_rows(tmp_path: Path, seed: int) -> None:
    graph = recurrent(seed)
    x = np.random.default_rng(1).integers(0, 2, (5, 4, 4)).astype(np.float32)
    made = make(tmp_path / "bundle", graph, x, targets=("loihi2",))
    with stdl_runtimes.load(made, "loihi2") as runtime:
        whole = runtime.run(x)
        with runtime.session(4) as session:
            for frame in x[:2]:
                session.step(frame)
            kept = session.state
            session.reset(rows=[2])
            again = session.step(x[0])
            np.testing.assert_array_equal(again[2], whole[0][2])
        with runtime.session(4, kept) as session:
            np.testing.assert_array_equal([session.step(frame) for frame in x[2:]], whole[2:])


def test_stdl_validate_shows_the_chip(bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    code = run(cli.command, [str(bundle.path), "--json", str(out), "--runtime", "loihi2"])
    found = json.loads(out.read_text())
    lines = [line["runtime"] for line in found["runtimes"]]
    assert "loihi2" in lines
    assert "loihi2 step" in lines
    checks = {check["name"] for check in found["checks"] if check["runtime"] == "loihi2"}
    assert "agreement" in checks
    assert code == (0 if found["passed"] else 1)
    assert "Traceback" not in capsys.readouterr().err


def test_a_bundle_without_it_says_how_to_get_it(tmp_path: Path) -> None:
    graph = residual(3)
    made = make(tmp_path / "bundle", graph, random_graphs.inputs(graph, 4, 4), targets=("nir",))
    with pytest.raises(Unavailable, match="--target loihi2"):
        stdl_runtimes.load(made, "loihi2")


@pytest.mark.parametrize(
    ("field", "value"),
    [("depth", 9), ("timesteps", "many"), ("layers.0.own", 1000), ("layers.0.node", "other"), ("input.low", [0.0]),
     ("input.repeat", False), ("output.node", "else"), ("output.shape", [4]), ("input.step", [0.0, 1.0])],
)  # fmt: skip
def test_a_side_file_that_does_not_fit_is_one_line(bundle, field: str, value: object) -> None:
    path = bundle.path / "chips" / "loihi2" / "network.json"
    before = path.read_text()
    content = json.loads(before)
    at = content
    *way, last = field.split(".")
    for key in way:
        at = at[int(key) if key.isdigit() else key]
    at[last] = value
    path.write_text(json.dumps(content))
    try:
        with pytest.raises(BadInput) as caught:
            stdl_runtimes.load(rehash(bundle, ["chips/loihi2/network.json"]), "loihi2")
        assert "\n" not in str(caught.value)
        assert "network.json" in str(caught.value)
    finally:
        path.write_text(before)
        rehash(bundle, ["chips/loihi2/network.json"])


def readout(kind: str) -> nir.NIRGraph:
    """Spikes, weights with negative and positive sums, and an Output of this kind."""
    rng = np.random.default_rng(5)
    weight = rng.normal(size=(6, 5)).astype(np.float32)
    last = rng.normal(size=(4, 6)).astype(np.float32)
    tau, one, none = full(4 * DT, 4), full(1, 4), full(0.25, 4)
    ends: dict[str, list[nir.NIRNode]] = {
        "affine": [nir.Affine(last, rng.normal(size=4).astype(np.float32))],
        "LI": [nir.Linear(last), nir.LI(tau, 4 * one, none)],
        "CubaLI": [nir.Linear(last), nir.CubaLI(2 * tau, tau, one, none, one)],
        "I": [nir.Linear(last), nir.I(one / DT)],
        "scaled spikes": [nir.Linear(last), lif(4), nir.Scale(full(0.5, 4))],
    }
    return chain(nir.Linear(weight), lif(6), *ends[kind], shape=(5,), output=(4,), input="sequence", T=6)


@pytest.mark.parametrize("kind", ["affine", "LI", "CubaLI", "I", "scaled spikes"])
def test_outputs_are_those_of_the_network(tmp_path: Path, kind: str) -> None:
    """The same up to rounding, where spikes are the same; in the network's own units, at every step."""
    graph = readout(kind)
    x = np.random.default_rng(1).integers(0, 2, (6, 30, 5)).astype(np.float32)
    made = make(tmp_path / "bundle", graph, x, targets=("loihi2",))
    wanted = reference.run(graph, x)
    with stdl_runtimes.load(made, "loihi2") as runtime:
        found = runtime.run_recorded(x)
    alike = [(found.spikes[node] == wanted.spikes[node]).all(axis=(0, 2)) for node in wanted.spikes]
    alike = np.all(alike, axis=0)
    assert alike.mean() > 0.6
    largest = np.abs(wanted.output).max()
    assert largest > 0.3
    assert np.abs(found.output - wanted.output)[:, alike].max() < 0.02 * largest


def test_lines_are_images_of_height_1(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    weight = rng.normal(size=(4, 2, 3)).astype(np.float32)
    conv = nir.Conv1d(None, weight, 1, 1, 1, 1, rng.normal(size=4).astype(np.float32) / 4)
    graph = chain(conv, lif(4, 9), shape=(2, 9), output=(4, 9), input="sequence", T=5)
    x = rng.integers(0, 3, (5, 8, 2, 9)).astype(np.float32)
    made = make(tmp_path / "bundle", graph, x, targets=("loihi2",))
    wanted = reference.run(graph, x)
    with stdl_runtimes.load(made, "loihi2") as runtime:
        found = runtime.run_recorded(x)
        with runtime.session(8) as session:
            np.testing.assert_array_equal([session.step(frame) for frame in x], found.output)
    assert found.output.shape == wanted.output.shape
    assert np.mean(found.output == wanted.output) > 0.97
    assert wanted.output.any()


VALUES = [
    None,
    True,
    0,
    -1,
    1,
    7,
    2**31,
    2**63,
    10**30,
    0.0,
    -1.5,
    1e308,
    1e-308,
    "",
    "x",
    "\ud800",
    [],
    {},
    [1.0],
    [0, 0],
]


def leaves(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every key and index of JSON."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inside:
        yield (*way, key)
        yield from leaves(each, (*way, key))


def test_any_other_side_file_is_one_line_or_runs(bundle) -> None:
    path = bundle.path / "chips" / "loihi2" / "network.json"
    before, x = path.read_text(), bundle.golden().input[:2]
    rng, lines, ran = np.random.default_rng(0), [], 0
    try:
        for way in leaves(json.loads(before)):
            for at in rng.choice(len(VALUES), 2, replace=False):
                content = json.loads(before)
                inside = content
                for key in way[:-1]:
                    inside = inside[key]
                inside[way[-1]] = VALUES[at]
                path.write_text(json.dumps(content))
                try:
                    stdl_runtimes.load(rehash(bundle, ["chips/loihi2/network.json"]), "loihi2").run(x)
                    ran += 1
                except BadInput as error:
                    lines.append(str(error))
    finally:
        path.write_text(before)
        rehash(bundle, ["chips/loihi2/network.json"])
    assert len(lines) > 50
    assert ran > 5
    assert "\n" not in "".join(lines)
