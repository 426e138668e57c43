"""What a network costs: synaptic operations, sparsity, bytes and an estimate of energy, from the reference's values.

Definitions are NeuroBench's (Yik et al. 2025, "The NeuroBench framework for benchmarking neuromorphic computing
algorithms and systems"), so the numbers may stand beside published ones; `stdl_runtimes.neurobench` hands a bundle to
NeuroBench itself, and a test holds the two equal:

    dense                  weights times inputs, were every input active and no weight zero
    effective              those of them whose input and whose weight are not zero
    ACs, MACs              effective operations of a step in which all inputs of the node are -1, 0 or 1 (to accumulate
                           needs no multiplier), and of all other steps
    activation sparsity    the share of zeros in what spiking nodes and Thresholds put out, over time and samples
    connection sparsity    the share of weights that are zero; biases do not count
    footprint              bytes of all parameters and of the states of one sample, in float32

Padding adds no inputs. All T steps count, also of what never changes because one frame is repeated: a sequence graph
computes that once, a step graph and a chip do so every step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import nir
import numpy as np

from stdl_export.arrays import Values
from stdl_export.graph import NodeName
from stdl_export.manifest import FP32, Arithmetic
from stdl_export.program import Node, Program, program
from stdl_runtimes import ends, reference
from stdl_runtimes.base import Array, Spikes
from stdl_runtimes.efficiency_bytes import parameter_bytes, state_bytes, stored_bytes
from stdl_runtimes.efficiency_fanout import SYNAPTIC, FanOut, of_node
from stdl_runtimes.efficiency_result import Efficiency, EnergyModel, LayerCost

HOROWITZ = EnergyModel()
NUMBERS = (
    "dense", "macs", "acs", "updates", "weights", "zero_weights", "parameter_bytes", "stored_bytes", "state_bytes",
    "synaptic_nj", "neuron_nj", "dense_nj",
)  # fmt: skip


def measure(
    network: nir.NIRGraph,
    x: Values,
    *,
    T: int | None = None,
    arithmetic: Arithmetic = FP32,
    energy: EnergyModel = HOROWITZ,
) -> Efficiency:
    """The cost of a checked graph on samples x, which are as `reference.run` takes them."""
    made = program(network)
    _, timesteps = ends.of_program(made).sequence(x, T)
    meter = Meter(made, timesteps, arithmetic, energy)
    result = reference.run(network, x, T=T, watch=meter.watch)
    meter.add(next(iter(result.outputs.values())).shape[1], result.spikes)
    return meter.result()


class Meter:
    """Counts while the reference runs: give `watch` to it, and `add` the spikes of each part of the samples."""

    def __init__(
        self, made: Program, timesteps: int, arithmetic: Arithmetic = FP32, energy: EnergyModel = HOROWITZ
    ) -> None:
        self._program, self._timesteps, self._arithmetic, self._energy = made, timesteps, arithmetic, energy
        still = made.timeless if made.settings.input == "repeat" else ()
        times = {path: timesteps if path in still else 1 for path in made.nodes}
        nodes = made.nodes.items()
        self._synapses = {
            path: _Synapses(of_node(node.node, node.in_shape), timesteps, times[path])
            for path, node in nodes
            if isinstance(node.node, SYNAPTIC)
        }
        self._activations = {
            path: _Activations(times[path]) for path, node in nodes if node.spikes or _is_threshold(node)
        }
        self._samples = 0

    def watch(self, node: Node, x: Array, y: Array) -> None:
        """What goes into a node without memory and what comes out, [B, ...]."""
        if node.path in self._synapses:
            self._synapses[node.path].add(x)
        elif node.path in self._activations:
            self._activations[node.path].add(y)

    def add(self, samples: int, spikes: Mapping[NodeName, Spikes]) -> None:
        """The spikes [T, B, ...] of every spiking node, of samples that `watch` saw."""
        self._samples += samples
        for path, each in spikes.items():
            self._activations[path].add(each)

    def result(self) -> Efficiency:
        """The cost per sample of all that was seen."""
        assert self._samples, "nothing was seen"
        layers = [self._layer(node) for node in self._program.nodes.values() if self._matters(node)]
        zeros, outputs = (sum(getattr(each, name) for each in self._activations.values()) for name in ("zeros", "all"))
        sums = {name: sum(getattr(layer, name) for layer in layers) for name in NUMBERS}
        total = LayerCost("total", "", sparsity=zeros / outputs if outputs else None, **sums)
        return Efficiency(
            samples=self._samples,
            timesteps=self._timesteps,
            layers=layers,
            total=total,
            connection_sparsity=total.zero_weights / total.weights if total.weights else None,
            footprint=sum(self._footprint(node) for node in self._program.nodes.values()),
            energy=self._energy,
        )

    def _footprint(self, node: Node) -> int:
        return parameter_bytes(node) + state_bytes(node, node.path in self._program.fed_back, FP32)

    def _matters(self, node: Node) -> bool:
        """Does it weigh, spike or keep anything? Pools, Flatten, Input and Output do not."""
        return node.path in self._synapses or node.path in self._activations or self._footprint(node) > 0

    def _bytes(self, node: Node) -> dict[str, Any]:
        return {
            "parameter_bytes": parameter_bytes(node),
            "stored_bytes": stored_bytes(node, self._arithmetic),
            "state_bytes": state_bytes(node, node.path in self._program.fed_back, self._arithmetic),
        }

    def _layer(self, node: Node) -> LayerCost:
        cost = replace(self._counted(node), **self._bytes(node))
        mac, ac = self._energy.mac_pj / 1e3, self._energy.ac_pj / 1e3
        synaptic = mac * cost.macs + ac * cost.acs
        return replace(cost, synaptic_nj=synaptic, neuron_nj=mac * cost.updates, dense_nj=mac * cost.dense)

    def _counted(self, node: Node) -> LayerCost:
        kept = len(node.numbers.initial.keys() & {"v", "i"}) if node.numbers is not None else 0
        updates = float(kept * math.prod(node.shape) * self._timesteps)
        cost = LayerCost(node.path, type(node.node).__name__, updates=updates)
        if (activation := self._activations.get(node.path)) is not None:
            return replace(cost, sparsity=activation.zeros / activation.all)
        if (synapses := self._synapses.get(node.path)) is None:
            return cost
        macs, acs = synapses.operations()
        weight = np.asarray(node.node.weight)
        return replace(
            cost,
            dense=float(synapses.fan_out.dense * self._timesteps),
            macs=macs / self._samples,
            acs=acs / self._samples,
            input_activity=synapses.active / synapses.inputs,
            weights=weight.size,
            zero_weights=int((weight == 0).sum()),
        )


def _is_threshold(node: Node) -> bool:
    return isinstance(node.node, nir.Threshold)


class _Activations:
    """Outputs of a node, and how many of them were zero. times: for how many steps each that is seen stands."""

    def __init__(self, times: int) -> None:
        self._times = times
        self.zeros = self.all = 0

    def add(self, y: Array | Spikes) -> None:
        self.all += self._times * y.size
        self.zeros += self._times * (y.size - int(np.count_nonzero(y)))


class _Synapses:
    """Operations of a node with weights, by time step: whether they are ACs is said of all samples of a step.

    times: for how many steps each input that is seen stands.
    """

    def __init__(self, fan_out: FanOut, timesteps: int, times: int) -> None:
        self.fan_out = fan_out
        self._times = times
        self._effective = np.zeros(timesteps // times, np.int64)
        self._spikes = np.ones(timesteps // times, np.bool_)
        self._calls = self.inputs = self.active = 0

    def add(self, x: Array) -> None:
        """The input [B, ...] of the next step; behind the last comes the first of other samples."""
        step = self._calls % len(self._effective)
        self._calls += 1
        by_input = np.count_nonzero(x, axis=0)
        self._effective[step] += int((by_input * self.fan_out.effective).sum())
        self._spikes[step] &= bool(((x == 0) | (np.abs(x) == 1)).all())
        self.inputs += x.size
        self.active += int(by_input.sum())

    def operations(self) -> tuple[int, int]:
        """MACs and ACs of all samples and steps."""
        acs = int(self._effective[self._spikes].sum())
        return self._times * (int(self._effective.sum()) - acs), self._times * acs
