"""MNIST and Fashion-MNIST in idx files, and files that are cut off or say what they do not hold."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from image_files import some_pixels, write_idx

from stdl_export.common.errors import BadInput
from stdl_train.data.samples import load


def write_set(folder, suffix="", counts=(12, 5)):
    """Files of both splits; returns the pixels of each."""
    made = {}
    for prefix, count in zip(("train", "t10k"), counts, strict=True):
        made[prefix] = some_pixels(count, (28, 28), seed=count)
        write_idx(folder / f"{prefix}-images-idx3-ubyte{suffix}", made[prefix])
        write_idx(folder / f"{prefix}-labels-idx1-ubyte{suffix}", (np.arange(count) * 3 % 10).astype(np.uint8))
    return made


@pytest.mark.parametrize(
    ("name", "place", "suffix"), [("mnist", "", ".gz"), ("mnist", "MNIST/raw", ""), ("fashion-mnist", "raw", ".gz")]
)
def test_both_splits_as_they_are_distributed(tmp_path, name, place, suffix):
    made = write_set(tmp_path / place, suffix)
    train, test = load(name, "train", str(tmp_path)), load(name, "test", str(tmp_path))
    assert np.array_equal(train.images, made["train"][:, None])
    assert np.array_equal(test.images, made["t10k"][:, None])
    assert test.labels.tolist() == [0, 3, 6, 9, 2]
    np.testing.assert_array_equal(train.take(np.array([7]))[0, 0], made["train"][7] / np.float32(255))
    assert train.classes[9] == ("9" if name == "mnist" else "Ankle boot")
    some = load(name, "train", str(tmp_path), limit=4, seed=1)
    assert len({image.tobytes() for image in some.images} & {image.tobytes() for image in train.images}) == 4


def test_other_sizes_are_scaled_only_when_asked_for(tmp_path):
    write_set(tmp_path)
    write_idx(tmp_path / "train-images-idx3-ubyte", some_pixels(12, (20, 20)))
    with pytest.raises(BadInput, match=r"image 0 has shape \(20, 20, 1\), not \(28, 28, 1\).*data.options.size"):
        load("mnist", "train", str(tmp_path))
    assert load("mnist", "train", str(tmp_path), options={"size": 32}).shape == (1, 32, 32)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def cut_packed(path):
    path.write_bytes(b"")
    path.with_name(path.name + ".gz").write_bytes(gzip.compress(bytes(2000))[:-12])
    path.unlink()


def longer(path):
    path.write_bytes(path.read_bytes() + b"\0")


def huge(path):
    path.write_bytes(path.read_bytes()[:4] + b"\xff" * 12 + path.read_bytes()[16:])


def labels_for_images(path):
    path.write_bytes(path.with_name("train-labels-idx1-ubyte").read_bytes())


def one_less(path):
    write_idx(path, some_pixels(11, (28, 28)))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "says it holds 9408 bytes and holds only 9407: download it again"),
        (cut_packed, r"train-images-idx3-ubyte.gz' (cannot be read|is no idx file)"),
        (longer, "says it holds 9408 bytes and holds more"),
        (huge, "says it holds 4294967295 x 4294967295 x 4294967295 bytes"),
        (labels_for_images, "is no idx file of bytes with 3 axes"),
        (one_less, "holds 11 pictures, .* 12 labels"),
    ],
)
def test_damaged_files(tmp_path, damage, message):
    write_set(tmp_path)
    damage(tmp_path / "train-images-idx3-ubyte")
    with pytest.raises(BadInput, match=message):
        load("mnist", "train", str(tmp_path))


def test_a_label_outside_the_classes_is_named(tmp_path):
    write_set(tmp_path)
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.arange(12).astype(np.uint8))
    with pytest.raises(BadInput, match="image 10 has label 10, outside 0 to 9"):
        load("mnist", "train", str(tmp_path))


def test_a_missing_set_says_the_command_that_gets_it(tmp_path):
    with pytest.raises(BadInput, match="hf download ylecun/mnist --repo-type dataset --local-dir FOLDER"):
        load("mnist", "train", str(tmp_path))
