"""Small recordings in the layout that each format has on disk, written byte by byte, apart from what reads them."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from stdl_train.data.events.events import EVENT


def some_events(count=60, seed=0, width=34, height=34, duration=300_000):
    """Events of a sensor, in order of time, with both corners among them."""
    rng = np.random.default_rng(seed)
    events = np.empty(count, dtype=EVENT)
    events["t"] = np.sort(rng.integers(0, duration, count))
    events["x"], events["y"] = rng.integers(0, width, count), rng.integers(0, height, count)
    events["x"][:2], events["y"][:2] = (0, width - 1), (0, height - 1)
    events["p"] = rng.integers(0, 2, count)
    return events


def write_bin(path: Path, events) -> Path:
    """N-MNIST: x, y, then polarity and 23 bits of time, most significant first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = b"".join(bytes([x, y, p << 7 | t >> 16 & 0x7F, t >> 8 & 0xFF, t & 0xFF]) for t, x, y, p in events.tolist())
    path.write_bytes(rows)
    return path


def write_aedat2(path: Path, events, chip="eu.seebetter.ini.chips.davis.Davis346blue", size=(346, 260)) -> Path:
    """jAER's: big-endian pairs of address and time; DAVIS with a frame and a trigger among them."""
    header = (
        f"#!AER-DAT2.0\r\n# This is a raw AE data file\r\n# Creation time: 15 System.nanoTime()\r\n# AEChip: {chip}\r\n"
    )
    body = b""
    for t, x, y, p in events.tolist():
        x, y = size[0] - 1 - x, size[1] - 1 - y
        davis = "davis" in chip.lower()
        address = y << 22 | x << 12 | p << 11 if davis else y << 8 | x << 1 | (1 - p)
        body += struct.pack(">II", address, t)
        if davis:
            body += struct.pack(">II", 1 << 31 | address, t) + struct.pack(">II", 1 << 10 | address, t)
    path.write_bytes(header.encode() + body)
    return path


def write_aedat3(path: Path, events, per_packet=13, overflow=0) -> Path:
    """cAER's: packets of polarity events, between them special events of another kind, and invalid events."""
    content = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: DAVIS346\r\n#!END-HEADER\r\n"
    content += struct.pack("<HHIIIIII", 0, 1, 8, 4, 0, 1, 1, 1) + struct.pack("<II", 1 | 1 << 1, 0)
    for start in range(0, len(events), per_packet):
        part = events[start : start + per_packet].tolist()
        content += struct.pack("<HHIIIIII", 1, 1, 8, 4, overflow, len(part) + 1, len(part) + 1, len(part))
        for t, x, y, p in part:
            content += struct.pack("<II", x << 17 | y << 2 | p << 1 | 1, t)
        content += struct.pack("<II", 5 << 17 | 5 << 2, part[-1][0])
    path.write_bytes(content)
    return path


def write_aedat4(path: Path, events, per_packet=25, size=(346, 260)) -> Path:
    """DV's: a size-prefixed flatbuffer with an XML description, then packets, each a size-prefixed flatbuffer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    place = "/mainloop/Recorder/outInfo/0/"
    description = (
        '<dv version="2.0"><node name="outInfo" path="/mainloop/Recorder/outInfo/"><node name="0" path="'
        f'{place}"><attr key="compression" type="string">NONE</attr>'
        '<attr key="originalOutputName" type="string">events</attr>'
        '<attr key="typeDescription" type="string">Array of events (polarity ON/OFF).</attr>'
        f'<attr key="typeIdentifier" type="string">EVTS</attr><node name="info" path="{place}info/">'
        f'<attr key="sizeX" type="int">{size[0]}</attr><attr key="sizeY" type="int">{size[1]}</attr>'
        '<attr key="source" type="string">DAVIS346</attr></node></node></node></dv>'
    )
    content = b"#!AER-DAT4.0\r\n" + _io_header(description)
    for start in range(0, len(events), per_packet):
        packet = _packet(events[start : start + per_packet])
        content += struct.pack("<ii", 0, len(packet)) + packet
    path.write_bytes(content)
    return path


def _io_header(description: str) -> bytes:
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    text = builder.CreateString(description)
    builder.StartObject(3)  # the place of the table of data stays -1: not there, as in a recording that was cut short
    builder.PrependUOffsetTRelativeSlot(2, text, 0)
    builder.FinishSizePrefixed(builder.EndObject(), b"IOHE")
    return bytes(builder.Output())


def _packet(events) -> bytes:
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.StartVector(16, len(events), 8)
    for t, x, y, p in reversed(events.tolist()):
        builder.Prep(8, 16)
        builder.Pad(3)
        builder.PrependBool(bool(p))
        builder.PrependInt16(y)
        builder.PrependInt16(x)
        builder.PrependInt64(t)
    elements = builder.EndVector()
    builder.StartObject(1)
    builder.PrependUOffsetTRelativeSlot(0, elements, 0)
    builder.FinishSizePrefixed(builder.EndObject(), b"EVTS")
    return bytes(builder.Output())


def write_dat(path: Path, events) -> Path:
    """Prophesee's DAT: two words an event."""
    rows = [value for t, x, y, p in events.tolist() for value in (t, p << 28 | y << 14 | x)]
    header = b"% Data file containing CD events.\n% Version 2\n% Width 640\n% Height 480\n"
    path.write_bytes(header + bytes([12, 8]) + np.array(rows, dtype="<u4").tobytes())
    return path


def write_evt2(path: Path, events) -> Path:
    """One word an event, before it one with the high part of the time where that changes."""
    words, high = [], -1
    for t, x, y, p in events.tolist():
        if t >> 6 != high:
            high = t >> 6
            words.append(0x8 << 28 | high)
        words.append(p << 28 | (t & 0x3F) << 22 | x << 11 | y)
    path.write_bytes(b"% evt 2.0\n% geometry 640x480\n" + np.array(words, dtype="<u4").tobytes())
    return path


def write_evt3(path: Path, events, end=b"") -> Path:
    """A word for each part that changes; every other event as a vector with one bit."""
    words, before = [], [-1] * 3
    for index, (t, x, y, p) in enumerate(events.tolist()):
        for place, (kind, value) in enumerate(((0x8, t >> 12 & 0xFFF), (0x6, t & 0xFFF), (0x0, y))):
            if before[place] != value:
                before[place] = value
                words.append(kind << 12 | value)
                if place == 0:
                    before[1] = -1  # a low part follows each high part
        first = max(0, x - 12 - index % 5)  # base; skip 12 pixels in an empty vector where there are that many
        if index % 2:
            words.append(0x2 << 12 | p << 11 | x)
        elif x - first >= 12:
            words += [0x3 << 12 | p << 11 | first, 0x4 << 12, 0x5 << 12 | 1 << x - first - 12]
        else:
            words += [0x3 << 12 | p << 11 | first, 0x4 << 12 | 1 << x - first]
    path.write_bytes(b"% evt 3.0\n% geometry 640x480\n" + end + np.array(words, dtype="<u2").tobytes())
    return path
