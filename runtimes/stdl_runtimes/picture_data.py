"""What the report draws beside its tables, as plain data: one sample's spikes, and which class is taken for which."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RasterLayer:
    """A layer's spikes in one sample. shown: the neurons that are drawn, flat and evenly spread over all `neurons`.

    spikes: for each of them the steps in which it spiked. active: of each step, how many of all neurons spiked.
    """

    node: str
    neurons: int
    shown: list[int]
    spikes: list[list[int]]
    active: list[int]


@dataclass(frozen=True)
class Raster:
    """The reference's spikes in one golden sample, in its first `steps` of `timesteps` steps."""

    sample: int
    steps: int
    timesteps: int
    layers: list[RasterLayer]


@dataclass(frozen=True)
class Confusion:
    """Which class the samples have and which they are given, the same in all of `runtimes`.

    classes: the names of those that occur, in their order; cells: (class of the label, class that was predicted, how
    many samples), the classes as indices into `classes`; what did not happen is left out.
    """

    data: str
    runtimes: list[str]
    classes: list[str]
    cells: list[tuple[int, int, int]]
