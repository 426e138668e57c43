"""What every spiking layer of a network puts out, kept while it runs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stdl_models.units.layers import spiking_neurons


class SpikeRecorder:
    """Within the `with` block, keep what every spiking layer puts out.

    `spikes[node]` is a list of [B, ...], one a step.
    """

    def __init__(self, modules: nn.Module) -> None:
        self.spikes: dict[str, list[Tensor]] = {}
        self._modules, self._hooks = modules, list[torch.utils.hooks.RemovableHandle]()

    def __enter__(self) -> SpikeRecorder:
        for node, neuron in spiking_neurons(self._modules):
            kept = self.spikes.setdefault(node, [])
            self._hooks.append(
                neuron.register_forward_hook(lambda _m, _i, out, kept=kept: kept.append(out[0].detach()))
            )
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
