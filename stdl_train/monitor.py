"""What is watched while a network trains: memory, firing rates, silent and saturated layers, averages of weights."""

from __future__ import annotations

import contextlib
import logging
import resource
import sys
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from stdl_models.network import SpikingNetwork, batchnorms
from stdl_models.units.layers import spiking_neurons

log = logging.getLogger("stdl")

DEAD, SATURATED = 0.001, 0.95
"""Firing rates, in spikes per neuron and time step, below and above which a layer is warned of."""


def peak_memory(device: torch.device) -> int:
    """Most bytes in use so far: allocated on a GPU, resident in main memory otherwise."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes there, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class FiringRates:
    """Within the `with` block, spikes of each spiking layer are counted, neuron by neuron; none are kept.

    Names are those of the layers in NIR.
    """

    def __init__(self, network: SpikingNetwork) -> None:
        self._layers = dict(spiking_neurons(network))
        self._counts: dict[str, Tensor] = {}
        self._steps: dict[str, int] = dict.fromkeys(self._layers, 0)
        self._hooks: list[Any] = []

    def __enter__(self) -> FiringRates:
        self._hooks = [layer.register_forward_hook(self._hook(name)) for name, layer in self._layers.items()]
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _hook(self, name: str) -> Any:
        def count(_module: nn.Module, _inputs: Any, outputs: tuple[Tensor, Tensor]) -> None:
            spikes = outputs[0].sum(0)
            self._counts[name] = self._counts[name] + spikes if name in self._counts else spikes
            self._steps[name] += len(outputs[0])

        return count

    def rates(self) -> dict[str, float]:
        """Spikes per neuron and time step of each layer."""
        return {name: float(counts.double().mean()) / self._steps[name] for name, counts in self._counts.items()}

    def silent(self) -> dict[str, float]:
        """Fraction of each layer's neurons that never fired."""
        return {name: float((counts == 0).double().mean()) for name, counts in self._counts.items()}


class RateWarnings:
    """Warns of layers that are dead or saturated: when one becomes so, not again in each epoch.

    unlimited: layers whose neurons fire any number of times a step, which nothing saturates.
    """

    def __init__(self, unlimited: Collection[str] = ()) -> None:
        self._said: dict[str, str] = {}
        self._unlimited = unlimited

    def look(self, epoch: int, rates: dict[str, float], silent: dict[str, float]) -> None:
        """Firing rates after an epoch, and the fraction of neurons without a spike."""
        for name, rate in rates.items():
            full = rate > SATURATED and name not in self._unlimited
            kind = "dead" if rate < DEAD else "saturated" if full else ""
            if kind and self._said.get(name) != kind:
                advice = "raise neuron.gain or lower v_threshold"
                log.warning(
                    "layer '%s' is %s from epoch %d on: a firing rate of %.2f%%, %.0f%% of its neurons silent; %s",
                    name, kind, epoch, rate * 100, silent[name] * 100,
                    advice if kind == "dead" else "lower neuron.gain or raise v_threshold",
                )  # fmt: skip
            self._said[name] = kind


class Average:
    """Exponential moving average of a network's weights and of its batch normalisation's statistics.

    a <- d a + (1 - d) w after each step; d rises to `decay` as (1 + n) / (10 + n), so that the first weights fade.
    """

    def __init__(self, network: SpikingNetwork, decay: float) -> None:
        self._decay = decay
        self._watched: dict[str, Tensor] = dict(network.named_parameters())
        for index, norm in enumerate(batchnorms(network)):
            for key in ("running_mean", "running_var"):
                if isinstance(value := getattr(norm, key), Tensor):
                    self._watched[f"norm.{index}.{key}"] = value
        self.tensors = {name: value.detach().clone() for name, value in self._watched.items()}

    @property
    def statistics(self) -> list[Tensor]:
        """Those of batch normalisation: weights are the same in all processes that train together, these are not."""
        return [value for name, value in self.tensors.items() if name.startswith("norm.")]

    def update(self, steps: int) -> None:
        """After optimizer step `steps`, counted from 1 over the whole run."""
        decay = min(self._decay, (1 + steps) / (10 + steps))
        with torch.no_grad():
            for name, value in self._watched.items():
                self.tensors[name].lerp_(value.detach(), 1 - decay)

    def restore(self, stored: dict[str, Tensor]) -> None:
        """From a checkpoint."""
        for name, value in self.tensors.items():
            value.copy_(stored[name])

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The network has the averaged weights while the block runs."""
        own = {name: value.detach().clone() for name, value in self._watched.items()}
        self._write(self.tensors)
        try:
            yield
        finally:
            self._write(own)

    def apply(self) -> None:
        """The network has the averaged weights from now on."""
        self._write(self.tensors)

    def _write(self, values: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in self._watched.items():
                value.copy_(values[name])
