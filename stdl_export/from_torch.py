"""From a trained network (stdl_models) to a NIR graph: the border behind which there is no torch.

Node types and shapes have no T and no B. A layer `conv1` becomes the nodes `conv1` (Conv2d) and `conv1.lif` (LIF); a
flatten or pool in front of a linear map is a node `<layer>.flatten`, `<layer>.pool`. The addition of a residual block
is fan-in: each consumer has an edge from every summand. Neuron parameters have the full shape of the layer; a bias is
always written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nir
import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from stdl_export import dialects
from stdl_export.common.errors import BadInput
from stdl_export.fold import fold
from stdl_models.nets.user import refusal
from stdl_models.network import SpikingNetwork
from stdl_models.neurons import Neuron
from stdl_models.units.base import Unit
from stdl_models.units.layers import SpikingLayer, Synapse, neuron_node, spiking_neurons
from stdl_models.units.residual import BottleneckUnit, ResidualUnit, SewBlock, SpikingResidualUnit
from stdl_models.units.shapes import Shape
from stdl_models.units.simple import ConvUnit, FlatUnit, LinearUnit, ModuleUnit, PoolUnit, Readout

Sources = tuple[str, ...]
"""Nodes whose outputs, added, are a value."""


@dataclass(frozen=True)
class TrainedNetwork:
    """What a run folder gives to the export.

    The graph (folded, metadata set) and what NIR cannot say about the data.
    """

    graph: nir.NIRGraph
    name: str
    classes: tuple[str, ...]
    data_name: str | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    encoding: str
    encoding_options: dict[str, Any]
    encoding_seed: int
    data_options: dict[str, Any]


def read_run(folder: Path) -> TrainedNetwork:
    """The network of a run folder that stdl-train wrote; BadInput where its file is damaged."""
    network = SpikingNetwork.load(folder / "network.safetensors")
    source = network.spec.input
    return TrainedNetwork(
        graph=to_nir(fold(network)),
        name=network.spec.name,
        classes=network.spec.classes,
        data_name=source.data,
        mean=source.mean,
        std=source.std,
        encoding=source.encoding,
        encoding_options=source.encoding_options,
        encoding_seed=source.encoding_seed,
        data_options=source.data_options,
    )


def to_nir(network: SpikingNetwork) -> nir.NIRGraph:
    """The graph of a network without batch normalisation (`fold` it first); forward Euler, dialect `nir`."""
    spec = network.spec
    builder = _Builder()
    value = builder.add("input", nir.Input(input_type={"input": np.array(spec.input.shape)}), ())
    for unit in network.chain:
        value = ROWS[type(unit)](builder, unit, value)
    builder.add("output", nir.Output(output_type={"output": np.array(network.readout.out_shape)}), value)
    reset = _set_resets(network, builder.nodes)
    metadata = {
        "stdl.dt": float(spec.dt),
        "stdl.T": int(spec.T),
        "stdl.dialect": _dialect(network),
        "stdl.reset": reset,
        "stdl.input": "repeat" if spec.input.repeated else "sequence",
        "stdl.output": spec.output,
    }
    return nir.NIRGraph(nodes=builder.nodes, edges=builder.edges, metadata=metadata, type_check=False)


@dataclass
class _Builder:
    """Nodes and edges so far."""

    nodes: dict[str, Any] = field(default_factory=dict)
    edges: list[tuple[str, str]] = field(default_factory=list)

    def add(self, name: str, node: Any, sources: Sources) -> Sources:
        """Add a node that reads the sum of `sources`; returns it as a value."""
        self.nodes[name] = node
        self.edges += [(source, name) for source in sources]
        return (name,)


def _conv(builder: _Builder, unit: ConvUnit, value: Sources) -> Sources:
    return _layer(builder, unit.layer, value)


def _linear(builder: _Builder, unit: LinearUnit, value: Sources) -> Sources:
    return _layer(builder, unit.layer, _flat(builder, unit, value))


def _sew_block(builder: _Builder, unit: SewBlock, value: Sources) -> Sources:
    """The sum of row and shortcut stays a set of sources: whoever reads it has an edge from each."""
    inner = value
    for layer in unit.row:
        inner = _layer(builder, layer, inner)
    return inner + (value if unit.shortcut is None else _layer(builder, unit.shortcut, value))


def _spiking_residual(builder: _Builder, unit: SpikingResidualUnit, value: Sources) -> Sources:
    """The last neuron has an edge from each summand of its current."""
    first, last = unit.row
    currents = _current(builder, last, _layer(builder, first, value))
    currents += value if unit.shortcut is None else _current(builder, unit.shortcut, value)
    return _neurons(builder, last.name, last.neuron, currents)


def _pool(builder: _Builder, unit: PoolUnit, value: Sources) -> Sources:
    kernel, stride = unit.spec.kernel, unit.stride
    return builder.add(unit.name, _average((kernel, kernel), (stride, stride), unit.spec.padding), value)


def _module(_builder: _Builder, unit: ModuleUnit, _value: Sources) -> Sources:
    raise BadInput(f"unit '{unit.name}': {refusal(unit.spec)}")


def _readout(builder: _Builder, unit: Readout, value: Sources) -> Sources:
    value = builder.add(unit.name, _affine(unit.linear), _flat(builder, unit, value))
    return value if unit.neuron is None else _neurons(builder, unit.name, unit.neuron, value)


ROWS: dict[type[Unit], Callable[[_Builder, Any, Sources], Sources]] = {
    ConvUnit: _conv,
    LinearUnit: _linear,
    ResidualUnit: _sew_block,
    BottleneckUnit: _sew_block,
    SpikingResidualUnit: _spiking_residual,
    PoolUnit: _pool,
    ModuleUnit: _module,
    Readout: _readout,
}
"""Unit -> how NIR says it. The rows of stdl_models.units.registry.UNITS, one each."""


def _layer(builder: _Builder, layer: SpikingLayer, value: Sources) -> Sources:
    return _neurons(builder, layer.name, layer.neuron, _current(builder, layer, value))


def _current(builder: _Builder, layer: Synapse, value: Sources) -> Sources:
    """A layer without its neuron."""
    assert layer.norm is None, f"layer '{layer.name}' still has its batch normalisation: fold the network first"
    synapse = layer.synapse
    node = _affine(synapse) if isinstance(synapse, nn.Linear) else _conv2d(synapse, layer.in_shape)  # type: ignore[arg-type]
    return builder.add(layer.name, node, value)


def _neurons(builder: _Builder, layer: str, neuron: Neuron, value: Sources) -> Sources:
    """A layer's neurons."""
    return builder.add(neuron_node(layer, neuron), _neuron(neuron), value)


def _conv2d(conv: nn.Conv2d, in_shape: Shape) -> nir.Conv2d:
    return nir.Conv2d(
        input_shape=(in_shape[1], in_shape[2]),
        weight=_array(conv.weight),
        stride=conv.stride,
        padding=conv.padding,
        dilation=conv.dilation,
        groups=conv.groups,
        bias=_bias(conv),
    )


def _affine(linear: nn.Linear) -> nir.Affine:
    return nir.Affine(weight=_array(linear.weight), bias=_bias(linear))


def _bias(module: nn.Linear | nn.Conv2d) -> npt.NDArray[np.float32]:
    return np.zeros(module.weight.shape[0], np.float32) if module.bias is None else _array(module.bias)


def _average(kernel: tuple[int, int], stride: tuple[int, int], padding: int) -> nir.AvgPool2d:
    return nir.AvgPool2d(np.array(kernel), np.array(stride), np.array((padding, padding)))


def _flat(builder: _Builder, unit: FlatUnit, value: Sources) -> Sources:
    """Pool and Flatten in front of a linear map, each where there is one; dims count without the batch."""
    if unit.pool is not None:
        value = builder.add(f"{unit.name}.pool", _average(unit.pool, unit.pool, 0), value)
    if len(unit.pooled) == 1:
        return value
    flatten = nir.Flatten(input_type={"input": np.array(unit.pooled)}, start_dim=0, end_dim=-1)
    return builder.add(f"{unit.name}.flatten", flatten, value)


NEURONS: dict[str, type] = {
    "IF": nir.IF, "LIF": nir.LIF, "PLIF": nir.LIF, "CubaLIF": nir.CubaLIF, "LI": nir.LI,
}  # fmt: skip
"""Kind -> primitive. A PLIF is a LIF whose time constant was trained."""


def _neuron(neuron: Neuron) -> Any:
    """The primitive of NEURONS, with every field at the layer's full shape, float32."""
    fields = {name: np.broadcast_to(_array(value), neuron.shape).copy() for name, value in neuron.fields.items()}
    if neuron.spiking and neuron.spec.reset == "subtract":
        fields["v_reset"] = np.zeros(neuron.shape, np.float32)  # not used by this reset; NIR wants it all the same
    return NEURONS[neuron.spec.kind](**fields)


def _dialect(network: SpikingNetwork) -> str:
    """`nir`, and on top of it for each node the rule by which it spikes, where it is not NIR's own."""
    rules = {node: neuron.spec.spike for node, neuron in spiking_neurons(network) if neuron.spec.spike != ">"}
    if not rules:
        return "nir"
    nodes = {node: {"spike": rule} for node, rule in rules.items()}
    return dialects.text(dialects.checked({"base": "nir", "nodes": nodes}, "the network's dialect"))


def _set_resets(network: SpikingNetwork, nodes: dict[str, Any]) -> str:
    """The commonest reset is the graph's; a node with another one says so itself."""
    resets = {node: neuron.spec.reset for node, neuron in spiking_neurons(network)}
    common = Counter(resets.values()).most_common(1)[0][0] if resets else "v_reset"
    for node, reset in resets.items():
        if reset != common:
            nodes[node].metadata["stdl.reset"] = reset
    return common


def _array(tensor: Tensor) -> npt.NDArray[np.float32]:
    array: npt.NDArray[np.float32] = tensor.detach().cpu().numpy().astype(np.float32)
    return array
