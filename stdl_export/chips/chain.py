"""Units in one row, each of which reads the one before it alone: what jumps over layers is carried along by relays.

A relay is an output of a layer that repeats one of its inputs: one weight above the threshold, no bias, so that it
fires a step after what it repeats. Layer and relay have the same delay, so nothing shifts.

    x -> A -> B,  B also reads x      becomes      x -> [A; x] -> B        with kernels [W_A; a tap of 1], [W_B, V_x]

A convolution that moves by s would drop all but every s-th place: then x is carried in s*s phases, each a channel of
its own, x[s i + d] for d = 0..s-1, and of these only those that somebody reads (of a 1x1 shortcut with stride s, one).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stdl_export.chips.base import Refusal, Refused
from stdl_export.chips.maps import Float, Image, Kernel, Map, Pair, TooLarge, image, placed
from stdl_export.chips.units import Unit, Units
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
    [rows, rows]. bias has the unit's shape.
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

    @property
    def dense(self) -> bool:
        """Is it a matrix?"""
        return self.main.ndim == 2

    @property
    def hosts(self) -> bool:
        """Does it carry anything for others?"""
        return bool(len(self.relays))


def ordered(found: Units) -> tuple[Unit, ...]:
    """The units so that each is behind what it reads, and those that have the longest way to go come first."""
    readers: dict[NodeName, list[NodeName]] = {unit.path: [] for unit in found.units}
    for unit in found.units:
        for path in unit.sources:
            readers.setdefault(path, []).append(unit.path)
    depth: dict[NodeName, int] = {}
    for unit in reversed(found.units):
        depth[unit.path] = 1 + max((depth[reader] for reader in readers[unit.path]), default=0)
    order: list[Unit] = []
    waiting = list(found.units)
    while waiting:
        done = {unit.path for unit in order} | {found.input}
        ready = [unit for unit in waiting if set(unit.sources) <= done]
        order.append(max(ready, key=lambda unit: depth[unit.path]))
        waiting.remove(order[-1])
    return tuple(order)


def chain(found: Units, refused: list[Refusal]) -> list[Link]:
    """The chain of units; what cannot be in one is added to `refused`."""
    order = ordered(found)
    last = {path: at for at, unit in enumerate(order) for path in unit.sources}  # who reads it last
    state: tuple[Stream, ...] = (_whole(found.input, found.input_shape),)
    links: list[Link] = []
    flat = len(found.input_shape) == 1
    for at, unit in enumerate(order):
        kept = [stream for stream in state if last.get(stream.source, -1) > at]
        later = order[at + 1 :]
        try:
            link = None if flat else _conv(unit, state, kept, later)
            link = link or _dense(unit, state, kept, later)
        except TooLarge as reason:
            link = _placeholder(unit)
            way_out = "use one geometry (stride, padding) for all that is summed, or a smaller map"
            refused.append(Refusal(unit.path, "what it computes", str(reason), "at most 2^24 weights", way_out))
        flat = link.dense
        links.append(link)
        state = link.puts
    return links


def _whole(path: NodeName, shape: tuple[int, ...]) -> Stream:
    size = image(shape) if len(shape) > 1 else shape
    return Stream(path, np.arange(math.prod(shape)).reshape(size))


def _placeholder(unit: Unit) -> Link:
    empty = np.zeros((math.prod(unit.shape), 1))
    return Link(unit, (), (_whole(unit.path, (math.prod(unit.shape),)),), empty, empty[:0], None, unit.bias)


# --- images ---------------------------------------------------------------------------------------------------------


def _conv(unit: Unit, state: Sequence[Stream], kept: Sequence[Stream], later: Sequence[Unit]) -> Link | None:
    """The unit as a convolution over all streams; None where it or what it must carry is none."""
    if unit.recurrent is not None or len(unit.shape) < 2:
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
    main = [_part(part, stream, begin, canvas, image(unit.shape)[0]) for part, stream in zip(mains, state, strict=True)]
    rows = [_relay_rows(relay, state, begin, canvas) for relay in relays]
    channels = sum(stream.index.shape[0] for stream in state)
    weight = np.concatenate(rows) if rows else np.zeros((0, channels, *canvas))
    puts = (_whole(unit.path, unit.shape), *(relay.stream for relay in relays))
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


# --- rows of numbers ------------------------------------------------------------------------------------------------


def _dense(unit: Unit, state: Sequence[Stream], kept: Sequence[Stream], later: Sequence[Unit]) -> Link:
    """The unit as a matrix over all streams, which are flat from here on."""
    columns = np.concatenate([_columns(unit.sources.get(stream.source), stream, unit) for stream in state], axis=1)
    puts, rows = [_whole(unit.path, (math.prod(unit.shape),))], []
    for stream in kept:
        taken = _needed(stream, later)
        puts.append(Stream(stream.source, stream.index.reshape(-1)[taken]))
        before = sum(each.index.size for each in state[: list(state).index(stream)])
        part = np.zeros((len(taken), columns.shape[1]))
        part[np.arange(len(taken)), before + taken] = 1
        rows.append(part)
    relays = np.concatenate(rows) if rows else np.zeros((0, columns.shape[1]))
    recurrent = None if unit.recurrent is None else unit.recurrent.matrix
    return Link(unit, tuple(state), tuple(puts), columns, relays, recurrent, unit.bias.reshape(-1))


def _columns(wanted: Map | None, stream: Stream, unit: Unit) -> Float:
    index = stream.index.reshape(-1)
    if wanted is None:
        return np.zeros((math.prod(unit.shape), len(index)))
    return np.where(index >= 0, wanted.matrix[:, np.maximum(index, 0)], 0.0)


def _needed(stream: Stream, later: Sequence[Unit]) -> Index:
    """The elements of a stream that a later unit has weights for."""
    index = stream.index.reshape(-1)
    read = np.zeros(len(index), np.bool_)
    for unit in later:
        if stream.source in unit.sources:
            read |= unit.sources[stream.source].matrix[:, np.maximum(index, 0)].any(axis=0) & (index >= 0)
    return np.flatnonzero(read)


def check_input(found: Units, links: Sequence[Link], spikes: bool) -> None:
    """Whole numbers cannot be passed on by neurons that fire or do not; `Refused` where that would be needed."""
    jumped = [link.unit.path for link in links if found.input in {stream.source for stream in link.puts[1:]}]
    if jumped and not spikes:
        reader = next(unit.path for unit in reversed(found.units) if found.input in unit.sources)
        way_out = "let it read neurons, or give inputs of 0 and 1"
        raise Refused(Refusal(reader, "what it reads", "the analog input, past other layers", "spikes", way_out))


def sizes(link: Link) -> tuple[int, ...]:
    """The shape of everything that a layer puts out, its own neurons and those it carries."""
    if link.dense:
        return (len(link.main) + len(link.relays),)
    return (len(link.main) + len(link.relays), *image(link.unit.shape)[1:])


def with_input(link: Link, low: Float, step: Float) -> Link:
    """The first layer for inputs n of which x = low + step * n, one low and step a channel of x; x is 0 outside."""
    stream = link.reads[0]
    if link.dense:
        every = np.arange(stream.index.size) if stream.index.ndim == 1 else _channel_of(stream)
        bias = link.bias + link.main @ low[every]
        return replace(link, main=link.main * step[every], bias=bias)
    inside = np.broadcast_to(low[:, None, None], stream.index.shape)
    kernel = Kernel(link.main, link.stride, link.begin, _image_size(link))
    moved = Map(stream.index.shape, link.bias.shape, kernel, np.zeros(link.bias.shape)).applied(inside)
    return replace(link, main=link.main * step[:, None, None], bias=link.bias + moved)


def _channel_of(stream: Stream) -> Index:
    channels, *rest = stream.index.shape
    return np.repeat(np.arange(channels), math.prod(rest))


def _image_size(link: Link) -> Pair:
    _, height, width = sizes(link)
    return (height, width)


def named(streams: Sequence[Stream]) -> Mapping[NodeName, Stream]:
    """Streams by their sources."""
    return {stream.source: stream for stream in streams}


__all__ = ["Image", "Link", "Stream", "chain", "check_input", "named", "ordered", "sizes", "with_input"]
