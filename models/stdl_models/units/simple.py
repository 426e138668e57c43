"""Units without a shortcut: convolution, linear map, average pool, a module of the user, the readout."""

from __future__ import annotations

import copy
import math
from typing import Literal

import pydantic
import torch
from torch import Tensor, nn

from stdl_export.common.config import Count, Name, Natural
from stdl_models.neurons import Neuron, NeuronSpec
from stdl_models.units.base import Spec, Unit
from stdl_models.units.flows import Flow, State
from stdl_models.units.layers import SpikingLayer, Synapse
from stdl_models.units.shapes import Shape, pool_size, scaled, window_shape


class ConvSpec(Spec):
    """Square convolution with zero padding, batch normalisation, neuron.

    Without `padding` it is half the kernel. `norm = false` is a plain biased convolution, and `bias = false` besides
    one without a bias.
    """

    kind: Literal["conv"] = "conv"
    channels: Count
    kernel: Count = 3
    stride: Count = 1
    padding: Natural | None = None
    groups: Count = 1
    norm: bool = True
    bias: bool = True
    neuron: NeuronSpec = NeuronSpec()

    def resized(self, in_shape: Shape, ratio: int, width: float) -> ConvSpec:
        """See Spec.resized."""
        return self.model_copy(update={"stride": ratio, "channels": scaled(self.channels, width, self.groups)})


class ConvUnit(Unit):
    """conv-norm-neuron."""

    spec: ConvSpec

    def __init__(self, spec: ConvSpec, in_shape: Shape, dt: float) -> None:
        super().__init__(spec, in_shape)
        self.layer = conv_layer(spec, in_shape, dt)
        self.out_shape = self.layer.neuron.shape

    def compute(self, x: Tensor, run: Flow) -> Tensor:
        """See Unit.compute."""
        return run.layer(self.layer, x)


def conv_layer(spec: ConvSpec, in_shape: Shape, dt: float) -> SpikingLayer:
    """Convolution, batch normalisation and neuron for maps of `in_shape` (C, H, W); dt in seconds."""
    synapse, norm, shape = _conv(spec, in_shape)
    return SpikingLayer(spec.name, in_shape, synapse, norm, Neuron(spec.neuron, dt, shape))


def conv_synapse(spec: ConvSpec, in_shape: Shape) -> Synapse:
    """Convolution and batch normalisation for maps of `in_shape` (C, H, W), without the spec's neuron."""
    synapse, norm, _ = _conv(spec, in_shape)
    return Synapse(spec.name, in_shape, synapse, norm)


def _conv(spec: ConvSpec, in_shape: Shape) -> tuple[nn.Conv2d, nn.BatchNorm2d | None, Shape]:
    """Convolution, batch normalisation, and the shape that comes out."""
    kernel, stride = spec.kernel, spec.stride
    padding = kernel // 2 if spec.padding is None else spec.padding
    shape = (spec.channels, *window_shape(in_shape, (kernel, kernel), (stride, stride), padding, spec.name)[1:])
    bias = spec.bias and not spec.norm
    synapse = nn.Conv2d(in_shape[0], spec.channels, kernel, stride, padding, groups=spec.groups, bias=bias)
    return synapse, nn.BatchNorm2d(spec.channels) if spec.norm else None, shape


class PoolSpec(Spec):
    """Average over kernel x kernel squares; padded zeros count, as in NIR."""

    kind: Literal["avgpool"] = "avgpool"
    kernel: Count = 2
    stride: Count | None = None
    padding: Natural = 0


class PoolUnit(Unit):
    """Average pool; no state, no weights."""

    spec: PoolSpec

    def __init__(self, spec: PoolSpec, in_shape: Shape, dt: float) -> None:
        super().__init__(spec, in_shape)
        kernel, stride = spec.kernel, spec.stride or spec.kernel
        self.stride = stride
        self.out_shape = window_shape(in_shape, (kernel, kernel), (stride, stride), spec.padding, spec.name)

    def most(self, most_in: int | None) -> int | None:
        """An average is not a whole number."""
        return None

    def pool(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H', W']."""
        return nn.functional.avg_pool2d(x, self.spec.kernel, self.stride, self.spec.padding)

    def compute(self, x: Tensor, run: Flow) -> Tensor:
        """See Unit.compute."""
        return run.stateless(self.pool, x)


class ModuleSpec(Spec):
    """A stateless PyTorch module [N, ...] -> [N, ...] of the user, held as the object it is.

    The object is not part of the JSON form, and nothing is ever imported or run because a file names it: what was read
    back has no module and cannot be built.
    """

    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)

    kind: Literal["module"] = "module"
    what: str
    module: nn.Module | None = pydantic.Field(default=None, exclude=True, repr=False)


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


class LinearSpec(Spec):
    """Flatten, linear, batch normalisation, neuron.

    `pool` averages pool x pool squares first (auxiliary networks), or the whole map. `norm`, `bias`: as in ConvSpec.
    """

    kind: Literal["linear"] = "linear"
    features: Count
    pool: Count | Literal["global"] = 1
    norm: bool = True
    bias: bool = True
    neuron: NeuronSpec = NeuronSpec()

    def resized(self, in_shape: Shape, ratio: int, width: float) -> LinearSpec:
        """See Spec.resized; a pool does what a stride does elsewhere, as far as the map is large enough."""
        pool = self.pool if self.pool == "global" else min((ratio, *in_shape[1:]))
        return self.model_copy(update={"pool": pool, "features": scaled(self.features, width)})


class ReadoutSpec(Spec):
    """Linear map to the logits of one time step, [B, classes].

    `neuron` may be an LI that smooths them over time, or one that spikes: its spikes are the logits, as on chips.
    """

    kind: Literal["readout"] = "readout"
    name: Name = "readout"
    classes: Count
    pool: Literal["none", "global"] = "none"
    bias: bool = True
    neuron: NeuronSpec | None = None

    def model_post_init(self, _context: object) -> None:
        """A readout's time constant is not trained."""
        if self.neuron is not None and self.neuron.kind == "PLIF":
            raise ValueError("the readout's neuron is PLIF: LI, IF, LIF and CubaLIF are accepted")


class FlatUnit(Unit):
    """What begins with a flatten, behind an average pool where the spec has one.

    `pool` is the pool's kernel and stride, None where there is none; `pooled` is the shape that is flattened.
    """

    spec: LinearSpec | ReadoutSpec

    def __init__(self, spec: LinearSpec | ReadoutSpec, in_shape: Shape) -> None:
        super().__init__(spec, in_shape)
        self.pool = pool_size(spec.pool, in_shape)
        self.pooled = in_shape if self.pool is None else window_shape(in_shape, self.pool, self.pool, 0, spec.name)

    def flat(self, x: Tensor) -> Tensor:
        """[N, *in_shape] -> [N, features in]."""
        return (x if self.pool is None else nn.functional.avg_pool2d(x, self.pool)).flatten(1)


class LinearUnit(FlatUnit):
    """linear-norm-neuron, behind an average pool and a flatten where the input is a map."""

    spec: LinearSpec

    def __init__(self, spec: LinearSpec, in_shape: Shape, dt: float) -> None:
        super().__init__(spec, in_shape)
        features = math.prod(self.pooled)
        synapse = nn.Linear(features, spec.features, bias=spec.bias and not spec.norm)
        norm = nn.BatchNorm1d(spec.features) if spec.norm else None
        self.out_shape = (spec.features,)
        self.layer = SpikingLayer(spec.name, (features,), synapse, norm, Neuron(spec.neuron, dt, self.out_shape))

    def compute(self, x: Tensor, run: Flow) -> Tensor:
        """See Unit.compute."""
        return run.layer(self.layer, run.stateless(self.flat, x))


class Readout(FlatUnit):
    """Logits of each time step, [B, classes]; how they are decoded over T is the network's `output`."""

    spec: ReadoutSpec

    def __init__(self, spec: ReadoutSpec, in_shape: Shape, dt: float) -> None:
        super().__init__(spec, in_shape)
        self.out_shape = (spec.classes,)
        self.linear = nn.Linear(math.prod(self.pooled), spec.classes, bias=spec.bias)
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
        logits: Tensor = self.linear(self.flat(x))
        return logits

    def compute(self, x: Tensor, run: Flow) -> Tensor:
        """See Unit.compute."""
        logits = run.stateless(self.logits, x)
        return logits if self.neuron is None else run.neuron(self.neuron, logits)
