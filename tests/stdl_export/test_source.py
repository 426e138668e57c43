from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from small_graphs import conv_net, frames

from stdl_export import assemble, golden, source, targets
from stdl_export import graph as graphs
from stdl_export.common.errors import BadInput, Unavailable
from stdl_export.golden_file import write_golden
from stdl_export.manifest import DataInfo
from stdl_export.tensorrt import Profile


def test_a_nir_file_is_named_after_itself(tmp_path: Path) -> None:
    graphs.write(conv_net(), tmp_path / "small.nir")
    opened = source.read(tmp_path / "small.nir")
    assert opened.name == "small"
    assert opened.recorded is None
    assert opened.bundle is None
    assert graphs.same(opened.graph, conv_net()) is None


def test_hdf5_goes_by_content_too(tmp_path: Path) -> None:
    graphs.write(conv_net(), tmp_path / "small.h5")
    assert source.read(tmp_path / "small.h5").name == "small"


def test_a_bundle_brings_its_golden_samples(tmp_path: Path) -> None:
    job = targets.Job(conv_net(), ("step",), "auto", Profile(), "fp32")
    samples = golden.from_reference(conv_net(), frames(3, 2, 6, 6))
    first = source.Source(
        conv_net(), "small", classes=tuple("abcde"), encoding="latency", encoding_options={"threshold": 0.1}
    )
    assemble.create(tmp_path / "b", first, job, ["nir"], samples, "trained")
    opened = source.read(tmp_path / "b")
    assert opened.bundle is not None
    assert opened.recorded is not None
    assert opened.encoding_options == {"threshold": 0.1}
    assert (opened.name, opened.classes, opened.encoding, opened.recorded.origin) == (
        "small",
        tuple("abcde"),
        "latency",
        "trained",
    )
    np.testing.assert_array_equal(opened.recorded.golden.output, samples.output)


@pytest.fixture
def run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder, with the reader of its network replaced: that one needs torch, and has tests of its own."""
    trained = SimpleNamespace(
        graph=conv_net(),
        name="vgg",
        classes=None,
        data_name="digits",
        mean=(0.5, 0.5),
        std=(0.2, 0.3),
        encoding="poisson",
        encoding_options={"gain": 0.5},
        encoding_seed=3,
        data_options={"size": 8},
    )
    reader = ModuleType("stdl_export.from_torch")
    reader.read_run = lambda folder: trained  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "stdl_export.from_torch", reader)
    (tmp_path / source.NETWORK).write_text("")
    write_golden(golden.from_reference(conv_net(), frames(3, 2, 6, 6), np.arange(3)), tmp_path / "golden.npz")
    return tmp_path


def test_a_run_folder_brings_what_training_recorded(run_folder: Path) -> None:
    opened = source.read(run_folder)
    assert opened.recorded is not None
    assert opened.recorded.origin == "trained"
    assert opened.data == DataInfo(name="digits", options={"size": 8}, mean=(0.5, 0.5), std=(0.2, 0.3))
    assert opened.name == "vgg"
    assert (opened.encoding, opened.encoding_options, opened.encoding_seed) == ("poisson", {"gain": 0.5}, 3)


def test_a_run_folder_without_golden_samples(run_folder: Path) -> None:
    (run_folder / "golden.npz").unlink()
    with pytest.raises(BadInput, match=r"golden.npz' does not exist"):
        source.read(run_folder)


def test_a_run_folder_needs_torch(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "stdl_export.from_torch", None)  # an import of it then fails

    class Blocked:
        @staticmethod
        def find_spec(name: str, path: object = None, target: object = None) -> None:
            if name == "stdl_export.from_torch":
                raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.delitem(sys.modules, "stdl_export.from_torch")
    monkeypatch.setattr(sys, "meta_path", [Blocked, *sys.meta_path])
    with pytest.raises(Unavailable, match=r"reading it needs torch: pip install 'stdl-toolchain\[train\]'"):
        source.read(run_folder)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no.nir", "does not exist"),
        ("empty", "neither a run folder"),
        ("a.txt", "is not a NIR graph"),
        ("a.nir", "HDF5"),
    ],
)
def test_what_is_no_source(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "a.nir").write_text("text")
    with pytest.raises(BadInput) as error:
        source.read(tmp_path / name)
    assert said in str(error.value)
