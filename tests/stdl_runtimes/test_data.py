"""`stdl-validate --data`: files and data sets, encoded and normalised as in training, a few samples at a time."""

import json
import types

import bundles
import numpy as np
import pytest
from chains import small_network
from registered import provide
from validated import INFO, SAMPLES, images, normalised

from stdl_export.common.errors import BadInput
from stdl_runtimes import data

pytest.importorskip("onnxruntime")


def test_data_from_a_file_is_normalised_and_scored(made, validate, tmp_path):
    predicted = made.golden().output.mean(axis=0).argmax(axis=1)
    np.savez(
        tmp_path / "test.npz", images=images(), labels=np.where(np.arange(SAMPLES) < 6, predicted, (predicted + 1) % 3)
    )
    code, _, _ = validate(made.path, "--data", tmp_path / "test.npz", "--json", tmp_path / "out.json")
    report = json.loads((tmp_path / "out.json").read_text())
    assert code == 0
    assert report["data_samples"] == SAMPLES
    golden, *others = report["runtimes"]
    assert golden["data_accuracy"] is golden["data_agreement"] is None
    assert [line["data_accuracy"]["value"] for line in others] == [0.5, 0.5, 0.5]
    assert [line["data_agreement"]["value"] for line in others] == [1.0, 1.0, 1.0]


def test_what_the_network_sees_is_normalised_per_channel(made, tmp_path):
    labels = np.zeros(SAMPLES, np.int64)
    np.savez(tmp_path / "test.npz", images=images(), labels=labels)
    samples = data.load(str(tmp_path / "test.npz"), made.manifest, timesteps=5, path=None, limit=3)
    x = samples.input(np.arange(3))
    assert x[0, 0, 0, 0] == (images()[0, 0, 0, 0] - np.float32(0.25)) / np.float32(0.25)
    assert np.array_equal(x, normalised(images())[:3])
    assert x.dtype == np.float32
    assert [len(part) for part in samples.parts(2)] == [2, 1]
    assert np.array_equal(np.concatenate(list(samples.parts(2))), x)
    assert len(samples.labels) == 3


def test_predictions_that_differ_on_data_fail(tmp_path, validate):
    bundle = bundles.make(tmp_path / "b", small_network(), normalised(images()), data=INFO)
    wrong = bundles.changed(bundle.graph(), "fc", "weight", lambda w: -w)
    bundles.replace_onnx(bundle, wrong, ["model.step.onnx"])
    np.savez(tmp_path / "test.npz", images=images(), labels=np.zeros(SAMPLES, np.int64))
    code, _, _ = validate(bundle.path, "--data", tmp_path / "test.npz", "--json", tmp_path / "out.json")
    checks = json.loads((tmp_path / "out.json").read_text())["checks"]
    failed = {(check["runtime"], check["name"]) for check in checks if not check["passed"]}
    assert code == 1
    assert {("onnxruntime step", "agreement"), ("onnxruntime step", "agreement on test.npz")} <= failed
    assert {runtime for runtime, _ in failed} == {"onnxruntime step"}


def test_a_data_set_is_read_a_few_samples_at_a_time(made, validate, monkeypatch, tmp_path):
    """And encoded so: what an encoder draws for a sample does not depend on who is read with it."""
    read = []

    class Lazy:
        shape, dtype = (SAMPLES, 2, 6, 6), np.dtype(np.float32)

        def __len__(self):
            return SAMPLES

        def __getitem__(self, indices):
            read.append(len(indices))
            return images()[indices]

    lazy = types.SimpleNamespace(images=Lazy(), labels=np.zeros(SAMPLES, np.int64))
    register(monkeypatch, lambda split, path, limit: lazy)
    monkeypatch.setattr("stdl_runtimes.validate.SAMPLES_AT_ONCE", 5)
    code, _, _ = validate(made.path, "--data", "stripes", "--json", tmp_path / "lazy.json")
    assert code == 0
    assert read == [1, 5, 5, 2]  # the first: does it fit?
    np.savez(tmp_path / "test.npz", images=images(), labels=lazy.labels)
    assert validate(made.path, "--data", tmp_path / "test.npz", "--json", tmp_path / "file.json")[0] == 0
    lines = [json.loads((tmp_path / name).read_text())["runtimes"] for name in ("lazy.json", "file.json")]
    assert [line["data_accuracy"] for line in lines[0]] == [line["data_accuracy"] for line in lines[1]]


def test_what_an_encoder_draws_is_a_samples_own(tmp_path):
    graph = small_network(mode="sequence")
    x = np.broadcast_to(normalised(images()), (5, SAMPLES, 2, 6, 6))
    bundle = bundles.make(tmp_path / "b", graph, x, data=INFO, encoding="poisson", encoding_seed=3)
    np.savez(tmp_path / "test.npz", images=images(), labels=np.zeros(SAMPLES, np.int64))
    samples = data.load(str(tmp_path / "test.npz"), bundle.manifest, timesteps=5, path=None, limit=None)
    whole, parts = samples.input(np.arange(SAMPLES)), list(samples.parts(5))
    assert whole.shape == (5, SAMPLES, 2, 6, 6)
    assert np.array_equal(np.concatenate(parts, axis=1), whole)


def register(monkeypatch, function):
    entry = types.SimpleNamespace(name="stripes", load=lambda: function)
    monkeypatch.setattr(data.importlib.metadata, "entry_points", lambda group: [entry] * (group == "stdl.datasets"))


def test_a_registered_data_set_is_asked_for_its_test_split(made, validate, monkeypatch):
    asked = []

    def stripes(split, path, limit):
        asked.append((split, path, limit))
        return types.SimpleNamespace(images=images()[:limit], labels=np.zeros(limit, np.int64))

    register(monkeypatch, stripes)
    code, out, _ = validate(made.path, "--data", "stripes", "--data-path", "here", "--data-limit", "5")
    assert code == 0
    assert asked == [("test", "here", 5)]
    assert "stripes" in out


def broken(split, path, limit):
    raise ImportError("no module named parquet")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("strips", "unknown data set (or .npz file) 'strips': did you mean 'stripes'?"),
        ("stripes", "data set 'stripes' cannot be read here: no module named parquet"),
        ("none.npz", "'none.npz' does not exist"),
    ],
)
def test_data_that_cannot_be_had_is_one_line(made, validate, monkeypatch, source, message):
    register(monkeypatch, broken)
    code, out, err = validate(made.path, "--data", source)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": images()}, "has no array 'labels'"),
        ({"images": images()[..., :5], "labels": np.zeros(SAMPLES, np.int64)}, "the network takes"),
        ({"images": images(), "labels": np.zeros(SAMPLES)}, "labels must be one whole number below 3"),
        ({"images": images(), "labels": np.full(SAMPLES, 3)}, "labels must be one whole number below 3"),
        ({"images": images(), "labels": np.zeros(SAMPLES - 1, np.int64)}, "labels must be one whole number below 3"),
    ],
)
def test_data_that_does_not_fit_is_one_line(made, validate, tmp_path, arrays, message):
    np.savez(tmp_path / "test.npz", **arrays)
    code, _, err = validate(made.path, "--data", tmp_path / "test.npz")
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


def test_images_become_sequences_by_direct_encoding_only(tmp_path, validate):
    x = np.broadcast_to(normalised(images()), (5, SAMPLES, 2, 6, 6))
    np.savez(tmp_path / "test.npz", images=images(), labels=np.zeros(SAMPLES, np.int64))
    graph = small_network(mode="sequence")
    direct = bundles.make(tmp_path / "direct", graph, x, data=INFO, encoding="direct")
    assert validate(direct.path, "--data", tmp_path / "test.npz")[0] == 0
    other = bundles.make(tmp_path / "other", graph, x, data=INFO)
    code, _, err = validate(other.path, "--data", tmp_path / "test.npz")
    assert code == 2
    assert "does not say how to make them of single images" in err


def test_rows_over_time_have_a_shape_of_their_own(made, tmp_path, monkeypatch):
    provide(monkeypatch)
    x = images()[:, :1]
    np.savez(tmp_path / "test.npz", images=x, labels=np.zeros(SAMPLES, np.int64))
    known = made.manifest
    tensor = known.input.tensors[0].model_copy(update={"shape": (1, 1, 12)})
    given = {"mode": "sequence", "encoding": "rows", "encoding_options": {"levels": 4}, "tensors": (tensor,)}
    info = known.data.model_copy(update={"mean": (0.0,), "std": (1.0,)})
    manifest = known.model_copy(update={"input": known.input.model_copy(update=given), "data": info})
    samples = data.load(str(tmp_path / "test.npz"), manifest, timesteps=7, path=None, limit=None)
    found = samples.input(np.arange(SAMPLES))
    assert found.shape == (7, SAMPLES, 1, 1, 12)
    np.testing.assert_array_equal(found[2, :, 0, 0, :6], np.rint(x[:, 0, 2] * 4))
    wrong = manifest.model_copy(
        update={"input": manifest.input.model_copy(update={"encoding_options": {"clock": False}})}
    )
    with pytest.raises(BadInput, match="the network takes"):
        data.load(str(tmp_path / "test.npz"), wrong, timesteps=7, path=None, limit=None)
