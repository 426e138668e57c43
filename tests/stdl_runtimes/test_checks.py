"""A failed check says which tolerance would have passed: with that it does, with a stricter one it does not."""

import bundles
import numpy as np
import pytest
from chains import small_network

from stdl_runtimes import base, checks
from stdl_runtimes.checks import rounded_up
from stdl_runtimes.entries import entries_of
from stdl_runtimes.validate import Comparison

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def wrong(tmp_path_factory):
    """A bundle whose ONNX graphs leak more than its graph says, and its rows."""
    x = np.random.default_rng(0).normal(0.5, 1, (24, 2, 6, 6)).astype(np.float32)
    graph = small_network()
    good = bundles.make(tmp_path_factory.mktemp("b") / "b", graph, x)
    other = bundles.changed(graph, "lif1", "v_leak", lambda v: v + np.float32(0.05))
    other = bundles.changed(other, "fc", "bias", lambda b: b[::-1] + 0.3 * np.arange(3, dtype=np.float32))
    bundle = bundles.replace_onnx(good, other, ["model.onnx", "model.probe.onnx"])
    comparison = Comparison(bundle)
    entries = [entry for name in ("reference", "onnxruntime") for entry in entries_of(base.load(bundle, name))]
    return comparison, comparison.rows(entries, lambda done: None)[1]


@pytest.mark.parametrize("name", ["flips", "readout", "agreement"])
def test_the_tolerance_that_would_have_passed_passes(wrong, name):
    comparison, row = wrong
    found = comparison.checks(row)
    number, check = next((n, each) for n, each in enumerate(found) if each.name == name and not each.passed)
    assert f"it would pass with {check.tolerance} = " in check.line
    stricter = check.would_pass + 0.0011 if name == "agreement" else check.would_pass * 0.89
    for value, passes in ((check.would_pass, True), (stricter, False)):
        allowed = comparison.manifest.tolerances.model_copy(update={check.tolerance: value})
        assert checks.checks(row, allowed, comparison.other(row))[number].passed is passes


def test_where_the_spikes_differ_first(wrong):
    comparison, row = wrong
    assert row.first is not None
    assert (row.first.node, row.first.tie) == ("lif1", False)
    assert row.first.distance > comparison.manifest.tolerances.flip_margin
    assert row.first_output is not None


@pytest.mark.parametrize(
    ("value", "rounded"),
    [(0.0, 0.0), (0.00301, 0.0031), (0.0031, 0.0031), (0.099999, 0.1), (1.0, 1.0), (123.4, 130.0), (np.inf, None)],
)
def test_tolerances_are_rounded_up(value, rounded):
    assert rounded_up(value) == rounded
