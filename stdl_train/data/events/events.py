"""Events as one structured array, the sensor they come from, and what can be wrong with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

EVENT = np.dtype([("t", "<i8"), ("x", "<u2"), ("y", "<u2"), ("p", "u1")])
"""t: microseconds, ascending; x: column, y: row, from the top left; p: 1 brighter, 0 darker."""

Events = npt.NDArray[Any]  # of dtype EVENT, [n]


class BadRecording(Exception):
    """What is wrong with a recording, as a clause; whoever knows its name makes a BadInput of it."""


@dataclass(frozen=True)
class Sensor:
    """Pixels and polarities; a row of units (SHD) has height 1."""

    width: int
    height: int
    polarities: int = 2


def make_events(t: Any, x: Any, y: Any, p: Any, sensor: Sensor) -> Events:
    """Events from columns of any number type; BadRecording where a value is not possible on this sensor.

    Checked before the cast to unsigned numbers, which would wrap a negative value into a possible one. Order in time
    is not checked here (`in_order`).
    """
    columns = {name: np.asarray(column) for name, column in (("t", t), ("x", x), ("y", y), ("p", p))}
    if len({column.shape for column in columns.values()}) != 1 or columns["t"].ndim != 1:
        raise BadRecording(f"t, x, y and p have shapes {[column.shape for column in columns.values()]}, not one")
    if not len(columns["t"]):
        raise BadRecording("it holds no events")
    for name, column in columns.items():
        if column.dtype.kind not in "iufb" or (column.dtype.kind == "f" and not np.isfinite(column).all()):
            raise BadRecording(f"{name} holds values that are not numbers")
    _within("timestamp", columns["t"], 2**62, "us")
    _within("x", columns["x"], sensor.width, f"pixels of the sensor ({sensor.width}x{sensor.height})")
    _within("y", columns["y"], sensor.height, f"pixels of the sensor ({sensor.width}x{sensor.height})")
    _within("polarity", columns["p"], sensor.polarities, "polarities")
    events = np.empty(len(columns["t"]), dtype=EVENT)
    for name, column in columns.items():
        events[name] = column
    return events


def in_order(events: Events, sort: bool) -> Events:
    """Events in the order of time; BadRecording where they are not and `sort` is not asked for."""
    back = np.flatnonzero(events["t"][1:] < events["t"][:-1])
    if not len(back):
        return events
    if sort:
        return events[np.argsort(events["t"], kind="stable")]
    first = int(back[0])
    before, after = int(events["t"][first]), int(events["t"][first + 1])
    raise BadRecording(
        f"event {first + 1} is at {after} us after one at {before} us, and {len(back) - 1} more go back in time "
        "(sort = true puts them in order)"
    )


def _within(what: str, column: npt.NDArray[Any], limit: int, of: str) -> None:
    wrong = np.flatnonzero((column < 0) | (column >= limit))
    if len(wrong):
        raise BadRecording(f"event {wrong[0]} has {what} {column[wrong[0]]}, outside 0 to {limit - 1} {of}")
