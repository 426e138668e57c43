"""The cache: a key of every option, stopped builds that go on, two builders at once, damage; augmentation by epoch."""

from __future__ import annotations

import logging
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import platformdirs
import pytest
from event_files import some_events

from stdl_export.common.errors import BadInput
from stdl_export.common.store import cache_root
from stdl_train.data.events import cache as caches
from stdl_train.data.events.cache import Piece, cached
from stdl_train.data.events.events import Sensor
from stdl_train.data.events.frames import augment, to_frames
from stdl_train.data.events.options import EventOptions
from stdl_train.data.events.recordings import Recordings, as_samples

SENSOR = Sensor(12, 9)
ALL = np.arange(20)


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("STDL_CACHE", str(tmp_path / "cache"))


def twenty(stamp=0, count=70, read=None):
    return Recordings(
        name="twenty",
        sensor=SENSOR,
        labels=ALL % 4,
        classes=tuple("abcd"),
        names=[f"r{index}" for index in ALL],
        read=read or (lambda index: some_events(count, index, 12, 9)),
        stamp=[stamp] * 20,
    )


def numbers(wanted):
    return Piece({"values": np.array([[index, index**2] for index in wanted])}, list(wanted), {"odd": len(wanted) % 2})


def test_pieces_are_put_together(tmp_path):
    found = cached("x", {"a": 1}, 10, numbers, per_piece=4)
    assert found.sizes == (4, 4, 2)
    assert found.kept.tolist() == list(range(10))
    assert found.array(2, "values").tolist() == [[8, 64], [9, 81]]
    assert isinstance(found.array(0, "values"), np.memmap)
    assert not list((tmp_path / "cache").glob("*.building"))
    again = cached("x", {"a": 1}, 10, lambda _: pytest.fail("it is there"), per_piece=4)
    assert again.folder == found.folder
    assert cached("x", {"a": 2}, 10, numbers, per_piece=4).folder != found.folder
    assert cached("x", {"a": 1}, 9, numbers, per_piece=4).folder != found.folder


def test_a_stopped_build_goes_on():
    made = []

    def stops(wanted):
        made.append(wanted.start)
        if wanted.start == 8 and made.count(8) == 1:
            raise KeyboardInterrupt
        return numbers(wanted)

    with pytest.raises(KeyboardInterrupt):
        cached("x", {}, 12, stops, per_piece=4)
    found = cached("x", {}, 12, stops, per_piece=4)
    assert made == [0, 4, 8, 8]
    assert found.sizes == (4, 4, 4)


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(path.read_bytes()[:-1]),
                                    lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x07"),
                                    lambda path: path.unlink()])  # fmt: skip
def test_damaged_pieces_are_named_and_built_again(caplog, damage):
    first = cached("x", {}, 12, numbers, per_piece=4)
    damage(first.folder / "00001.values.npy")
    made = []

    def again(wanted):
        made.append(wanted.start)
        return numbers(wanted)

    with caplog.at_level(logging.WARNING):
        found = cached("x", {}, 12, again, per_piece=4)
    assert made == [4]
    assert "piece 00001 is damaged" in caplog.text
    assert found.array(1, "values").tolist() == [[index, index**2] for index in range(4, 8)]


def test_another_process_finishes_first(tmp_path):
    """The winner's files are used, and nothing of the loser's is left."""
    inside = []

    def slower(wanted):
        if not inside:
            inside.append(cached("x", {}, 12, numbers, per_piece=4))
        return numbers(wanted)

    found = cached("x", {}, 12, slower, per_piece=4)
    assert found.folder == inside[0].folder
    assert found.array(2, "values").tolist() == inside[0].array(2, "values").tolist()
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [found.folder.name]


def test_two_processes_build_at_once(tmp_path):
    program = (
        "import sys, time, numpy as np\n"
        "from stdl_train.data.events.cache import Piece, cached\n"
        "def make(wanted):\n"
        "    time.sleep(0.02)\n"
        "    return Piece({'v': np.arange(wanted.start, wanted.stop)}, list(wanted), {})\n"
        "found = cached('x', {}, 40, make, per_piece=2)\n"
        "assert np.concatenate([found.array(i, 'v') for i in range(20)]).tolist() == list(range(40))\n"
    )
    both = [subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE) for _ in range(2)]
    said = [process.communicate(timeout=60)[1].decode() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [""]


def test_every_option_has_its_own_cache(tmp_path):
    variants = [
        {}, {"T": 5}, {"slice": "count"}, {"window": 900}, {"size": (3, 4)}, {"polarity": "merged"}, {"sort": True},
        {"skip_damaged": True},
    ]  # fmt: skip
    for options in variants:
        as_samples(twenty(), "train", EventOptions(**options), None, 0)
    as_samples(twenty(stamp=1), "train", EventOptions(), None, 0)
    as_samples(twenty(), "train", EventOptions(), 7, 0)
    assert len(list((tmp_path / "cache").iterdir())) == len(variants) + 2
    for options in variants:
        samples = as_samples(twenty(), "train", EventOptions(**options), None, 0)
        wanted = to_frames(some_events(70, 13, 12, 9), SENSOR, EventOptions(**options))
        assert np.array_equal(samples.take(np.array([13]))[0], wanted)


def test_a_newer_format_is_another_cache(monkeypatch):
    first = cached("x", {}, 4, numbers)
    monkeypatch.setattr(caches, "FORMAT", 1000)
    assert cached("x", {}, 4, numbers).folder != first.folder


def test_frames_are_read_in_any_order_and_by_workers(monkeypatch):
    samples = as_samples(twenty(), "test", EventOptions(T=3), None, 0)
    frames = samples.take(ALL)
    wanted = np.array([19, 0, 7, 7])
    assert np.array_equal(samples.take(wanted), frames[wanted])
    copy = pickle.loads(pickle.dumps(samples.images))
    assert np.array_equal(copy[wanted], frames[wanted])
    assert np.array_equal(samples.images[2:5], frames[2:5])
    assert samples.images[wanted].dtype == np.uint8


def test_augmentation_is_drawn_by_epoch_and_never_in_tests():
    options = EventOptions(T=3, drop=0.3, jitter_us=20_000.0)
    source = as_samples(twenty(), "train", options, None, 5).images
    first, second = source[ALL], source.for_epoch(1)[ALL]
    assert source.dtype == np.uint8
    assert first.shape == (20, 3, 2, 9, 12)
    assert not np.array_equal(first, second)
    assert np.array_equal(source.for_epoch(1)[ALL[4:6]], second[4:6])
    assert 0.6 < first.sum() / (20 * 70) < 0.8
    generator = np.random.default_rng([5, 1, 4])
    wanted = to_frames(augment(some_events(70, 4, 12, 9), options, generator), SENSOR, options)
    assert np.array_equal(second[4], wanted)
    plain = as_samples(twenty(), "test", options, None, 5).images
    assert plain[ALL].sum() == 20 * 70


def test_frames_of_another_length_use_the_same_events(tmp_path):
    for steps in (3, 6):
        as_samples(twenty(), "train", EventOptions(T=steps, drop=0.1), None, 0)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_hot_pixels_are_said(caplog):
    def hot(index):
        events = some_events(400, index, 12, 9)
        events["x"], events["y"], events["p"] = 3, 4, 1
        return events

    samples = as_samples(twenty(read=hot), "test", EventOptions(T=1), 5, 0)
    assert samples.take(np.arange(5)).max() == 255
    assert "5 counts were above 255" in caplog.text


def test_bad_labels_and_empty_splits():
    bad = twenty()
    object.__setattr__(bad, "labels", np.where(ALL == 6, 4, bad.labels))
    with pytest.raises(BadInput, match="recording 'r6' has label 4, outside 0 to 3"):
        as_samples(bad, "train", EventOptions(), None, 0)
    with pytest.raises(BadInput, match="split is empty"):
        as_samples(twenty().take(np.arange(0)), "train", EventOptions(), None, 0)


def test_where_caches_lie(monkeypatch, tmp_path):
    assert cache_root() == tmp_path / "cache"
    monkeypatch.delenv("STDL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root() == Path(platformdirs.user_cache_dir("stdl-toolchain", appauthor=False))
    if sys.platform == "linux":
        assert cache_root() == tmp_path / "xdg" / "stdl-toolchain"


def test_a_folder_that_cannot_be_written_is_said(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STDL_CACHE", str(tmp_path / "file"))
    with pytest.raises(BadInput, match="set STDL_CACHE"):
        cached("x", {}, 4, numbers)
