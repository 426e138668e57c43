"""Pieces of HTML and SVG. Whatever comes in as text is escaped here: names are those of untrusted files."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable

WIDTH = 340  # of every picture, in its own units: about a phone's width, so that text keeps its size there
POWERS = "kMGTP"
CHARACTER = 7.2  # width of a letter of a picture's text in the widest of common fonts, about


def text(value: object) -> str:
    """Escaped."""
    return html.escape(str(value))


def slug(value: str) -> str:
    """An id: letters and digits as they are, all else by number, so that no two names share one."""
    return "".join(each if each.isascii() and each.isalnum() else f"-{ord(each):x}-" for each in value)


def cards(pictures: Iterable[str]) -> str:
    """Pictures beside each other where there is room."""
    inside = "\n".join(pictures)
    return f'<div class="cards">{inside}</div>' if inside else ""


def card(name: str, title: str, description: str, height: float, body: Iterable[str], note: str = "") -> str:
    """A picture WIDTH wide with its caption. description: what it shows, for those who do not see it."""
    ids = slug(name)
    below = f'<p class="note">{text(note)}</p>' if note else ""
    return (
        f"<figure><figcaption>{text(title)}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-labelledby="{ids}-t {ids}-d">'
        f'<title id="{ids}-t">{text(title)}</title><desc id="{ids}-d">{text(description)}</desc>'
        f"{''.join(body)}</svg>{below}</figure>"
    )


def label(x: float, y: float, value: object, kind: str = "", most: float | None = None, turned: bool = False) -> str:
    """Text in a picture. kind: classes, of which `end` and `middle` align. most: the room it has; cut to that. turned:
    from the bottom up.
    """
    full = str(value)
    shown = full if most is None else shortened(full, int(most / CHARACTER))
    whole = f"<title>{text(full)}</title>" if shown != full else ""
    classes = f' class="{kind}"' if kind else ""
    up = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{classes}{up}>{whole}{text(shown)}</text>'


def shortened(value: str, most: int) -> str:
    """At most so many characters: of a path the end says more than the beginning, so the middle goes."""
    if len(value) <= most:
        return value
    front = (most - 1) // 3
    return f"{value[:front]}…{value[len(value) - (most - 1 - front) :]}"


def rect(x: float, y: float, width: float, height: float, kind: str, opacity: float | None = None) -> str:
    """A box; kind: its class, which gives the colour."""
    faint = "" if opacity is None else f' fill-opacity="{opacity:.3f}"'
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{height:.1f}" class="{kind}"{faint}/>'


def line(path: str, kind: str) -> str:
    """A path that is drawn, not filled."""
    return f'<path d="{path}" class="{kind}"/>'


def ticks(low: float, high: float, most: int = 4) -> list[float]:
    """Round numbers from low to high, at most so many."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low]
    step = 10 ** math.floor(math.log10((high - low) / most))
    step = next(step * factor for factor in (1, 2, 5, 10, 20) if (high - low) / (step * factor) <= most)
    first = math.ceil(low / step)
    return [number * step for number in range(first, math.floor(high / step) + 1)]


def brief(value: float) -> str:
    """Three digits; none behind the point where there are that many before it."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == 0 else f"{value:.3g}"


def compact(value: int) -> str:
    """A whole number in a few characters: from 10,000 on three digits, and how many thousands there are."""
    if abs(value) < 10_000:
        return f"{value:,}"
    scaled, power = float(value), 0
    while abs(scaled) >= 999.5 and power < len(POWERS):
        scaled, power = scaled / 1000, power + 1
    digits = f"{scaled:.0f}" if abs(scaled) >= 99.95 else f"{scaled:.3g}"
    return f"{digits}{POWERS[power - 1]}"
