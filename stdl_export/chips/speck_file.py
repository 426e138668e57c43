"""Speck's configuration as JSON: for each core the dictionary that sinabs hands to `samna`'s `CNNLayerConfig`.

    cnn_layers.<core>   dimensions {input_shape, output_shape {size {x, y}, feature_count}, padding, stride {x, y},
                        kernel_size}, weights [F][C][x][y], biases [F], leak_enable, return_to_zero, threshold_high,
                        threshold_low, monitor_enable, neurons_initial_value [F][x][y],
                        destinations [{layer, enable, pooling}]
    input.destinations  [{layer, enable, pooling}]: the cores that the events of the input go to
    output              the core whose spikes are the network's output

x runs along the width, so weights and initial values are transposed. The file is read as untrusted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pydantic
from numpy.typing import NDArray

from stdl_export.common.config import read_json_object, validate
from stdl_export.common.errors import BadInput, join_reasons
from stdl_export.common.files import atomic_file

Integers = NDArray[np.int64]

MOST_BYTES = 256 << 20
CORES = 9

Small = Annotated[int, pydantic.Field(ge=0, le=1024)]
Size = Annotated[int, pydantic.Field(ge=1, le=1024)]
Word = Annotated[int, pydantic.Field(ge=-(1 << 15), le=(1 << 15) - 1)]


class _Table(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True)


class Point(_Table):
    """Along the width, and along the height."""

    x: Small
    y: Small


class Plane(_Table):
    """A map: its size, and its channels."""

    size: Point
    feature_count: Size


class Dimensions(_Table):
    """Of a convolution."""

    input_shape: Plane
    output_shape: Plane
    padding: Point
    stride: Point
    kernel_size: Size


class Destination(_Table):
    """Where spikes go: to which core, summed over squares of `pooling`."""

    layer: Annotated[int, pydantic.Field(ge=0, lt=CORES)]
    enable: bool = True
    pooling: Literal[1, 2, 4] = 1

    @property
    def core(self) -> int:
        """Its number."""
        return self.layer

    @property
    def pool(self) -> int:
        """Height and width of the squares."""
        return self.pooling


class Layer(_Table):
    """The dictionary of a core; numbers of neurons and weights as nested lists."""

    dimensions: Dimensions
    weights: list[Any]
    biases: list[Any]
    leak_enable: bool
    return_to_zero: bool
    threshold_high: Annotated[int, pydantic.Field(ge=1, lt=1 << 15)]
    threshold_low: Annotated[int, pydantic.Field(ge=-(1 << 15), le=0)]
    monitor_enable: bool
    neurons_initial_value: list[Any]
    destinations: Annotated[tuple[Destination, ...], pydantic.Field(max_length=2, strict=False)]


class Input(_Table):
    """Where the events of the input go."""

    destinations: Annotated[tuple[Destination, ...], pydantic.Field(min_length=1, max_length=2, strict=False)]


class Content(pydantic.BaseModel):
    """The file, as far as it is the chip's."""

    model_config = pydantic.ConfigDict(extra="ignore", frozen=True)

    cnn_layers: Annotated[dict[str, Layer], pydantic.Field(min_length=1, max_length=CORES)]
    input: Input
    output: Annotated[int, pydantic.Field(ge=0, lt=CORES)]


@dataclass(frozen=True, eq=False)
class CoreConfig:
    """A core in arrays: kernel [F, C, k, k], bias [F], initial [F, H, W]."""

    kernel: Integers
    bias: Integers
    initial: Integers
    stride: int
    padding: int
    in_shape: tuple[int, int, int]
    threshold_high: int
    threshold_low: int
    to_zero: bool
    destinations: tuple[Destination, ...]

    @property
    def channels(self) -> int:
        """F."""
        return len(self.kernel)

    @property
    def shape(self) -> tuple[int, int, int]:
        """[F, H, W]."""
        channels, height, width = self.initial.shape
        return channels, height, width


@dataclass(frozen=True, eq=False)
class Configuration:
    """Cores by number, where the input goes, and which core is the output; checked when built."""

    cores: dict[int, CoreConfig]
    input: tuple[Destination, ...]
    output: int

    def __post_init__(self) -> None:
        if reasons := [*_reasons(self)]:
            raise BadInput(f"not a configuration for Speck: {join_reasons(reasons)}: export the network again")

    @property
    def order(self) -> list[int]:
        """The cores in an order in which each comes behind all that it reads."""
        left = {k: sum(d.core == k for core in self.cores.values() for d in core.destinations) for k in self.cores}
        found = [k for k, count in left.items() if not count]
        for k in found:
            for destination in self.cores[k].destinations:
                left[destination.core] -= 1
                if not left[destination.core]:
                    found.append(destination.core)
        return found


def write(configuration: Configuration, path: Path, about: dict[str, Any]) -> None:
    """Write the JSON file; `about` goes beside what is the chip's."""
    layers = {str(k): _said(core) for k, core in sorted(configuration.cores.items())}
    inputs = {"destinations": [destination.model_dump() for destination in configuration.input]}
    content = {"cnn_layers": layers, "input": inputs, "output": configuration.output, **about}
    with atomic_file(path) as part:
        part.write_text(json.dumps(content) + "\n", encoding="utf-8")


def read(path: Path) -> tuple[Configuration, dict[str, Any]]:
    """The configuration, and all of the file; BadInput in one line where it is damaged or foreign."""
    content = read_json_object(path, MOST_BYTES, "export the network again")
    checked = validate(Content, content, f"'{path}'")
    try:
        cores = {_number(k): _core(k, layer) for k, layer in checked.cnn_layers.items()}
        inputs = tuple(each for each in checked.input.destinations if each.enable)
        return Configuration(cores, inputs, checked.output), content
    except BadInput as error:
        raise BadInput(f"'{path}': {error}") from None


def _said(core: CoreConfig) -> dict[str, Any]:
    """The dictionary of a core."""
    channels, height, width = core.shape
    return {
        "dimensions": {
            "input_shape": _plane(core.in_shape),
            "output_shape": _plane((channels, height, width)),
            "padding": {"x": core.padding, "y": core.padding},
            "stride": {"x": core.stride, "y": core.stride},
            "kernel_size": int(core.kernel.shape[2]),
        },
        "weights": core.kernel.swapaxes(2, 3).tolist(),
        "biases": core.bias.tolist(),
        "leak_enable": bool(core.bias.any()),
        "return_to_zero": core.to_zero,
        "threshold_high": core.threshold_high,
        "threshold_low": core.threshold_low,
        "monitor_enable": False,
        "neurons_initial_value": core.initial.swapaxes(1, 2).tolist(),
        "destinations": [destination.model_dump() for destination in core.destinations],
    }


def _plane(shape: tuple[int, int, int]) -> dict[str, Any]:
    return {"size": {"x": shape[2], "y": shape[1]}, "feature_count": shape[0]}


def _number(name: str) -> int:
    if not (name.isascii() and name.isdigit() and len(name) == 1 and int(name) < CORES):
        raise BadInput(f"cnn_layers has a core {name!r:.20}: they are 0..{CORES - 1}")
    return int(name)


def _core(name: str, layer: Layer) -> CoreConfig:
    """Arrays of a core; BadInput where lists and dimensions do not fit."""
    said, size = layer.dimensions, layer.dimensions.kernel_size
    inside, out = said.input_shape, said.output_shape
    if said.padding.x != said.padding.y or said.stride.x != said.stride.y or not said.stride.x:
        raise BadInput(f"core {name}: padding and stride must be the same along x and y, strides from 1 on")
    shapes = {
        "weights": (out.feature_count, inside.feature_count, size, size),
        "biases": (out.feature_count,),
        "neurons_initial_value": (out.feature_count, out.size.x, out.size.y),
    }
    bounds = {
        "weights": (-128, 127),
        "biases": (-(1 << 15), (1 << 15) - 1),
        "neurons_initial_value": (-(1 << 15), (1 << 15) - 1),
    }
    found = {
        key: _array(f"core {name}: {key}", getattr(layer, key), shape, bounds[key]) for key, shape in shapes.items()
    }
    return CoreConfig(
        kernel=found["weights"].swapaxes(2, 3),
        bias=found["biases"],
        initial=found["neurons_initial_value"].swapaxes(1, 2),
        stride=said.stride.x,
        padding=said.padding.x,
        in_shape=(inside.feature_count, inside.size.y, inside.size.x),
        threshold_high=layer.threshold_high,
        threshold_low=layer.threshold_low,
        to_zero=layer.return_to_zero,
        destinations=tuple(each for each in layer.destinations if each.enable),
    )


def _array(what: str, values: list[Any], shape: tuple[int, ...], bounds: tuple[int, int]) -> Integers:
    try:
        array = np.array(values)
    except (ValueError, OverflowError, RecursionError):  # lists of different lengths
        raise BadInput(f"{what} are not {shape} whole numbers") from None
    if array.shape != shape or array.dtype.kind not in "iu":
        raise BadInput(f"{what} are {array.shape} of {array.dtype}, not {shape} whole numbers")
    if array.size and (array.min() < bounds[0] or array.max() > bounds[1]):
        raise BadInput(f"{what} are {array.min()}..{array.max()}, the chip has {bounds[0]}..{bounds[1]}")
    return array.astype(np.int64)


def _reasons(found: Configuration) -> Iterator[str]:
    """Destinations that are not there, maps that do not fit each other, cores in a circle."""
    if found.output not in found.cores:
        yield f"its output is core {found.output}, which is not there"
    feeds = [(f"core {k}", core.shape, each) for k, core in found.cores.items() for each in core.destinations]
    if not found.input:
        yield "its input feeds no core"
        return
    first = found.cores.get(found.input[0].core)
    feeds += [] if first is None else [("the input", first.in_shape, each) for each in found.input]
    for what, shape, destination in feeds:
        target = found.cores.get(destination.core)
        pooled = (shape[0], *(size // destination.pool for size in shape[1:]))
        if target is None:
            yield f"{what} feeds core {destination.core}, which is not there"
        elif pooled != target.in_shape:
            yield f"{what} gives {pooled}, core {destination.core} reads {target.in_shape}"
    if first is None:
        yield f"the input feeds core {found.input[0].core}, which is not there"
    for k, core in found.cores.items():
        size = tuple((n + 2 * core.padding - core.kernel.shape[2]) // core.stride + 1 for n in core.in_shape[1:])
        if size != core.shape[1:]:
            yield f"core {k} makes maps of {size}, its neurons are {core.shape[1:]}"
    if not [*_unknown(found)] and len(found.order) < len(found.cores):
        yield "its cores feed each other in a circle"


def _unknown(found: Configuration) -> Iterator[int]:
    return (each.core for core in found.cores.values() for each in core.destinations if each.core not in found.cores)
