"""Sets in Parquet files through the `datasets` library, whole or as a stream, and what can be wrong with them."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from image_files import encoded, some_pixels, write_parquet

from stdl_export.common.errors import BadInput
from stdl_train.data.images.sets import SETS
from stdl_train.data.samples import load

BY_NAME = {row.name: row for row in SETS}


@pytest.fixture(autouse=True)
def _cache_in_a_folder_of_its_own(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("STDL_CACHE", str(tmp_path / "stdl-cache"))


def write_set(folder, row, split, count=6, size=None):
    """One split as the hub has it; returns pixels [count, H, W(, C)] and labels."""
    channels, height, width = (row.shape[0], *(size or row.shape[1:]))
    pixels = some_pixels(count, (height, width, 3) if channels == 3 else (height, width))
    labels = [(7 * index + 3) % row.class_count for index in range(count)]
    (image, *_), (label, *_) = row.columns
    names = None if isinstance(row.classes, tuple) else [f"class {n}" for n in range(row.class_count)]
    place = folder / row.config if row.config else folder / "data"
    write_parquet(place / f"{split}-00000-of-00001.parquet", map(encoded, pixels), labels, image, label, names)
    return pixels, labels


@pytest.mark.parametrize("row", SETS, ids=lambda row: row.name)
def test_every_set_as_the_hub_has_it(tmp_path, row):
    made = {split: write_set(tmp_path, row, split, count) for split, count in (("train", 5), (row.test[0], 3))}
    for split, (pixels, labels) in zip(("train", "test"), made.values(), strict=True):
        samples = load(row.name, split, str(tmp_path))
        assert samples.labels.tolist() == labels
        assert samples.shape == row.shape
        assert len(samples.classes) == row.class_count
        assert isinstance(samples.images, np.ndarray) == row.in_memory
        expected = pixels.transpose(0, 3, 1, 2) if pixels.ndim == 4 else pixels[:, None]
        if row.short is None:
            assert np.array_equal(samples.images[np.arange(len(labels))], expected)
    assert row.name in ("tiny-imagenet", "imagenet-1k") or isinstance(row.classes, tuple)


def test_large_sets_are_scaled_and_cropped_when_read_and_can_go_to_workers(tmp_path):
    row = BY_NAME["imagenet-1k"]
    pixels, _ = write_set(tmp_path, row, "validation", size=(300, 450))
    samples = load(row.name, "test", str(tmp_path))
    assert samples.classes[999] == "class 999"
    source = pickle.loads(pickle.dumps(samples.images))
    image = pytest.importorskip("PIL.Image")
    whole = image.fromarray(pixels[4]).resize((384, 256), image.Resampling.BILINEAR)
    expected = np.asarray(whole).astype(int)[16:240, 80:304].transpose(2, 0, 1)
    found = source[np.array([4])][0]
    assert found.shape == (3, 224, 224)
    assert np.abs(found - expected).max() <= 1
    assert load(row.name, "test", str(tmp_path), options={"size": 64}).shape == (3, 64, 64)


def test_a_stream_is_read_as_far_as_the_limit_says(tmp_path):
    row = BY_NAME["cifar10"]
    pixels, labels = write_set(tmp_path, row, "train", count=40)
    samples = load("cifar10", "train", str(tmp_path), limit=8, seed=3, options={"streaming": True})
    stored = {picture.transpose(2, 0, 1).tobytes(): label for picture, label in zip(pixels, labels, strict=True)}
    assert [stored[picture.tobytes()] for picture in samples.images] == samples.labels.tolist()
    assert len({picture.tobytes() for picture in samples.images}) == 8
    again = load("cifar10", "train", str(tmp_path), limit=8, seed=3, options={"streaming": True})
    other = load("cifar10", "train", str(tmp_path), limit=8, seed=4, options={"streaming": True})
    assert np.array_equal(samples.images, again.images)
    assert not np.array_equal(samples.images, other.images)
    with pytest.raises(BadInput, match=r"data\.train_limit says: set it"):
        load("cifar10", "train", str(tmp_path), options={"streaming": True})


def test_labels_that_are_missing_or_outside_are_named(tmp_path):
    pictures = [encoded(pixels) for pixels in some_pixels(3, (32, 32, 3))]
    file = tmp_path / "train-0.parquet"
    for labels, message in (
        ([0, 10, 1], "image 1 has label 10, outside 0 to 9"),
        ([0, 1, -1], "image 2 has label -1"),
        ([0, None, 1], "entries without a label"),
    ):
        write_parquet(file, pictures, labels)
        with pytest.raises(BadInput, match=message):
            load("svhn", "train", str(tmp_path))
    write_parquet(file, pictures, [0, 1, 2], label="coarse_label")
    with pytest.raises(BadInput, match="no column fine_label or label, found"):
        load("cifar100", "train", str(tmp_path))


def test_a_path_in_a_table_is_never_opened(tmp_path):
    datasets = pytest.importorskip("datasets")
    secret = tmp_path / "elsewhere.png"
    secret.write_bytes(encoded(some_pixels(1, (32, 32, 3))[0]))
    features = datasets.Features({"img": datasets.Image(), "label": datasets.Value("int64")})
    rows = [{"img": {"bytes": None, "path": str(secret)}, "label": 0}]
    table = datasets.Dataset.from_list(rows, features=features)
    table.to_parquet(str(tmp_path / "train-0.parquet"))
    with pytest.raises(BadInput, match="image 0 has no bytes in its table"):
        load("cifar10", "train", str(tmp_path))


def test_damaged_pictures_in_tables_are_named_or_left_out(tmp_path):
    pictures = [encoded(pixels) for pixels in some_pixels(6, (32, 32, 3))]
    pictures[4] = pictures[4][:-200]
    write_parquet(tmp_path / "train-0.parquet", pictures, range(6))
    with pytest.raises(BadInput, match=r"image 4 cannot be decoded.*skip_damaged"):
        load("cifar10", "train", str(tmp_path))
    assert load("cifar10", "train", str(tmp_path), options={"skip_damaged": True}).labels.tolist() == [0, 1, 2, 3, 5]


@pytest.mark.parametrize(
    ("name", "file", "message"),
    [
        ("cifar10", "data_batch_1", "Python pickles, which can run code and are never read: get it with: hf download"),
        ("cifar100", "meta", "hf download uoft-cs/cifar100 --repo-type dataset --local-dir FOLDER"),
        ("svhn", "train_32x32.mat", "MATLAB files"),
        ("imagenet-1k", "ILSVRC2012_img_train.tar", r"no train-\*.parquet, .*hf auth login"),
    ],
)
def test_files_that_are_not_read_say_what_to_get(tmp_path, name, file, message):
    (tmp_path / file).write_bytes(pickle.dumps({"labels": [1]}))
    with pytest.raises(BadInput, match=message):
        load(name, "train", str(tmp_path))


def test_a_hub_that_cannot_be_reached_says_the_command():
    with pytest.raises(BadInput, match=r"cannot be read from 'ylecun/mnist' .*hf download ylecun/mnist"):
        load("mnist", "train")
    with pytest.raises(BadInput, match=r"folder '\./nowhere' does not exist"):
        load("svhn", "test", "./nowhere")
