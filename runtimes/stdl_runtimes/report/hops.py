"""The way from the trained network to the device: each hop with how many outputs are the same behind it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stdl_runtimes.report import markup
from stdl_runtimes.report.markup import WIDTH, compact, label, line
from stdl_runtimes.results import Hop

ROW, DOT, INDENT = 40, 6, 16  # between two stations, radius of one, and how far a branch is moved in ...
DEEPEST = 6  # ... at most so many times


def way(hops: Sequence[Hop]) -> Iterator[str]:
    """One picture: a station below the other, each moved in below the one that it is compared with."""
    if hops:
        told = "; ".join(f"{hop.before} to {hop.after}: {_said(hop)}" for hop in hops)
        stations = _stations(hops)
        title, height = "From the trained network to the device", ROW * len(stations) + 4
        yield markup.card("way", title, told, height, _drawn(stations))


def _said(hop: Hop) -> str:
    return f"{compact(hop.same)} of {compact(hop.samples)} same, {'checks hold' if hop.passed else 'a check failed'}"


@dataclass(frozen=True)
class Station:
    """A place on the way; `before`: the one it is compared with, and `hop`, what came of that. None where it begins."""

    name: str
    row: int
    depth: int
    before: Station | None = None
    hop: Hop | None = None

    @property
    def x(self) -> float:
        """Of its dot."""
        return DOT + 2 + INDENT * min(self.depth, DEEPEST)

    @property
    def y(self) -> float:
        """Of its dot."""
        return ROW * self.row + 16


def _stations(hops: Sequence[Hop]) -> list[Station]:
    """In the order of the picture: below each station all that is compared with it."""
    arrived = {hop.after for hop in hops}
    found: list[Station] = []

    def visit(station: Station) -> None:
        found.append(station)
        for hop in hops:
            if hop.before == station.name and len(found) <= 2 * len(hops):  # names may lead round in a circle
                visit(Station(hop.after, len(found), station.depth + 1, station, hop))

    for name in dict.fromkeys(hop.before for hop in hops if hop.before not in arrived):
        visit(Station(name, len(found), 0))
    return found


def _drawn(stations: Sequence[Station]) -> Iterator[str]:
    for each in stations:
        if each.before is not None:
            yield line(f"M{each.before.x:.1f} {each.before.y + DOT}V{each.y}H{each.x - DOT:.1f}", "axis")
    for each in stations:
        yield from _station(each)


def _station(each: Station) -> Iterator[str]:
    room, passed = WIDTH - each.x - 14, each.hop is None or each.hop.passed
    kind, sign = ("first", "") if each.hop is None else ("good", "✓ ") if passed else ("bad", "✗ ")
    yield f'<circle cx="{each.x:.1f}" cy="{each.y}" r="{DOT}" class="{kind}"/>'
    yield label(each.x + 12, each.y + 4, f"{sign}{each.name}", most=room)
    if each.hop is not None:
        rest = "the same, checks hold" if passed and each.hop.same < each.hop.samples else "outputs the same"
        said = f"{compact(each.hop.same)} of {compact(each.hop.samples)} {rest}"
        yield label(each.x + 12, each.y + 19, said, "soft" if passed else "bad-ink", most=room)
