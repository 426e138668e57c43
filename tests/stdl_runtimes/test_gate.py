"""Limits from a file and from options; each limit fails by a hair's breadth and passes at its value."""

import pytest
import reports

from stdl_export.common.errors import BadInput
from stdl_runtimes import gate
from stdl_runtimes.gate import Gate, Limits
from stdl_runtimes.limits import LIMITS
from stdl_runtimes.results import Proportion

MEASURED = {
    "min_accuracy": 0.94,
    "max_accuracy_drop": 0.01,
    "min_agreement": 0.995,
    "max_flips": 0.002,
    "max_rate_drift": 0.001,
    "max_spikes": 120.0,
    "max_synops": 34000.0,
    "max_p50": 1.0,
    "max_p90": 1.5,
    "max_p99": 2.0,
    "max_p999": 3.0,
    "max_step_p99": 0.5,
    "max_query_p99": 8.0,
    "min_throughput": 5000.0,
    "max_cold_start": 450.0,
    "max_host_memory": 30.0,
}


def report(**more):
    lines = (
        reports.line("reference", 0.5),
        reports.line("onnxruntime", 0.94, timed=reports.latency(), spikes=120.0, synops=34000.0),
    )
    return reports.report(*lines, **more)


def failed(limits, of=None):
    found = gate.checks(limits, of or report())
    return [(check.runtime, check.name) for check in found if not check.passed]


def test_every_limit_has_its_field():
    assert list(Limits.model_fields) == list(LIMITS)
    assert MEASURED.keys() == LIMITS.keys() - {"max_device_memory"}


@pytest.mark.parametrize("name", MEASURED)
def test_a_limit_is_kept_at_its_value_and_not_beyond(name):
    value, worse = MEASURED[name], 0.999 if name.startswith("max_") else 1.001
    assert failed(Gate(**{name: value + 1e-12 * (-1 if name.startswith("min") else 1)})) == []
    (check,) = [each for each in gate.checks(Gate(**{name: value * worse}), report()) if not each.passed]
    assert (check.runtime, check.name, check.tolerance) == ("onnxruntime", f"gate: {name}", name)
    assert check.would_pass == pytest.approx(value)
    assert "is demanded" in check.text


def test_what_was_not_measured_keeps_no_limit():
    (check,) = gate.checks(Gate(max_device_memory=10), report())
    assert (check.passed, check.would_pass) == (False, None)
    assert check.text == "memory of the device: not measured, at most 10 MiB is demanded"


def test_on_data_accuracy_is_that_of_the_data_set():
    share = Proportion(0.8, 0.7, 0.9, 100)
    lines = reports.line("onnxruntime", 0.94, data_accuracy=share, data_agreement=share)
    of = reports.report(lines, data="digits", data_samples=100)
    assert failed(Gate(min_accuracy=0.81), of) == [("onnxruntime", "gate: min_accuracy")]
    assert failed(Gate(min_accuracy=0.8, min_agreement=0.8), of) == []


def test_one_runtime_may_have_limits_of_its_own():
    own = Gate(
        max_p99=1.0, min_accuracy=0.9, runtime={"onnxruntime": Limits(max_p99=2.5), "reference": Limits(max_p50=9)}
    )
    assert failed(own) == [("reference", "gate: max_p50")]  # not timed; the limits for all are not for the judge


def test_a_runtime_with_limits_that_did_not_run_fails():
    of = report(skipped={"tensorrt": "no NVIDIA driver"})
    (check,) = gate.checks(Gate(runtime={"tensorrt": Limits(max_p99=1)}), of)
    assert check.line == "tensorrt, gate: it has limits, but did not run: no NVIDIA driver"
    assert failed(Gate(min_accuracy=0.1), reports.report(reports.line("reference"))) == [("reference", "gate")]
    assert failed(Gate(), reports.report(reports.line("reference"))) == []


def test_options_come_before_the_file(tmp_path):
    file = tmp_path / "gate.toml"
    file.write_text(
        "min_accuracy = 0.9\nmax_p99 = 3\n[runtime.'onnxruntime step']\nmax_p99 = 5\n[compare]\nslowdown = 2\n"
    )
    found = gate.read(file, {"min_accuracy": 0.95})
    assert found.given == {"min_accuracy": 0.95, "max_p99": 3.0}
    assert found.runtime["onnxruntime step"].given == {"max_p99": 5.0}
    assert (found.compare.slowdown, found.compare.accuracy_drop) == (2.0, 0.005)
    assert found.timed == ["max_p99"]
    assert gate.read(None, {}).given == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("min_acuracy = 1", "unknown key 'min_acuracy': did you mean 'min_accuracy'?"),
        ("[runtime.tensorrt]\nmax_p9 = 1", "unknown key 'runtime.tensorrt.max_p9': did you mean 'max_p99'?"),
        ("min_accuracy = 97", "'min_accuracy' = 97: Input should be less than or equal to 1"),
        ("max_p99 = nan", "'max_p99' = nan"),
        ("max_p99 = -1", "greater than or equal to 0"),
        ("runtime = 3", "'runtime' = 3"),
        ("[compare]\nslowdown = 0.5", "greater than or equal to 1"),
        ("max_p99 = ", "is not valid TOML"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path, text, message):
    file = tmp_path / "gate.toml"
    file.write_text(text)
    with pytest.raises(BadInput) as error:
        gate.read(file, {})
    assert str(file) in str(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
