"""Which runtimes a validation opens, and what it says of those it does not."""

import types

import pytest

from stdl_export.common.errors import BadInput
from stdl_export.manifest import ChipInfo
from stdl_runtimes import base, harness


def holding(*chips):
    """A bundle that holds files of these chips."""
    infos = tuple(ChipInfo(chip=chip, folder=f"chips/{chip}", graph_sha256="0") for chip in chips)
    return types.SimpleNamespace(manifest=types.SimpleNamespace(chips=infos))


def test_by_default_what_runs_what_the_bundle_holds():
    assert harness.default_runtimes(holding()) == ["reference", "onnxruntime", "tensorrt"]
    assert set(harness.DEFAULT) <= set(base.REGISTRY)


def test_chips_are_among_them_where_there_is_a_runtime(monkeypatch):
    monkeypatch.setattr(base, "REGISTRY", {"chip": "somewhere", "other": "somewhere"})
    assert harness.default_runtimes(holding("chip", "unknown", "chip")) == [*harness.DEFAULT, "chip"]


def test_a_program_validates_as_the_command_does(made):
    pytest.importorskip("onnxruntime")
    found = harness.validate(str(made.path), ["onnxruntime"])
    assert found.passed
    assert [line.runtime for line in found.runtimes[1:]] == ["reference", "onnxruntime", "onnxruntime step"]
    assert found.runtimes[1].latency is None
    assert harness.validate(made).network == "small"
    with pytest.raises(BadInput, match="did you mean 'onnxruntime'"):
        harness.validate(made, ["onxruntime"])


@pytest.mark.parametrize(
    ("asked", "skipped", "names"),
    [
        (["a", "b"], {"b": "no b"}, ["required"]),
        (["b"], {"b": "no b"}, ["required", "anything"]),
        (["a", "b"], {}, []),
    ],
)
def test_what_is_absent_fails_where_it_is_required_or_all_there_is(asked, skipped, names):
    assert [check.name for check in harness._absences(asked, ["b"], skipped)] == names
