"""Units, the atoms that splitting, auxiliary networks, merging and export agree on.

A network is an ordered list of units and a readout. A cut between subnetworks may stand behind any unit that puts out
spikes. A unit says what it computes once, in `compute`, and is run in three ways: one step with explicit state, all
steps at once, a chunk of steps without a gradient between them. It has a spec: a few named values from which it can be
built for any input shape, so an auxiliary network builds fresh copies of a network's later units.

| kind             | what                                                        | NIR                                 |
|------------------|-------------------------------------------------------------|-------------------------------------|
| conv             | convolution, norm, neuron                                   | Conv2d, IF or LIF                   |
| linear           | (pool,) flatten, linear map, norm, neuron                   | (AvgPool2d, Flatten,) Affine, LIF   |
| residual         | two conv layers, a shortcut; spikes added (SEW block, ADD)  | as conv; the addition is fan-in     |
| bottleneck       | three conv layers, a shortcut; spikes added (SEW)           | as residual                         |
| spiking_residual | two conv layers, a shortcut; currents added, binary spikes  | as conv; fan-in to the last neuron  |
| avgpool          | average pool                                                | AvgPool2d                           |
| module           | a stateless PyTorch module of the user                      | none: for training only             |
| readout          | (pool,) flatten, linear map (, LI): logits of one time step | (AvgPool2d, Flatten,) Affine (, LI) |

"norm" is batch normalisation, which folding removes before the export.

SEW block: Fang et al. 2021, "Deep residual learning in spiking neural networks". Currents added: Zheng et al. 2021,
"Going deeper with directly-trained larger spiking neural networks".
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Annotated, Literal, Protocol

import pydantic
import torch
from torch import Tensor, nn

from stdl_export.common.config import Choice, Count, Name, Natural, Table
from stdl_models import fused
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
    """Flatten, linear, batch normalisation, neuron.

    `pool` averages pool x pool squares first (auxiliary networks), or the whole map.
    """

    kind: Literal["linear"] = "linear"
    features: Count
    pool: Count | Literal["global"] = 1
    norm: bool = True
    neuron: NeuronSpec = NeuronSpec()


class ResidualSpec(Spec):
    """SEW basic block: spikes(conv, conv) + shortcut. The shortcut is a 1x1 conv layer where shapes change."""

    kind: Literal["residual"] = "residual"
    channels: Count
    stride: Count = 1
    norm: bool = True
    neuron: NeuronSpec = NeuronSpec()


class BottleneckSpec(Spec):
    """SEW bottleneck: spikes(1x1, 3x3, 1x1) + shortcut. `channels` come out; a quarter of them inside."""

    kind: Literal["bottleneck"] = "bottleneck"
    channels: Count
    stride: Count = 1
    norm: bool = True
    neuron: NeuronSpec = NeuronSpec()


class SpikingResidualSpec(Spec):
    """Basic block whose last neuron takes the sum of two currents, that of the second conv and the shortcut's.

    The shortcut is the input itself, or a 1x1 convolution with batch normalisation where shapes change.
    """

    kind: Literal["spiking_residual"] = "spiking_residual"
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


class ModuleSpec(Spec):
    """A stateless PyTorch module [N, ...] -> [N, ...] of the user, held as the object it is.

    The object is not part of the JSON form, and nothing is ever imported or run because a file names it: what was read
    back has no module and cannot be built.
    """

    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)

    kind: Literal["module"] = "module"
    what: str
    module: nn.Module | None = pydantic.Field(default=None, exclude=True, repr=False)


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


UnitSpec = Annotated[
    ConvSpec | LinearSpec | ResidualSpec | BottleneckSpec | SpikingResidualSpec | PoolSpec | ModuleSpec, Choice("kind")
]


class Synapse(nn.Module):
    """Convolution or linear map, and batch normalisation: a current. `name` is its node in NIR."""

    def __init__(self, name: str, synapse: nn.Module, norm: nn.Module | None) -> None:
        super().__init__()
        self.name, self.synapse, self.norm = name, synapse, norm

    def current(self, x: Tensor) -> Tensor:
        """A neuron's input, normalised: the part that has no state. x: [N, ...], N any mix of time and batch."""
        current: Tensor = self.synapse(x)
        return current if self.norm is None else self.norm(current)


class SpikingLayer(Synapse):
    """Synapse (convolution or linear map), batch normalisation, neuron. `name` is the synapse's node in NIR."""

    def __init__(self, name: str, synapse: nn.Module, norm: nn.Module | None, neuron: Neuron) -> None:
        super().__init__(name, synapse, norm)
        self.neuron = neuron


def over_time(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a stateless function [N, ...] -> [N, ...] to x [T, B, ...] with time folded into the batch."""
    y: Tensor = function(x.flatten(0, 1)).unflatten(0, x.shape[:2])
    return y


class Flow(Protocol):
    """One way to run units; x and what comes out are [B, ...] or [steps, B, ...]. Neurons come in the order of `State`.

    Units are written against this: `layer` is `neuron` on `current`, and a flow may do both in one go.
    """

    def stateless(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """What has neither state nor batch statistics: a pool, a flatten, a plain linear map."""
        ...

    def current(self, synapse: Synapse, x: Tensor) -> Tensor:
        """Synapse and normalisation."""
        ...

    def neuron(self, neuron: Neuron, current: Tensor) -> Tensor:
        """A neuron layer's output."""
        ...

    def layer(self, layer: SpikingLayer, x: Tensor) -> Tensor:
        """Synapse, normalisation, neuron."""
        ...


class _States:
    """The states before, handed out in the order of the neurons, and those after."""

    def __init__(self, before: State) -> None:
        self._before, self._after = iter(before), list[Tensor | None]()

    @property
    def after(self) -> State:
        """One potential [B, ...] for each neuron layer that has run."""
        return tuple(self._after)

    def advance(self, run: Callable[[Tensor | None], tuple[Tensor, Tensor]]) -> Tensor:
        """`run(v before)` gives output and v after; returns the output."""
        output, v = run(next(self._before))
        self._after.append(v)
        return output


class _Step(_States):
    """One time step: x [B, ...]."""

    def stateless(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return function(x)

    def current(self, synapse: Synapse, x: Tensor) -> Tensor:
        return synapse.current(x)

    def neuron(self, neuron: Neuron, current: Tensor) -> Tensor:
        return self.advance(lambda v: neuron(current, v))

    def layer(self, layer: SpikingLayer, x: Tensor) -> Tensor:
        return self.neuron(layer.neuron, layer.current(x))


class _Sequence:
    """All time steps from rest: x [T, B, ...]. What has no state takes T*B at once, statistics included."""

    def stateless(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return over_time(function, x)

    def current(self, synapse: Synapse, x: Tensor) -> Tensor:
        return over_time(synapse.current, x)

    def neuron(self, neuron: Neuron, current: Tensor) -> Tensor:
        return neuron.sequence(current)

    def layer(self, layer: SpikingLayer, x: Tensor) -> Tensor:
        return layer.neuron.sequence(over_time(layer.current, x))


class _Chunk(_States):
    """Consecutive time steps: x [c, B, ...]. Synapses take c*B at once, normalisation each step by its own statistics.

    No gradient crosses from one step to another.
    """

    def stateless(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return over_time(function, x)

    def current(self, synapse: Synapse, x: Tensor) -> Tensor:
        current, norm = over_time(synapse.synapse, x), synapse.norm
        return current if norm is None else torch.stack([norm(step) for step in current])

    def neuron(self, neuron: Neuron, current: Tensor) -> Tensor:
        return self.advance(lambda v: fused.steps(current, None, neuron, v))

    def layer(self, layer: SpikingLayer, x: Tensor) -> Tensor:
        current = over_time(layer.synapse, x)
        return self.advance(lambda v: fused.steps(current, layer.norm, layer.neuron, v))


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

    def compute(self, x: Tensor, run: Flow) -> Tensor:
        """What the unit computes, whatever the flow; neurons in the order of `layers`."""
        raise NotImplementedError

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """One time step: x [B, *in_shape] -> y [B, *out_shape] and the new state."""
        run = _Step(state)
        return self.compute(x, run), run.after

    def sequence(self, x: Tensor) -> Tensor:
        """All time steps from rest, x [T, B, *in_shape] -> y [T, B, *out_shape]: the same function, batched over T.

        Gradients pass through time; batch statistics are those of T*B.
        """
        return self.compute(x, _Sequence())

    def chunk(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """c consecutive steps, x [c, B, *in_shape] -> y [c, B, *out_shape] and the new state, detached.

        Equals c calls of `step` with the state detached between them: batch statistics are those of each step.
        """
        run = _Chunk(state)
        return self.compute(x, run), run.after


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

    def compute(self, x: Tensor, run: Flow) -> Tensor:
        """See Unit.compute."""
        return run.layer(self.layer, x)


class LinearUnit(Unit):
    """linear-norm-neuron, behind an average pool and a flatten where the input is a map."""

    spec: LinearSpec

    def __init__(self, spec: LinearSpec, in_shape: Shape, dt: float) -> None:
        super().__init__(spec, in_shape)
        self.pool = pool_size(spec.pool, in_shape)
        self.pooled = in_shape if self.pool is None else window_shape(in_shape, self.pool, self.pool, 0, spec.name)
        synapse = nn.Linear(math.prod(self.pooled), spec.features, bias=not spec.norm)
        norm = nn.BatchNorm1d(spec.features) if spec.norm else None
        self.layer = SpikingLayer(spec.name, synapse, norm, Neuron(spec.neuron, dt, (spec.features,)))
        self.out_shape = (spec.features,)

    def flat(self, x: Tensor) -> Tensor:
        """[N, *in_shape] -> [N, features in]."""
        return (x if self.pool is None else nn.functional.avg_pool2d(x, self.pool)).flatten(1)

    def compute(self, x: Tensor, run: Flow) -> Tensor:
        """See Unit.compute."""
        return run.layer(self.layer, run.stateless(self.flat, x))


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

    def compute(self, x: Tensor, run: Flow) -> Tensor:
        """See Unit.compute."""
        h = run.layer(self.b, run.layer(self.a, x))
        return h + (x if self.shortcut is None else run.layer(self.shortcut, x))


class BottleneckUnit(Unit):
    """SEW bottleneck: c(b(a(x))) + shortcut(x), an addition of spikes; the 3x3 convolution has the stride."""

    spec: BottleneckSpec

    def __init__(self, spec: BottleneckSpec, in_shape: Shape, dt: float) -> None:
        super().__init__(spec, in_shape)
        name, width, stride, norm, neuron = spec.name, spec.channels, spec.stride, spec.norm, spec.neuron
        inside = max(1, width // EXPANSION)
        self.a = conv_layer(f"{name}.a", in_shape, inside, 1, 1, 0, 1, norm, neuron, dt)
        self.b = conv_layer(f"{name}.b", self.a.neuron.shape, inside, 3, stride, 1, 1, norm, neuron, dt)
        self.c = conv_layer(f"{name}.c", self.b.neuron.shape, width, 1, 1, 0, 1, norm, neuron, dt)
        self.out_shape = self.c.neuron.shape
        self.shortcut: SpikingLayer | None = None
        if in_shape != self.out_shape:
            self.shortcut = conv_layer(f"{name}.shortcut", in_shape, width, 1, stride, 0, 1, norm, neuron, dt)

    def most(self, most_in: int | None) -> int | None:
        """See Unit.most."""
        if self.shortcut is not None:
            return 2
        return None if most_in is None else most_in + 1

    def compute(self, x: Tensor, run: Flow) -> Tensor:
        """See Unit.compute."""
        h = run.layer(self.c, run.layer(self.b, run.layer(self.a, x)))
        return h + (x if self.shortcut is None else run.layer(self.shortcut, x))


class SpikingResidualUnit(Unit):
    """Basic block that puts out binary spikes: neuron(current of b(a(x)) + shortcut(x))."""

    spec: SpikingResidualSpec

    def __init__(self, spec: SpikingResidualSpec, in_shape: Shape, dt: float) -> None:
        super().__init__(spec, in_shape)
        name, width, stride, norm, neuron = spec.name, spec.channels, spec.stride, spec.norm, spec.neuron
        self.a = conv_layer(f"{name}.a", in_shape, width, 3, stride, 1, 1, norm, neuron, dt)
        self.out_shape = self.a.neuron.shape
        self.b = conv_layer(f"{name}.b", self.out_shape, width, 3, 1, 1, 1, norm, neuron, dt)
        self.shortcut: Synapse | None = None
        if in_shape != self.out_shape:
            synapse, norm_of_it, _ = _conv(f"{name}.shortcut", in_shape, width, 1, stride, 0, 1, norm)
            self.shortcut = Synapse(f"{name}.shortcut", synapse, norm_of_it)

    def compute(self, x: Tensor, run: Flow) -> Tensor:
        """See Unit.compute."""
        current = run.current(self.b, run.layer(self.a, x))
        current = current + (x if self.shortcut is None else run.current(self.shortcut, x))
        return run.neuron(self.b.neuron, current)


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

    def compute(self, x: Tensor, run: Flow) -> Tensor:
        """See Unit.compute."""
        return run.stateless(self.pool, x)


class ModuleUnit(Unit):
    """A stateless module of the user: a copy of the object that the spec holds."""

    spec: ModuleSpec

    def __init__(self, spec: ModuleSpec, in_shape: Shape, dt: float) -> None:
        super().__init__(spec, in_shape)
        if spec.module is None:
            raise ValueError(
                f"unit '{spec.name}' is a PyTorch module ({spec.what}), and a file holds no code: "
                "build the network with its builder"
            )
        self.module = copy.deepcopy(spec.module).to(torch.empty(0).device)  # torch.device(...) around us decides
        shapes = copy.deepcopy(spec.module).to("meta").eval()
        y = shapes(torch.empty(2, *in_shape, device="meta"))
        if not isinstance(y, Tensor) or y.shape[:1] != (2,):
            raise ValueError(f"unit '{spec.name}' ({spec.what}) does not give one tensor [N, ...] for [N, *{in_shape}]")
        self.out_shape = tuple(y.shape[1:])

    def most(self, most_in: int | None) -> int | None:
        """Nobody knows."""
        return None

    def compute(self, x: Tensor, run: Flow) -> Tensor:
        """See Unit.compute."""
        return run.stateless(self.module, x)


class Readout(Unit):
    """Logits of each time step, [B, classes]; how they are decoded over T is the network's `output`."""

    spec: ReadoutSpec

    def __init__(self, spec: ReadoutSpec, in_shape: Shape, dt: float) -> None:
        super().__init__(spec, in_shape)
        self.out_shape = (spec.classes,)
        self.pool = pool_size(1 if spec.pool == "none" else spec.pool, in_shape)
        self.pooled = in_shape if self.pool is None else (in_shape[0], 1, 1)
        self.linear = nn.Linear(math.prod(self.pooled), spec.classes)
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
        logits: Tensor = self.linear((x if self.pool is None else nn.functional.avg_pool2d(x, self.pool)).flatten(1))
        return logits

    def compute(self, x: Tensor, run: Flow) -> Tensor:
        """See Unit.compute."""
        logits = run.stateless(self.logits, x)
        return logits if self.neuron is None else run.neuron(self.neuron, logits)


UNITS: dict[type[Spec], Callable[..., Unit]] = {
    ConvSpec: ConvUnit,
    LinearSpec: LinearUnit,
    ResidualSpec: ResidualUnit,
    BottleneckSpec: BottleneckUnit,
    SpikingResidualSpec: SpikingResidualUnit,
    PoolSpec: PoolUnit,
    ModuleSpec: ModuleUnit,
    ReadoutSpec: Readout,
}
"""Spec -> unit. All but modules can be said in NIR; `stdl_export.from_torch` has the row that says how."""

EXPANSION = 4
"""How many times wider a bottleneck is outside than inside."""


def build_unit(spec: Spec, in_shape: Shape, dt: float) -> Unit:
    """A fresh unit with newly drawn weights for inputs of `in_shape`; dt in seconds."""
    return UNITS[type(spec)](spec, in_shape, dt)


def conv_layer(
    name: str, in_shape: Shape, channels: int, kernel: int, stride: int, padding: int, groups: int, norm: bool,
    neuron: NeuronSpec, dt: float,
) -> SpikingLayer:  # fmt: skip
    """Convolution, batch normalisation and neuron for maps of `in_shape` (C, H, W)."""
    synapse, norm_of_it, shape = _conv(name, in_shape, channels, kernel, stride, padding, groups, norm)
    return SpikingLayer(name, synapse, norm_of_it, Neuron(neuron, dt, shape))


def _conv(
    name: str, in_shape: Shape, channels: int, kernel: int, stride: int, padding: int, groups: int, norm: bool
) -> tuple[nn.Conv2d, nn.BatchNorm2d | None, Shape]:
    """Convolution, batch normalisation, and the shape that comes out."""
    shape = (channels, *pooled_shape(in_shape, kernel, stride, padding, name)[1:])
    synapse = nn.Conv2d(in_shape[0], channels, kernel, stride, padding, groups=groups, bias=not norm)
    return synapse, nn.BatchNorm2d(channels) if norm else None, shape


def pooled_shape(shape: Shape, kernel: int, stride: int, padding: int, name: str) -> Shape:
    """Shape behind a window of kernel x kernel over (C, H, W)."""
    return window_shape(shape, (kernel, kernel), (stride, stride), padding, name)


def window_shape(shape: Shape, kernel: tuple[int, int], stride: tuple[int, int], padding: int, name: str) -> Shape:
    """Shape behind a window of kernel (height, width) over (C, H, W)."""
    if len(shape) != 3:
        raise ValueError(f"unit '{name}' needs maps (C, H, W), its input has shape {shape}")
    height, width = (
        (size + 2 * padding - k) // step + 1 for size, k, step in zip(shape[1:], kernel, stride, strict=True)
    )
    if height < 1 or width < 1:
        raise ValueError(f"unit '{name}': a window of {kernel[0]} does not fit a map of {shape[1]}x{shape[2]}")
    return (shape[0], height, width)


def pool_size(pool: int | Literal["global"], in_shape: Shape) -> tuple[int, int] | None:
    """Kernel and stride (height, width) of the pool in front of a linear map; None: there is none."""
    if pool == "global":
        return (in_shape[1], in_shape[2]) if len(in_shape) == 3 else None
    return (pool, pool) if pool > 1 else None


def spiking_neurons(modules: nn.Module) -> Iterator[tuple[str, Neuron]]:
    """Every layer of spiking neurons with the name of its NIR node, `<layer>.<kind>`, in the order of the network."""
    for module in modules.modules():
        if isinstance(module, SpikingLayer) and module.neuron.spiking:
            yield neuron_node(module.name, module.neuron), module.neuron


def neuron_node(layer: str, neuron: Neuron) -> str:
    """NIR node name of a layer's neuron, for example 'conv1.lif'; a PLIF is a LIF there."""
    return f"{layer}.{neuron.spec.kind.lower().removeprefix('p')}"


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
