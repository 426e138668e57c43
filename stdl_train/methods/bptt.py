"""Backpropagation through time: the whole network, all time steps in one graph; the usual way, for comparison.

Layer by layer with time folded into the batch, so batch normalisation takes its statistics over T*B and convolutions
run once for all steps, as the multi-step modes of other frameworks do. The loss is the same as STDL's: cross-entropy of
each step's logits, mean over T.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stdl_models.network import SpikingNetwork, over_time
from stdl_models.units.base import Unit
from stdl_train.methods.base import (
    BatchResult,
    Layout,
    MethodOptions,
    arithmetic,
    finish_step,
    gradients_stay_here,
    make_optimizer,
    replica,
    split_batch,
)
from stdl_train.methods.losses import for_steps


class Unrolled(nn.Module):
    """The network over all time steps as one module: what is called, compiled or replicated."""

    def __init__(self, network: SpikingNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """A frame [B, *shape] or a sequence [T, B, *shape] -> logits of all steps [T, B, classes]."""
        x = over_time(x, self.network.spec.T, self.network.spec.input.shape)
        for unit in self.network.chain:
            x = self.run_unit(unit, x)
        return x

    def run_unit(self, unit: Unit, x: Tensor) -> Tensor:
        """All time steps of one unit, [T, B, ...] -> [T, B, ...]."""
        return unit.sequence(x)


class Bptt:
    """See the module."""

    unrolled: type[Unrolled] = Unrolled

    def __init__(self, network: SpikingNetwork, layout: Layout, options: MethodOptions) -> None:
        self.network, self.layout, self.options = network, layout, options
        self.parts: list[nn.Module] = [network]
        factor = options.subnetwork_lr[0] if options.subnetwork_lr else 1.0
        self.optimizers = [make_optimizer(options.optimizer, network.parameters(), factor)]
        self._called: nn.Module | None = None

    def train_batch(self, x: Tensor, labels: Tensor) -> BatchResult:
        """See Method.train_batch."""
        if self._called is None:  # now that the device is settled
            self._called = replica(self.unrolled(self.network), self.options)
        losses, means = [], []
        pieces = split_batch(x, labels, self.layout.micro_batches, self.network.spec.input.shape)
        for number, (inputs, part) in enumerate(pieces):
            stay = number < len(pieces) - 1
            with gradients_stay_here(self._called, stay), arithmetic(part.device, self.options.precision):
                logits = self._called(inputs).float()
                loss = self._loss(logits, part) * (len(part) / len(labels))
                loss.backward()
            losses.append(loss.detach())
            means.append(logits.detach().mean(0))
            del logits, loss
        finish_step(self.optimizers[0], self.options.optimizer.clip)
        return BatchResult(torch.stack(losses).sum()[None], torch.cat(means))

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean over the steps of the cross-entropy of [T, B, classes], or of their running mean's."""
        T = len(logits)
        if self.options.loss_on == "mean":
            logits = logits.cumsum(0) / logits.new_tensor(range(1, T + 1)).view(-1, 1, 1)
        smoothing = self.options.label_smoothing
        logits = logits * self.options.logit_scale if self.options.logit_scale != 1 else logits
        return nn.functional.cross_entropy(logits.flatten(0, 1), for_steps(labels, T), label_smoothing=smoothing)
