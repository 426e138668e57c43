"""tonic's data sets and folders of recordings, from small files in the layout that each set has on disk."""

from __future__ import annotations

import sys

import h5py
import numpy as np
import pytest
from event_files import some_events, write_aedat4, write_bin

from stdl_export.common.errors import BadInput, Unavailable
from stdl_train.data.events.events import Sensor
from stdl_train.data.events.folder import event_folder
from stdl_train.data.events.frames import to_frames
from stdl_train.data.events.options import EventOptions
from stdl_train.data.events.sets import cifar10_dvs, divide, dvs_gesture, n_caltech101, n_mnist, shd


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("STDL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def tonic():
    return pytest.importorskip("tonic", reason="tonic is not installed")


def write_n_mnist(root, labels=(3, 0, 7, 3), seed=0):
    written = {}
    for split in ("Train", "Test"):
        for index, label in enumerate(labels):
            events = some_events(50, seed + index + 10 * (split == "Test"))
            path = root / "NMNIST" / split / str(label) / f"{index + 1:05}.bin"
            written[write_bin(path, events).relative_to(root / "NMNIST").as_posix()] = events
    return written


def frames_of(events, sensor, **options):
    return to_frames(events, sensor, EventOptions(**options))


def test_n_mnist(tmp_path, tonic):
    written = write_n_mnist(tmp_path)
    for split, folder in (("train", "Train"), ("test", "Test")):
        samples = n_mnist(split, str(tmp_path), T=6)
        assert samples.images.shape == (4, 6, 2, 34, 34)
        assert samples.labels.tolist() == [0, 3, 3, 7]
        assert samples.classes[3] == "3 - three"
        names = sorted(name for name in written if name.startswith(folder))
        for frames, name in zip(samples.take(np.arange(4)), names, strict=True):
            assert np.array_equal(frames, frames_of(written[name], Sensor(34, 34), T=6))
    again = n_mnist("test", str(tmp_path / "NMNIST"), T=6)
    assert np.array_equal(again.take(np.arange(4)), samples.take(np.arange(4)))


def test_dvs_gesture(tmp_path, tonic):
    for split in ("Train", "Test"):
        folder = tmp_path / "DVSGesture" / f"ibmGesture{split}" / "user01_fluorescent"
        folder.mkdir(parents=True)
        for label in (10, 0, 4):
            events = some_events(80, label, 128, 128)
            plain = np.stack([events["x"], events["y"], events["p"], events["t"] // 1000], axis=1)
            np.save(folder / f"{label}.npy", plain.astype(np.float64))
    samples = dvs_gesture("test", str(tmp_path), T=5, size=[32, 32])
    assert samples.images.shape == (3, 5, 2, 32, 32)
    assert samples.labels.tolist() == [0, 10, 4]  # in the order of the files' names
    assert samples.classes[0] == "Hand clapping"
    events = some_events(80, 10, 128, 128)
    events["t"] = events["t"] // 1000 * 1000
    wanted = frames_of(events, Sensor(128, 128), T=5, size=(32, 32))
    assert np.array_equal(samples.take(np.array([1]))[0], wanted)
    np.save(tmp_path / "DVSGesture" / "ibmGestureTest" / "user01_fluorescent" / "11.npy", np.ones((2, 4)))
    with pytest.raises(BadInput, match=r"11\.npy' has label 11, outside 0 to 10"):
        dvs_gesture("test", str(tmp_path))


def test_cifar10_dvs(tmp_path, tonic):
    pytest.importorskip("aedat", reason="aedat is not installed")
    for name in tonic.datasets.CIFAR10DVS.classes:
        for index in range(5):
            path = tmp_path / "CIFAR10DVS" / name / f"cifar10_{name}_{index}.aedat4"
            write_aedat4(path, some_events(40, index, 128, 128), size=(128, 128))
    train, test = (cifar10_dvs(split, str(tmp_path), T=4, test_share=0.2) for split in ("train", "test"))
    assert train.images.shape == (40, 4, 2, 128, 128)
    assert np.bincount(test.labels).tolist() == [1] * 10
    assert test.classes[:2] == ("airplane", "automobile")
    pool = [frames_of(some_events(40, index, 128, 128), Sensor(128, 128), T=4) for index in range(5)]
    for frames in train.take(np.arange(8)):
        assert sum(np.array_equal(frames, each) for each in pool) == 1


def test_n_caltech101(tmp_path, tonic):
    for name in ("BACKGROUND_Google", "accordion", "yin_yang"):
        for index in range(10):
            events = some_events(30, index, 100, 80)
            write_bin(tmp_path / "NCALTECH101" / "Caltech101" / name / f"image_{index:04}.bin", events)
    train, test = (n_caltech101(split, str(tmp_path), T=3, size=[45, 60]) for split in ("train", "test"))
    assert train.images.shape == (24, 3, 2, 45, 60)
    assert train.classes == ("BACKGROUND_Google", "accordion", "yin_yang")
    assert np.bincount(test.labels).tolist() == [2, 2, 2]
    other = n_caltech101("test", str(tmp_path), T=3, size=[45, 60], split_seed=1)
    assert not np.array_equal(other.take(np.arange(6)), test.take(np.arange(6)))


def write_shd(root, labels=(0, 19, 7), units=(0, 699)):
    rng = np.random.default_rng(0)
    spikes = []
    for split in ("train", "test"):
        (root / "SHD").mkdir(exist_ok=True)
        with h5py.File(root / "SHD" / f"shd_{split}.h5", "w") as file:
            times = file.create_dataset("spikes/times", (len(labels),), dtype=h5py.vlen_dtype(np.float16))
            places = file.create_dataset("spikes/units", (len(labels),), dtype=h5py.vlen_dtype(np.uint16))
            spikes = []
            for index in range(len(labels)):
                spikes.append((rng.random(90).astype(np.float16), rng.integers(units[0], units[1] + 1, 90)))
                times[index], places[index] = spikes[-1]
            file["labels"] = np.array(labels, dtype=np.uint16)
            names = ["zero", "eins"] * 10
            file.create_dataset("extra/keys", data=np.array(names, dtype="S4"))
            file["extra/speaker"] = np.zeros(len(labels), dtype=np.uint16)
    return spikes


def test_shd(tmp_path, tonic):
    spikes = write_shd(tmp_path)
    samples = shd("test", str(tmp_path), T=8, window=125_000)
    assert samples.images.shape == (3, 8, 1, 1, 700)
    assert samples.labels.tolist() == [0, 19, 7]
    assert samples.classes[:2] == ("zero", "eins")
    for frames, (times, units) in zip(samples.take(np.arange(3)), spikes, strict=True):
        wanted, us = np.zeros((8, 700)), (times.astype(np.float64) * 1e6).astype(int)
        for t, unit in zip(us, units, strict=True):
            if (frame := (t - us.min()) // 125_000) < 8:
                wanted[frame, unit] += 1
        assert np.array_equal(frames[:, 0, 0], wanted)
    with pytest.raises(BadInput, match=r"recording 'shd_test.h5 \d': event \d+ is at .* \(sort = true"):
        shd("test", str(tmp_path), sort=False)
    write_shd(tmp_path, units=(690, 700))
    with pytest.raises(BadInput, match=r"x 700, outside 0 to 699"):
        shd("test", str(tmp_path))


@pytest.mark.parametrize("dataset", [n_mnist, dvs_gesture, cifar10_dvs, n_caltech101, shd])
def test_what_is_missing_is_said_with_the_command_that_gets_it(tmp_path, dataset):
    with pytest.raises(BadInput, match=r"data\.path=FOLDER: download it with: python -c \"import tonic; "):
        dataset("train")
    with pytest.raises(BadInput, match=rf"no .* in '{tmp_path}/.*: download it with: .*\('{tmp_path}'"):
        dataset("train", str(tmp_path))


def test_a_truncated_recording_is_named_and_left_out_only_when_asked(tmp_path, tonic, caplog):
    write_n_mnist(tmp_path)
    path = tmp_path / "NMNIST" / "Train" / "3" / "00001.bin"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(BadInput, match=r"recording 'Train/3/00001\.bin': it is truncated.*skip_damaged = true"):
        n_mnist("train", str(tmp_path))
    for _ in range(2):  # also said where it is read from the cache
        caplog.clear()
        samples = n_mnist("train", str(tmp_path), skip_damaged=True)
        assert samples.labels.tolist() == [0, 3, 7]
        assert "1 of 4 recordings are damaged and left out" in caplog.text
    path.write_bytes(b"")
    with pytest.raises(BadInput, match="it holds no events"):
        n_mnist("train", str(tmp_path))
    write_bin(path, some_events(9, 0, 36, 34))
    with pytest.raises(BadInput, match="x 35, outside 0 to 33"):
        n_mnist("train", str(tmp_path))
    events = some_events(9)
    write_bin(path, events[::-1])
    with pytest.raises(BadInput, match=r"go back in time \(sort = true"):
        n_mnist("train", str(tmp_path))
    assert len(n_mnist("train", str(tmp_path), sort=True).labels) == 4


def test_a_truncated_file_of_all_recordings_is_said(tmp_path, tonic):
    write_shd(tmp_path)
    path = tmp_path / "SHD" / "shd_test.h5"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(BadInput, match=r"data set 'shd' in .* \(.*truncated file"):
        shd("test", str(tmp_path))


def test_a_missing_library_is_said(tmp_path, monkeypatch):
    write_n_mnist(tmp_path)
    monkeypatch.setitem(sys.modules, "tonic", None)
    with pytest.raises(Unavailable, match=r"data set 'n-mnist' needs tonic \(.*\): pip install tonic"):
        n_mnist("test", str(tmp_path))


def write_folder(root, parts=("",)):
    for part in parts:
        for label, name in enumerate(("left", "right")):
            folder = root / part / name
            folder.mkdir(parents=True)
            for index in range(6):
                np.save(folder / f"{index}.npy", some_events(40, 10 * label + index, 30, 20))
            (folder / "notes.txt").write_text("not a recording")
            (folder / ".hidden.npy").write_text("not a recording")


def test_a_folder_of_recordings(tmp_path):
    write_folder(tmp_path / "a")
    options = {"sensor": [20, 30], "T": 4, "test_share": 0.5}
    train, test = (event_folder(split, str(tmp_path / "a"), **options) for split in ("train", "test"))
    assert train.images.shape == test.images.shape == (6, 4, 2, 20, 30)
    assert train.classes == ("left", "right")
    everything = np.concatenate([train.take(np.arange(6)), test.take(np.arange(6))])
    assert len({frames.tobytes() for frames in everything}) == 12
    write_folder(tmp_path / "b", ("train", "test"))
    assert len(event_folder("train", str(tmp_path / "b"), **options).labels) == 12


def test_wrong_folders_are_named(tmp_path):
    for path, message in ((None, "needs a folder"), ("nowhere", "does not exist"), ("", "no recordings in")):
        with pytest.raises(BadInput, match=message):
            event_folder("train", None if path is None else str(tmp_path / path), sensor=[20, 30])
    with pytest.raises(BadInput, match="'sensor' is missing"):
        event_folder("train", str(tmp_path))
    write_folder(tmp_path / "a")
    with pytest.raises(BadInput, match=r"left/0\.npy': event 1 has x 29, outside 0 to 9"):
        event_folder("train", str(tmp_path / "a"), sensor=[20, 10])


def test_a_split_is_drawn_by_class_and_has_no_overlap():
    labels = np.repeat([0, 1, 2], [10, 20, 40])
    train, test = divide(labels, "train", 0.1, 0), divide(labels, "test", 0.1, 0)
    assert np.bincount(labels[test]).tolist() == [1, 2, 4]
    assert sorted([*train, *test]) == list(range(70))
    assert not np.array_equal(test, divide(labels, "test", 0.1, 1))
