"""What a network costs, as plain data: `efficiency` measures it, reports and the JSON file hold it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EnergyModel:
    """Picojoules of a multiply-accumulate and of an accumulate, and where they are from.

    Arithmetic only: memory traffic, control and leakage, which dominate on most hardware, are left out.
    """

    mac_pj: float = 4.6
    ac_pj: float = 0.9
    source: str = "float32 in 45 nm: multiply 3.7 pJ, add 0.9 pJ (Horowitz, ISSCC 2014); arithmetic only"


@dataclass(frozen=True)
class LayerCost:
    """One node, per sample and over all time steps.

    dense, macs, acs: synaptic operations; input_activity: the share of its inputs that are not zero; None and 0 where a
    node has no weights. sparsity: the share of zeros it puts out, of spiking nodes and Thresholds. updates: of its
    stored potentials and currents. weights, zero_weights: how many; parameter_bytes in float32, stored_bytes in the
    precision of the bundle's graphs, state_bytes of one sample. Energies in nanojoules: synaptic_nj of the effective
    operations; neuron_nj of the updates, each one MAC; dense_nj of a device that skips no zero and always multiplies.
    """

    node: str
    kind: str
    dense: float = 0.0
    macs: float = 0.0
    acs: float = 0.0
    input_activity: float | None = None
    sparsity: float | None = None
    updates: float = 0.0
    weights: int = 0
    zero_weights: int = 0
    parameter_bytes: int = 0
    stored_bytes: int = 0
    state_bytes: int = 0
    synaptic_nj: float = 0.0
    neuron_nj: float = 0.0
    dense_nj: float = 0.0

    @property
    def synops(self) -> float:
        """Effective synaptic operations of any kind."""
        return self.macs + self.acs


@dataclass(frozen=True)
class Efficiency:
    """A network's cost per sample of `timesteps` steps, averaged over `samples`.

    total: the sums of all layers; its sparsity is that of all activations together, None where nothing spikes.
    connection_sparsity: the share of weights that are zero, None where there are none. footprint: bytes of all
    parameters and of the states of one sample, in float32.
    """

    samples: int
    timesteps: int
    layers: list[LayerCost]
    total: LayerCost
    connection_sparsity: float | None
    footprint: int
    energy: EnergyModel

    @property
    def activation_sparsity(self) -> float | None:
        """The share of zeros in all that spiking nodes and Thresholds put out."""
        return self.total.sparsity
