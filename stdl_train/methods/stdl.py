"""Spatio-temporal decoupled learning (Ma, Chen, Tan, Wu 2025, arXiv 2506.01117), subnetwork-major.

    for k in subnetworks:
        for t in 1..T:
            h = body_k(x_k[t])           potentials of t-1 come in detached: no gradient crosses t
            x_{k+1}[t] = h, as bits      detached: no gradient crosses the border
            loss = cross_entropy(head_k(h), y) / T
            backward                     frees all that was kept for (k, t); gradients add up
        optimizer step for (body_k, head_k); its gradients and states are dropped

So one subnetwork's activations, states and gradients are alive at a time, and only for one time step; the spikes at the
borders are all that grows with T. With one subnetwork this is learning without gradients through time at full depth
("online"; SLTT, Meng et al. 2023); without copies the heads are linear classifiers ("local").
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stdl_models.network import SpikingNetwork
from stdl_models.units import State
from stdl_train.borders import PackedSpikes, pack
from stdl_train.methods.base import BatchResult, OptimizerOptions, finish_step, make_optimizer
from stdl_train.split import Subnetwork, border_values


class Stdl:
    """See the module; `subnetworks` cover the network's units in order."""

    def __init__(self, network: SpikingNetwork, subnetworks: Sequence[Subnetwork], options: OptimizerOptions) -> None:
        self.network, self.subnetworks, self.options = network, list(subnetworks), options
        self.parts: list[nn.Module] = list(subnetworks)
        self.optimizers = [make_optimizer(options, subnetwork.parameters()) for subnetwork in subnetworks]
        values = iter(border_values(network.chain[:-1]))
        self._most = [[next(values) for _ in subnetwork.body][-1] for subnetwork in self.subnetworks]
        self._most[-1] = None

    def train_batch(self, frame: Tensor, labels: Tensor) -> BatchResult:
        """See Method.train_batch."""
        border: list[PackedSpikes] = []
        losses, logits = [], torch.empty(0)
        for index, (subnetwork, optimizer) in enumerate(zip(self.subnetworks, self.optimizers, strict=True)):
            inputs = border if index else frame
            loss, logits, border = self.run_subnetwork(subnetwork, inputs, labels, self._most[index])
            losses.append(loss)
            finish_step(optimizer, self.options.clip)
        return BatchResult(torch.stack(losses), logits)

    def run_subnetwork(
        self, subnetwork: Subnetwork, inputs: Tensor | list[PackedSpikes], labels: Tensor, most: int | None
    ) -> tuple[Tensor, Tensor, list[PackedSpikes]]:
        """All T steps of one subnetwork: its gradients are summed in place.

        inputs: a frame for all steps, or the spikes in front of it, one a step; each is dropped once used.
        most: the largest value at its border; None: nothing stands behind it. Returns the loss, the mean logits, the
        border.
        """
        T = self.network.spec.T
        body: list[State] | None = None
        head: list[State] | None = None
        border: list[PackedSpikes] = []
        loss_sum, logits_sum = torch.zeros((), device=labels.device), torch.zeros((), device=labels.device)
        if isinstance(inputs, list):
            inputs.reverse()  # so that pop() takes them in order
        for _ in range(T):
            x = inputs.pop().unpack() if isinstance(inputs, list) else inputs
            spikes, body = subnetwork.step(x, body)
            body = detached(body)
            if most is not None:
                border.append(pack(spikes, most))
            logits, head = subnetwork.logits(spikes, head)
            head = detached(head)
            loss = nn.functional.cross_entropy(logits, labels) / T
            loss.backward()
            loss_sum, logits_sum = loss_sum + loss.detach(), logits_sum + logits.detach() / T
            del x, spikes, logits, loss
        return loss_sum, logits_sum, border


def detached(states: list[State]) -> list[State]:
    """Potentials as values only, detached when stored, so that nothing of this time step's graph stays alive."""
    return [tuple(None if v is None else v.detach() for v in state) for state in states]
