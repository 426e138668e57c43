from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from small_graphs import conv_net, frames

from stdl_export import assemble, golden, targets
from stdl_export import bundle as bundles
from stdl_export import graph as graphs
from stdl_export.arrays import read_arrays
from stdl_export.common.errors import BadInput
from stdl_export.golden_file import Golden, read_golden
from stdl_export.manifest import Manifest
from stdl_export.source import Source
from stdl_export.targets import Job
from stdl_export.tensorrt import Profile


def job(graph=None, modes=("sequence", "step"), form="auto") -> Job:
    return Job(graph or conv_net(), modes, form, Profile(), "fp32")


def make(path: Path, names: tuple[str, ...] = ("onnx",), **choices) -> bundles.Bundle:
    recorded = golden.from_reference(conv_net(), frames(3, 2, 6, 6), np.arange(3))
    made, _ = assemble.create(path, Source(conv_net(), "small"), job(**choices), names, recorded, "reference")
    return made


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("bundle") / "small").path


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "small"))


def open_all(folder: Path) -> None:
    opened = bundles.load(folder)
    opened.graph()
    opened.golden()


def refusal(folder: Path) -> str:
    with pytest.raises(BadInput) as error:
        open_all(folder)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)
    return str(error.value)


def edit_manifest(folder: Path, edit) -> None:
    path = folder / bundles.MANIFEST
    manifest = json.loads(path.read_text())
    edit(manifest)
    path.write_text(json.dumps(manifest))


def test_a_bundle_says_what_a_runtime_needs(original: Path) -> None:
    manifest = bundles.load(original).manifest
    assert (manifest.network, manifest.timesteps, manifest.dt, manifest.dialect) == ("small", 4, 2.0**-10, "nir")
    (into,), (out,) = manifest.input.tensors, manifest.output.tensors
    assert (into.node, into.name, into.shape, into.dtype) == ("input", "input", (2, 6, 6), "float32")
    assert (out.node, out.name, out.shape, out.dtype) == ("output", "output", (5,), "float32")
    assert (manifest.input.mode, manifest.output.decoding, manifest.output.prediction) == ("repeat", "mean", "output")
    assert (manifest.golden.origin, manifest.golden.samples) == ("reference", 3)
    assert [state.input for state in manifest.states] == ["state.lif1.v", "state.lif2.v"]
    assert [state.output for state in manifest.states] == ["state_out.lif1.v", "state_out.lif2.v"]
    assert {state.shape for state in manifest.states} == {(4, 6, 6)}
    expected = {"graph.nir", "golden.npz", "model.onnx", "model.step.onnx", "model.probe.onnx", "states.npz"}
    assert set(manifest.files) == expected
    assert {"python", "stdl-toolchain", "nir", "numpy", "h5py", "onnx"} == set(manifest.versions)
    assert {file.name for file in original.iterdir()} == expected | {"manifest.json"}


def test_the_graph_and_the_golden_samples_come_back(original: Path) -> None:
    opened = bundles.load(original)
    assert graphs.same(opened.graph(), conv_net()) is None
    assert graphs.settings(opened.graph()) == graphs.settings(conv_net())
    samples = opened.golden()
    expected = golden.from_reference(conv_net(), frames(3, 2, 6, 6), np.arange(3))
    np.testing.assert_array_equal(samples.output, expected.output)
    np.testing.assert_array_equal(samples.labels, [0, 1, 2])
    assert samples.counts.keys() == {"lif1", "lif2"}
    assert samples.counts["lif1"].shape == (3, 4, 6, 6)
    assert samples.counts["lif1"].any()


@pytest.mark.parametrize("modes", [("sequence",), ("step",)])
def test_only_the_modes_asked_for(tmp_path: Path, modes: tuple[targets.Mode, ...]) -> None:
    made = make(tmp_path / "b", modes=modes)
    assert (
        ("model.onnx" in made.manifest.files) == (modes == ("sequence",)) == ("model.probe.onnx" in made.manifest.files)
    )
    assert ("model.step.onnx" in made.manifest.files) == (modes == ("step",)) == bool(made.manifest.states)


def test_initial_states_are_zeros(original: Path) -> None:
    arrays = read_arrays(original / "states.npz")
    assert {name: array.shape for name, array in arrays.items()} == {
        "state.lif1.v": (4, 6, 6),
        "state.lif2.v": (4, 6, 6),
    }
    assert not any(array.any() for array in arrays.values())


@pytest.mark.parametrize("name", ["graph.nir", "golden.npz", "model.onnx", "model.step.onnx", "states.npz"])
def test_a_changed_byte_is_seen(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    assert f"file '{name}' was changed" in refusal(folder)


def test_a_missing_file_is_seen(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    assert "file 'model.onnx' is missing" in refusal(folder)


def test_a_link_out_of_the_folder_is_not_followed(folder: Path, tmp_path: Path) -> None:
    shutil.move(folder / "model.onnx", tmp_path / "elsewhere.onnx")
    (folder / "model.onnx").symlink_to(tmp_path / "elsewhere.onnx")
    assert "link out of the folder" in refusal(folder)


@pytest.mark.parametrize("name", ["../other/graph.nir", "/etc/passwd", "a\\b", ""])
def test_names_that_lead_out_are_refused(folder: Path, name: str) -> None:
    edit_manifest(folder, lambda manifest: manifest["files"].update({name: "0" * 64}))
    assert "leads out of the folder" in refusal(folder)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda m: m.update(schema_version=1), "has schema version 1, this version of stdl reads 2: export it again"),
        (lambda m: m.pop("schema_version"), "has schema version None"),
        (lambda m: m.update(note="x"), "unknown key 'note'"),
        (lambda m: m.pop("dt"), "'dt' is missing"),
        (lambda m: m.update(dt=-1), "'dt' = -1"),
        (lambda m: m.update(dt=float("nan")), "'dt' = nan"),
        (lambda m: m["input"].update(mode="often"), "'input.mode' = 'often'"),
        (lambda m: m["input"]["tensors"][0].update(shape=[0]), "'input.tensors.0.shape.0' = 0"),
        (lambda m: m.update(timesteps=5), "graph.nir says T = 4, manifest.json says 5"),
        (lambda m: m.update(classes=["a"]), "it names 1 classes"),
        (lambda m: m["output"]["tensors"][0].update(shape=[11]), "its Outputs are 'output' (11,), the graph's"),
        (lambda m: m["input"]["tensors"][0].update(shape=[2, 6, 7]), "its Inputs are 'input' (2, 6, 7), the graph's"),
        (lambda m: m["input"]["tensors"][0].update(node="x"), "its Inputs are 'x' (2, 6, 6), the graph's 'input'"),
        (lambda m: m["input"].update(tensors=m["input"]["tensors"] * 2), "its Inputs are"),
        (lambda m: m["input"].update(tensors=[]), "'input.tensors' = []"),
        (lambda m: m["output"].update(prediction="x"), "its prediction 'x' is no Output"),
        (lambda m: m.update(classes=["a"]) or m["output"].update(prediction=None), "not which of the Outputs"),
        (lambda m: m["golden"].update(samples=4), "golden.npz has 3 samples, manifest.json says 4"),
        (lambda m: m["files"].pop("graph.nir"), "names no hash for 'graph.nir'"),
    ],
)
def test_a_wrong_manifest_is_refused(folder: Path, edit, said: str) -> None:
    edit_manifest(folder, edit)
    assert said in refusal(folder)


@pytest.mark.parametrize("name", ["\n", "../x", ""])
def test_an_engine_by_a_name_that_is_none(folder: Path, name: str) -> None:
    engine = {
        "file": name, "flavour": "tensorrt", "version": "10.3", "mode": "step", "tf32": False, "batch": [1, 1, 1],
        "timesteps": None, "compute_capability": "8.7", "graph_sha256": "",
    }  # fmt: skip
    edit_manifest(folder, lambda manifest: manifest.update(engines=[engine]))
    assert "it was refused" in refusal(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, "\xff"])
def test_a_manifest_that_is_no_json_object(folder: Path, text: str) -> None:
    (folder / bundles.MANIFEST).write_bytes(text.encode("latin-1"))
    assert "manifest.json" in refusal(folder)


def test_a_key_that_stands_twice_in_the_manifest(folder: Path) -> None:
    """Readers differ in which of the two they take: one would check other hashes than another."""
    file = folder / bundles.MANIFEST
    file.write_text(file.read_text().replace('"files": {', '"files": {"graph.nir": "0",', 1))
    assert "manifest.json' is not JSON: key 'graph.nir' stands twice in one object" in refusal(folder)


def test_a_folder_without_a_manifest_is_no_bundle(folder: Path) -> None:
    (folder / bundles.MANIFEST).unlink()
    assert "is no bundle" in refusal(folder)


def test_a_file_that_the_bundle_does_not_have(folder: Path) -> None:
    with pytest.raises(BadInput, match=r"has no 'extra.onnx'"):
        bundles.load(folder).file("extra.onnx")


@pytest.mark.parametrize("name", ["weights.bin", "deep/weights.bin", ".weights.bin.x.part", "deep/manifest.json"])
def test_files_that_the_manifest_does_not_name_are_refused(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("x")
    assert f"file '{name}' is not named in manifest.json: remove it or export again" in refusal(folder)


@pytest.mark.parametrize("target", ["graph.nir", "..", "nowhere"])
def test_links_that_the_manifest_does_not_name_are_refused(folder: Path, target: str) -> None:
    (folder / "link").symlink_to(target)
    assert "file 'link' is not named in manifest.json" in refusal(folder)


def test_named_files_in_folders_are_a_bundles_own(folder: Path) -> None:
    def fill(part: Path, now: bundles.Bundle) -> Manifest:
        (part / "deep").mkdir()
        (part / "deep" / "extra").write_text("x")
        return now.manifest

    assert bundles.add(bundles.load(folder), fill).file("deep/extra").read_text() == "x"


def test_parts_are_added_and_the_rest_stays(tmp_path: Path) -> None:
    made = make(tmp_path / "b", names=(), modes=("step",))
    before = dict(made.manifest.files)
    more, _ = assemble.add(made, job(made.graph(), form="scan"), ["onnx"])
    assert set(before) < set(more.manifest.files)
    assert {name: more.manifest.files[name] for name in before} == before
    assert [state.node for state in more.manifest.states] == ["lif1", "lif2"]
    assert [path.name for path in tmp_path.iterdir()] == ["b"], "no temporary folder stays"


def test_a_failure_adds_nothing(folder: Path) -> None:
    opened = bundles.load(folder)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    def fill(part: Path, now: bundles.Bundle) -> Manifest:
        (part / "model.onnx").write_text("half")
        raise BadInput("stopped")

    with pytest.raises(BadInput, match="stopped"):
        bundles.add(opened, fill)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["small"]


def test_where_the_manifest_does_not_fit_on_the_disk_nothing_changes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = bundles.load(folder)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    def fill(part: Path, now: bundles.Bundle) -> Manifest:
        (part / "model.onnx").write_text("another")
        (part / "new.bin").write_text("new")
        return now.manifest

    def full(path: Path, manifest: Manifest, files: dict[str, str]) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(bundles, "_write_manifest", full)
    with pytest.raises(
        BadInput, match=r"small/manifest.json' could not be written: No space left on device; make room"
    ):
        bundles.add(opened, fill)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["small"]
    assert bundles.load(folder).manifest == opened.manifest


def test_a_failure_creates_nothing(tmp_path: Path) -> None:
    def fill(folder: Path) -> Manifest:
        (folder / "graph.nir").write_text("half")
        raise BadInput("stopped")

    with pytest.raises(BadInput, match="stopped"):
        bundles.create(tmp_path / "b", fill)
    assert list(tmp_path.iterdir()) == []


def test_golden_head_cuts_every_array() -> None:
    x = np.zeros((4, 6, 2), np.float32)
    whole = Golden(x, x, np.arange(6), {"a": np.arange(12).reshape(6, 2)})
    part = whole.head(2, "sequence")
    assert (part.input.shape, part.output.shape, part.samples) == ((4, 2, 2), (4, 2, 2), 2)
    assert part.labels is not None
    assert part.labels.tolist() == [0, 1]
    assert part.counts["a"].tolist() == [[0, 1], [2, 3]]
    assert Golden(x[0], x).head(2, "repeat").input.shape == (2, 2)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"input": np.zeros((2, 3), np.float32)}, "'output' is missing"),
        ({"input": np.zeros((2, 3)), "output": np.zeros((4, 2, 3), np.float32)}, "must be float32"),
        ({"input": np.zeros((9, 3), np.float32), "output": np.zeros((4, 2, 3), np.float32)}, "differ in samples"),
        (
            {"input": np.zeros((2, 3), "f4"), "output": np.zeros((4, 2, 3), "f4"), "labels": np.arange(3)},
            "'labels' must hold",
        ),
        (
            {"input": np.zeros((2, 3), "f4"), "output": np.zeros((4, 2, 3), "f4"), "count:a": np.zeros(2)},
            "'a' must hold whole numbers",
        ),
        ({"input": np.zeros((2, 3), "f4"), "output": np.zeros((0, 2, 3), "f4")}, "the outputs have no time steps"),
        ({"input": np.array([None]), "output": np.array([None])}, "not a readable .npz file of plain arrays"),
    ],
)
def test_golden_files_that_do_not_fit(tmp_path: Path, arrays: dict[str, np.ndarray], said: str) -> None:
    np.savez(tmp_path / "golden.npz", **arrays)
    with pytest.raises(BadInput) as error:
        read_golden(tmp_path / "golden.npz")
    assert said in str(error.value)


def test_arrays_larger_than_the_limit_are_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "a.npz", input=np.zeros(10_000))
    monkeypatch.setattr("stdl_export.arrays.MAX_ARRAY_BYTES", 1000)
    with pytest.raises(BadInput, match="unpacks to"):
        read_arrays(tmp_path / "a.npz")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY"])
def test_files_that_are_no_npz(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(BadInput, match="not a readable"):
        read_arrays(tmp_path / "a.npz")


def test_a_manifest_that_is_a_link_out_of_the_folder(folder: Path, tmp_path: Path) -> None:
    shutil.move(folder / bundles.MANIFEST, tmp_path / "elsewhere")
    (folder / bundles.MANIFEST).symlink_to(tmp_path / "elsewhere")
    assert "link out of the folder" in refusal(folder)


def test_a_file_that_is_a_link_to_itself(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").symlink_to("model.onnx")
    assert "model.onnx' " in refusal(folder)


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (6, 0x01),  # encrypted
        (8, 0x63),  # compressed in a way that nobody knows
        (60, 0xFF),  # a byte of the compressed numbers
    ],
)
def test_zip_files_that_the_library_refuses_in_its_own_ways(tmp_path: Path, at: int, value: int) -> None:
    np.savez_compressed(tmp_path / "a.npz", input=np.arange(1000.0))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    directory = content.index(b"PK\x01\x02")
    for place in (at, directory + at + 2 if at < 30 else at):
        content[place] = value
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(BadInput, match="not a readable"):
        read_arrays(tmp_path / "a.npz")
