"""A runtime with tolerances of its own, as chips have: judged by predictions, accuracy and rates, not by spikes."""

import bundles
import numpy as np
import pytest
from chains import small_network

from stdl_export.common.errors import Unavailable
from stdl_export.manifest import Tolerances
from stdl_runtimes import base, efficiency, reference, summary
from stdl_runtimes.base import Recorded
from stdl_runtimes.entries import entries_of
from stdl_runtimes.validate import Comparison


class Chip(base.Runtime):
    """Another network than the bundle's, in a runtime that shows the spikes of some nodes only."""

    name, modes, shows_spikes = "chip", ("sequence", "step"), True
    tolerances = Tolerances(precision="int8", flips=0.1, agreement=0.9)

    def __init__(self, graph, shown=("lif1",)):
        self._inner, self._shown = reference.Reference(graph), shown
        self.ends = self._inner.ends

    def outputs(self, x, timesteps):
        return self._inner.outputs(x, timesteps)

    def session(self, batch, states=None):
        return self._inner.session(batch)

    def run_recorded(self, x, timesteps=None, guess=None):
        if not self._shown:
            raise Unavailable("it shows nothing")
        found = self._inner.run_recorded(x, timesteps)
        return Recorded(found.outputs, {node: found.spikes[node] for node in self._shown})

    def describe(self):
        return {"chip": "7"}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    x = np.random.default_rng(0).normal(0.5, 1, (40, 2, 6, 6)).astype(np.float32)
    labels = np.arange(40) % 3
    return bundles.make(tmp_path_factory.mktemp("b") / "b", small_network(), x, labels=labels)


def report(bundle, chip):
    comparison = Comparison(bundle)
    entries = [*entries_of(reference.load(bundle, "cpu")), *entries_of(chip)]
    rows = comparison.rows(entries, lambda done: None)
    return summary.build(comparison, summary.Findings(rows, [None] * len(rows)))


def rounded(graph, bits):
    """Weights on a grid, as a chip has them."""
    for node in ("conv1", "conv2", "fc"):
        graph = bundles.changed(graph, node, "weight", lambda w: np.round(w * 2**bits) / np.float32(2**bits))
    return graph


def test_a_network_that_is_nearly_the_same_passes(good):
    found = report(good, Chip(rounded(good.graph(), 8)))
    assert found.passed
    names = [(check.runtime, check.name) for check in found.checks if check.runtime.startswith("chip")]
    assert names == [("chip", "agreement"), ("chip step", "agreement"), ("chip step", "same network")]
    line = found.runtimes[2]
    assert (line.runtime, line.precision, line.flips, line.options) == ("chip", "int8", None, {"chip": "7"})
    assert line.budgets["agreement"] == 0.9
    assert line.accuracy_change is not None
    first = found.layers[0].runtimes["chip"]
    assert (first.flips, first.budget) == (None, None)
    assert first.rate_drift != 0
    assert line.rate_drift == pytest.approx(first.rate_drift)  # of the layer that it shows
    assert "chip" not in found.layers[1].runtimes
    hops = [(hop.before, hop.after) for hop in found.hops]
    assert hops[1:] == [("golden (reference)", "chip"), ("chip", "chip step")]
    assert found.hops[1].same < found.hops[1].samples  # its outputs are others: that is no reason to fail
    assert found.hops[1].passed


def test_spikes_and_operations_of_a_chip_are_its_own(good):
    """Fed with the reference's spikes the count is the reference's; a chip that fires more does more."""
    same = report(good, Chip(good.graph(), shown=("lif1", "if2"))).runtimes
    assert (same[2].spikes, same[2].synops) == (same[1].spikes, same[1].synops)
    assert same[1].spikes == sum(count.sum() for count in good.golden().counts.values()) / 40
    lower = bundles.changed(good.graph(), "lif1", "v_threshold", lambda v: v * np.float32(0.5))
    more = report(good, Chip(lower, shown=("lif1", "if2"))).runtimes[2]
    assert more.spikes > same[1].spikes
    assert more.synops > same[1].synops
    alone = efficiency.measure(lower, good.golden().input).total.synops
    assert more.synops == pytest.approx(alone)


def test_a_network_that_predicts_otherwise_fails(good):
    other = bundles.changed(good.graph(), "fc", "weight", lambda w: -w)
    failed = report(good, Chip(other)).failed
    assert {(check.runtime, check.name) for check in failed} == {("chip", "agreement"), ("chip step", "agreement")}
    assert failed[0].would_pass < 0.9


def test_a_chip_need_not_show_its_spikes(good):
    found = report(good, Chip(rounded(good.graph(), 8), shown=()))
    assert found.passed
    assert found.runtimes[2].rate is found.runtimes[2].spikes is found.runtimes[2].synops is None
    assert all("chip" not in layer.runtimes for layer in found.layers)


def test_an_engine_with_other_tolerances_is_still_the_same_network(good):
    """TF32 rounds more, and is judged by the limits of fp16: layer by layer, as every engine that can be fed."""
    runtime = base.load(good, "onnxruntime")
    runtime.tolerances = Tolerances.of("fp16")
    found = report(good, runtime)
    assert found.passed
    assert (found.runtimes[2].precision, found.runtimes[2].flips) == ("fp16", 0)
    assert found.layers[0].runtimes["onnxruntime"].budget == 0.0002
    names = {check.name for check in found.checks if check.runtime == "onnxruntime"}
    assert names == {"agreement", "flips", "readout", "same network"}
    assert [(hop.before, hop.after) for hop in found.hops][1] == ("reference", "onnxruntime")
