"""Spatio-temporal decoupled learning (Ma, Chen, Tan, Wu 2025, arXiv 2506.01117).

Subnetwork-major, the default order of work:

    for k in subnetworks:
        for t in 1..T:
            h = body_k(x_k[t])           potentials of t-1 come in detached: no gradient crosses t
            x_{k+1}[t] = h, as bits      detached: no gradient crosses the border
            loss = cross_entropy(head_k(h), y) / T
            backward                     frees all that was kept for (k, t); gradients add up
        optimizer step for (body_k, head_k); its gradients and states are dropped

So one subnetwork's activations, states and gradients are alive at a time, and only for one time step (`time_chunk`
steps, where a plan says so); the spikes at the borders are all that grows with T. Time-major order (`for t: for k:`)
keeps every subnetwork's states and gradients, and no border: for sequences that are still coming in. Both give the same
gradients. With one subnetwork this is learning without gradients through time at full depth ("online"; SLTT, Meng et
al. 2023); without copies the heads are linear classifiers ("local").
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from stdl_models.network import SpikingNetwork, over_time
from stdl_models.units.flows import State
from stdl_train.borders import PackedSpikes, pack
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
from stdl_train.methods.losses import StepLoss
from stdl_train.methods.traces import Traces
from stdl_train.split import Subnetwork, border_values

Border = list[PackedSpikes]
"""What one micro-batch puts out at a border, one entry for each time chunk."""


class Stdl:
    """See the module; `subnetworks` cover the network's units in order."""

    def __init__(
        self, network: SpikingNetwork, subnetworks: Sequence[Subnetwork], layout: Layout, options: MethodOptions
    ) -> None:
        self.network, self.subnetworks, self.layout, self.options = network, list(subnetworks), layout, options
        self.parts: list[nn.Module] = list(subnetworks)
        factors = options.subnetwork_lr or (1.0,) * len(self.subnetworks)
        self.optimizers = [
            make_optimizer(options.optimizer, subnetwork.parameters(), factor)
            for subnetwork, factor in zip(subnetworks, factors, strict=True)
        ]
        values = iter(border_values(network.chain[:-1]))
        self.most = [[next(values) for _ in subnetwork.body][-1] for subnetwork in self.subnetworks]
        self.most[-1] = None
        self._traces = [Traces(subnetwork) if options.traces else None for subnetwork in self.subnetworks]
        self._called: list[nn.Module] = []

    def train_batch(self, x: Tensor, labels: Tensor) -> BatchResult:
        """See Method.train_batch."""
        if self.options.order == "time":
            return self._time_major(x, labels)
        pieces = split_batch(x, labels, self.layout.micro_batches, self.network.spec.input.shape)
        inputs: list[Tensor | Border] = [piece for piece, _ in pieces]
        losses, logits = [], torch.empty(0)
        for index in range(len(self.subnetworks)):
            loss, logits, inputs = self.train_part(index, inputs, [part for _, part in pieces])
            losses.append(loss)
        return BatchResult(torch.stack(losses), logits)

    def train_part(
        self, index: int, inputs: list[Tensor | Border], labels: list[Tensor]
    ) -> tuple[Tensor, Tensor, list[Tensor | Border]]:
        """All micro-batches of one subnetwork and its optimizer step.

        Returns its loss, the mean logits [B, classes] and its border, for each micro-batch. `inputs` are used up.
        """
        total = sum(map(len, labels))
        losses, logits, borders = [], [], list[Tensor | Border]()
        for number, part in enumerate(labels):
            last = number == len(labels) - 1
            loss, mean, border = self.run_subnetwork(index, inputs[number], part, len(part) / total, last)
            inputs[number] = []  # what was in front is not needed any more
            losses.append(loss)
            logits.append(mean)
            borders.append(border)
        finish_step(self.optimizers[index], self.options.optimizer.clip)
        return torch.stack(losses).sum(), torch.cat(logits), borders

    def run_subnetwork(
        self, index: int, inputs: Tensor | Border, labels: Tensor, share: float = 1.0, last: bool = True
    ) -> tuple[Tensor, Tensor, Border]:
        """All T steps of one subnetwork on one micro-batch: its gradients are summed in place.

        inputs: a frame for all steps, a sequence, or the spikes in front, one entry a chunk; each is dropped once used.
        share: of the batch. last: nothing of this batch comes behind. Returns the loss, the mean logits, the border.
        """
        called, most, traces = self._call(index), self.most[index], self._traces[index]
        if traces:
            traces.forget()
        body: list[State] | None = None
        head: list[State] | None = None
        border: Border = []
        judge, loss_sum = StepLoss(self.options, labels, self.network.spec.T), 0.0 * labels.sum()
        if isinstance(inputs, list):
            inputs.reverse()  # so that pop() takes them in order
        for begun, steps, stay in self._chunks(last):
            x = inputs.pop().unpack() if isinstance(inputs, list) else self._steps(inputs, begun, steps)
            with gradients_stay_here(called, stay), arithmetic(labels.device, self.options.precision):
                spikes, logits, body, head = called(x, body, head)
                if most is not None:
                    border.append(pack(spikes, most))
                loss = judge(logits) * share
                del x, spikes, logits
                loss.backward()
            loss_sum = loss_sum + loss.detach()
            del loss
        return loss_sum, judge.sum / self.network.spec.T, border

    def border_in_front(self, index: int, batch: int) -> Border:
        """What stands in front of a subnetwork for a micro-batch: silence, to count bytes with."""
        shape, most = self.subnetworks[index].body[0].in_shape, self.most[index - 1]
        device = next(self.subnetworks[index].parameters()).device
        dtype = torch.bfloat16 if self.options.precision == "bf16" else torch.float32
        assert most is not None
        sizes = [(steps, batch, *shape) for _, steps, _ in self._chunks(True)]
        return [pack(torch.zeros(size, device=device, dtype=dtype), most) for size in sizes]

    def _call(self, index: int) -> nn.Module:
        """A subnetwork as it is called: made at first use, when its device is settled."""
        if not self._called:
            self._called = [replica(subnetwork, self.options) for subnetwork in self.subnetworks]
        return self._called[index]

    def _steps(self, x: Tensor, begun: int, steps: int) -> Tensor:
        """The input [steps, B, *shape] of some steps of a frame or a sequence; a view."""
        spec = self.network.spec
        return over_time(x, spec.T, spec.input.shape)[begun : begun + steps]

    def _chunks(self, last: bool) -> Iterator[tuple[int, int, bool]]:
        """Each chunk's first step, its steps, and whether its gradients need not be exchanged yet."""
        T, size = self.network.spec.T, self.layout.time_chunk
        for begun in range(0, T, size):
            steps = min(size, T - begun)
            yield begun, steps, not (last and begun + steps == T)

    def _time_major(self, sequence: Tensor, labels: Tensor) -> BatchResult:
        """The other order of work: all subnetworks in each chunk of steps, one optimizer step each at the end."""
        count, T = len(self.subnetworks), self.network.spec.T
        losses, logits = torch.zeros(count, device=labels.device), []
        pieces = split_batch(sequence, labels, self.layout.micro_batches, self.network.spec.input.shape)
        for number, (inputs, part) in enumerate(pieces):
            states: list[tuple[list[State] | None, list[State] | None]] = [(None, None)] * count
            judges = [StepLoss(self.options, part, T) for _ in self.subnetworks]
            share = len(part) / len(labels)
            for traces in filter(None, self._traces):
                traces.forget()
            for begun, steps, stay in self._chunks(number == len(pieces) - 1):
                x = self._steps(inputs, begun, steps)
                for index in range(count):
                    called = self._call(index)
                    with gradients_stay_here(called, stay), arithmetic(part.device, self.options.precision):
                        spikes, y, *after = called(x, *states[index])
                        states[index] = (after[0], after[1])  # now: backward needs no potential of the step before
                        loss = judges[index](y) * share
                        x = spikes.detach()
                        del spikes, y, after
                        loss.backward()
                    losses[index] += loss.detach()
                    del loss
                del x
            logits.append(judges[-1].sum / T)
        for optimizer in self.optimizers:
            finish_step(optimizer, self.options.optimizer.clip)
        return BatchResult(losses, torch.cat(logits))
