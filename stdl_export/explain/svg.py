"""A picture as SVG: what `layout` places, with lines, colours and words. One file that needs nothing else.

Names of files stand in text and titles only, escaped; there is no script and no link in it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from xml.sax.saxutils import escape

from stdl_export.explain.drawing import FAMILIES, Box, Family, Picture
from stdl_export.explain.layout import LANE, Layout, Point, layout

TITLE, TEXT = 12.0, 10.5  # font sizes
LINE = 14.0
MARGIN, INNER, HEADER = 20.0, 16.0, 20.0
PORT = 12.0  # between the ends of edges at one box
LEGEND = 22.0
HEAD, TURN, APART = 6.5, 6.0, 9.0  # of arrows: length of the head, radius into a lane, between two at a side

STYLE = f"""
  text {{ font-family: 'DejaVu Sans', Verdana, Helvetica, Arial, sans-serif; font-size: {TEXT}px; fill: #2b2f3a }}
  .title {{ font-size: {TITLE}px; font-weight: bold }}
  .middle {{ text-anchor: middle }}
  .edge {{ fill: none; stroke: #5a606e; stroke-width: 1.3 }}
  .before {{ stroke-dasharray: 5 3 }}
  .head {{ fill: #5a606e }}
  .part {{ fill: #f7f8fb; stroke: #9aa0b2; stroke-width: 1 }}
"""


@dataclass(frozen=True)
class _Laid:
    """A picture with its layout and the layouts of the sub-graphs in it, by number."""

    picture: Picture
    layout: Layout
    sizes: list[Point]
    inner: dict[int, _Laid]
    ports: dict[tuple[int, bool], float]


def svg(picture: Picture) -> str:
    """The picture as an SVG document."""
    laid = _lay(picture)
    legend = [*_legend(picture)]
    width = 2 * MARGIN + max(laid.layout.width, sum(_legend_width(name) for name, _ in legend))
    height = 2 * MARGIN + laid.layout.height + LEGEND
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}">',
        f"<style>{STYLE}</style>",
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="#ffffff"/>',
        *_part(laid, (MARGIN + (width - 2 * MARGIN - laid.layout.width) / 2, MARGIN)),
        *_drawn_legend(legend, height - MARGIN),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _lay(picture: Picture) -> _Laid:
    inner = {at: _lay(box.inner) for at, box in enumerate(picture.boxes) if box.inner is not None}
    sizes = [_size(box, inner.get(at)) for at, box in enumerate(picture.boxes)]
    edges = [(edge.source, edge.target) for edge in picture.edges]
    placed = layout(sizes, edges, [box.rank for box in picture.boxes])
    return _Laid(picture, placed, sizes, inner, _ports(picture, placed, sizes))


def _size(box: Box, inner: _Laid | None) -> Point:
    title = _text_width(box.title, TITLE * 1.12)
    if inner is not None:
        return (
            max(inner.layout.width, title) + 2 * INNER,
            inner.layout.height + 2 * INNER + HEADER,
        )
    return max(title, *(_text_width(line, TEXT) for line in box.lines)) + 22, LINE * (1 + len(box.lines)) + 10


def _text_width(text: str, font: float) -> float:
    """How wide a text is at most in one of the fonts named, roughly."""
    return sum(font * (1.05 if unicodedata.east_asian_width(letter) in "WF" else 0.62) for letter in text)


# --- a part ---------------------------------------------------------------------------------------------------------


def _part(laid: _Laid, origin: Point) -> Iterator[str]:
    yield f'<g transform="translate({origin[0]:.1f} {origin[1]:.1f})">'
    for at, box in enumerate(laid.picture.boxes):
        (x, y), (width, height) = laid.layout.centres[at], laid.sizes[at]
        left, top = x - width / 2, y - height / 2
        if at in laid.inner:
            yield from _sub_graph(box, laid.inner[at], (left, top), (width, height))
        else:
            yield from _box(box, (left, top), (width, height))
    for at, edge in enumerate(laid.picture.edges):
        line, head = _back(laid, at) if at in laid.layout.back else _down(laid, at)
        kind = "edge before" if edge.before else "edge"
        yield f'<path class="{kind}" d="{line}"/><path class="head" d="{head}"/>'
    yield "</g>"


def _box(box: Box, at: Point, size: Point) -> Iterator[str]:
    (left, top), (width, height) = at, size
    yield f"<g><title>{escape(box.details)}</title>"
    yield (
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}" rx="6" '
        f'fill="{box.family.fill}" stroke="{box.family.stroke}"/>'
    )
    for number, line in enumerate([box.title, *box.lines], start=1):
        kind = "title middle" if number == 1 else "middle"
        yield (
            f'<text class="{kind}" x="{left + width / 2:.1f}" y="{top + 2 + LINE * number:.1f}">{escape(line)}</text>'
        )
    yield "</g>"


def _sub_graph(box: Box, inner: _Laid, at: Point, size: Point) -> Iterator[str]:
    (left, top), (width, height) = at, size
    yield f'<rect class="part" x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}" rx="8"/>'
    yield f'<text class="title" x="{left + 10:.1f}" y="{top + 16:.1f}">{escape(box.title)}</text>'
    yield from _part(inner, (left + (width - inner.layout.width) / 2, top + INNER + HEADER))


# --- edges ----------------------------------------------------------------------------------------------------------


def _down(laid: _Laid, at: int) -> tuple[str, str]:
    """From the bottom of a box, through what lies between, to the top of another; and the head of the arrow."""
    edge, centres, sizes = laid.picture.edges[at], laid.layout.centres, laid.sizes
    (x, y), (to_x, to_y) = centres[edge.source], centres[edge.target]
    begin = x + laid.ports[at, True], y + sizes[edge.source][1] / 2
    end_x, end_y = to_x + laid.ports[at, False], to_y - sizes[edge.target][1] / 2
    head = f"M{end_x:.1f} {end_y:.1f} l-3.5 -7 h7 z"
    below, above = laid.layout.bands[edge.source][1], laid.layout.bands[edge.target][0]
    points = [begin, (begin[0], below), *laid.layout.routes[at], (end_x, above - HEAD), (end_x, end_y - HEAD)]
    return _curve(points), head


def _curve(points: list[Point]) -> str:
    """Through points that are passed vertically."""
    text = [f"M{points[0][0]:.1f} {points[0][1]:.1f}"]
    for (x, y), (to_x, to_y) in pairwise(points):
        if abs(x - to_x) < 0.5:
            text.append(f"L{to_x:.1f} {to_y:.1f}")
        else:
            middle = (y + to_y) / 2
            text.append(f"C{x:.1f} {middle:.1f} {to_x:.1f} {middle:.1f} {to_x:.1f} {to_y:.1f}")
    return " ".join(text)


def _back(laid: _Laid, at: int) -> tuple[str, str]:
    """From the right side of a box up its lane to the right side of another, or of the same; and the arrow's head."""
    edge, centres, sizes, points = laid.picture.edges[at], laid.layout.centres, laid.sizes, laid.layout.routes[at]
    (out_x, out_y), (into_x, into_y) = points[0], points[-1]
    begin_x = centres[edge.source][0] + sizes[edge.source][0] / 2
    end_x = centres[edge.target][0] + sizes[edge.target][0] / 2
    out_y += APART * (out_x - begin_x) / LANE - APART / 2  # each lane has its own place at the side
    into_y -= APART * (into_x - end_x) / LANE - APART / 2
    bands = laid.layout.bands
    middle = [(out_x, bands[edge.source][0]), *points[1:-1], (into_x, bands[edge.target][1])]
    if edge.source == edge.target:
        middle = []
    elif bands[edge.source] == bands[edge.target]:
        over = min(centres[end][1] - sizes[end][1] / 2 for end in (edge.source, edge.target)) - 8
        middle = [(out_x, over), (into_x, over)]
    up = [(out_x, out_y - TURN), *middle, (into_x, into_y + TURN)]
    rest = _curve(up).split(" ", 2)[2]
    first = f"M{begin_x:.1f} {out_y:.1f} Q{out_x:.1f} {out_y:.1f} {out_x:.1f} {out_y - TURN:.1f}"
    last = f"Q{into_x:.1f} {into_y:.1f} {end_x + HEAD:.1f} {into_y:.1f}"
    return f"{first} {rest} {last}", f"M{end_x:.1f} {into_y:.1f} l7 -3.5 v7 z"


def _ports(picture: Picture, laid: Layout, sizes: list[Point]) -> dict[tuple[int, bool], float]:
    """How far from the middle of its boxes each edge begins (number, True) and ends (number, False): one that goes
    straight in the middle, others beside it, so that no two arrows meet.
    """
    at_box: dict[tuple[int, bool], list[tuple[float, int]]] = {}
    for at, edge in enumerate(picture.edges):
        if at in laid.back:
            continue
        route = [laid.centres[edge.source], *laid.routes[at], laid.centres[edge.target]]
        at_box.setdefault((edge.source, True), []).append((route[1][0] - route[0][0], at))
        at_box.setdefault((edge.target, False), []).append((route[-2][0] - route[-1][0], at))
    found = {}
    for (box, leaving), towards in at_box.items():
        most = sizes[box][0] / 2 - 8
        for sign in (1, -1):
            beside = sorted((sign * off, at) for off, at in towards if sign * off >= 1)
            for rank, (_, at) in enumerate(beside, start=0 if len(towards) == 1 else 1):
                found[at, leaving] = sign * min(PORT * rank, most)
        found |= {(at, leaving): 0.0 for off, at in towards if abs(off) < 1}
    return found


# --- legend ---------------------------------------------------------------------------------------------------------


def _legend(picture: Picture) -> Iterator[tuple[str, Family | None]]:
    """Every family that occurs, and dashed edges where there are some."""
    boxes = [*picture.flat()]
    families = {box.family for box in boxes if box.inner is None}
    yield from ((family.name, family) for family in dict.fromkeys(FAMILIES.values()) if family in families)
    parts = [picture, *(box.inner for box in boxes if box.inner is not None)]
    if any(edge.before for part in parts for edge in part.edges):
        yield "the value of the step before", None


def _legend_width(name: str) -> float:
    return _text_width(name, TEXT) + 36


def _drawn_legend(legend: list[tuple[str, Family | None]], y: float) -> Iterator[str]:
    x = MARGIN
    for name, family in legend:
        if family is None:
            yield f'<path class="edge before" d="M{x:.1f} {y - 4:.1f} h22"/>'
        else:
            yield (
                f'<rect x="{x:.1f}" y="{y - 10:.1f}" width="18" height="12" rx="3" '
                f'fill="{family.fill}" stroke="{family.stroke}"/>'
            )
        yield f'<text x="{x + 26:.1f}" y="{y:.1f}">{escape(name)}</text>'
        x += _legend_width(name)
