"""Data sets: the embedded digits, CIFAR-10 from Parquet files in the hub's layout, and what can be wrong with them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from stdl_export.common.errors import BadInput
from stdl_train.data.samples import draw, load

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
    np.testing.assert_allclose(samples.images[5], pixels[5].transpose(2, 0, 1) / 255, atol=1e-6)
    some = load("cifar10", "test", str(tmp_path / "data"), limit=4)
    assert len(some.labels) == 4
    assert some.classes[3] == "cat"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": lambda i: i}, "labels from 0 to 11, not 0 to 9"),
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
    with pytest.raises(BadInput, match=r"no train-\*\.parquet in folder"):
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
    assert 0.3 < samples.images.mean() < 0.6
