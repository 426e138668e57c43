"""What Speck's nine cores have, which layer goes into which, and why a network does not fit.

Numbers as in sinabs 3.1 (chips/dynapcnn.py, docs/speck). A layer may only go where its kernel, neurons and biases fit:
the assignment is a matching of layers and cores.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, log2

from stdl_export.chips.base import Limit, Refusal
from stdl_export.chips.report import LayerUse, Mapping, Use
from stdl_export.chips.speck_map import Core, Network

SOURCE = "SynSense, sinabs 3.1"
K = 1024

KERNEL = (16 * K, 16 * K, 16 * K, 32 * K, 32 * K, 64 * K, 64 * K, 16 * K, 16 * K)
NEURONS = (64 * K, 64 * K, 64 * K, 32 * K, 32 * K, 16 * K, 16 * K, 16 * K, 16 * K)
BIASES = (K,) * 9
"""Entries of the memories of each core."""

CORES = len(KERNEL)
MOST_INPUT, MOST_MAP, MOST_CHANNELS, MOST_KERNEL, MOST_PADDING, MOST_FAN_OUT = 128, 64, 1024, 16, 7, 2
STRIDES = (1, 2, 4, 8)

LIMITS: tuple[Limit, ...] = (
    Limit("cores", CORES, SOURCE), Limit("height and width of the input", MOST_INPUT, SOURCE),
    Limit("height and width of a map of neurons", MOST_MAP, SOURCE), Limit("channels", MOST_CHANNELS, SOURCE),
    Limit("height and width of a kernel", MOST_KERNEL, SOURCE), Limit("padding", MOST_PADDING, SOURCE),
    Limit("destinations of a core", MOST_FAN_OUT, SOURCE), Limit("biases of a core", K, SOURCE),
    Limit("entries of the largest kernel memory", max(KERNEL), SOURCE),
    Limit("entries of the largest neuron memory", max(NEURONS), SOURCE),
)  # fmt: skip


def kernel_entries(core: Core) -> int:
    """Of the kernel memory: sizes are padded to powers of 2."""
    return core.in_shape[0] << (_bits(core.kernel**2) + _bits(core.shape[0]))


def neuron_entries(core: Core) -> int:
    """Of the neuron memory."""
    return core.shape[0] << (_bits(core.shape[1]) + _bits(core.shape[2]))


def bias_entries(core: Core) -> int:
    """Of the bias memory."""
    return core.shape[0] if core.bias.any() else 0


def candidates(core: Core) -> list[int]:
    """The cores that a layer fits into."""
    needed = (kernel_entries(core), neuron_entries(core), bias_entries(core))
    memories = zip(KERNEL, NEURONS, BIASES, strict=True)
    return [k for k, memory in enumerate(memories) if all(n <= m for n, m in zip(needed, memory, strict=True))]


def assigned(found: Network) -> dict[str, int] | None:
    """Layer -> core, each its own; None where there is no such assignment. Augmenting paths, layer by layer."""
    layer_in: dict[int, Core] = {}

    def place(core: Core, tried: set[int]) -> bool:
        for k in candidates(core):
            if k not in tried:
                tried.add(k)
                if k not in layer_in or place(layer_in[k], tried):
                    layer_in[k] = core
                    return True
        return False

    if not all(place(core, set()) for core in found.cores):
        return None
    places = {core.path: k for k, core in layer_in.items()}
    return {core.path: places[core.path] for core in found.cores}


def refusals(found: Network) -> Iterator[Refusal]:
    """What there is too much of, layer by layer; where each fits, whether they all do."""
    if max(found.input[1:]) > MOST_INPUT:
        what, limit = f"{found.input[1]}x{found.input[2]}", f"{MOST_INPUT}x{MOST_INPUT}"
        yield Refusal("input", "map", what, limit, "scale the pictures down")
    yield from _fan_outs(found)
    reasons = [reason for core in found.cores for reason in _sizes(core)]
    yield from reasons
    if not reasons and assigned(found) is None:
        what = f"{len(found.cores)} layers, {', '.join(f'{core.path} fits {candidates(core)}' for core in found.cores)}"
        out = "take fewer or smaller layers: large kernels fit cores 5 and 6 only, large maps 0 to 2"
        yield Refusal(found.cores[0].path, "cores", what, f"a core of its own of {CORES} for each", out)


def _fan_outs(found: Network) -> Iterator[Refusal]:
    for path in (None, *(core.path for core in found.cores)):
        readers = found.readers(path)
        count = len(readers) + (path == found.output)
        if count > MOST_FAN_OUT:
            what = f"{count} ({', '.join(core.path for core, _ in readers)})"
            yield Refusal(path or "input", "readers", what, str(MOST_FAN_OUT), "let fewer layers read it")


def _sizes(core: Core) -> Iterator[Refusal]:
    """Fields of a core that have no bits for so much, and memories that no core has."""
    of, many = core.weights_of, f"at most {MOST_CHANNELS}"
    wanted = (
        ("kernel", core.kernel, core.kernel <= MOST_KERNEL, f"at most {MOST_KERNEL}", "take smaller ones, or strides"),
        ("stride", core.stride, core.stride in STRIDES, "1, 2, 4 and 8", "take one of these"),
        ("padding", core.padding, core.padding <= MOST_PADDING, f"0..{MOST_PADDING}", "pad less"),
        ("channels", core.shape[0], core.shape[0] <= MOST_CHANNELS, many, "take fewer"),
        ("input channels", core.in_shape[0], core.in_shape[0] <= MOST_CHANNELS, many, "take fewer"),
        ("map", max(core.shape[1:]), max(core.shape[1:]) <= MOST_MAP, f"at most {MOST_MAP}", "take a stride or a pool"),
    )  # fmt: skip
    for name, value, holds, limit, out in wanted:
        if not holds:
            yield Refusal(of, name, str(value), limit, out)
    memories = (
        ("kernel memory", kernel_entries(core), KERNEL, "take fewer channels, or a smaller kernel"),
        ("neuron memory", neuron_entries(core), NEURONS, "take fewer channels, or a smaller map"),
        ("bias memory", bias_entries(core), BIASES, "take fewer channels, or no biases"),
    )
    for name, entries, memory, out in memories:
        if entries > max(memory):
            yield Refusal(core.path, name, f"{entries} entries", f"{max(memory)} in the largest core", out)
    if not candidates(core) and all(entries <= max(memory) for _, entries, memory, _ in memories):
        what = f"{kernel_entries(core)} of the kernel and {neuron_entries(core)} of neurons"
        limit = "both in one core: 16k and 64k, 32k and 32k, or 64k and 16k"
        yield Refusal(core.path, "memory", what, limit, "take fewer channels, or a stride")


def mapping(found: Network) -> Mapping:
    """Layer by layer, and each core's memories."""
    places = assigned(found)
    assert places is not None, "it was checked"
    layers, uses = [], [Use("cores", len(found.cores), CORES)]
    for core in found.cores:
        k, (channels, height, width) = places[core.path], core.shape
        fan_in = core.in_shape[0] * core.kernel**2
        what = f"conv {core.kernel}x{core.kernel}, stride {core.stride}, {channels}x{height}x{width}"
        neurons = channels * height * width
        bits = 8 * core.weight.size
        layers.append(LayerUse(core.path, what, neurons, neurons * fan_in, bits, fan_in, str(k)))
        uses += [
            Use(f"core {k}: kernel memory", kernel_entries(core), KERNEL[k], "entries"),
            Use(f"core {k}: neuron memory", neuron_entries(core), NEURONS[k], "entries"),
        ]
    remarks = ("not validated by the chip's own validator (samna), which cannot be had here",)
    return Mapping("Speck", tuple(layers), tuple(uses), remarks)


def _bits(size: int) -> int:
    return ceil(log2(size)) if size > 1 else 0
