"""AEDAT 2, 3.1 and 4 -> events.

Versions 2 and 3.1 are decoded here: tonic 1.7 fails on jAER's headers, reads 3.1 packets of other kinds as events and
knows no recordings of a day (the overflow of timestamps). Version 4 is read by the `aedat` package, as tonic does.
Formats as iniVation documents them; addresses of version 2 as jAER's chip classes take them apart.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stdl_train.data.events.events import BadRecording, Events, Sensor, make_events
from stdl_train.data.events.libraries import library

Words = npt.NDArray[Any]
PACKET = struct.Struct("<HHIIIIII")  # type, source, size, offset of the timestamp, overflow, capacity, number, valid
POLARITY = 1


@dataclass(frozen=True)
class Chip:
    """How an AEDAT 2 address is laid out: (shift, bits) of x and y; bit of the polarity and what it is for brighter."""

    sensor: Sensor
    x: tuple[int, int]
    y: tuple[int, int]
    polarity: int
    brighter: int
    others: int
    """Bits that are set where it is not an event: frames, inertial samples, triggers."""


DAVIS = {"x": (12, 10), "y": (22, 9), "polarity": 11, "brighter": 1, "others": 1 << 31 | 1 << 10}
CHIPS = {
    "DVS128": Chip(Sensor(128, 128), x=(1, 7), y=(8, 7), polarity=0, brighter=0, others=1 << 15),
    "Davis240": Chip(Sensor(240, 180), **DAVIS),  # type: ignore[arg-type]
    "Davis346": Chip(Sensor(346, 260), **DAVIS),  # type: ignore[arg-type]
}
"""By a part of what the header calls AEChip. x and y count from the lower right corner, as jAER mirrors them."""


def read_aedat(path: Path, sensor: Sensor) -> Events:
    """Events of an AEDAT file of any of the three versions, by what its first line says."""
    with path.open("rb") as file:
        first = file.read(20)
    if first.startswith(b"#!AER-DAT4"):
        return _read_4(path, sensor)
    content = path.read_bytes()
    version = re.match(rb"#!AER-DAT([\d.]+)", content)
    if version and version[1].startswith(b"2"):
        return _read_2(content, sensor)
    if version and version[1].startswith(b"3.1"):
        return _read_3(content, sensor)
    raise BadRecording("its first line is none of #!AER-DAT2.0, #!AER-DAT3.1 and #!AER-DAT4.0")


def _read_2(content: bytes, sensor: Sensor) -> Events:
    header = re.match(rb"(?:#[\t\x20-\x7e]*\r?\n)+", content)
    end = header.end() if header else 0
    chip = _chip(content[:end].decode("ascii"))
    if (len(content) - end) % 8:
        raise BadRecording("it is truncated: its last event is not whole")
    words = np.frombuffer(content, dtype=">u4", offset=end).reshape(-1, 2).astype(np.int64)
    address, times = words[(words[:, 0] & chip.others) == 0].T
    x, y = (address >> shift & (1 << bits) - 1 for shift, bits in (chip.x, chip.y))
    brighter = (address >> chip.polarity & 1) == chip.brighter
    return make_events(times, chip.sensor.width - 1 - x, chip.sensor.height - 1 - y, brighter, sensor)


def _chip(header: str) -> Chip:
    line = re.search(r"AEChip: *(\S+)", header)
    for name, chip in CHIPS.items():
        if line and name.lower() in line[1].lower():
            return chip
    said = f"says {line[1]}" if line else "says none"
    raise BadRecording(f"AEDAT 2 needs a header line 'AEChip' with one of {', '.join(CHIPS)}, this one {said}")


def _read_3(content: bytes, sensor: Sensor) -> Events:
    mark = content.find(b"#!END-HEADER\r\n")
    if mark < 0:
        raise BadRecording("its header has no end (#!END-HEADER)")
    place, columns = mark + len(b"#!END-HEADER\r\n"), [np.zeros((3, 0), dtype=np.int64)]
    while place < len(content):
        if place + PACKET.size > len(content):
            raise BadRecording("it is truncated: its last packet has no whole header")
        kind, _, size, _, overflow, capacity, number, _ = PACKET.unpack_from(content, place)
        place += PACKET.size
        if place + size * capacity > len(content) or number > capacity:
            raise BadRecording("it is truncated: its last packet is not whole")
        if kind == POLARITY and size == 8:
            columns.append(_polarity(np.frombuffer(content, "<u4", 2 * number, place).reshape(-1, 2), overflow))
        place += size * capacity
    data, times, _ = np.concatenate(columns, axis=1)
    return make_events(times, data >> 17, data >> 2 & 0x7FFF, data >> 1 & 1, sensor)


def _polarity(words: Words, overflow: int) -> npt.NDArray[np.int64]:
    """[3, n] data, time in us, 1: only events that are marked valid (bit 0)."""
    valid = words[(words[:, 0] & 1) == 1].astype(np.int64)
    return np.stack([valid[:, 0], valid[:, 1] + (overflow << 31), np.ones(len(valid), dtype=np.int64)])


def _read_4(path: Path, sensor: Sensor) -> Events:
    aedat = library("aedat", "AEDAT 4")
    try:
        decoder = aedat.Decoder(str(path))
        streams = [number for number, stream in decoder.id_to_stream().items() if stream["type"] == "events"]
        if not streams:
            raise BadRecording("it has no stream of events")
        packets = [packet["events"] for packet in decoder if packet["stream_id"] == min(streams)]
    except (OSError, ValueError, RuntimeError) as error:
        raise BadRecording(f"it cannot be decoded ({error})") from None
    if not packets:
        raise BadRecording("it holds no events")
    events = np.concatenate(packets)
    return make_events(events["t"], events["x"], events["y"], events["on"], sensor)
