"""`--quantize CHIP`: a short fine-tune of the merged network on the whole numbers that a chip has for weights.

Batch normalisation is folded first, since the chip has none. Then every weight is rounded to the chip's grid in the
forward pass, with one scale a layer, and gradients go past the rounding to the float weights behind it
(straight-through, Bengio et al. 2013). Time steps stay decoupled: the method is `online`, but for recipes that train by
`bptt`. What is left at the end are weights that lie on the grid, so the export has nothing to round.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn.utils import parametrize

from stdl_export.chips.quantise import TRAINABLE, Grid, best_scale
from stdl_export.common.errors import BadInput
from stdl_export.common.names import unknown
from stdl_models.fold import fold
from stdl_models.nets.registry import build_network
from stdl_models.network import NetworkSpec, SpikingNetwork
from stdl_models.units.layers import Synapse
from stdl_train.augment import Augment
from stdl_train.loading import Data
from stdl_train.loop import Trainer, evaluate
from stdl_train.memory import parse_bytes
from stdl_train.methods.base import Layout
from stdl_train.methods.registry import build_method
from stdl_train.plan import PlanRequest
from stdl_train.plan_search import make_plan
from stdl_train.recipe import QuantizeTable, Recipe, TrainTable

log = logging.getLogger("stdl")

FOLDER = "quantize"
"""Metrics and checkpoints of the fine-tune, in the run folder."""


class Rounded(nn.Module):
    """A weight as the chip has it; the gradient is that of the float weight."""

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.grid = grid
        self._seen: tuple[int, int] | None = None
        self._scale = 1.0

    def forward(self, weight: Tensor) -> Tensor:
        """[out, ...] -> the same shape, in multiples of one step."""
        return weight + (self.on_grid(weight.detach()) - weight).detach()

    def on_grid(self, weight: Tensor) -> Tensor:
        """The nearest weights that the chip has, in units of the float ones."""
        scale, grid = self._scale_of(weight), self.grid
        end = grid.high // grid.step
        whole = (weight.double() * (scale / grid.step)).round().clamp(-end, end)
        return (whole * (grid.step / scale)).to(weight.dtype)

    def _scale_of(self, weight: Tensor) -> float:
        """Looked for once for all time steps between two steps of the optimizer."""
        seen = weight.data_ptr(), weight._version
        if seen != self._seen:
            values, self._seen = weight.cpu().numpy().astype(np.float64), seen
            # Where a weight is not finite all become NaN, at which training stops.
            self._scale = best_scale(values, self.grid, np.inf) if np.isfinite(values).all() else np.nan
        return self._scale


def grid_of(chip: str) -> Grid:
    """The whole numbers that a chip has for weights; BadInput where it is not known."""
    if chip not in TRAINABLE:
        raise unknown("chip to quantize for", chip, TRAINABLE)
    return TRAINABLE[chip]


def prepared(network: SpikingNetwork, chip: str) -> SpikingNetwork:
    """A copy without batch normalisation whose weights are rounded in every forward pass."""
    folded = fold(network)
    for module in weighted(folded):
        parametrize.register_parametrization(module, "weight", Rounded(grid_of(chip)))
    return folded


def settled(network: SpikingNetwork) -> SpikingNetwork:
    """The same network with its rounded weights as its weights; in place."""
    for module in weighted(network):
        parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
    return network.eval()


def weighted(network: SpikingNetwork) -> Iterator[nn.Module]:
    """Convolutions and linear maps, the readout among them."""
    for module in network.modules():
        if isinstance(module, Synapse):
            yield module.synapse
    yield network.readout.linear


def check(chip: str, network: SpikingNetwork) -> None:
    """BadInput before training where the chip is unknown, or a weight would not be seen."""
    grid_of(chip)
    seen = {id(module) for module in weighted(network)}
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and id(module) not in seen:
            raise BadInput(
                f"--quantize {chip}: the weights of '{name}' are in a module of yours, which cannot be rounded"
            )


@dataclass(frozen=True)
class Tuning:
    """A fine-tune that was checked before the training begins."""

    table: QuantizeTable
    options: TrainTable
    layout: Layout

    @classmethod
    def of(cls, recipe: Recipe, spec: NetworkSpec) -> Tuning | None:
        """None where the recipe asks for none. BadInput where the chip is unknown, or the memory budget too small."""
        if recipe.quantize is None:
            return None
        with torch.device("meta"):
            check(recipe.quantize.chip, build_network(spec))
        options = _options(recipe.quantize, recipe.train)
        budget = None if options.memory_budget is None else parse_bytes(options.memory_budget)
        request = PlanRequest(
            method=options.method, batch=options.batch_size, options=options, budget=budget,
            time_chunk=options.time_chunk,
        )  # fmt: skip
        return cls(recipe.quantize, options, make_plan(spec, request).layout)

    def run(
        self, network: SpikingNetwork, train: Data, test: Data, augment: Augment, folder: Path, resume: bool,
        console: Console,
    ) -> tuple[SpikingNetwork, float]:  # fmt: skip
        """The merged network -> one without batch normalisation whose weights lie on the chip's grid, its accuracy."""
        device, batch = train.mean.device, self.options.batch_size
        trained = evaluate(network, test, batch)
        tuned = prepared(network.cpu(), self.table.chip).to(device)
        rounded = evaluate(tuned, test, batch)
        method = build_method(self.options.method, tuned, self.layout, self.options)
        (folder / FOLDER).mkdir(exist_ok=True)
        trainer = Trainer(method, train, test, augment, self.options, folder / FOLDER)
        if resume:
            trainer.resume()
        log.info("fine-tune on the whole numbers of %s", self.table.chip)
        trainer.run(console)
        trainer.settle()
        found = settled(tuned)
        accuracy = evaluate(found, test, batch)
        click.echo(
            f"test accuracy on the weights of {self.table.chip}: {rounded:.2%} rounded, {accuracy:.2%} after the "
            f"fine-tune ({trained:.2%} with float weights)"
        )
        return found, accuracy


def _options(table: QuantizeTable, train: TrainTable) -> TrainTable:
    """The recipe's way to train, at full depth, for a few epochs at a low rate; with a gradient through time only where
    the recipe has one.
    """
    changed = {
        "method": "bptt" if train.method == "bptt" else "online", "epochs": table.epochs,
        "optimizer": train.optimizer.model_copy(update={"lr": table.lr}),
        "subnetwork_lr": None, "traces": False, "order": "subnetwork", "ema_decay": None, "patience": None,
        "checkpoint_every": None, "tensorboard": False, "warmup_epochs": 0.0,
    }  # fmt: skip
    return train.model_copy(update=changed)
