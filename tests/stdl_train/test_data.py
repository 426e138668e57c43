"""Data sets: the embedded digits, CIFAR-10 from Parquet files in the hub's layout, and what can be wrong with them."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stdl_export.common.errors import BadInput
from stdl_train.data.samples import Samples, draw, load

REAL = Path(__file__).parents[3] / "shared" / "data" / "cifar10-jpeg"


def test_digits_have_a_fixed_split_without_overlap():
    train, test = load("digits", "train"), load("digits", "test")
    assert (len(train.labels), len(test.labels)) == (1438, 359)
    assert train.images.shape[1:] == (1, 8, 8)
    assert train.images.dtype == np.float32
    assert (train.images.min(), train.images.max()) == (0, 1)
    ours = {image.tobytes() for image in train.images}
    assert sum(image.tobytes() in ours for image in test.images) == 0
    assert np.bincount(test.labels).min() >= 34
    normalised = (train.images - train.mean[0]) / train.std[0]
    assert abs(normalised.mean()) < 0.01
    assert abs(normalised.std() - 1) < 0.01
    assert np.array_equal(load("digits", "test").images, test.images)


def test_limits_draw_the_same_samples_for_the_same_seed():
    assert np.array_equal(draw(100, 10, 3), draw(100, 10, 3))
    assert not np.array_equal(draw(100, 10, 3), draw(100, 10, 4))
    assert np.array_equal(draw(5, None, 0), np.arange(5))
    assert len(load("digits", "train", limit=64, seed=1).labels) == 64


def registered(monkeypatch, dataset, name="mine", group="stdl.datasets"):
    """Let an entry point lead to a function of the test."""

    class Entry:
        def __init__(self):
            self.name, self.load = name, lambda: dataset

    monkeypatch.setattr("stdl_train.data.samples.entry_points", lambda group: [Entry()])


def recordings(split, path=None, limit=None, seed=0, window=1000, count=6, **changed):
    """A data set of frames [6, 3, 2, 4, 4] whose options are `window` and `count`."""
    images = np.random.default_rng(seed).integers(0, 9, (count, 3, 2, 4, 4), dtype=np.uint8)
    given = {
        "images": images, "labels": np.arange(count) % 2, "classes": ("a", "b"), "mean": (0.0,) * 2, "std": (1.0,) * 2,
    }  # fmt: skip
    return Samples(name="mine", timed=True, **given | changed)


def test_recordings_keep_their_counts_and_pictures_are_fractions(monkeypatch):
    registered(monkeypatch, recordings)
    frames = load("mine", "train")
    assert (frames.shape, frames.steps) == ((2, 4, 4), 3)
    taken = frames.take(np.array([4, 1]))
    assert taken.dtype == np.float32
    assert np.array_equal(taken, frames.images[[4, 1]])
    pictures = replace(frames, images=frames.images[:, 0], timed=False)
    assert (pictures.shape, pictures.steps) == ((2, 4, 4), None)
    assert np.array_equal(pictures.take(np.array([5])), frames.images[5:, 0] / np.float32(255))


def test_an_option_that_a_data_set_does_not_have_is_named_with_the_nearest(monkeypatch):
    def strict(split, path=None, limit=None, seed=0, window=1000):
        return recordings(split, path, limit, seed, count=window)

    registered(monkeypatch, strict)
    assert len(load("mine", "train", options={"window": 8}).labels) == 8
    with pytest.raises(BadInput, match="data set 'mine' has no option 'windw': did you mean 'window'"):
        load("mine", "train", options={"windw": 8})
    with pytest.raises(BadInput, match="has no option 'path'"):
        load("mine", "train", options={"path": "here"})


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"images": np.zeros((6, 2, 4, 4), np.float32)}, r"not \[N, T, C, H, W\]"),
        ({"images": np.zeros((6, 3, 2, 4, 4), np.float64)}, "float64"),
        ({"labels": np.arange(5)}, "for 6 samples"),
        ({"labels": np.arange(6)}, "labels from 0 to 5 for 2 classes"),
        ({"labels": np.arange(6) - 1}, "labels from -1"),
        ({"mean": (0.0,)}, "1 and 2 channels for 2"),
    ],
)
def test_samples_of_wrong_form_are_refused(monkeypatch, changed, said):
    registered(monkeypatch, lambda *a, **k: recordings("train", **changed))
    with pytest.raises(BadInput, match=said):
        load("mine", "train")


def parquet_folder(folder, count=12, label=lambda i: i % 10, size=32, break_image=None):
    """Files as the hub stores CIFAR-10: PNG bytes and class numbers, with the library's own feature types."""
    datasets = pytest.importorskip("datasets")
    image_module = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    rows = []
    for index, picture in enumerate(pixels):
        buffer = io.BytesIO()
        image_module.fromarray(picture).save(buffer, format="PNG")
        data = buffer.getvalue() if index != break_image else b"not a picture"
        rows.append({"img": {"bytes": data, "path": None}, "label": label(index)})
    folder.mkdir(exist_ok=True)
    features = datasets.Features({"img": datasets.Image(), "label": datasets.Value("int64")})
    for split in ("train", "test"):
        table = datasets.Dataset.from_list(rows, features=features)
        table.to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))
    return pixels


@pytest.fixture(autouse=True)
def _cache_in_a_folder_of_its_own(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_cifar10_from_parquet_files(tmp_path):
    pixels = parquet_folder(tmp_path / "data")
    samples = load("cifar10", "train", str(tmp_path / "data"))
    assert samples.images.shape == (12, 3, 32, 32)
    assert samples.labels.tolist() == [i % 10 for i in range(12)]
    np.testing.assert_array_equal(samples.take(np.array([5]))[0], pixels[5].transpose(2, 0, 1) / np.float32(255))
    some = load("cifar10", "test", str(tmp_path / "data"), limit=4)
    assert len(some.labels) == 4
    assert some.classes[3] == "cat"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": lambda i: i}, "image 10 has label 10, outside 0 to 9"),
        ({"size": 28}, r"image 0 has shape \(28, 28, 3\)"),
        ({"break_image": 7}, "image 7 cannot be decoded"),
    ],
)
def test_wrong_files_are_named(tmp_path, change, message):
    parquet_folder(tmp_path / "data", **change)
    with pytest.raises(BadInput, match=message):
        load("cifar10", "train", str(tmp_path / "data"))


def test_missing_folders_and_names(tmp_path):
    with pytest.raises(BadInput, match=r"folder '\./nowhere' does not exist"):
        load("cifar10", "train", "./nowhere")
    with pytest.raises(BadInput, match=r"no train-\*\.parquet, .* in folder"):
        load("cifar10", "train", str(tmp_path))
    (tmp_path / "train-00000.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(BadInput, match="cannot be read from"):
        load("cifar10", "train", str(tmp_path))
    with pytest.raises(BadInput, match="did you mean 'digits'"):
        load("digit", "train")
    with pytest.raises(BadInput, match="built in"):
        load("digits", "train", path="somewhere")


@pytest.mark.skipif(not REAL.is_dir(), reason="the real CIFAR-10 images are not here")
def test_the_real_images():
    samples = load("cifar10", "test", str(REAL), limit=100)
    assert samples.images.shape == (100, 3, 32, 32)
    assert 0.3 < samples.take(np.arange(100)).mean() < 0.6
