"""The layers of a chain: which streams of values they read and put out, and their weights in floats."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stdl_export.chips.maps import Float, Pair, image
from stdl_export.chips.units import Unit
from stdl_export.graph import NodeName

Index = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Stream:
    """A part of what a layer puts out: values of one source.

    index: of each element the place in the source that it carries, -1 where it is always 0; its shape is that of the
    part, (C, H, W) or (N,). step: of an image, it shows every step-th place of the source; phases: which of them, one
    for each group of channels.
    """

    source: NodeName
    index: Index
    step: Pair = (1, 1)
    phases: tuple[Pair, ...] = ((0, 0),)


@dataclass(frozen=True, eq=False)
class Link:
    """One layer of the chain: its unit, the streams that it reads and puts out (its own first), and its weights.

    main: of the unit's own neurons over all streams that it reads, [rows, columns] or a kernel [O, C, kh, kw] with
    stride and begin; relays: the same for the streams that it passes on, 1 where a weight belongs, else 0. recurrent:
    [rows, rows]. bias has the unit's shape. delay: of a matrix by how many further steps each weight is late.
    """

    unit: Unit
    reads: tuple[Stream, ...]
    puts: tuple[Stream, ...]
    main: Float
    relays: Float
    recurrent: Float | None
    bias: Float
    stride: Pair = (1, 1)
    begin: Pair = (0, 0)
    delay: Index | None = None

    @property
    def dense(self) -> bool:
        """Is it a matrix?"""
        return self.main.ndim == 2

    @property
    def hosts(self) -> bool:
        """Does it carry anything for others?"""
        return bool(len(self.relays))


def whole(path: NodeName, shape: tuple[int, ...]) -> Stream:
    """All that a source puts out, as it is."""
    size = image(shape) if len(shape) > 1 else shape
    return Stream(path, np.arange(math.prod(shape)).reshape(size))


def sizes(link: Link) -> tuple[int, ...]:
    """The shape of everything that a layer puts out, its own neurons and those it carries."""
    if link.dense:
        return (len(link.main) + len(link.relays),)
    return (len(link.main) + len(link.relays), *image(link.unit.shape)[1:])
