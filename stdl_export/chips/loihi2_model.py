"""The arithmetic of Loihi 2 as Lava's fixed-point CPU models have it, in NumPy: whole numbers, bit for bit.

One step of a layer, a being what its synapses accumulated of the spikes of the step before:

    dec(x, d) = sign(x) * ((|x| * (4096 - d)) >> 12)                    truncates towards zero
    u = dec(u, i_decay) + (a << 6)                                      wraps once where it leaves 24 bits
    v = dec(v, v_decay) + u + (bias << 6)                               saturates at +-(2^23 - 1)
    s = v > (v_threshold << 6);  v = 0 where s

Accumulators of convolutions wrap to 24 bits before the shift, biases are held in 16 bits and wrap. Everything is kept
in float64, in which these numbers are exact (below 2^53), so that matrix products are fast ones.

Source: lava-nc/lava, `proc/lif/models.py`, `proc/dense/models.py`, `proc/conv/models.py`; lava-dl, `netx/utils.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stdl_export.chips.loihi2_weights import applied
from stdl_export.chips.netx import Conv, Dense, Flatten, Integers, Network, NeuronLayer, ReaderOptions
from stdl_export.chips.netx_read import check_conv
from stdl_export.common.errors import BadInput
from stdl_export.primitives import Refused, Shape

Float = NDArray[np.float64]
Flags = NDArray[np.bool_]

SHIFT = 6
U_END = 1 << 23  # u wraps beyond, v saturates below
PATCH_BYTES = 32 << 20  # of convolution patches that are laid out at once


def wrap_u(u: Float) -> Float:
    """Once around where u leaves 24 bits: 2^23 itself stays, -2^23 does not."""
    return u - np.where(u > U_END, 2 * U_END, 0) + np.where(u <= -U_END, 2 * U_END, 0)


def wrapped(a: Float, bits: int) -> Float:
    """The signed number that is left of a in so many bits."""
    half = float(1 << (bits - 1))
    found: Float = np.mod(a + half, 2 * half) - half
    return found


def decayed(x: Float, kept: Float) -> Float:
    """x * kept / 4096 cut off towards zero, kept = 4096 - decay."""
    found: Float = np.trunc(x * (kept / 4096))
    return found


class Neurons:
    """The state of one layer for B samples: u, v [B, ...] and the spikes of the last step."""

    def __init__(self, layer: NeuronLayer, batch: int) -> None:
        neuron = layer.neuron
        self.kept_u, self.kept_v = ((4096 - each).astype(np.float64) for each in (neuron.i_decay, neuron.v_decay))
        self.threshold = np.asarray(neuron.v_threshold, np.float64) * (1 << SHIFT)
        self.bias = _bias(layer)
        self.shape = (batch, *layer.shape)
        self.spikes: Flags = np.zeros(self.shape, np.bool_)
        self.clear()

    def clear(self) -> None:
        """u = v = 0; what was fired is on its way."""
        self.u, self.v = np.zeros(self.shape), np.zeros(self.shape)

    def step(self, a: Float) -> Flags:
        """Advance by what arrived, a [B, ...] -> spikes [B, ...]."""
        self.u = wrap_u(decayed(self.u, self.kept_u) + a * (1 << SHIFT))
        v = np.clip(decayed(self.v, self.kept_v) + self.u + self.bias, 1 - U_END, U_END - 1)
        self.spikes = v > self.threshold
        self.v = np.where(self.spikes, 0.0, v)
        return self.spikes


def _bias(layer: NeuronLayer) -> Float | float:
    if layer.bias is None:
        return 0.0
    bias = wrapped(layer.bias.astype(np.float64), 16) * (1 << SHIFT)
    return bias.reshape(-1, 1, 1) if isinstance(layer, Conv) and bias.ndim == 1 else bias


class DenseSynapse:
    """weight (out, in) as the chip applies it, one matrix for each delay; accumulates [B, in] -> [B, out]."""

    def __init__(self, layer: Dense, batch: int, graded: bool) -> None:
        self.rule = applied(layer.weight, layer.recurrent)
        delay = layer.delay if layer.delay is not None else np.zeros_like(layer.weight)
        kind = _exact(self.rule.weight, graded)
        self._parts = {int(d): np.where(delay == d, self.rule.weight, 0).T.astype(kind) for d in np.unique(delay)}
        self.past = np.zeros((batch, max(self._parts), layer.weight.shape[1]), kind)  # the newest first

    def accumulate(self, x: Float) -> Float:
        """What arrives of x, which was sent in the step before, and of what was sent earlier."""
        sent = np.concatenate([x.astype(self.past.dtype)[:, None], self.past], axis=1)
        self.past = sent[:, :-1]
        arriving = [self.rule.shifted(sent[:, d] @ part) for d, part in self._parts.items()]
        return sum(arriving[1:], arriving[0])


class Recurrence:
    """weight_rec: accumulates the layer's own spikes of the step before."""

    def __init__(self, synapse: DenseSynapse) -> None:
        assert synapse.rule.recurrent is not None
        self.rule = synapse.rule
        self._matrix = synapse.rule.recurrent.T.astype(_exact(synapse.rule.recurrent, graded=False))

    def accumulate(self, spikes: Flags) -> Float:
        """[B, out] -> [B, out]."""
        return self.rule.shifted(spikes @ self._matrix)


class ConvSynapse:
    """Cross-correlation of [B, I, H, W] with whole-numbered kernels; accumulators wrap to 24 bits."""

    def __init__(self, layer: Conv, graded: bool) -> None:
        self.layer = layer
        outputs, groups = len(layer.weight), layer.groups
        self._kernels = layer.weight.reshape(groups, outputs // groups, -1).astype(_exact(layer.weight, graded))

    def accumulate(self, x: Float) -> Float:
        """[B, I, H, W] -> [B, O, H, W]."""
        height, width = self.layer.shape[1:]
        maps = [self._kernels @ patches for patches in self._patches(x.astype(self._kernels.dtype))]
        images = [each.reshape(len(self.layer.weight), -1, height, width).swapaxes(0, 1) for each in maps]
        return wrapped(np.concatenate(images).astype(np.float64), 24)

    def _patches(self, x: Float) -> Iterator[Float]:
        """The input under each kernel position as columns, [G, I/G*kh*kw, n*H*W], for a few samples at a time."""
        layer, window = self.layer, self.layer.window
        edges = zip(window.begin, window.end, strict=True)
        padded = np.pad(x, ((0, 0), (0, 0), *edges))
        reach = [d * (k - 1) + 1 for d, k in zip(window.dilation, window.kernel, strict=True)]
        views = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(2, 3))
        (sy, sx), (dy, dx) = window.stride, window.dilation
        views = views[:, :, ::sy, ::sx, ::dy, ::dx]  # [B, I, H, W, kh, kw]
        at_once = max(1, PATCH_BYTES // max(views[:1].nbytes, 1))
        for at in range(0, len(x), at_once):
            part = views[at : at + at_once].transpose(1, 4, 5, 0, 2, 3)  # [I, kh, kw, n, H, W]
            yield part.reshape(layer.groups, -1, part.shape[3] * part.shape[4] * part.shape[5])


@dataclass
class Stage:
    """One layer with neurons: its synapses, its neurons, and whether what arrives is flattened first."""

    layer: NeuronLayer
    synapse: DenseSynapse | ConvSynapse
    neurons: Neurons
    recurrence: Recurrence | None

    def arrived(self, x: Float) -> Float:
        """What the synapses accumulate of x [B, ...] of the step before, and of the layer's own spikes then."""
        a = self.synapse.accumulate(x.reshape(len(x), -1) if isinstance(self.layer, Dense) else x)
        return a if self.recurrence is None else a + self.recurrence.accumulate(self.neurons.spikes)


def stage(layer: NeuronLayer, batch: int, graded: bool = False) -> Stage:
    """A layer at its start; graded: do whole numbers arrive, and not spikes?"""
    synapse = DenseSynapse(layer, batch, graded) if isinstance(layer, Dense) else ConvSynapse(layer, graded)
    recurrent = isinstance(layer, Dense) and layer.recurrent is not None
    back = Recurrence(synapse) if recurrent and isinstance(synapse, DenseSynapse) else None
    return Stage(layer, synapse, Neurons(layer, batch), back)


class Simulation:
    """The network of a file on B samples, step by step as Lava's models run it: every synapse takes one step.

    The k-th layer (k = 0, 1, ...) so does at step t + k + 1 what belongs to the input of step t.
    """

    def __init__(self, network: Network, batch: int, options: ReaderOptions, sample: Shape) -> None:
        check_shapes(network, sample)
        graded = options.input_message_bits > 0
        self.stages = [stage(layer, batch, graded and not at) for at, layer in enumerate(network.neurons)]
        self.options, self.steps = options, 0
        self.sent = np.zeros((batch, *sample))

    def step(self, x: NDArray[np.generic]) -> None:
        """Show the input x [B, ...], and advance all layers by what was sent in the step before."""
        sent = [self.sent, *(each.neurons.spikes.astype(np.float64) for each in self.stages[:-1])]
        for number, each in enumerate(self.stages):
            a = each.arrived(sent[number])
            if self._resets(number):
                each.neurons.clear()
            each.neurons.step(a)
        self.sent = encoded(x, self.options)
        self.steps += 1

    def _resets(self, number: int) -> bool:
        interval = self.options.reset_interval
        return interval is not None and (self.steps - number - self.options.reset_offset) % interval == 0


def encoded(x: NDArray[np.generic], options: ReaderOptions) -> Float:
    """What the first synapses take: spikes, whatever their size, or whole numbers where messages have bits."""
    return (x != 0).astype(np.float64) if options.input_message_bits == 0 else x.astype(np.float64)


def check_shapes(network: Network, sample: Shape) -> None:
    """BadInput where a sample of this shape does not go through the network."""
    shape: Shape = sample
    if network.input_shape is not None and sample != network.input_shape:
        raise BadInput(f"a sample has shape {sample}, the network takes {network.input_shape}")
    for layer in network.layers:
        if isinstance(layer, Flatten):
            shape = (int(np.prod(shape)),)
        elif isinstance(layer, Conv):
            try:
                check_conv(layer, shape, "a convolution")
            except Refused as reason:
                raise BadInput(f"a sample of shape {sample} does not fit the network: {reason}") from None
            shape = layer.shape
        elif int(np.prod(shape)) != layer.weight.shape[1] or (len(shape) != 1 and shape != sample):
            raise BadInput(
                f"a sample of shape {sample} does not fit the network: {layer.weight.shape[1]} inputs wanted"
            )
        else:
            shape = layer.shape


def _exact(weight: Integers, graded: bool) -> type[np.floating]:
    """float32 where every sum of these weights is a whole number below 2^24, and so exact in it."""
    return np.float64 if graded or widest(weight, 1) >= 1 << 24 else np.float32


def widest(weight: Integers, inputs: int) -> int:
    """The largest |accumulator| that inputs of 0..`inputs` can make."""
    rows = weight.reshape(len(weight), -1)
    sums = np.maximum(rows, 0).sum(axis=1), np.maximum(-rows, 0).sum(axis=1)
    return int(max(each.max(initial=0) for each in sums)) * inputs


@dataclass
class Peaks:
    """The largest |accumulator|, |u| and |v| (after a reset) of a layer so far, and how many v lay at their end."""

    a: float = 0.0
    u: float = 0.0
    v: float = 0.0
    saturated: int = 0

    def see(self, a: Float, neurons: Neurons) -> None:
        """After a step."""
        self.a, self.u = max(self.a, float(np.abs(a).max())), max(self.u, float(np.abs(neurons.u).max()))
        self.v = max(self.v, float(np.abs(neurons.v).max()))
        self.saturated += int((np.abs(neurons.v) >= U_END - 1).sum())


class Aligned:
    """The same layers without their delays: what the k-th does k + 1 steps later all happens in the step of the input.

    Every number is that of `Simulation` where each layer is cleared as its first input comes in: that is what
    reset_interval and reset_offset are set for. A delay of a synapse stays.
    """

    def __init__(self, layers: Sequence[NeuronLayer], batch: int, options: ReaderOptions) -> None:
        graded = options.input_message_bits > 0
        self.stages = [stage(layer, batch, graded and not at) for at, layer in enumerate(layers)]
        self.options = options
        self.peaks = [Peaks() for _ in layers]

    def step(self, x: NDArray[np.generic], watch: bool = False) -> None:
        """Show the input x [B, ...] and advance every layer by it."""
        values = encoded(x, self.options)
        for each, peaks in zip(self.stages, self.peaks, strict=True):
            a = each.arrived(values)
            values = each.neurons.step(a).astype(np.float64)
            if watch:
                peaks.see(a, each.neurons)
