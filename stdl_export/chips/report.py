"""What a network needs of a chip, layer by layer, against what the chip has: a table, a picture and plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any
from xml.sax.saxutils import escape

BAR, ROW, NAME, NUMBER = 150, 22, 150, 92  # sizes in the picture
LETTERS = 22  # of a name
FITS, FULL, OVER = "#2f7d5b", "#b7791f", "#b83232"


@dataclass(frozen=True)
class LayerUse:
    """One layer on the chip.

    what: in words, "conv 3x3, stride 2". synapses: connections that carry a weight, shared kernels counted at every
    place. memory: bits of weights as they are stored. fan_in: the most synapses of a neuron. cores: how many, or which,
    where the chip's tools are known to decide it so; None where they are not.
    """

    name: str
    what: str
    neurons: int
    synapses: int
    memory: int
    fan_in: int
    cores: str | None = None


@dataclass(frozen=True)
class Use:
    """One resource: how much of it is taken. `estimate`: the chip's own tools decide it, and may decide otherwise."""

    name: str
    used: float
    limit: float
    unit: str = ""
    estimate: bool = False

    @property
    def fits(self) -> bool:
        """Is there enough?"""
        return self.used <= self.limit


@dataclass(frozen=True)
class Mapping:
    """A network on a chip. `remarks`: what the numbers do not say."""

    chip: str
    layers: tuple[LayerUse, ...]
    uses: tuple[Use, ...]
    remarks: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Is there enough of everything?"""
        return all(use.fits for use in self.uses)

    @property
    def data(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @property
    def table(self) -> list[str]:
        """Lines of text, one a layer and one a resource."""
        rows = [HEADER, *(_cells(layer) for layer in self.layers)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
        lines = ["  ".join(_placed(cell, width, at) for at, (cell, width) in enumerate(zip(row, widths, strict=True)))
                 for row in rows]  # fmt: skip
        return [*(line.rstrip() for line in lines), *(_sentence(use) for use in self.uses), *self.remarks]

    def svg(self) -> str:
        """The same as a picture: a bar for every layer's neurons and synapses, and one for every resource."""
        return _svg(self)


HEADER = ("layer", "what", "neurons", "synapses", "weights KiB", "fan-in", "cores")


def _cells(layer: LayerUse) -> tuple[str, ...]:
    memory = f"{layer.memory / 8192:,.1f}"
    numbers = (f"{layer.neurons:,}", f"{layer.synapses:,}", memory, f"{layer.fan_in:,}")
    return (layer.name, layer.what, *numbers, layer.cores or "-")


def _placed(cell: str, width: int, at: int) -> str:
    return cell.ljust(width) if at < 2 else cell.rjust(width)


def _sentence(use: Use) -> str:
    unit = f" {use.unit}" if use.unit else ""
    about = ", an estimate" if use.estimate else ""
    verdict = "" if use.fits else ": TOO MUCH"
    share = f"{use.used / use.limit:.1%}"
    return f"{use.name}: {_number(use.used)} of {_number(use.limit)}{unit} ({share}){about}{verdict}"


def _number(value: float) -> str:
    """Whole numbers whole, others short."""
    return f"{value:,.0f}" if value == int(value) else f"{value:,.6g}"


def _svg(mapping: Mapping) -> str:
    """Text takes the colour of the page it stands in, so the picture is readable in light and dark."""
    width = NAME + 2 * (BAR + NUMBER) + 30
    height = ROW * (len(mapping.layers) + len(mapping.uses) + 5)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="12" fill="currentColor" color="#777">',
        _text(8, ROW, f"{mapping.chip}: what each layer takes"),
        _text(NAME, 2 * ROW, "neurons"), _text(NAME + BAR + NUMBER, 2 * ROW, "synapses"),
    ]  # fmt: skip
    most = [
        max((getattr(layer, field) for layer in mapping.layers), default=1) or 1 for field in ("neurons", "synapses")
    ]
    for at, layer in enumerate(mapping.layers):
        y = ROW * (3 + at)
        parts.append(_text(8, y, _short(layer.name)))
        for column, (value, largest) in enumerate(zip((layer.neurons, layer.synapses), most, strict=True)):
            parts += _bar(NAME + column * (BAR + NUMBER), y, value / largest, f"{value:,}", FITS)
    for at, use in enumerate(mapping.uses):
        y = ROW * (4 + len(mapping.layers) + at)
        share = use.used / use.limit
        parts.append(_text(8, y, _short(use.name)))
        colour = OVER if share > 1 else FULL if share > 0.8 else FITS
        parts += _bar(
            NAME, y, min(share, 1), f"{_number(use.used)} of {_number(use.limit)} {use.unit} ({share:.0%})", colour
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _short(name: str) -> str:
    """A name that ends before the bars begin."""
    return name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}\u2026"


def _bar(x: int, y: int, share: float, text: str, colour: str) -> Sequence[str]:
    frame = f'<rect x="{x}" y="{y - 11}" width="{BAR}" height="14" fill="none" stroke="currentColor" opacity="0.4"/>'
    full = f'<rect x="{x}" y="{y - 11}" width="{max(BAR * share, 1):.1f}" height="14" fill="{colour}"/>'
    return frame, full, _text(x + BAR + 6, y, text)


def _text(x: int, y: int, text: str) -> str:
    return f'<text x="{x}" y="{y}">{escape(text)}</text>'
