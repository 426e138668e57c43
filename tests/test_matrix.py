"""Every conformance case through every flow: what the framework itself recorded is what comes out.

Spikes are compared exactly, analog outputs up to rounding. `conformance.EXCEPTIONS` says which cells of the table may
differ, and why; one that does not differ any more fails. docs/conformance.md is this table with the numbers in it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import conformance
import nir
import numpy as np
import pytest
from run_onnx import run, run_sequence, run_steps

from stdl_export import bundle as bundles
from stdl_export import graph as graphs
from stdl_export.cli import command as export
from stdl_export.common import console
from stdl_export.onnx import lower
from stdl_export.onnx.probe import probe
from stdl_export.program import program
from stdl_runtimes import reference
from stdl_runtimes.cli import command as validate

RELATIVE = 1e-5  # of the largest value: analog outputs are sums in another order

pytestmark = pytest.mark.skipif(not conformance.NAMES, reason=conformance.ABSENT)


def sequence(graph: nir.NIRGraph, x: np.ndarray) -> np.ndarray:
    """T fixed, which is the form that `auto` takes for it."""
    pytest.importorskip("onnxruntime")
    said = graphs.settings(graph)
    return run_sequence(graphs.with_settings(graph, graphs.Settings(**vars(said) | {"T": len(x)})), x, len(x))


def dynamic(graph: nir.NIRGraph, x: np.ndarray) -> np.ndarray:
    """T left open: a Scan of single steps."""
    pytest.importorskip("onnxruntime")
    return run_sequence(graph, x, len(x))


def step(graph: nir.NIRGraph, x: np.ndarray) -> np.ndarray:
    pytest.importorskip("onnxruntime")
    return run_steps(graph, x, len(x))


FLOWS: dict[str, Callable[[nir.NIRGraph, np.ndarray], np.ndarray]] = {
    "reference": lambda graph, x: reference.run(graph, x).output,
    "sequence": sequence,
    "dynamic": dynamic,
    "step": step,
}


def cells() -> list[object]:
    """Every cell of the table; an exception is expected to fail, strictly."""
    return [
        pytest.param(name, flow, id=f"{name}-{flow}", marks=marks(name, flow))
        for name in conformance.NAMES
        for flow in FLOWS
    ]


def marks(name: str, flow: str) -> list[pytest.MarkDecorator]:
    reason = conformance.EXCEPTIONS.get((name, flow))
    return [] if reason is None else [pytest.mark.xfail(reason=reason, strict=True)]


@pytest.mark.parametrize(("name", "flow"), cells())
def test_the_output_is_the_frameworks(name: str, flow: str) -> None:
    case = conformance.load(name)
    found, expected = FLOWS[flow](case.graph, case.arrays["input"]), case.arrays["output"]
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    made = program(case.graph)
    (source,) = made.nodes[made.outputs[0]].sources
    if made.nodes[source.path].spikes:
        np.testing.assert_array_equal(found, expected)
    else:
        assert np.abs(found - expected).max() <= RELATIVE * max(1.0, float(np.abs(expected).max()))


@pytest.mark.parametrize("name", conformance.NAMES)
def test_each_layer_by_itself_spikes_as_recorded(name: str) -> None:
    """The probe graph fed with the reference's spikes; something spikes in every case."""
    pytest.importorskip("onnxruntime")
    case = conformance.load(name)
    x = case.arrays["input"]
    spikes = {node: np.float32(fired) for node, fired in reference.run(case.graph, x).spikes.items()}
    outputs = run(probe(case.graph), input=x, **{f"probe_in.{node}": fired for node, fired in spikes.items()})
    assert any(fired.any() for fired in spikes.values())
    for node, fired in spikes.items():
        np.testing.assert_array_equal(outputs[f"probe_out.{node}"], fired)
        np.testing.assert_array_equal(fired, case.arrays.get(f"spikes:{node}", fired))


@pytest.mark.parametrize("name", conformance.NAMES)
def test_from_the_command_line(name: str, tmp_path: Path) -> None:
    """stdl-export FILE.nir --dialect case.json, then stdl-validate on what the framework was given."""
    pytest.importorskip("onnxruntime")
    folder, out = conformance.FOLDER / name, tmp_path / "bundle"
    args = [str(folder / "graph.nir"), "--dialect", str(folder / "case.json"), "--target", "onnx", "--out", str(out)]
    assert console.run(export, [*args, "--inputs", str(folder / "case.npz")]) == 0
    assert console.run(validate, [str(out), "--require", "onnxruntime"]) == 0
    expected = conformance.load(name).arrays["output"]
    near = RELATIVE * max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(bundles.load(out).golden().output, expected, rtol=0, atol=near)


@pytest.mark.parametrize("form", ["unroll", "chunks", "scan"])
@pytest.mark.parametrize(
    "name",
    [
        "snntorch-rnn-rleaky",  # a loop
        "rockpool-import-braille-subgraph",  # a loop through a sub-graph, with a synapse
        "spikingjelly-import-loops-skip",  # loops that are entered at several nodes
        "rockpool-mlp-lifsyn",  # synapses
    ],
)
def test_every_time_form_gives_the_same(name: str, form: str) -> None:
    pytest.importorskip("onnxruntime")
    case = conformance.load(name)
    steps = 19  # two chunks and three steps
    x = case.arrays["input"][:steps]
    graph = graphs.with_settings(case.graph, graphs.Settings(**vars(graphs.settings(case.graph)) | {"T": steps}))
    np.testing.assert_array_equal(run_sequence(graph, x, steps, form), case.arrays["output"][:steps])


def test_every_state_of_every_case_is_named() -> None:
    """All kinds of states occur, and no two share a name."""
    found = set()
    for name in conformance.NAMES:
        states = lower.states(conformance.load(name).graph)
        names = [each for state in states for each in (state.input, state.output)]
        assert len(set(names)) == len(names)
        found |= {state.var for state in states}
    assert found >= {"v", "i", "s", "feedback"}
