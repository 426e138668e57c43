"""Folders of pictures: splits, classes, damage, and known sets in this form."""

from __future__ import annotations

import logging
import pickle

import numpy as np
import pytest
from image_files import encoded, some_pixels, write_picture

from stdl_export.common.errors import BadInput
from stdl_train.data.images.folders import ANNOTATIONS
from stdl_train.data.images.sets import TINY_IMAGENET
from stdl_train.data.samples import EpochSource, Source, load

SIZE = {"size": [8, 6]}


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("STDL_CACHE", str(tmp_path / "stdl-cache"))


def write_classes(folder, names=("cat", "dog"), count=5, shape=(8, 6, 3), suffix=".png"):
    """`count` pictures in a folder of each class; returns their pixels by path."""
    made = {}
    for seed, name in enumerate(names):
        for index, pixels in enumerate(some_pixels(count, shape, seed=seed + 7)):
            made[folder / name / f"{index}{suffix}"] = pixels
            write_picture(folder / name / f"{index}{suffix}", pixels)
    return made


def test_a_folder_without_splits_is_divided_without_overlap(tmp_path):
    made = write_classes(tmp_path / "data")
    train, test = (load("image-folder", split, str(tmp_path / "data"), options=SIZE) for split in ("train", "test"))
    assert (train.labels.tolist(), test.labels.tolist()) == ([0] * 4 + [1] * 4, [0, 1])
    assert train.classes == ("cat", "dog")
    pictures = [image.tobytes() for split in (train, test) for image in split.images[np.arange(len(split.labels))]]
    assert sorted(pictures) == sorted(pixels.transpose(2, 0, 1).tobytes() for pixels in made.values())


def test_splits_in_folders_keep_the_training_sets_classes(tmp_path):
    made = write_classes(tmp_path / "train", ("a", "b", "c"))
    made |= write_classes(tmp_path / "val", ("a", "b", "c"), count=2)
    test = load("image-folder", "test", str(tmp_path), options=SIZE)
    assert test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert isinstance(test.images, Source)
    assert not isinstance(test.images, (np.ndarray, EpochSource))
    again = pickle.loads(pickle.dumps(test.images))  # what a worker process is given
    assert np.array_equal(again[np.array([4])][0], made[tmp_path / "val/c/0.png"].transpose(2, 0, 1))


def test_pictures_are_decoded_when_they_are_asked_for(tmp_path):
    made = write_classes(tmp_path / "data", count=3)
    path = sorted(made)[1]
    lazy = load("image-folder", "train", str(tmp_path / "data"), options=SIZE)
    eager = load("image-folder", "train", str(tmp_path / "data"), options={**SIZE, "in_memory": True})
    assert isinstance(eager.images, np.ndarray)
    assert np.array_equal(eager.images, lazy.images[np.arange(len(lazy.labels))])
    for each in made:
        each.write_bytes(path.read_bytes()[:60])
    with pytest.raises(BadInput, match=r"picture 'cat/\d.png' cannot be decoded.*skip_damaged"):
        lazy.images[np.array([0])]


def test_random_crops_are_drawn_anew_each_epoch_in_training_only(tmp_path):
    write_classes(tmp_path / "data", shape=(30, 40, 3))
    options = {"size": 8, "crop": "random"}
    train, test = (load("image-folder", split, str(tmp_path / "data"), options=options) for split in ("train", "test"))
    first, second = (train.images.for_epoch(epoch)[np.arange(4)] for epoch in (1, 2))
    assert all(not np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert np.array_equal(first[2:], train.images.for_epoch(1)[np.array([2, 3])])
    plain = load("image-folder", "train", str(tmp_path / "data"), options={"size": 8})
    assert np.array_equal(train.images[np.arange(4)], plain.images[np.arange(4)])
    assert not isinstance(test.images, EpochSource)


def test_damaged_pictures_are_left_out_only_when_asked_for_and_counted(tmp_path, caplog):
    made = sorted(write_classes(tmp_path / "train"))
    write_classes(tmp_path / "test", count=1)
    made[1].write_bytes(made[1].read_bytes()[:-40])
    made[8].write_bytes(b"")
    options = {**SIZE, "skip_damaged": True}
    for run in range(2):  # the second finds it in the cache
        caplog.clear()
        with caplog.at_level(logging.WARNING, "stdl.data"):
            samples = load("image-folder", "train", str(tmp_path), options=options)
        assert samples.labels.tolist() == [0] * 4 + [1] * 4
        assert samples.images[np.arange(8)].shape == (8, 3, 8, 6)
        assert "2 of 10 pictures are damaged and left out" in caplog.text
        assert ("picture 'train/cat/1.png' cannot be decoded" in caplog.text) == (run == 0)
    made[1].write_bytes(made[0].read_bytes())  # another size and time: looked at again
    assert len(load("image-folder", "train", str(tmp_path), options=options).labels) == 9
    for path in made:
        path.write_bytes(b"nothing")
    with pytest.raises(BadInput, match="all 10 pictures are damaged"):
        load("image-folder", "train", str(tmp_path), options=options)


def test_grey_and_mixed_pictures_take_the_channels_that_are_asked_for(tmp_path):
    write_classes(tmp_path / "data", ("a",), shape=(8, 6))
    write_classes(tmp_path / "data", ("b",), shape=(8, 6, 4))
    write_classes(tmp_path / "data", ("c",), shape=(8, 6, 3), suffix=".JPG")
    assert load("image-folder", "train", str(tmp_path / "data"), options=SIZE).shape == (3, 8, 6)
    grey = load("image-folder", "train", str(tmp_path / "data"), options={**SIZE, "channels": 1})
    assert (grey.shape, grey.mean) == ((1, 8, 6), (0.449,))
    assert grey.images[np.arange(len(grey.labels))].std() > 20


@pytest.mark.parametrize(
    ("prepare", "options", "message"),
    [
        (lambda root: None, SIZE, "needs one sub-folder of pictures a class"),
        (lambda root: (root / "cow").mkdir(), SIZE, "class folder '.*cow' holds no pictures"),
        (lambda root: write_classes(root / "train"), SIZE, "has train/ and none of test, val"),
        (lambda root: [write_classes(root / s, n) for s, n in (("train", "ab"), ("test", "abc"))], SIZE,
         "has a folder 'c', which is no class of the training set"),
        (write_classes, {}, "needs the size of its samples"),
        (write_classes, {"sze": 8}, "sze.*did you mean 'size'"),
        (write_classes, {"size": 0}, "size"),
        (write_classes, {**SIZE, "streaming": True}, "leave data.options.streaming out"),
        (write_classes, {**SIZE, "mean": [0.5]}, "1 and 3 channels for 3"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_folder(tmp_path, prepare, options, message):
    (tmp_path / "data").mkdir()
    prepare(tmp_path / "data")
    with pytest.raises(BadInput, match=message):
        load("image-folder", "test", str(tmp_path / "data"), options=options)


def test_a_folder_that_is_not_there_or_not_said(tmp_path):
    with pytest.raises(BadInput, match=r"does not exist: check data.path"):
        load("image-folder", "train", str(tmp_path / "none"), options=SIZE)
    with pytest.raises(BadInput, match=r"--set data\.path=FOLDER"):
        load("image-folder", "train", options=SIZE)


def test_known_sets_in_folders_keep_their_labels(tmp_path):
    names = ("Ankle boot", "Bag", "Coat", "Dress", "Pullover", "Sandal", "Shirt", "Sneaker", "T-shirt", "Trouser")
    made = write_classes(tmp_path / "train", names, count=2, shape=(28, 28))
    samples = load("fashion-mnist", "train", str(tmp_path))
    assert samples.labels.tolist() == [label for label in range(10) for _ in range(2)]
    assert samples.classes[9] == "Ankle boot"
    assert np.array_equal(samples.images[18][0], made[tmp_path / "train/Ankle boot/0.png"])
    (tmp_path / "train" / "Coat").rename(tmp_path / "train" / "Coats")
    with pytest.raises(BadInput, match="'Coats', which is no class of the set: rename it to 'Coat'"):
        load("fashion-mnist", "train", str(tmp_path))


def test_tiny_imagenet_as_it_is_distributed(tmp_path):
    names = [f"n{number:08}" for number in range(200)]
    pixels = some_pixels(200, (64, 64, 3))
    data = encoded(pixels[0], "JPEG")
    for name in names:
        path = tmp_path / "train" / name / "images" / f"{name}_0.JPEG"
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
        (path.parents[1] / f"{name}_boxes.txt").write_text("")
    for index, label in enumerate((7, 150, 0)):
        write_picture(tmp_path / "val" / "images" / f"val_{index}.png", pixels[index])
        with (tmp_path / "val" / ANNOTATIONS).open("a") as file:
            file.write(f"val_{index}.png\t{names[label]}\t0\t0\t62\t62\n")
    assert len(load("tiny-imagenet", "train", str(tmp_path)).labels) == TINY_IMAGENET.class_count
    test = load("tiny-imagenet", "test", str(tmp_path))
    assert test.labels.tolist() == [7, 150, 0]
    assert np.array_equal(test.images[np.array([1])][0], pixels[1].transpose(2, 0, 1))
    with (tmp_path / "val" / ANNOTATIONS).open("a") as file:
        file.write("val_0.png\tn99999999\n")
    with pytest.raises(BadInput, match=r"val_annotations.txt' line 4"):
        load("tiny-imagenet", "test", str(tmp_path))


def test_imagenet_is_scaled_and_cropped_as_is_usual(tmp_path):
    for name in range(1000):
        (tmp_path / "train" / f"n{name:08}").mkdir(parents=True)
    with pytest.raises(BadInput, match=r"class folder '.*n00000000' holds no pictures"):
        load("imagenet-1k", "train", str(tmp_path))
    (tmp_path / "train" / "n00000999").rmdir()
    with pytest.raises(BadInput, match="has 999 class folders, the set 1000"):
        load("imagenet-1k", "train", str(tmp_path))
