"""Units, the atoms that splitting, auxiliary networks, merging and export agree on.

A network is an ordered list of units and a readout. A cut between subnetworks may stand behind any unit that puts out
spikes. Every unit steps with explicit state, `y, state = unit.step(x, state)`, and has a spec: a few named values from
which it can be built for any input shape, so an auxiliary network builds fresh copies of a network's later units.

| kind     | what                                                             | NIR                                 |
|----------|------------------------------------------------------------------|-------------------------------------|
| conv     | convolution, batch normalisation, neuron                         | Conv2d, IF or LIF                   |
| linear   | (pool,) flatten, linear map, batch normalisation, neuron         | (AvgPool2d, Flatten,) Affine, LIF   |
| residual | two conv layers and a shortcut, spikes added (SEW block, ADD)    | as conv; the addition is fan-in     |
| avgpool  | average pool                                                     | AvgPool2d                           |
| readout  | (pool,) flatten, linear map (, LI): the logits of one time step  | (AvgPool2d, Flatten,) Affine (, LI) |

SEW block: Fang et al. 2021, "Deep residual learning in spiking neural networks".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from stdl_export.common.config import Choice, Count, Name, Natural, Table
from stdl_models.neurons import Neuron, NeuronSpec

Shape = tuple[int, ...]
"""Shape of one sample in one time step: (C, H, W) or (N,)."""

State = tuple[Tensor | None, ...]
"""One potential [B, ...] for each neuron layer of a unit; None is rest."""


class Spec(Table):
    """What every unit's spec has: a name, unique in the network."""

    name: Name


class ConvSpec(Spec):
    """Square convolution with zero padding, batch normalisation, neuron.

    `norm = false` is a plain biased convolution.
    """

    kind: Literal["conv"] = "conv"
    channels: Count
    kernel: Count = 3
    stride: Count = 1
    padding: Natural | None = None
    groups: Count = 1
    norm: bool = True
    neuron: NeuronSpec = NeuronSpec()


class LinearSpec(Spec):
    """Flatten, linear, batch normalisation, neuron; `pool` averages pool x pool squares first (auxiliary networks)."""

    kind: Literal["linear"] = "linear"
    features: Count
    pool: Count = 1
    norm: bool = True
    neuron: NeuronSpec = NeuronSpec()


class ResidualSpec(Spec):
    """SEW basic block: spikes(conv, conv) + shortcut. The shortcut is a 1x1 conv layer where shapes change."""

    kind: Literal["residual"] = "residual"
    channels: Count
    stride: Count = 1
    norm: bool = True
    neuron: NeuronSpec = NeuronSpec()


class PoolSpec(Spec):
    """Average over kernel x kernel squares; padded zeros count, as in NIR."""

    kind: Literal["avgpool"] = "avgpool"
    kernel: Count = 2
    stride: Count | None = None
    padding: Natural = 0


class ReadoutSpec(Spec):
    """Linear map to the logits of one time step, [B, classes]; `neuron` may be an LI that smooths them over time."""

    kind: Literal["readout"] = "readout"
    name: Name = "readout"
    classes: Count
    pool: Literal["none", "global"] = "none"
    neuron: NeuronSpec | None = None

    def model_post_init(self, _context: object) -> None:
        """A readout does not spike."""
        if self.neuron is not None and self.neuron.kind != "LI":
            raise ValueError(f"the readout's neuron is {self.neuron.kind}: only LI, which does not spike, is accepted")


UnitSpec = Annotated[ConvSpec | LinearSpec | ResidualSpec | PoolSpec, Choice("kind")]


class SpikingLayer(nn.Module):
    """Synapse (convolution or linear map), batch normalisation, neuron. `name` is the synapse's node in NIR."""

    def __init__(self, name: str, synapse: nn.Module, norm: nn.Module | None, neuron: Neuron) -> None:
        super().__init__()
        self.name, self.synapse, self.norm, self.neuron = name, synapse, norm, neuron

    def current(self, x: Tensor) -> Tensor:
        """The neuron's input, normalised: the part that has no state. x: [N, ...], N any mix of time and batch."""
        current: Tensor = self.synapse(x)
        return current if self.norm is None else self.norm(current)

    def step(self, x: Tensor, v: Tensor | None) -> tuple[Tensor, Tensor]:
        """One time step: x [B, ...] -> output, v, both [B, ...]."""
        output, v = self.neuron(self.current(x), v)
        return output, v

    def sequence(self, x: Tensor) -> Tensor:
        """All time steps from rest, the stateless part on T*B at once: x [T, B, ...] -> output [T, B, ...]."""
        return self.neuron.sequence(over_time(self.current, x))


def over_time(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a stateless function [N, ...] -> [N, ...] to x [T, B, ...] with time folded into the batch."""
    y: Tensor = function(x.flatten(0, 1)).unflatten(0, x.shape[:2])
    return y


class Unit(nn.Module):
    """What all units share. `in_shape` and `out_shape` are those of one sample in one time step."""

    spec: Spec
    in_shape: Shape
    out_shape: Shape

    def __init__(self, spec: Spec, in_shape: Shape) -> None:
        super().__init__()
        self.spec, self.in_shape = spec, in_shape

    @property
    def name(self) -> str:
        """The unit's name, unique in its network."""
        return self.spec.name

    @property
    def layers(self) -> list[SpikingLayer]:
        """The layers with neurons, in the order of `State`."""
        return [module for module in self.children() if isinstance(module, SpikingLayer)]

    @property
    def rest(self) -> State:
        """The state before the first time step."""
        return (None,) * len(self.layers)

    def most(self, most_in: int | None) -> int | None:
        """The largest value of the output, or None where it is not always a whole number.

        Spikes: 1, a residual sum: more. most_in: the same of the input. Whole numbers can be kept in bits, so a cut may
        stand there.
        """
        return 1

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """One time step: x [B, *in_shape] -> y [B, *out_shape] and the new state."""
        raise NotImplementedError

    def sequence(self, x: Tensor) -> Tensor:
        """All time steps from rest, x [T, B, *in_shape] -> y [T, B, *out_shape]: the same function, batched over T."""
        raise NotImplementedError


class ConvUnit(Unit):
    """conv-norm-neuron."""

    spec: ConvSpec

    def __init__(self, spec: ConvSpec, in_shape: Shape, dt: float) -> None:
        super().__init__(spec, in_shape)
        padding = spec.kernel // 2 if spec.padding is None else spec.padding
        self.layer = conv_layer(
            spec.name,
            in_shape,
            spec.channels,
            spec.kernel,
            spec.stride,
            padding,
            spec.groups,
            spec.norm,
            spec.neuron,
            dt,
        )
        self.out_shape = self.layer.neuron.shape

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """See Unit.step."""
        y, v = self.layer.step(x, state[0])
        return y, (v,)

    def sequence(self, x: Tensor) -> Tensor:
        """See Unit.sequence."""
        return self.layer.sequence(x)


class LinearUnit(Unit):
    """linear-norm-neuron, behind an average pool and a flatten where the input is a map."""

    spec: LinearSpec

    def __init__(self, spec: LinearSpec, in_shape: Shape, dt: float) -> None:
        super().__init__(spec, in_shape)
        pooled = pooled_shape(in_shape, spec.pool, spec.pool, 0, spec.name) if spec.pool > 1 else in_shape
        synapse = nn.Linear(math.prod(pooled), spec.features, bias=not spec.norm)
        norm = nn.BatchNorm1d(spec.features) if spec.norm else None
        self.layer = SpikingLayer(spec.name, synapse, norm, Neuron(spec.neuron, dt, (spec.features,)))
        self.out_shape = (spec.features,)

    def flat(self, x: Tensor) -> Tensor:
        """[N, *in_shape] -> [N, features in]."""
        if self.spec.pool > 1:
            x = nn.functional.avg_pool2d(x, self.spec.pool)
        return x.flatten(1)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """See Unit.step."""
        y, v = self.layer.step(self.flat(x), state[0])
        return y, (v,)

    def sequence(self, x: Tensor) -> Tensor:
        """See Unit.sequence."""
        return self.layer.sequence(over_time(self.flat, x))


class ResidualUnit(Unit):
    """SEW basic block: b(a(x)) + shortcut(x), an addition of spikes (0, 1, 2, ... can come out)."""

    spec: ResidualSpec

    def __init__(self, spec: ResidualSpec, in_shape: Shape, dt: float) -> None:
        super().__init__(spec, in_shape)
        name, width, stride, norm, neuron = spec.name, spec.channels, spec.stride, spec.norm, spec.neuron
        self.a = conv_layer(f"{name}.a", in_shape, width, 3, stride, 1, 1, norm, neuron, dt)
        self.out_shape = self.a.neuron.shape
        self.b = conv_layer(f"{name}.b", self.out_shape, width, 3, 1, 1, 1, norm, neuron, dt)
        self.shortcut: SpikingLayer | None = None
        if in_shape != self.out_shape:
            self.shortcut = conv_layer(f"{name}.shortcut", in_shape, width, 1, stride, 0, 1, norm, neuron, dt)

    def most(self, most_in: int | None) -> int | None:
        """See Unit.most."""
        if self.shortcut is not None:
            return 2
        return None if most_in is None else most_in + 1

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """See Unit.step."""
        h, v_a = self.a.step(x, state[0])
        h, v_b = self.b.step(h, state[1])
        if self.shortcut is None:
            return h + x, (v_a, v_b)
        skip, v_skip = self.shortcut.step(x, state[2])
        return h + skip, (v_a, v_b, v_skip)

    def sequence(self, x: Tensor) -> Tensor:
        """See Unit.sequence."""
        h = self.b.sequence(self.a.sequence(x))
        return h + (x if self.shortcut is None else self.shortcut.sequence(x))


class PoolUnit(Unit):
    """Average pool; no state, no weights."""

    spec: PoolSpec

    def __init__(self, spec: PoolSpec, in_shape: Shape, dt: float) -> None:
        super().__init__(spec, in_shape)
        self.stride = spec.stride or spec.kernel
        self.out_shape = pooled_shape(in_shape, spec.kernel, self.stride, spec.padding, spec.name)

    def most(self, most_in: int | None) -> int | None:
        """An average is not a whole number."""
        return None

    def pool(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H', W']."""
        return nn.functional.avg_pool2d(x, self.spec.kernel, self.stride, self.spec.padding)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """See Unit.step."""
        return self.pool(x), state

    def sequence(self, x: Tensor) -> Tensor:
        """See Unit.sequence."""
        return over_time(self.pool, x)


class Readout(Unit):
    """Logits of each time step, [B, classes]; how they are decoded over T is the network's `output`."""

    spec: ReadoutSpec

    def __init__(self, spec: ReadoutSpec, in_shape: Shape, dt: float) -> None:
        super().__init__(spec, in_shape)
        self.out_shape = (spec.classes,)
        self.pools = spec.pool == "global" and len(in_shape) == 3
        features = in_shape[0] if self.pools else math.prod(in_shape)
        self.linear = nn.Linear(features, spec.classes)
        self.neuron = None if spec.neuron is None else Neuron(spec.neuron, dt, self.out_shape)

    @property
    def rest(self) -> State:
        """The state before the first time step."""
        return () if self.neuron is None else (None,)

    def most(self, most_in: int | None) -> int | None:
        """Logits are not whole numbers."""
        return None

    def logits(self, x: Tensor) -> Tensor:
        """[N, *in_shape] -> [N, classes], without the LI."""
        if self.pools:
            x = nn.functional.avg_pool2d(x, self.in_shape[1:])
        logits: Tensor = self.linear(x.flatten(1))
        return logits

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """See Unit.step."""
        logits = self.logits(x)
        if self.neuron is None:
            return logits, ()
        logits, v = self.neuron(logits, state[0])
        return logits, (v,)

    def sequence(self, x: Tensor) -> Tensor:
        """See Unit.sequence."""
        logits = over_time(self.logits, x)
        return logits if self.neuron is None else self.neuron.sequence(logits)


UNITS: dict[type[Spec], Callable[..., Unit]] = {
    ConvSpec: ConvUnit,
    LinearSpec: LinearUnit,
    ResidualSpec: ResidualUnit,
    PoolSpec: PoolUnit,
    ReadoutSpec: Readout,
}
"""Spec -> unit. All of these can be said in NIR; `stdl_export.from_torch` has the row that says how."""


def build_unit(spec: Spec, in_shape: Shape, dt: float) -> Unit:
    """A fresh unit with newly drawn weights for inputs of `in_shape`; dt in seconds."""
    return UNITS[type(spec)](spec, in_shape, dt)


def conv_layer(
    name: str, in_shape: Shape, channels: int, kernel: int, stride: int, padding: int, groups: int, norm: bool,
    neuron: NeuronSpec, dt: float,
) -> SpikingLayer:  # fmt: skip
    """Convolution, batch normalisation and neuron for maps of `in_shape` (C, H, W)."""
    _, height, width = pooled_shape(in_shape, kernel, stride, padding, name)
    synapse = nn.Conv2d(in_shape[0], channels, kernel, stride, padding, groups=groups, bias=not norm)
    return SpikingLayer(
        name, synapse, nn.BatchNorm2d(channels) if norm else None, Neuron(neuron, dt, (channels, height, width))
    )


def pooled_shape(shape: Shape, kernel: int, stride: int, padding: int, name: str) -> Shape:
    """Shape behind a window of kernel x kernel over (C, H, W)."""
    if len(shape) != 3:
        raise ValueError(f"unit '{name}' needs maps (C, H, W), its input has shape {shape}")
    height, width = ((size + 2 * padding - kernel) // stride + 1 for size in shape[1:])
    if height < 1 or width < 1:
        raise ValueError(f"unit '{name}': a window of {kernel} does not fit a map of {shape[1]}x{shape[2]}")
    return (shape[0], height, width)


def spiking_neurons(modules: nn.Module) -> Iterator[tuple[str, Neuron]]:
    """Every layer of spiking neurons with the name of its NIR node, `<layer>.<kind>`, in the order of the network."""
    for module in modules.modules():
        if isinstance(module, SpikingLayer) and module.neuron.spiking:
            yield neuron_node(module.name, module.neuron), module.neuron


def neuron_node(layer: str, neuron: Neuron) -> str:
    """NIR node name of a layer's neuron, for example 'conv1.lif'."""
    return f"{layer}.{neuron.spec.kind.lower()}"


class SpikeRecorder:
    """Within the `with` block, keep what every spiking layer puts out.

    `spikes[node]` is a list of [B, ...], one a step.
    """

    def __init__(self, modules: nn.Module) -> None:
        self.spikes: dict[str, list[Tensor]] = {}
        self._modules, self._hooks = modules, list[torch.utils.hooks.RemovableHandle]()

    def __enter__(self) -> SpikeRecorder:
        for node, neuron in spiking_neurons(self._modules):
            kept = self.spikes.setdefault(node, [])
            self._hooks.append(
                neuron.register_forward_hook(lambda _m, _i, out, kept=kept: kept.append(out[0].detach()))
            )
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
