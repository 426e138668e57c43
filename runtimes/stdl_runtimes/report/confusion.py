"""Which class is taken for which: a matrix, or where there are many classes the pairs that are mistaken most."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from stdl_runtimes.picture_data import Confusion
from stdl_runtimes.report import markup
from stdl_runtimes.report.markup import CHARACTER, WIDTH, compact, label, rect

MOST_CLASSES, MOST_PAIRS = 24, 12
LEFT, TOP = 80, 34  # the most room that names of classes take, and that above the matrix


def matrices(confusions: Sequence[Confusion]) -> Iterator[str]:
    """A picture for each matrix: runtimes that predict alike share one."""
    for number, found in enumerate(confusions):
        title = f"{', '.join(found.runtimes)}: {found.data}"
        if len(found.classes) > MOST_CLASSES:
            told, body, height = _pairs(found)
        else:
            told, body, height = _matrix(found)
        yield markup.card(f"confusion {number}", title, told, height, body, note=_summary(found))


def _summary(found: Confusion) -> str:
    total, right = sum(count for *_, count in found.cells), sum(count for a, b, count in found.cells if a == b)
    return f"{right:,} of {total:,} right."


def _matrix(found: Confusion) -> tuple[str, list[str], float]:
    """Rows are labels, columns what was predicted; a cell is the stronger the more of its label it has."""
    classes, longest = found.classes, CHARACTER * max(map(len, found.classes))
    left = min(LEFT, max(44, longest + 10))
    size = (WIDTH - left) / len(classes)
    top = TOP if longest <= size else TOP - 10 + min(LEFT, longest)
    of_class = [sum(count for a, _, count in found.cells if a == each) for each in range(len(classes))]
    body = [label(left, 12, "predicted", "soft"), label(0, 12, "label", "soft")]
    for at, name in enumerate(classes):
        body.append(label(0, top + size * (at + 0.5) + 4, name, most=left - 6))
        x = left + size * (at + 0.5)
        upright = label(x, top - 6, name, "middle")
        body.append(upright if top == TOP else label(x + 4, top - 4, name, most=top - 20, turned=True))
    body.append(rect(left, top, size * len(classes), size * len(classes), "track"))
    for a, b, count in found.cells:
        kind, share = ("first" if a == b else "wrong"), count / max(of_class[a], 1)
        x, y = left + size * b, top + size * a
        body.append(rect(x + 0.5, y + 0.5, size - 1, size - 1, kind, 0.2 + 0.3 * share))
        if size >= CHARACTER * len(compact(count)):
            body.append(label(x + size / 2, y + size / 2 + 4, compact(count), "middle small"))
    return _told(found), body, top + size * len(classes) + 2


def _wrong(found: Confusion) -> list[tuple[int, int, int]]:
    return sorted((cell for cell in found.cells if cell[0] != cell[1]), key=lambda cell: -cell[2])


def _told(found: Confusion) -> str:
    pairs = [f"{found.classes[a]} taken for {found.classes[b]}: {count}" for a, b, count in _wrong(found)]
    more = f"; and {len(pairs) - MOST_PAIRS} more pairs" if len(pairs) > MOST_PAIRS else ""
    return f"{_summary(found)} {'; '.join(pairs[:MOST_PAIRS])}{more}"


def _pairs(found: Confusion) -> tuple[str, list[str], float]:
    """The pairs that are mistaken most, as bars."""
    worst = _wrong(found)[:MOST_PAIRS]
    top = max((count for *_, count in worst), default=1)
    body = [label(0, 12, "label taken for another class, most often first", "soft")]
    for number, (a, b, count) in enumerate(worst):
        y = 24 + 30 * number
        body.append(label(0, y + 9, f"{found.classes[a]} → {found.classes[b]}", most=WIDTH - 50))
        body.append(label(WIDTH, y + 9, f"{count:,}", "end"))
        body.append(rect(0, y + 13, WIDTH * count / top, 7, "wrong"))
    return _told(found), body, 28 + 30 * len(worst)
