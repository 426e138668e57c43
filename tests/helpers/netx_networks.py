"""Random networks for Loihi 2 and an oracle: one neuron and one step at a time, in Python's own whole numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from stdl_export.chips.loihi2_weights import applied
from stdl_export.chips.netx import Conv, Dense, Flatten, Layer, Network, Neuron, ReaderOptions

U_END = 1 << 23


def whole(value: Any) -> np.ndarray:
    return np.asarray(value, np.int64)


def neuron(rng: np.random.Generator, high: int = 300) -> Neuron:
    i_decay = 4096 if rng.random() < 0.5 else int(rng.integers(1, 4097))
    return Neuron(whole(i_decay), whole(rng.integers(0, 4096)), whole(rng.integers(1, high)))


def weights(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Within what the synapse applies as it is written: odd and small, or even and twice as large."""
    step = int(rng.integers(1, 3))
    found = rng.integers(-127, 128, shape) * step
    found.reshape(-1)[:2] = (step * 3, -step * 5)[: found.size]
    return found


def dense(rng: np.random.Generator, inputs: int, outputs: int) -> Dense:
    bias = rng.integers(-40, 60, outputs) if rng.random() < 0.5 else None
    kind = rng.random()
    delay = rng.integers(0, 4, (outputs, inputs)) if kind < 0.3 else None
    back = rng.integers(-60, 61, (outputs, outputs)) if kind > 0.7 else None
    weight = weights(rng, (outputs, inputs))
    if back is not None:
        weight = np.clip(weight, -127, 127)
    if not applied(weight, back).is_file(weight, back):  # of one sign only, say: another one
        return dense(rng, inputs, outputs)
    return Dense(weight, neuron(rng), bias, delay, back)


def conv(rng: np.random.Generator, shape: tuple[int, ...]) -> Conv:
    channels, *image = shape
    groups = channels if rng.random() < 0.3 else 1
    outputs = groups * int(rng.integers(1, 3)) if groups > 1 else int(rng.integers(1, 4))
    kernel = rng.integers(1, 4, 2)
    stride, dilation = ((int(a), int(b)) for a, b in rng.integers(1, 3, (2, 2)))
    padding = tuple(int(p) for p in rng.integers(0, 3, 2))
    weight = weights(rng, (outputs, channels // groups, *kernel))
    made = Conv(weight, neuron(rng), (), None, stride, padding, dilation, groups)
    try:
        out = (outputs, *made.window.output(tuple(image)))
    except Exception:  # the kernel does not fit: another one
        return conv(rng, shape)
    bias = [None, rng.integers(-40, 60, outputs), rng.integers(-40, 60, out)][int(rng.integers(3))]
    return Conv(weight, made.neuron, out, bias, stride, padding, dilation, groups)


def network(seed: int) -> Network:
    """One to three layers of any kind, with an image or a row of numbers as input."""
    rng = np.random.default_rng(seed)
    layers: list[Layer] = []
    shape: tuple[int, ...] = (int(rng.integers(1, 4)), int(rng.integers(3, 7)), int(rng.integers(3, 7)))
    first = shape
    for _ in range(int(rng.integers(0, 3))):
        layers.append(conv(rng, shape))
        shape = layers[-1].shape
    layers.append(Flatten((int(np.prod(shape)),)))
    shape = layers[-1].shape
    for _ in range(int(rng.integers(1, 3))):
        layers.append(dense(rng, shape[0], int(rng.integers(2, 6))))
        shape = layers[-1].shape
    return Network(tuple(layers), first)


class Oracle:
    """Slow and plain: what the document of Lava's models says, with integers of any size."""

    def __init__(self, made: Network, options: ReaderOptions) -> None:
        self.made, self.options, self.t = made, options, 0
        self.layers = made.neurons
        self.u = [np.zeros(layer.shape, object) for layer in self.layers]
        self.v = [np.zeros(layer.shape, object) for layer in self.layers]
        self.s = [np.zeros(layer.shape, object) for layer in self.layers]
        self.past: list[list[Any]] = [[] for _ in self.layers]
        self.sent = np.zeros(made.input_shape, object)

    def step(self, x: np.ndarray) -> None:
        before = [each.copy() for each in self.s]
        sent = [self.sent, *before[:-1]]
        for k, layer in enumerate(self.layers):
            self.past[k].insert(0, sent[k].reshape(-1) if isinstance(layer, Dense) else sent[k])
            a = self._dense(layer, k, before[k]) if isinstance(layer, Dense) else _conv(layer, sent[k])
            interval = self.options.reset_interval
            if interval and (self.t + 1) % interval == (k + 1 + self.options.reset_offset) % interval:
                self.u[k], self.v[k] = np.zeros(layer.shape, object), np.zeros(layer.shape, object)
            self._neurons(layer, k, a)
        bits = self.options.input_message_bits
        self.sent = (x if bits else x != 0).astype(int).astype(object)
        self.t += 1

    def _dense(self, layer: Dense, k: int, own: Any) -> Any:
        found = np.zeros(layer.shape, object)
        delay = layer.delay if layer.delay is not None else np.zeros(layer.weight.shape, int)
        for o, i in np.ndindex(layer.weight.shape):
            if delay[o, i] < len(self.past[k]):
                found[o] += int(layer.weight[o, i]) * int(self.past[k][delay[o, i]][i])
        if layer.recurrent is not None:
            for o, i in np.ndindex(layer.recurrent.shape):
                found[o] += int(layer.recurrent[o, i]) * int(own[i])
        return found

    def _neurons(self, layer: Any, k: int, a: Any) -> None:
        for index in np.ndindex(layer.shape):
            i_decay, v_decay, threshold = (
                int(np.broadcast_to(each, layer.shape)[index])
                for each in (layer.neuron.i_decay, layer.neuron.v_decay, layer.neuron.v_threshold)
            )
            bias = 0 if layer.bias is None else int(layer.bias[index[: layer.bias.ndim]])
            bias = (bias + 32768) % 65536 - 32768
            u = _decayed(int(self.u[k][index]), i_decay) + (int(a[index]) << 6)
            u = u - 2 * U_END if u > U_END else u
            u = u + 2 * U_END if u <= -U_END else u
            v = _decayed(int(self.v[k][index]), v_decay) + u + (bias << 6)
            v = min(max(v, 1 - U_END), U_END - 1)
            fires = v > threshold << 6
            self.u[k][index], self.v[k][index], self.s[k][index] = u, 0 if fires else v, int(fires)


def _decayed(x: int, decay: int) -> int:
    found = (abs(x) * (4096 - decay)) >> 12
    return found if x >= 0 else -found


def _conv(layer: Conv, x: Any) -> Any:
    found = np.zeros(layer.shape, object)
    outputs, channels = layer.weight.shape[:2]
    for o, y, z in np.ndindex(layer.shape):
        for c, ky, kx in np.ndindex(layer.weight.shape[1:]):
            iy = y * layer.stride[0] - layer.padding[0] + ky * layer.dilation[0]
            ix = z * layer.stride[1] - layer.padding[1] + kx * layer.dilation[1]
            if 0 <= iy < x.shape[1] and 0 <= ix < x.shape[2]:
                source = o // (outputs // layer.groups) * channels + c
                found[o, y, z] += int(layer.weight[o, c, ky, kx]) * int(x[source, iy, ix])
        found[o, y, z] = (found[o, y, z] + U_END) % (2 * U_END) - U_END
    return found


def differences(made: Network, options: ReaderOptions, x: np.ndarray, steps: int, simulation: Any) -> Iterator[str]:
    """Where a simulation of one sample and the oracle differ."""
    oracle = Oracle(made, options)
    for t in range(steps):
        frame = x[t] if t < len(x) else np.zeros_like(x[0])
        oracle.step(frame)
        simulation.step(frame[None])
        for k, stage in enumerate(simulation.stages):
            for name, theirs in (("u", oracle.u[k]), ("v", oracle.v[k]), ("spikes", oracle.s[k])):
                ours = getattr(stage.neurons, name)[0].astype(np.int64)
                if not (ours == theirs).all():
                    yield f"{name} of layer {k} at step {t}"
