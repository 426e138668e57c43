"""A user's own network, `model.network = package.module:builder`, and what of it NIR cannot say.

    builder(input_shape=(C, H, W), classes=10, neuron=NeuronSpec(...), **options) -> [item, item, ...]

Items in order: unit specs (ConvSpec, ...), and stateless PyTorch modules. A module that NIR can say becomes the unit
that says it (AvgPool2d: PoolSpec); any other stays a module, for training only. The last item may be a ReadoutSpec;
without one a linear readout is added. The builder runs where training starts, and nowhere else: a network's file holds
no code.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from stdl_export.common.errors import BadInput, one_line
from stdl_models.network import NetworkSpec
from stdl_models.neurons import NeuronSpec
from stdl_models.units.base import Spec
from stdl_models.units.registry import UNITS, UnitSpec
from stdl_models.units.shapes import Shape
from stdl_models.units.simple import ModuleSpec, PoolSpec, ReadoutSpec

Parts = tuple[tuple[UnitSpec, ...], ReadoutSpec]

REFUSALS: dict[str, str] = {
    "MaxPool2d": "NIR has no max pooling: use PoolSpec, or a stride",
    "AdaptiveMaxPool2d": "NIR has no max pooling: use PoolSpec, or a stride",
    "AdaptiveAvgPool2d": 'NIR pools have a fixed kernel: use PoolSpec(kernel=...), or pool="global" of what follows',
    "AvgPool2d": "NIR pools are square here, count padded zeros and round down: use PoolSpec",
    "Softmax": "NIR has no softmax, and the loss takes logits: leave it out",
    "LogSoftmax": "NIR has no softmax, and the loss takes logits: leave it out",
    "MultiheadAttention": "NIR has no product of two signals: use convolutions and linear maps with neurons",
    "Conv2d": "a convolution without a neuron is no unit: use ConvSpec",
    "Linear": "a linear map without a neuron is no unit: use LinearSpec, or ReadoutSpec at the end",
    "ReLU": "what is not a neuron has no activation in NIR: leave it out, the neuron of a spec is the activation",
    "LayerNorm": "NIR has no normalisation by the sample: use norm=True of a spec, which is folded",
    "GroupNorm": "NIR has no normalisation by the sample: use norm=True of a spec, which is folded",
    "InstanceNorm2d": "NIR has no normalisation by the sample: use norm=True of a spec, which is folded",
    "Upsample": "NIR has no interpolation: keep the resolution",
    "Flatten": "a flatten stands in front of every linear map by itself: leave it out",
}
"""Class of a module -> why NIR cannot say it and what to use instead."""

BATCHNORMS = nn.modules.batchnorm._BatchNorm


def refusal(spec: ModuleSpec) -> str:
    """Why NIR cannot say this module, and what to use instead."""
    kind = spec.what.partition("(")[0]
    reason = REFUSALS.get(kind, "NIR has no node for it: use the unit specs of stdl_models.units")
    return f"{spec.what}: {'NIR has no dropout: leave it out, or use weight decay' if 'Dropout' in kind else reason}"


def unexportable(spec: NetworkSpec) -> list[str]:
    """Every reason why this network could not be exported, one line for each unit; empty: it can be."""
    return [f"unit '{unit.name}': {refusal(unit)}" for unit in spec.units if isinstance(unit, ModuleSpec)]


def is_user_network(name: str) -> bool:
    """Whether a network's name is that of a builder, package.module:builder."""
    return ":" in name


def user_network(name: str, shape: Shape, classes: int, neuron: NeuronSpec, options: Mapping[str, Any]) -> Parts:
    """Import and call the builder; BadInput in one line where anything about it is wrong."""
    builder = _builder(name)
    try:
        items = builder(input_shape=tuple(shape), classes=classes, neuron=neuron, **options)
    except Exception as error:
        raise BadInput(f"network '{name}': the builder failed: {_last_line(error)}") from error
    if not isinstance(items, list | tuple | nn.Sequential):
        raise BadInput(
            f"network '{name}': the builder returned {type(items).__name__}: return a list of unit specs and modules"
        )
    return _parts(name, list(items), classes)


def _builder(name: str) -> Callable[..., Any]:
    """What `package.module:builder` names; modules of the current directory are found too."""
    module_name, _, attribute = name.partition(":")
    if not module_name.replace(".", "").isidentifier() or not attribute.isidentifier():
        raise BadInput(f"network '{name}': write package.module:builder")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise BadInput(
            f"network '{name}': no module '{error.name}': write package.module:builder, "
            "with a module of the current directory or an installed one"
        ) from None
    except Exception as error:
        raise BadInput(f"network '{name}': module '{module_name}' failed to load: {_last_line(error)}") from error
    builder = getattr(module, attribute, None)
    if not callable(builder):
        what = "has no" if builder is None else "has something not callable by the name"
        raise BadInput(f"network '{name}': module '{module_name}' {what} '{attribute}': name a function")
    found: Callable[..., Any] = builder
    return found


def _last_line(error: Exception) -> str:
    return one_line(f"{type(error).__name__}: {error}")[:200]


def _parts(name: str, items: list[object], classes: int) -> Parts:
    """Items as units and a readout."""
    flat = list(_flattened(items))
    readout = flat.pop() if flat and isinstance(flat[-1], ReadoutSpec) else ReadoutSpec(classes=classes)
    assert isinstance(readout, ReadoutSpec)
    units: list[Any] = []
    for index, item in enumerate(flat, start=1):
        last = index == len(flat)
        if isinstance(item, nn.Flatten) and (last or getattr(flat[index], "kind", "") == "linear"):
            continue  # a linear map flattens what it reads
        units.append(_unit(name, item, index))
    if not units:
        raise BadInput(f"network '{name}': the builder returned no units: return at least one, such as ConvSpec")
    if not any(hasattr(unit, "neuron") for unit in units):
        raise BadInput(f"network '{name}': no item has neurons: add ConvSpec, LinearSpec or a residual block")
    return tuple(units), readout


def _flattened(items: Iterable[object]) -> Iterable[object]:
    """Without nn.Sequential and nn.Identity, which only group."""
    for item in items:
        if isinstance(item, nn.Sequential):
            yield from _flattened(item)
        elif not isinstance(item, nn.Identity):
            yield item


def _unit(name: str, item: object, index: int) -> Spec:
    if isinstance(item, nn.Module):
        return _of_module(name, item, index)
    if isinstance(item, ReadoutSpec):
        raise BadInput(f"network '{name}': item {index} is a ReadoutSpec: it may only be the last one")
    if isinstance(item, Spec) and type(item) in UNITS:
        return item
    hint = " (write an instance, not the class)" if isinstance(item, type) else ""
    raise BadInput(
        f"network '{name}': item {index} is {type(item).__name__}{hint}: unit specs and PyTorch modules are accepted"
    )


def _of_module(name: str, module: nn.Module, index: int) -> Spec:
    """The unit that says what a module does, or the module itself."""
    kind = type(module).__name__
    if any(isinstance(part, BATCHNORMS) for part in module.modules()):
        raise BadInput(f"network '{name}': item {index} ({kind}) has batch normalisation: use norm=True of a unit spec")
    unit_name = f"{kind.lower()}{index}"
    if isinstance(module, nn.AvgPool2d):
        pool = _pool(module, unit_name)
        if pool is not None:
            return pool
    return ModuleSpec(name=unit_name, what=one_line(f"{kind}({module.extra_repr()})")[:120], module=module)


def _pool(module: nn.AvgPool2d, name: str) -> PoolSpec | None:
    """An average pool as a PoolSpec; None where it does something that a PoolSpec does not."""
    sizes = [value if isinstance(value, tuple) else (value, value) for value in (module.kernel_size, module.stride)]
    padding = module.padding if isinstance(module.padding, tuple) else (module.padding, module.padding)
    square = all(height == width for height, width in (*sizes, padding))
    counts = module.count_include_pad or padding == (0, 0)
    if not square or not counts or module.ceil_mode or module.divisor_override is not None:
        return None
    return PoolSpec(name=name, kernel=sizes[0][0], stride=sizes[1][0], padding=padding[0])
