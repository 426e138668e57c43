"""Parity must be able to fail: bundles whose parts do not belong together, one small error each."""

import bundles
import nir
import numpy as np
import pytest
from chains import chain, lif, small_network

from stdl_export import graph as graphs
from stdl_export.common.errors import BadInput
from stdl_export.golden_file import Golden
from stdl_export.manifest import Tolerances
from stdl_runtimes import base, checks, reference, validate
from stdl_runtimes.validate import Comparison, entries_of, spiking_before

pytest.importorskip("onnxruntime")

LI = nir.LI(*(np.full(3, value, np.float32) for value in (2e-4, 2.0, 0.0)))


def inputs(samples=24):
    return np.random.default_rng(0).normal(0.5, 1, (samples, 2, 6, 6)).astype(np.float32)


def failed(bundle):
    """(runtime, check) of every check that does not hold."""
    comparison = Comparison(bundle)
    with base.load(bundle, "reference") as judge, base.load(bundle, "onnxruntime") as runtime:
        rows = comparison.rows([*entries_of(judge), *entries_of(runtime)], lambda done: None)
    assert [row.entry.label for row in rows] == ["reference", "onnxruntime", "onnxruntime step"]
    return {(check.runtime, check.name) for row in rows for check in comparison.checks(row) if not check.passed}


@pytest.fixture
def good(tmp_path):
    return bundles.make(tmp_path / "b", small_network(readout="li"), inputs())


def test_a_good_bundle_passes_every_check(good):
    assert failed(good) == set()


def test_samples_in_parts_count_the_same(good, monkeypatch):
    comparison = Comparison(good)
    whole = comparison.rows(entries_of(base.load(good, "onnxruntime")), lambda done: None)
    monkeypatch.setattr(validate, "SAMPLES_AT_ONCE", 7)
    parts = comparison.rows(entries_of(base.load(good, "onnxruntime")), lambda done: None)
    for a, b in zip(whole, parts, strict=True):
        assert (a.layers, a.clear, a.wrong) == (b.layers, b.clear, b.wrong)
        assert a.clear > 12
        np.testing.assert_allclose(a.outputs["output"], b.outputs["output"], atol=1e-5)


ERRORS = {
    "one weight of a convolution": ("conv1", "weight", lambda w: w + 0.05 * (np.arange(w.size) == 7).reshape(w.shape)),
    "the leak": ("lif1", "v_leak", lambda v: v + np.float32(0.05)),
    "the time constant": ("lif1", "tau", lambda tau: tau * np.float32(1.05)),
    "the reset potential": ("if2", "v_reset", np.zeros_like),
    "the threshold": ("if2", "v_threshold", lambda v: v + np.float32(0.02)),
    "the gain": ("if2", "r", lambda r: r * np.float32(1.02)),
}


@pytest.mark.parametrize("error", ERRORS)
def test_an_error_in_the_sequence_graph_is_a_flip_in_its_layer(good, error):
    wrong = bundles.changed(good.graph(), *ERRORS[error])
    found = failed(bundles.replace_onnx(good, wrong, ["model.onnx", "model.probe.onnx"]))
    assert {("onnxruntime", "flips"), ("onnxruntime", "outputs")} <= found
    assert not {name for name, _ in found} & {"reference"}


def test_flips_are_told_for_the_layer_that_is_wrong_only(good):
    wrong = bundles.changed(good.graph(), "lif1", "v_leak", lambda v: v + np.float32(0.05))
    bundle = bundles.replace_onnx(good, wrong, ["model.onnx", "model.probe.onnx"])
    comparison = Comparison(bundle)
    (row,) = comparison.rows(entries_of(base.load(bundle, "onnxruntime"))[:1], lambda done: None)
    assert row.layers["lif1"].flips > 0
    assert row.layers["if2"].flips == 0  # fed with the reference's spikes it is right
    assert row.layers["if2"].count_difference > 0  # end to end it is not


def test_a_wrong_readout_is_seen_though_all_spikes_are_right(good):
    wrong = bundles.changed(good.graph(), "fc", "bias", lambda bias: bias + np.float32(0.01))
    found = failed(bundles.replace_onnx(good, wrong, ["model.onnx", "model.probe.onnx"]))
    assert ("onnxruntime", "readout") in found
    assert ("onnxruntime", "flips") not in found


def test_an_error_in_the_step_graph_alone_is_seen(good):
    small = bundles.changed(good.graph(), "lif1", "v_leak", lambda v: v + np.float32(0.05))
    found = failed(bundles.replace_onnx(good, small, ["model.step.onnx"]))
    assert {name for name, _ in found} == {"onnxruntime step"}
    assert ("onnxruntime step", "outputs") in found
    large = bundles.changed(good.graph(), "lif1", "v_leak", lambda v: v + np.float32(0.5))
    assert ("onnxruntime step", "same network") in failed(bundles.replace_onnx(good, large, ["model.step.onnx"]))


def test_the_node_whose_state_is_wrong_in_the_step_graph_is_named(good):
    """Of single steps the states are compared: the node, the step, and how near its threshold was."""
    wrong = bundles.changed(good.graph(), "if2", "v_threshold", lambda v: v + np.float32(0.03))
    bundle = bundles.replace_onnx(good, wrong, ["model.step.onnx"])
    comparison = Comparison(bundle)
    with base.load(bundle, "reference") as judge, base.load(bundle, "onnxruntime") as runtime:
        *_, row = comparison.rows([*entries_of(judge), *entries_of(runtime)], lambda done: None)
    assert (row.first.node, row.first.sample) == ("if2", row.first_output.sample)
    assert row.first.t <= row.first_output.t
    one = reference.run(good.graph(), inputs()[[row.first.sample]], margins=True, potentials=True)
    where = (row.first.t, 0, *row.first.index)
    assert row.first.expected == one.potentials["if2"][where]
    assert row.first.found > 0.5  # it did not spike
    assert 0 < row.first.distance < 0.03
    assert row.first.distance == one.margins["if2"][where]


def test_a_probe_of_another_network_is_seen(good):
    """Counts and flips come from the probe graph, so it has to be the network that runs."""
    wrong = bundles.changed(good.graph(), "lif1", "v_leak", lambda v: v + np.float32(0.5))
    assert ("onnxruntime", "same network") in failed(bundles.replace_onnx(good, wrong, ["model.onnx"]))


def test_soft_reset_lowered_as_a_hard_one_is_seen(tmp_path):
    graph = chain((2,), (2,), {"n": lif((2,), beta=0.75)}, T=12, input="repeat", reset="subtract")
    x = np.random.default_rng(0).uniform(0.2, 0.9, (20, 2)).astype(np.float32)
    bundle = bundles.make(tmp_path / "b", graph, x)
    assert failed(bundle) == set()
    hard = chain((2,), (2,), {"n": lif((2,), beta=0.75)}, T=12, input="repeat", reset="v_reset")
    assert ("onnxruntime", "flips") in failed(bundles.replace_onnx(bundle, hard))


@pytest.mark.parametrize("error", ERRORS)
def test_golden_samples_of_another_network_fail_the_reference(good, error):
    """What training recorded is not what the exported graph does."""
    wrong = bundles.changed(good.graph(), *ERRORS[error])
    golden = bundles.goldens.from_reference(wrong, inputs())
    found = failed(bundles.replace_golden(good, golden))
    assert {("reference", "flips"), ("reference", "outputs")} <= found


@pytest.mark.parametrize(
    "change", [lambda w: w * np.float32(1.3), lambda w: w[::-1].copy()], ids=["scaled", "permuted"]
)
def test_another_network_fails_though_every_sample_is_next_to_a_threshold(good, change):
    """In a large network hardly any sample is clear of every threshold; ties must not excuse a wrong graph."""
    golden = bundles.goldens.from_reference(bundles.changed(good.graph(), "conv1", "weight", change), inputs())
    comparison = Comparison(bundles.replace_golden(good, golden))
    comparison._margin = np.float32(1e9)
    rows = comparison.rows(entries_of(base.load(good, "reference")), lambda done: None)
    assert rows[0].clear == 0
    assert rows[0].layers["lif1"].flips == 0
    found = {check.name for check in comparison.checks(rows[0]) if not check.passed}
    assert "same network" in found


def test_ties_excuse_a_few_predictions_and_no_more(good):
    golden = good.golden()
    comparison = Comparison(good)
    (row,) = comparison.rows(entries_of(base.load(good, "reference")), lambda done: None)
    for differing, passes in ((1, True), (5, False)):
        other = golden.output.copy()
        other[:, :differing] = -other[:, :differing]
        row.parts = [{"output": other}]
        row.tied = [np.ones(golden.samples, bool)]
        assert checks.agreement(row, Tolerances(), comparison.other(row)).passed is passes
        row.tied = [np.zeros(golden.samples, bool)]
        found = checks.agreement(row, Tolerances(), comparison.other(row))
        assert not found.passed
        allowed = Tolerances(agreement=found.would_pass)
        assert found.tolerance == "agreement"
        assert checks.agreement(row, allowed, comparison.other(row)).passed


@pytest.mark.parametrize("readout", [{}, {"li": LI}], ids=["linear", "li"])
def test_a_graph_that_never_spikes_is_judged_by_its_outputs(tmp_path, readout):
    weight = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    graph = chain((4,), (3,), {"fc": nir.Affine(weight, np.zeros(3, np.float32)), **readout}, T=3, input="repeat")
    bundle = bundles.make(tmp_path / "b", graph, np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32))
    assert failed(bundle) == set()
    wrong = bundles.changed(graph, "fc", "weight", lambda w: w * np.float32(1.1))
    assert ("onnxruntime", "outputs") in failed(bundles.replace_onnx(bundle, wrong))


def test_predictions_that_differ_are_counted(good):
    golden = good.golden()
    output = golden.output.copy()
    output[:, 3] = output[:, 3, ::-1] * 2 + np.arange(3)[::-1]
    bundle = bundles.replace_golden(good, Golden(golden.input, output, None, golden.counts))
    comparison = Comparison(bundle)
    (row,) = comparison.rows(entries_of(base.load(bundle, "reference")), lambda done: None)
    assert comparison.other(row).sum() <= 1
    assert ("reference", "outputs") in failed(bundle)


def test_a_layer_behind_a_tie_is_not_blamed():
    graph = small_network()
    assert spiking_before(graph)["conv2"] == spiking_before(graph)["if2"] == {"lif1"}
    assert spiking_before(graph)["lif1"] == set()
    assert spiking_before(graph)["output"] == {"lif1", "if2"}


MISFITS = {
    "input": (lambda g: Golden(g.input[:, :1], g.output, None, g.counts), r"its input has shape \(24, 1, 6, 6\)"),
    "classes": (lambda g: Golden(g.input, g.output[:, :, :2], None, g.counts), r"its output has shape \(5, 24, 2\)"),
    "time": (lambda g: Golden(g.input, g.output[:3], None, g.counts), r"its output has shape \(3, 24, 3\)"),
    "labels": (
        lambda g: Golden(g.input, g.output, np.zeros((24, 2), int), g.counts),
        r"its labels have shape \(24, 2\)",
    ),
    "counts": (lambda g: Golden(g.input, g.output, None, {"lif1": g.counts["lif1"]}), "no spike counts .* node 'if2'"),
    "neurons": (lambda g: Golden(g.input, g.output, None, g.counts | {"lif1": g.counts["if2"]}), "node 'lif1'"),
}


@pytest.mark.parametrize("field", MISFITS)
def test_golden_samples_that_do_not_fit_the_graph_are_refused(good, field):
    change, message = MISFITS[field]
    bundle = bundles.replace_golden(good, change(good.golden()))
    with pytest.raises(BadInput, match=rf"golden\.npz does not fit its graph: .*{message}"):
        Comparison(bundle)


def test_the_reference_decides_by_the_bundle_alone(good):
    assert graphs.same(good.graph(), reference.load(good, "cpu").network) is None
