"""Prophesee's DAT, EVT 2.0 and EVT 3.0 (`.dat`, `.raw`) -> events.

DAT and EVT 2.0 are read by expelliarmus. EVT 3.0 is decoded here: expelliarmus 1.1.12 adds 4096 us wherever the low
part of the time is smaller after a new high part, and its writer leaves high parts out.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stdl_train.data.events.events import BadRecording, Events, Sensor, make_events
from stdl_train.data.events.libraries import library

Whole = npt.NDArray[np.int64]
ADDRESS_Y, ADDRESS_X, BASE_X, VECTOR_12, VECTOR_8, TIME_LOW, TIME_HIGH = 0x0, 0x2, 0x3, 0x4, 0x5, 0x6, 0x8
"""Kinds of EVT 3.0 words, in their highest four bits; other kinds are triggers and the like."""


def read_dat(path: Path, sensor: Sensor) -> Events:
    """DAT: a header of lines with %, two bytes, then events of 8 bytes."""
    header = _header(path)
    if (path.stat().st_size - len(header) - 2) % 8:
        raise BadRecording("it is truncated: its last event is not whole")
    return _expelliarmus("dat", path, sensor)


def read_raw(path: Path, sensor: Sensor) -> Events:
    """EVT 2.0 or 3.0, as the header says."""
    header = _header(path)
    version = re.search(rb"%\s*(?:evt\s+|format\s+EVT)([23])", header)
    if not version:
        raise BadRecording("its header says neither evt 2.0 nor evt 3.0")
    word = 4 if version[1] == b"2" else 2
    if (path.stat().st_size - len(header)) % word:
        raise BadRecording("it is truncated: its last word is not whole")
    if word == 4:
        return _expelliarmus("evt2", path, sensor)
    return _decode_3(np.fromfile(path, dtype="<u2", offset=len(header)).astype(np.int64), sensor)


def _header(path: Path) -> bytes:
    """All lines at the beginning that start with %."""
    with path.open("rb") as file:
        header = b""
        while (line := file.readline(4096)).startswith(b"%") and line.endswith(b"\n"):
            header += line
            if line.strip() == b"% end":
                break
    return header


def _expelliarmus(encoding: str, path: Path, sensor: Sensor) -> Events:
    expelliarmus = library("expelliarmus", f"a '{path.suffix}' recording")
    try:
        events: Any = expelliarmus.Wizard(encoding=encoding, fpath=path).read()
    except (ValueError, RuntimeError) as error:
        raise BadRecording(f"it cannot be decoded ({error})") from None
    if events is None:
        raise BadRecording("it holds no events")
    return make_events(events["t"], events["x"], events["y"], events["p"], sensor)


def _decode_3(words: Whole, sensor: Sensor) -> Events:
    """One word a time part, a row, a pixel, or the pixels of a row as bits; each holds until the next of its kind."""
    kind, value = words >> 12, words & 0xFFF
    times = _times(kind, value)
    y = _latest(value & 0x7FF, kind == ADDRESS_Y)
    width = np.select([kind == VECTOR_12, kind == VECTOR_8], [12, 8], 0)
    before = np.cumsum(width) - width
    base = _latest(value - before, kind == BASE_X)  # bit 11 of it is the polarity
    origin = np.where(kind == ADDRESS_X, value, base + before)
    bits = np.where(kind == ADDRESS_X, 1, np.where(width > 0, value & (1 << width) - 1, 0))
    word, bit = np.nonzero(bits[:, None] >> np.arange(12) & 1)
    known = _latest(np.ones_like(value), kind == TIME_LOW) & _latest(np.ones_like(value), kind == ADDRESS_Y)
    word, bit = word[known[word] == 1], bit[known[word] == 1]
    polarity = _latest(value >> 11, (kind == ADDRESS_X) | (kind == BASE_X))
    x = (origin - (polarity << 11))[word] + bit
    return make_events(times[word], x, y[word], polarity[word], sensor)


def _times(kind: Whole, value: Whole) -> Whole:
    """Microseconds at each word: 12 low bits, 12 high bits, and how often these began again."""
    high = kind == TIME_HIGH
    highs = value[high]
    turned = np.concatenate([[0], np.cumsum(np.diff(highs) < -0x800)])[: len(highs)]
    whole = np.zeros_like(value)
    whole[high] = highs + (turned << 12)
    latest_high = _latest(whole, high)
    changed = np.zeros(len(value), dtype=bool)
    changed[1:] = latest_high[1:] != latest_high[:-1]
    low = _latest(np.where(changed, 0, value), (kind == TIME_LOW) | changed)
    return (latest_high << 12) + low


def _latest(value: Whole, here: npt.NDArray[np.bool_]) -> Whole:
    """At each place the value of the last place marked `here`, 0 before the first."""
    place = np.maximum.accumulate(np.where(here, np.arange(len(value)), -1))
    return np.where(place >= 0, value[place], 0)
