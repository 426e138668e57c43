"""Backpropagation through time: the whole network, all time steps in one graph; the usual way, for comparison.

Layer by layer with time folded into the batch, so batch normalisation takes its statistics over T*B and convolutions
run once for all steps, as the multi-step modes of other frameworks do. The loss is the same as STDL's: cross-entropy of
each step's logits, mean over T.
"""

from __future__ import annotations

from torch import Tensor, nn

from stdl_models.network import SpikingNetwork
from stdl_models.units import Unit
from stdl_train.methods.base import BatchResult, OptimizerOptions, finish_step, make_optimizer


class Bptt:
    """See the module."""

    def __init__(self, network: SpikingNetwork, options: OptimizerOptions) -> None:
        self.network, self.options = network, options
        self.parts: list[nn.Module] = [network]
        self.optimizers = [make_optimizer(options, network.parameters())]

    def train_batch(self, frame: Tensor, labels: Tensor) -> BatchResult:
        """See Method.train_batch."""
        T = self.network.spec.T
        x = frame.expand(T, *frame.shape)
        for unit in self.network.chain:
            x = self.run_unit(unit, x)
        loss = nn.functional.cross_entropy(x.flatten(0, 1), labels.repeat(T))
        loss.backward()
        result = BatchResult(loss.detach()[None], x.detach().mean(0))
        del x, loss
        finish_step(self.optimizers[0], self.options.clip)
        return result

    def run_unit(self, unit: Unit, x: Tensor) -> Tensor:
        """All time steps of one unit, [T, B, ...] -> [T, B, ...]."""
        return unit.sequence(x)
