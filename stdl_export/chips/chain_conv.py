"""A layer of a chain as a convolution over all that it reads, and what it carries for others in phases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stdl_export.chips.base import Refusal, Refused
from stdl_export.chips.links import Link, Stream, whole
from stdl_export.chips.maps import Float, Kernel, Map, Pair, image, placed
from stdl_export.chips.units import Unit
from stdl_export.graph import NodeName

MOST_WEIGHTS = 1 << 29
"""Of a whole chain, zeros of relays included: the file, and the network that is checked against it, fit into memory."""


def too_many(unit: Unit, weights: int) -> Refusal:
    """A chain that has become too large to be written, at this unit."""
    value = f"{weights:,} with those of the layers before, relays of skip connections included"
    way_out = "make the network narrower (model.options.widths), or have fewer skip connections"
    return Refusal(unit.path, "the number of weights", value, f"at most {MOST_WEIGHTS:,} in a file", way_out)


def conv(unit: Unit, state: Sequence[Stream], kept: Sequence[Stream], later: Sequence[Unit]) -> Link | None:
    """The unit as a convolution over all streams; None where it or what it must carry is none."""
    if unit.recurrent is not None or unit.delayed or len(unit.shape) < 2:
        return None
    mains = []
    for stream in state:
        wanted = unit.sources.get(stream.source)
        part = None if wanted is None else _on_stream(wanted, stream)
        if wanted is not None and part is None:
            return None
        mains.append(part)
    strides = {part.stride for part in mains if part is not None}
    if len(strides) != 1:
        return None
    stride, size = strides.pop(), image(unit.shape)[1:]
    carried = [_carried(stream, stride, size, later) for stream in kept]
    if any(each is None for each in carried):
        return None
    relays = [each for each in carried if each is not None]
    begin, canvas = _canvas([part for part in mains if part is not None], relays, state, stride, size)
    rows_of = image(unit.shape)[0] + sum(len(relay.stream.index) for relay in relays)
    channels = sum(stream.index.shape[0] for stream in state)
    if (weights := rows_of * channels * canvas[0] * canvas[1]) > MOST_WEIGHTS:
        raise Refused(too_many(unit, weights))
    main = [_part(part, stream, begin, canvas, image(unit.shape)[0]) for part, stream in zip(mains, state, strict=True)]
    rows = [_relay_rows(relay, state, begin, canvas) for relay in relays]
    weight = np.concatenate(rows) if rows else np.zeros((0, channels, *canvas))
    puts = (whole(unit.path, unit.shape), *(relay.stream for relay in relays))
    bias = unit.bias.reshape(image(unit.shape))
    return Link(unit, tuple(state), puts, np.concatenate(main, axis=1), weight, None, bias, stride, begin)


def _on_stream(wanted: Map, stream: Stream) -> Kernel | None:
    """A kernel on a source as one on what a stream shows of it; None where there is none."""
    kernel = wanted.kernel
    if kernel is None or stream.index.ndim != 3:
        return None
    if any(s % f for s, f in zip(kernel.stride, stream.step, strict=True)):
        return None
    channels, places = kernel.weight.shape[1], {phase: at for at, phase in enumerate(stream.phases)}
    begin = tuple(-(-b // f) for b, f in zip(kernel.begin, stream.step, strict=True))
    kinds = zip(kernel.weight.shape[2:], kernel.begin, stream.step, begin, strict=True)
    reach = tuple((k - 1 - b) // f + p + 1 for k, b, f, p in kinds)
    weight = np.zeros((len(kernel.weight), channels * len(places), *reach))
    for a, b in np.ndindex(kernel.weight.shape[2:]):
        taps = kernel.weight[:, :, a, b]
        if not taps.any():
            continue
        (i, d), (j, e) = (divmod(t - p, f) for t, p, f in zip((a, b), kernel.begin, stream.step, strict=True))
        at = places[d, e] * channels
        weight[:, at : at + channels, i + begin[0], j + begin[1]] += taps
    stride = (kernel.stride[0] // stream.step[0], kernel.stride[1] // stream.step[1])
    return Kernel(weight, stride, (begin[0], begin[1]), kernel.size)


@dataclass(frozen=True, eq=False)
class _Relay:
    """A stream to be put out, and for each of its phases the phase of `before` and the tap that it is read from."""

    before: Stream
    stream: Stream
    taps: tuple[tuple[int, Pair], ...]


def _carried(stream: Stream, stride: Pair, size: tuple[int, ...], later: Sequence[Unit]) -> _Relay | None:
    """What is left of a stream behind a convolution, in the phases that later units read; None if places are lost."""
    if stream.index.ndim != 3:
        return None
    step = (stream.step[0] * stride[0], stream.step[1] * stride[1])
    phases = _phases(stream.source, step, later)
    channels = stream.index.shape[0] // len(stream.phases)
    groups, taps = [], []
    for phase in phases:
        old = (phase[0] % stream.step[0], phase[1] % stream.step[1])
        if old not in stream.phases:
            return None
        place = stream.phases.index(old)
        tap = ((phase[0] - old[0]) // stream.step[0], (phase[1] - old[1]) // stream.step[1])
        shown = stream.index[place * channels : (place + 1) * channels, tap[0] :: stride[0], tap[1] :: stride[1]]
        if shown.shape[1] > size[0] or shown.shape[2] > size[1]:
            return None  # the layer's image is too small for it
        group = np.full((channels, *size), -1)
        group[:, : shown.shape[1], : shown.shape[2]] = shown
        groups.append(group)
        taps.append((place, tap))
    return _Relay(stream, Stream(stream.source, np.concatenate(groups), step, tuple(phases)), tuple(taps))


def _phases(source: NodeName, step: Pair, later: Sequence[Unit]) -> list[Pair]:
    """Which phases of a source anybody reads later; all, of a matrix or a kernel that does not move by whole steps."""
    found: set[Pair] = set()
    for unit in later:
        if source in unit.delayed:
            return [(d, e) for d in range(step[0]) for e in range(step[1])]
        if source not in unit.sources:
            continue
        kernel = unit.sources[source].kernel
        if kernel is None or any(s % f for s, f in zip(kernel.stride, step, strict=True)):
            return [(d, e) for d in range(step[0]) for e in range(step[1])]
        for a, b in np.ndindex(kernel.weight.shape[2:]):
            if kernel.weight[:, :, a, b].any():
                found.add(((a - kernel.begin[0]) % step[0], (b - kernel.begin[1]) % step[1]))
    return sorted(found)


def _canvas(
    mains: Sequence[Kernel], relays: Sequence[_Relay], state: Sequence[Stream], stride: Pair, size: tuple[int, ...]
) -> tuple[Pair, Pair]:
    """Zeros in front and size of a kernel that holds all weights and makes an image of just this size: the format pads
    both sides alike, and rounds the size down.
    """
    found = []
    for axis in (0, 1):
        length = state[0].index.shape[1 + axis]
        begin = max(0, *(part.begin[axis] for part in mains))
        while True:
            ends = [part.weight.shape[2 + axis] + begin - part.begin[axis] for part in mains]
            ends += [tap[axis] + begin + 1 for relay in relays for _, tap in relay.taps]
            fits = length + 2 * begin - stride[axis] * (size[axis] - 1)
            if fits >= max(ends):
                # The smallest kernel with which no further place fits at the end.
                found.append((begin, max(*ends, fits - stride[axis] + 1)))
                break
            begin += 1
    return (found[0][0], found[1][0]), (found[0][1], found[1][1])


def _part(part: Kernel | None, stream: Stream, begin: Pair, canvas: Pair, outputs: int) -> Float:
    if part is None:
        return np.zeros((outputs, stream.index.shape[0], *canvas))
    return placed(part, begin, canvas)


def _relay_rows(relay: _Relay, state: Sequence[Stream], begin: Pair, canvas: Pair) -> Float:
    """A tap of 1 for each channel that is passed on."""
    first = 0
    for stream in state:
        if stream is relay.before:
            break
        first += stream.index.shape[0]
    channels = relay.before.index.shape[0] // len(relay.before.phases)
    total = sum(stream.index.shape[0] for stream in state)
    rows = np.zeros((channels * len(relay.taps), total, *canvas))
    for group, (place, tap) in enumerate(relay.taps):
        for c in range(channels):
            rows[group * channels + c, first + place * channels + c, begin[0] + tap[0], begin[1] + tap[1]] = 1
    return rows
