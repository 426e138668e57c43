"""What parity means, in numbers: layers one by one against the reference, then the whole network against golden.

"The same spikes up to rounding" is judged per neuron: a potential that lies within the flip margin of its threshold may
fall on either side (a tie), any other spike that differs is a flip. A whole deep network is never compared spike by
spike: one tie becomes a hundred differences further on. So single layers get the reference's spikes as their input, and
of whole networks the spike counts, the outputs and the predictions are compared.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stdl_runtimes.base import Array, Spikes
from stdl_runtimes.metrics import Integers

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Flips:
    """Spikes of one layer that differ: `flips` with no rounding to explain them, `ties` next to the threshold."""

    flips: int
    ties: int


def layer_flips(expected: Spikes, found: Spikes, margins: Array, flip_margin: float) -> Flips:
    """Compare a layer that was fed with the same input, all [T, B, ...].

    A neuron that once fell on the other side of a tie keeps another potential from then on. So each neuron is judged by
    the first step that differs: was that a tie, its later differences follow from it; else all of them are flips.
    """
    return _flips(expected != found, _first_is_a_tie(expected != found, margins, flip_margin))


def loop_flips(
    expected: Mapping[str, Spikes], found: Mapping[str, Spikes], margins: Mapping[str, Array], flip_margin: float
) -> dict[str, Flips]:
    """Compare the layers of one loop (those of `expected`), which ran as a whole on the same input, all [T, B, ...].

    A spike that differs reaches every neuron of the loop. So a sample is judged by the first step in which anything in
    the loop differs: was there a tie among that, all differences follow from it; else all of them are flips.
    """
    tied = _first_of_loop_is_a_tie(expected, found, margins, flip_margin)
    return {node: _flips(spikes != found[node], _like(tied, spikes)) for node, spikes in expected.items()}


def loop_of(node: str, sources: Mapping[str, Iterable[str]]) -> list[str]:
    """The layers on a loop with this one, itself included, in the order of `sources`; none where it is on no loop."""
    return [other for other in sources if other in sources[node] and node in sources[other]]


def _flips(differs: Flags, tied: Flags) -> Flips:
    """differs [T, B, ...]; tied [B, ...]: what differs follows from a tie."""
    tied = tied & differs.any(axis=0)
    return Flips(flips=int((differs & ~tied).sum()), ties=int(tied.sum()))


def _first_is_a_tie(differs: Flags, margins: Array, flip_margin: float) -> Flags:
    """Neurons [B, ...] that were at a tie in the first step that differs (step 0 of those that never differ)."""
    first = differs.argmax(axis=0)[None]  # [1, B, ...]
    tied: Flags = np.take_along_axis(margins, first, axis=0)[0] <= flip_margin
    return tied


def _first_of_loop_is_a_tie(
    expected: Mapping[str, Spikes], found: Mapping[str, Spikes], margins: Mapping[str, Array], flip_margin: float
) -> Flags:
    """Samples [B] in which some neuron was at a tie among those that differ in the first step that differs."""
    differs = {node: spikes != found[node] for node, spikes in expected.items()}
    ties = {node: flags & (margins[node] <= flip_margin) for node, flags in differs.items()}
    any_differs, any_tie = (
        np.any([flags.reshape(*flags.shape[:2], -1).any(axis=2) for flags in each.values()], axis=0)
        for each in (differs, ties)
    )  # [T, B] each
    tied: Flags = np.take_along_axis(any_tie, any_differs.argmax(axis=0)[None], axis=0)[0]
    return tied


def _like(flags: Flags, spikes: Spikes) -> Flags:
    """[B] -> [B, 1, ...], to broadcast against [T, B, ...]."""
    return flags.reshape(-1, *[1] * (spikes.ndim - 2))


@dataclass(frozen=True)
class GoldenFlips:
    """By layer what differs from golden, and the samples [B] that differ from a tie on: no difference is a flip."""

    layers: dict[str, Flips]
    tied: Flags


def golden_flips(
    expected: Mapping[str, Integers],
    found: Mapping[str, Integers],
    margins: Mapping[str, Array],
    flip_margin: float,
    sources: Mapping[str, Iterable[str]],
    batch: int,
) -> GoldenFlips:
    """Compare the reference's spike counts [B, ...] with golden ones, where no layer can be run by itself.

    A neuron with another count either had a tie, or something before it differed; then its sample says nothing about
    the layers behind. So a difference is a flip where the neuron had no tie and, in this sample, all layers before it
    have equal counts and no ties. margins: [T, B, ...]; sources: the spiking nodes before each node, which come first
    in `expected`, except on a loop, where every layer is before every other.
    """
    layers: dict[str, Flips] = {}
    doubtful = {  # node -> [B], samples in which its output, or something before it, may differ
        node: _any_in_sample((count != found[node]) | (margins[node] <= flip_margin).any(axis=0))
        for node, count in expected.items()
    }
    differing, flipped = np.zeros(batch, dtype=np.bool_), np.zeros(batch, dtype=np.bool_)
    for node, count in expected.items():
        differs, tied = count != found[node], (margins[node] <= flip_margin).any(axis=0)
        before = _before(node, doubtful, sources, batch)
        clear = ~before.reshape(-1, *[1] * (count.ndim - 1))
        layers[node] = Flips(flips=int((differs & ~tied & clear).sum()), ties=int((differs & tied & clear).sum()))
        doubtful[node] |= before
        differing |= _any_in_sample(differs)
        flipped |= _any_in_sample(differs & ~tied & clear)
    return GoldenFlips(layers, differing & ~flipped)


def differ_from_a_tie_on(
    expected: Mapping[str, Spikes],
    found: Mapping[str, Spikes],
    margins: Mapping[str, Array],
    flip_margin: float,
    sources: Mapping[str, Iterable[str]],
    batch: int,
) -> Flags:
    """Samples [B] whose spikes [T, B, ...] differ, each first difference being a tie; all that follows comes from it.

    A difference is a first one where no layer before it differs in this sample, and judged at the neuron's first step
    that differs; on a loop at the loop's. sources: the spiking nodes before each node, which come first in `expected`,
    except on a loop.
    """
    upset = {  # node -> [B], samples in which its output, or something before it, differs
        node: _any_in_sample((spikes != found[node]).any(axis=0)) for node, spikes in expected.items()
    }
    differing, flipped = np.zeros(batch, dtype=np.bool_), np.zeros(batch, dtype=np.bool_)
    for node, spikes in expected.items():
        differs, loop = spikes != found[node], loop_of(node, sources)
        if loop:
            mine = {name: expected[name] for name in loop}
            tied = _like(_first_of_loop_is_a_tie(mine, found, margins, flip_margin), spikes)
        else:
            tied = _first_is_a_tie(differs, margins[node], flip_margin)
        own = differs.any(axis=0)
        before = _before(node, upset, sources, batch, but=loop)
        upset[node] |= before
        differing |= upset[node]
        flipped |= _any_in_sample(own & ~tied) & ~before
    return differing & ~flipped


def matching(expected: Array, found: Array, tolerance: float) -> Flags:
    """Which samples [B] have the same outputs [T, B, ...] at every step, up to a part of the largest."""
    same: Flags = _off(expected, found) <= np.float32(tolerance)  # false for NaN
    return same


def deviation(expected: Mapping[str, Array], found: Mapping[str, Array]) -> Array:
    """By how much the outputs of each sample [B] are off at most, relative to the largest; infinite for NaN."""
    off = np.stack([_off(y, found[name]) for name, y in expected.items()])  # [Outputs, B]
    worst: Array = np.where(np.isnan(off), np.inf, off).max(axis=0)
    return worst


def _off(expected: Array, found: Array) -> Array:
    scale = np.maximum(np.float32(1), np.abs(expected).max(initial=0))
    off: Array = np.abs(expected - found).swapaxes(0, 1).reshape(expected.shape[1], -1).max(axis=1, initial=0) / scale
    return off


def all_match(expected: Mapping[str, Array], found: Mapping[str, Array], tolerance: float) -> Flags:
    """Which samples [B] have the same outputs, of every Output, up to a part of its largest."""
    same: Flags = deviation(expected, found) <= np.float32(tolerance)
    return same


def count_difference(expected: Integers, found: Integers) -> int:
    """Spikes too many plus spikes too few, over all samples and neurons."""
    return int(np.abs(expected.astype(np.int64) - found).sum())


def _before(
    node: str,
    flags: Mapping[str, Flags],
    sources: Mapping[str, Iterable[str]],
    batch: int,
    but: Collection[str] = (),
) -> Flags:
    """Samples [B] that are flagged in any other layer before a node, `but` those."""
    before = np.zeros(batch, dtype=np.bool_)
    for source in sources[node]:
        if source != node and source not in but:
            before |= flags[source]
    return before


def _any_in_sample(flags: Flags) -> Flags:
    """[B, ...] -> [B]."""
    return np.asarray(flags.reshape(len(flags), -1).any(axis=1))
