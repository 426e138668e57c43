"""Dead and saturated layers are warned of by name, once; healthy ones are not."""

from __future__ import annotations

import pytest
from tiny_run import metrics, train

from stdl_train import monitor
from stdl_train.monitor import RateWarnings

LAYERS = ["fc1.lif", "fc2.lif"]
LIF = ("train.epochs=3", "model.neuron.kind=LIF")


def warned(lines, layer):
    return [line for line in lines if line.startswith(f"layer '{layer}' is ")]


@pytest.mark.parametrize(
    ("kind", "settings", "rate", "advice"),
    [
        ("dead", ("model.neuron.v_threshold=1000",), 0.0, "raise neuron.gain or lower v_threshold"),
        (
            "saturated",
            ("model.neuron.v_threshold=1e-3", "model.neuron.v_leak=50"),  # normalised currents alone fire half the time
            1.0,
            "lower neuron.gain or raise v_threshold",
        ),
    ],
)
def test_a_forced_layer_is_named_once_in_a_run_of_several_epochs(tmp_path, capsys, kind, settings, rate, advice):
    assert train(tmp_path, *LIF, *settings) == 0
    lines = capsys.readouterr().err.splitlines()
    share = 100 - 100 * rate
    for layer in LAYERS:
        assert all(line["firing"][layer] == rate for line in metrics(tmp_path))
        assert warned(lines, layer) == [
            f"layer '{layer}' is {kind} from epoch 1 on: a firing rate of {rate * 100:.2f}%, "
            f"{share:.0f}% of its neurons silent; {advice}"
        ]


def test_healthy_layers_are_not_warned_of(tmp_path, capsys):
    assert train(tmp_path, *LIF, "model.neuron.v_threshold=0.5") == 0
    assert all(0.05 < rate < 0.9 for line in metrics(tmp_path) for rate in line["firing"].values())
    assert "layer '" not in capsys.readouterr().err


@pytest.fixture
def said(monkeypatch):
    found = []
    monkeypatch.setattr(monitor.log, "warning", lambda text, *values: found.append(text % values))
    return found


def test_only_the_layer_concerned_is_named_and_again_only_after_it_recovered(said):
    warnings = RateWarnings()
    rates = [(0.2, 0.3), (0.2, 0.0), (0.2, 0.0), (0.2, 0.1), (0.2, 0.0), (0.2, 1.0)]
    for epoch, pair in enumerate(rates, start=1):
        warnings.look(epoch, dict(zip(LAYERS, pair, strict=True)), dict.fromkeys(LAYERS, 0.25))
    assert [line.split(":")[0] for line in said] == [
        "layer 'fc2.lif' is dead from epoch 2 on",
        "layer 'fc2.lif' is dead from epoch 5 on",
        "layer 'fc2.lif' is saturated from epoch 6 on",
    ]


def test_rates_at_the_limits_are_not_warned_of(said):
    for rate, kind in ((monitor.DEAD, ""), (monitor.DEAD * 0.99, "dead"), (monitor.SATURATED, ""), (0.96, "saturated")):
        said.clear()
        RateWarnings().look(1, {"fc1.lif": rate}, {"fc1.lif": 0.0})
        assert len(said) == (kind != "")
        assert f" {kind} from" in "".join(said) or not kind


def test_nothing_saturates_neurons_that_fire_several_times_a_step(caplog):
    RateWarnings(["a"]).look(1, {"a": 1.3, "b": 1.0}, {"a": 0.0, "b": 0.0})
    assert [record.args[0] for record in caplog.records] == ["b"]
