"""Every format, written byte by byte, read through the library or our decoder, and what is wrong with broken files."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from event_files import (
    some_events,
    write_aedat2,
    write_aedat3,
    write_aedat4,
    write_bin,
    write_dat,
    write_evt2,
    write_evt3,
)

from stdl_train.data.events.events import BadRecording, Sensor
from stdl_train.data.events.readers import Format, read_hdf5, read_npy, reader

DAVIS = Sensor(346, 260)


def read(path, sensor):
    return reader(path.suffix, Format())(path, sensor)


def needs(*modules):
    for module in modules:
        pytest.importorskip(module, reason=f"{module} is not installed")


def same(found, wanted):
    for name in ("t", "x", "y", "p"):
        assert found[name].tolist() == wanted[name].tolist(), name


@pytest.mark.parametrize(
    ("name", "write", "module", "size", "duration"),
    [
        ("a.bin", write_bin, "tonic", (34, 34), 300_000),
        ("a.aedat", write_aedat2, None, (346, 260), 2**31 + 10),
        ("a.aedat", write_aedat3, None, (346, 260), 2**31 - 10),
        ("a.aedat4", write_aedat4, "aedat", (346, 260), 2**40),
        ("a.dat", write_dat, "expelliarmus", (640, 480), 2**31),
        ("a.raw", write_evt2, "expelliarmus", (640, 480), 2**30),
        ("a.raw", write_evt3, None, (640, 480), 30_000),
        ("a.RAW", write_evt3, None, (640, 480), 2**23),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_every_format(tmp_path, name, write, module, size, duration, seed):
    needs(*filter(None, [module]))
    events = some_events(60, seed, *size, duration)
    same(read(write(tmp_path / name, events), Sensor(*size)), events)


def test_the_first_dvs(tmp_path):
    events = some_events(40, 3, 128, 128)
    path = write_aedat2(tmp_path / "a.aedat", events, "ch.unizh.ini.jaer.chip.retina.DVS128", (128, 128))
    same(read(path, Sensor(128, 128)), events)


def test_evt3_times_begin_again(tmp_path):
    """The 24 bits of time last 16.8 s; after that the high part starts from 0."""
    events = some_events(200, 0, 640, 480, 3 * 2**24)
    same(read(write_evt3(tmp_path / "a.raw", events), Sensor(640, 480)), events)


def test_evt3_low_time_is_0_from_a_new_high_part_on(tmp_path):
    words = [0x2001, 0x8001, 0x6388, 0x0002, 0x2803, 0x8001, 0x2004, 0x8002, 0x2805, 0x6007, 0x2006]
    (tmp_path / "a.raw").write_bytes(b"% evt 3.0\n% end\n" + np.array(words, dtype="<u2").tobytes())
    found = read(tmp_path / "a.raw", Sensor(640, 480))
    assert found["t"].tolist() == [5000, 5000, 8192, 8199]  # nothing is known yet at the first word
    assert found["x"].tolist() == [3, 4, 5, 6]
    assert found["p"].tolist() == [1, 0, 1, 0]


def test_aedat3_timestamps_overflow(tmp_path):
    events = some_events(20)
    found = read(write_aedat3(tmp_path / "a.aedat", events, overflow=2), Sensor(34, 34))
    assert (found["t"] - events["t"]).tolist() == [2 << 31] * 20


def test_bin_times_go_on_after_an_overflow(tmp_path):
    """An event in row 240 adds 2^13 us to all that follow, as tonic and the set's authors have it."""
    needs("tonic")
    events = some_events(4)
    events["t"], events["y"][1] = [5, 6, 7, 8], 240
    found = read(write_bin(tmp_path / "a.bin", events), Sensor(34, 34))
    assert found["t"].tolist() == [5, 7 + 8192, 8 + 8192]


def test_npy(tmp_path):
    events = some_events()
    np.save(tmp_path / "named.npy", events)
    same(read(tmp_path / "named.npy", Sensor(34, 34)), events)
    plain = np.stack([events["x"], events["y"], events["p"], events["t"] // 1000], axis=1).astype(np.int64)
    np.save(tmp_path / "plain.npy", plain)
    found = read_npy(tmp_path / "plain.npy", Sensor(34, 34), Format("xypt", "ms"))
    assert found["t"].tolist() == (events["t"] // 1000 * 1000).tolist()
    assert found["x"].tolist() == events["x"].tolist()
    with pytest.raises(BadRecording, match="say their order"):
        read(tmp_path / "plain.npy", Sensor(34, 34))
    np.save(tmp_path / "object.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(BadRecording, match=r"no whole \.npy"):
        read(tmp_path / "object.npy", Sensor(34, 34))


@pytest.mark.parametrize("group", ["events/", ""])
def test_hdf5(tmp_path, group):
    events = some_events()
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file[f"{group}ts"] = events["t"] * 1e-6
        file[f"{group}xs"], file[f"{group}ys"] = events["x"], events["y"]
        file[f"{group}ps"] = events["p"].astype(np.int8) * 2 - 1
    same(read_hdf5(tmp_path / "a.h5", Sensor(34, 34), Format(unit="s")), events)


def test_hdf5_links_are_not_followed(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        for name in "txyp":
            file[name] = [1, 2]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name in "xyp":
            file[name] = [1, 2]
        file["t"] = h5py.ExternalLink("other.h5", "/t")
    with pytest.raises(BadRecording, match="no column t or ts"):
        read(tmp_path / "a.h5", Sensor(34, 34))


@pytest.mark.parametrize(
    ("name", "write", "module"),
    [
        ("a.bin", write_bin, None),
        ("a.aedat", write_aedat2, None),
        ("a.aedat", write_aedat3, None),
        ("a.aedat4", write_aedat4, "aedat"),
        ("a.dat", write_dat, None),
        ("a.raw", write_evt2, None),
        ("a.raw", write_evt3, None),
    ],
)
def test_truncated_files_are_noticed(tmp_path, name, write, module):
    needs(*filter(None, [module]))
    path = write(tmp_path / name, some_events())
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(BadRecording, match=r"truncated|cannot be decoded"):
        read(path, DAVIS)


@pytest.mark.parametrize("suffix", [".aedat", ".aedat4", ".dat", ".raw", ".bin", ".npy", ".h5"])
@pytest.mark.parametrize("content", [b"", b"#!AER-DAT4.0\r\nnothing", b"% evt 3.0\n", b"\x93NUMPY", bytes(400)])
def test_rubbish_is_refused_in_one_line(tmp_path, suffix, content):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    if suffix == ".aedat4" or content.startswith(b"#!AER-DAT4"):
        needs("aedat")
    if suffix in (".bin", ".dat") and _whole_events(suffix, content):
        return  # any bytes are events there
    with pytest.raises(BadRecording) as problem:
        read(path, DAVIS)
    assert "\n" not in str(problem.value)


def _whole_events(suffix, content):
    return content and (len(content) % 5 == 0 if suffix == ".bin" else (len(content) - 2) % 8 == 0)


def test_wrong_headers_are_named(tmp_path):
    (tmp_path / "a.aedat").write_bytes(b"#!AER-DAT2.0\r\n# AEChip: Tobi\r\n" + bytes(8))
    with pytest.raises(BadRecording, match=r"this one says Tobi"):
        read(tmp_path / "a.aedat", DAVIS)
    (tmp_path / "a.raw").write_bytes(b"% evt 4.0\n" + bytes(8))
    with pytest.raises(BadRecording, match=r"neither evt 2\.0 nor evt 3\.0"):
        read(tmp_path / "a.raw", DAVIS)
    events = some_events(5, 0, 346, 260)
    with pytest.raises(BadRecording, match="x 345, outside 0 to 127"):
        read(write_aedat3(tmp_path / "b.aedat", events), Sensor(128, 260))
