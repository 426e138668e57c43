"""Units in one row, each of which reads the one before it alone: what jumps over layers is carried along by relays.

A relay is an output of a layer that repeats one of its inputs: one weight above the threshold, no bias, so that it
fires a step after what it repeats. Layer and relay have the same delay, so nothing shifts.

    x -> A -> B,  B also reads x      becomes      x -> [A; x] -> B        with kernels [W_A; a tap of 1], [W_B, V_x]

A convolution that moves by s would drop all but every s-th place: then x is carried in s*s phases, each a channel of
its own, x[s i + d] for d = 0..s-1, and of these only those that somebody reads (of a 1x1 shortcut with stride s, one).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from stdl_export.chips.base import Refusal, Refused
from stdl_export.chips.chain_conv import MOST_WEIGHTS, conv, too_many
from stdl_export.chips.links import Index, Link, Stream, sizes, whole
from stdl_export.chips.maps import Float, Kernel, Map, Pair, TooLarge
from stdl_export.chips.units import Unit, Units
from stdl_export.graph import NodeName


def ordered(found: Units) -> tuple[Unit, ...]:
    """The units so that each is behind what it reads, and those that have the longest way to go come first."""
    readers: dict[NodeName, list[NodeName]] = {unit.path: [] for unit in found.units}
    for unit in found.units:
        for path in unit.reads:
            readers.setdefault(path, []).append(unit.path)
    depth: dict[NodeName, int] = {}
    for unit in reversed(found.units):
        depth[unit.path] = 1 + max((depth[reader] for reader in readers[unit.path]), default=0)
    order: list[Unit] = []
    waiting = list(found.units)
    while waiting:
        done = {unit.path for unit in order} | {found.input}
        ready = [unit for unit in waiting if set(unit.reads) <= done]
        order.append(max(ready, key=lambda unit: depth[unit.path]))
        waiting.remove(order[-1])
    return tuple(order)


def chain(found: Units, refused: list[Refusal]) -> list[Link]:
    """The chain of units; what cannot be in one is added to `refused`."""
    order = ordered(found)
    last = {path: at for at, unit in enumerate(order) for path in unit.reads}  # who reads it last
    state: tuple[Stream, ...] = (whole(found.input, found.input_shape),)
    links: list[Link] = []
    flat, weights = len(found.input_shape) == 1, 0
    for at, unit in enumerate(order):
        kept = [stream for stream in state if last.get(stream.source, -1) > at]
        later = order[at + 1 :]
        try:
            link = None if flat else conv(unit, state, kept, later)
            link = link or _dense(unit, state, kept, later)
        except Refused as reason:
            link = _placeholder(unit)
            refused.append(reason.refusal)
        except TooLarge as reason:
            link = _placeholder(unit)
            way_out = "use one geometry (stride, padding) for all that is summed, or a smaller map"
            refused.append(Refusal(unit.path, "what it computes", str(reason), "at most 2^24 weights", way_out))
        flat = link.dense
        links.append(link)
        weights += link.main.size + link.relays.size
        if weights > MOST_WEIGHTS:
            refused.append(too_many(unit, weights))
            break
        state = link.puts
    return links


def _placeholder(unit: Unit) -> Link:
    empty = np.zeros((math.prod(unit.shape), 1))
    return Link(unit, (), (whole(unit.path, (math.prod(unit.shape),)),), empty, empty[:0], None, unit.bias)


def _dense(unit: Unit, state: Sequence[Stream], kept: Sequence[Stream], later: Sequence[Unit]) -> Link:
    """The unit as a matrix over all streams, which are flat from here on."""
    parts = [_columns(unit, stream) for stream in state]
    columns, delay = (np.concatenate([part[at] for part in parts], axis=1) for at in (0, 1))
    puts, rows = [whole(unit.path, (math.prod(unit.shape),))], []
    for stream in kept:
        taken = _needed(stream, later)
        puts.append(Stream(stream.source, stream.index.reshape(-1)[taken]))
        before = sum(each.index.size for each in state[: list(state).index(stream)])
        part = np.zeros((len(taken), columns.shape[1]))
        part[np.arange(len(taken)), before + taken] = 1
        rows.append(part)
    relays = np.concatenate(rows) if rows else np.zeros((0, columns.shape[1]))
    recurrent = None if unit.recurrent is None else unit.recurrent.matrix
    late = delay.astype(np.int64) if delay.any() else None
    return Link(unit, tuple(state), tuple(puts), columns, relays, recurrent, unit.bias.reshape(-1), delay=late)


def _columns(unit: Unit, stream: Stream) -> tuple[Float, Float]:
    """Weights of what a stream carries, and by how many steps each is late."""
    index = stream.index.reshape(-1)
    weight, delay = np.zeros((2, math.prod(unit.shape), len(index)))
    for late, arriving in unit.arriving(stream.source).items():
        part = np.where(index >= 0, arriving.matrix[:, np.maximum(index, 0)], 0.0)
        if ((weight != 0) & (part != 0)).any():
            value = f"{late} steps, and another one, of '{stream.source}'"
            way_out = "give each pair of neurons one delay"
            raise Refused(Refusal(unit.path, "the delay of a synapse", value, "one for a pair of neurons", way_out))
        weight = weight + part
        delay[part != 0] = late
    return weight, delay


def _needed(stream: Stream, later: Sequence[Unit]) -> Index:
    """The elements of a stream that a later unit has weights for."""
    index = stream.index.reshape(-1)
    read = np.zeros(len(index), np.bool_)
    for unit in later:
        for arriving in unit.arriving(stream.source).values():
            read |= arriving.matrix[:, np.maximum(index, 0)].any(axis=0) & (index >= 0)
    return np.flatnonzero(read)


def check_input(found: Units, links: Sequence[Link], spikes: bool) -> None:
    """Whole numbers cannot be passed on by neurons that fire or do not; `Refused` where that would be needed."""
    jumped = [link.unit.path for link in links if found.input in {stream.source for stream in link.puts[1:]}]
    if jumped and not spikes:
        reader = next(unit.path for unit in reversed(found.units) if found.input in unit.reads)
        way_out = "let it read neurons, or give inputs of 0 and 1"
        raise Refused(Refusal(reader, "what it reads", "the analog input, past other layers", "spikes", way_out))


def with_input(link: Link, low: Float, step: Float) -> Link:
    """The first layer for inputs n of which x = low + step * n, one low and step a channel of x; x is 0 outside."""
    stream = link.reads[0]
    if link.delay is not None and low.any():
        value, way_out = f"that of an input of which 0 steps are {low.min():g}", "let inputs begin at 0"
        raise Refused(Refusal(link.unit.path, "its delay", value, "delays of inputs that begin at 0", way_out))
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
