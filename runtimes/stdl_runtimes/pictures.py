"""Makes `picture_data` of what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from stdl_runtimes.base import Spikes
from stdl_runtimes.metrics import Integers
from stdl_runtimes.picture_data import Confusion, Raster, RasterLayer

MOST_NEURONS, MOST_STEPS = 64, 400  # of a layer that are drawn: more is a grey field on any screen


def raster(spikes: Mapping[str, Spikes], sample: int, at: int) -> Raster | None:
    """Of spikes [T, B, ...] by node, those of one sample; at: that sample's number. None where nothing spikes."""
    layers = [_layer(node, each[:, sample].reshape(len(each), -1) != 0) for node, each in spikes.items()]
    if not layers:
        return None
    timesteps = len(next(iter(spikes.values())))
    return Raster(at, min(timesteps, MOST_STEPS), timesteps, layers)


def _layer(node: str, fired: np.ndarray) -> RasterLayer:
    """fired: [T, neurons]."""
    neurons = fired.shape[1]
    shown = np.unique(np.linspace(0, neurons - 1, min(neurons, MOST_NEURONS)).round().astype(int))
    fired = fired[:MOST_STEPS]
    spikes = [np.flatnonzero(fired[:, neuron]).tolist() for neuron in shown]
    return RasterLayer(node, neurons, shown.tolist(), spikes, fired.sum(axis=1).tolist())


def confusions(
    data: str, labels: Integers | None, predicted: Mapping[str, Integers | None], names: Sequence[str] | None
) -> list[Confusion]:
    """A matrix for all runtimes that predict alike; classes [B] by runtime. None where labels are not known."""
    known = {runtime: classes for runtime, classes in predicted.items() if classes is not None}
    if labels is None or not known:
        return []
    numbers = np.unique(np.concatenate([labels, *known.values()]))
    found: dict[tuple[tuple[int, int, int], ...], list[str]] = {}
    for runtime, each in known.items():
        pairs, counts = np.unique(np.stack([labels, each]), axis=1, return_counts=True)
        true, given = (np.searchsorted(numbers, row).tolist() for row in pairs)
        found.setdefault(tuple(zip(true, given, counts.tolist(), strict=True)), []).append(runtime)
    classes = [_name(int(number), names) for number in numbers]
    return [Confusion(data, runtimes, classes, list(cells)) for cells, runtimes in found.items()]


def _name(number: int, names: Sequence[str] | None) -> str:
    return names[number] if names and 0 <= number < len(names) else str(number)
