"""A bundle as a model that NeuroBench runs (the package `neurobench`, 2.3): its metrics, its harness, our numbers.

    from neurobench.benchmarks import Benchmark
    benchmark = Benchmark(stdl_runtimes.neurobench.model(bundle), loader, [], [], [static_metrics, workload_metrics])

The reference computes. NeuroBench listens to PyTorch modules, so every node with weights is there as a Linear or a
convolution that is called with what the reference gives that node, and what every spiking node puts out passes through
a module of its own: what NeuroBench counts are the reference's own values, not those of a second implementation.

PyTorch and NeuroBench are imported when `model` is called; nothing else here needs them.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import nir
import numpy as np
import numpy.typing as npt

from stdl_export.arrays import Values
from stdl_export.bundle import Bundle
from stdl_export.common.errors import BadInput, Unavailable
from stdl_export.primitives import conv_groups, conv_window
from stdl_export.program import Node, program
from stdl_runtimes import ends, reference
from stdl_runtimes.base import Array
from stdl_runtimes.efficiency_bytes import parameters, states
from stdl_runtimes.efficiency_fanout import SYNAPTIC
from stdl_runtimes.metrics import predictions

INSTALL = "pip install neurobench==2.3.0 snntorch torch"


def model(bundle: Bundle, *, timesteps: int | None = None) -> Any:
    """A `neurobench.models.NeuroBenchModel` of a bundle with one Input.

    Called with a batch, a tensor [B, ...] where the network's input is repeated, else [B, T, ...] as NeuroBench has it,
    it gives the predicted classes [B]; labels to compare them with are [B] too. `timesteps` is needed where the input
    is repeated and the bundle leaves T open. Unavailable where NeuroBench or PyTorch is not installed.
    """
    torch, base = _imported("torch"), _imported("neurobench.models").NeuroBenchModel
    output = bundle.manifest.output
    if output.prediction is None or len(bundle.manifest.input.tensors) != 1:
        raise BadInput(
            f"bundle '{bundle.path}': NeuroBench takes networks with one Input and an Output that classifies"
        )
    network = _Network(torch, bundle.graph())

    answer, decoding, repeated = output.prediction, output.decoding, bundle.manifest.input.mode == "repeat"

    class Bundled(base):  # type: ignore[misc, valid-type]
        """The bundle for NeuroBench's harness."""

        def __init__(self) -> None:
            super().__init__()
            self.add_activation_module(torch.nn.Identity)

        def __call__(self, batch: Any) -> Any:
            x = batch.detach().cpu().numpy()
            outputs = network.run(x if repeated else x.swapaxes(0, 1), timesteps)
            return torch.from_numpy(predictions(outputs[answer], decoding))

        def __net__(self) -> Any:
            return network.root

    return Bundled()


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as missing:
        raise Unavailable(f"NeuroBench cannot run here: {missing}: {INSTALL}") from missing


class _Network:
    """The modules that NeuroBench listens to, and the reference that feeds them.

    root: `layers` with weights, `activations`, and `kept`, the buffers of all other parameters and of one sample's
    states, which belong to the footprint.
    """

    def __init__(self, torch: Any, graph: nir.NIRGraph) -> None:
        self._torch, self._graph, self._made = torch, graph, program(graph)
        self.root = torch.nn.Module()
        self._layers, self._activations = _Group(torch), _Group(torch)
        kept = torch.nn.Module()
        for path, node in self._made.nodes.items():
            if isinstance(node.node, SYNAPTIC):
                self._layers.add(path, _layer(torch, node))
            for array in _apart(node):
                _keep(torch, kept, array)
            if node.spikes or isinstance(node.node, nir.Threshold):
                self._activations.add(path, torch.nn.Identity())
            for shape in states(node, path in self._made.fed_back).values():
                _keep(torch, kept, np.zeros(shape, np.float32))
        parts = {"layers": self._layers.module, "activations": self._activations.module, "kept": kept}
        for name, module in parts.items():
            self.root.add_module(name, module)

    def run(self, x: Values, timesteps: int | None = None) -> ends.Arrays:
        """Outputs [T, B, ...] of the reference; every module has been called with its values, step by step."""
        given = ends.of_program(self._made)
        _, length = given.sequence(x, timesteps)
        times = dict.fromkeys(self._made.timeless, length) if given.repeated else {}

        def watch(node: Node, x: Array, y: Array) -> None:
            for _ in range(times.get(node.path, 1)):
                self._layers.call(node.path, _flat(node, x))
                self._activations.call(node.path, y)

        with self._torch.no_grad():
            result = reference.run(self._graph, x, T=timesteps, watch=watch)
            for path, spikes in result.spikes.items():
                for step in spikes:
                    self._activations.call(path, step.astype(np.float32))
        return result.outputs


class _Group:
    """Modules by node, under one parent."""

    def __init__(self, torch: Any) -> None:
        self._torch = torch
        self.module = torch.nn.Module()
        self._by_node: dict[str, Any] = {}

    def add(self, path: str, module: Any) -> None:
        """PyTorch takes no dots in a name, and none of its own attributes."""
        name = path.replace(".", "_")
        while hasattr(self.module, name):
            name += "_"
        self.module.add_module(name, module)
        self._by_node[path] = module

    def call(self, path: str, x: Array) -> None:
        """Show a value to whoever listens to this node's module; what the module gives is not used."""
        if path in self._by_node:
            self._by_node[path](self._torch.from_numpy(np.ascontiguousarray(x)))


def _apart(node: Node) -> list[npt.NDArray[Any]]:
    """The parameters of a node that no layer holds."""
    if isinstance(node.node, SYNAPTIC):
        return [parameters(node)["bias"]] if _shared_bias(node) else []
    return list(parameters(node).values())


def _keep(torch: Any, module: Any, array: npt.NDArray[Any]) -> None:
    module.register_buffer(f"b{sum(1 for _ in module.buffers())}", torch.from_numpy(np.array(array)))


def _layer(torch: Any, node: Node) -> Any:
    """The Linear or the convolution with a node's weights and biases; NeuroBench knows no others."""
    values = parameters(node)
    if isinstance(node.node, nir.Affine | nir.Linear):
        made = _matrix(torch, values["weight"], biased="bias" in values and not _shared_bias(node))
    else:
        made = _convolution(torch, node.node, values["weight"])
    for name, target in made.named_parameters():
        target.requires_grad_(False)
        target.data = torch.from_numpy(np.array(values[name])).reshape(target.shape)
    return made


def _shared_bias(node: Node) -> bool:
    """Have several matrices one bias? No module has that."""
    weight, bias = np.shape(node.node.weight), np.shape(getattr(node.node, "bias", ()))
    return len(weight) > 2 and bias == weight[-2:-1]


def _matrix(torch: Any, weight: Array, biased: bool) -> Any:
    """(outputs, inputs): a Linear. A matrix for each leading index: a convolution of width 1 with a group for each."""
    *leading, outputs, inputs = weight.shape
    if not leading:
        return torch.nn.Linear(inputs, outputs, bias=biased)
    groups = int(np.prod(leading))
    return torch.nn.Conv1d(groups * inputs, groups * outputs, 1, groups=groups, bias=biased)


def _convolution(torch: Any, node: nir.Conv1d | nir.Conv2d, weight: Array) -> Any:
    window, groups = conv_window(node), conv_groups(node)
    kind = torch.nn.Conv1d if isinstance(node, nir.Conv1d) else torch.nn.Conv2d
    padding = window.begin if window.begin == window.end else "same"
    sizes: Mapping[str, Any] = {"stride": window.stride, "dilation": window.dilation, "padding": padding}
    return kind(groups * weight.shape[1], len(weight), window.kernel, groups=groups, **sizes)


def _flat(node: Node, x: Array) -> Array:
    """Of a node with a matrix for each leading index [B, leading, inputs] as its grouped convolution takes it."""
    matrices = isinstance(node.node, nir.Affine | nir.Linear) and node.node.weight.ndim > 2
    return x.reshape(len(x), -1, 1) if matrices else x
