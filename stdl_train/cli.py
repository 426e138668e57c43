"""`stdl-train`: a recipe in, a run folder out (merged network, golden samples, metrics, checkpoint)."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.table import Table

from stdl_export.common.console import run
from stdl_export.common.errors import BadInput, CheckFailed, Unavailable
from stdl_export.common.files import require_empty
from stdl_models.nets.registry import build_network, network_spec
from stdl_models.network import InputSpec, NetworkSpec
from stdl_train.augment import make_augment
from stdl_train.checkpoint import load_checkpoint
from stdl_train.data.samples import Samples, Split, load
from stdl_train.loop import Data, Trainer, evaluate
from stdl_train.memory import parse_bytes
from stdl_train.merge import GOLDEN_SAMPLES, merge, reestimate_batchnorm, write_golden
from stdl_train.methods.base import Method
from stdl_train.methods.registry import METHODS, build_method
from stdl_train.plan import Plan, PlanRequest, make_plan, predict
from stdl_train.recipe import Recipe, read_recipe, recipe_names, require_same, write_recipe
from stdl_train.report import plan_table

log = logging.getLogger("stdl")

RECIPE = "recipe.toml"
LOG_WIDTH = 132
"""Columns of a table that goes into a file or a pipe, which have no width of their own."""

EXAMPLES = """
\b
Examples:
  stdl-train digits-vgg5                                 train, merge, write runs/digits-vgg5
  stdl-train cifar10-vgg11 --set data.path=FOLDER        Parquet files in a local folder
  stdl-train digits-vgg5 --memory-budget 8MiB --plan     what would be trained, and its bytes
  stdl-train digits-vgg5 --method bptt --out runs/bptt   the same network by BPTT
  stdl-train digits-vgg5 --resume                        go on behind the last whole epoch
"""


@click.command(epilog=EXAMPLES)
@click.argument("recipe", required=False)
@click.option("--out", type=click.Path(path_type=Path), help="Run folder; default runs/RECIPE.")
@click.option("--method", type=click.Choice(list(METHODS)), help="How to train; default: what the recipe says.")
@click.option("--memory-budget", metavar="SIZE", help="Bytes of a whole training step, such as 4GiB.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a key of the recipe; repeatable.")
@click.option("--plan", "only_plan", is_flag=True, help="Print the plan with its predicted bytes, and stop.")
@click.option("--resume", is_flag=True, help="Go on in --out behind the last whole epoch.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Default: what the recipe says, else auto.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), help="Seed of weights, order and augmentation.")
@click.option("--list", "list_recipes", is_flag=True, help="List the recipes that come with the package.")
def main(
    recipe: str | None, out: Path | None, method: str | None, memory_budget: str | None, settings: tuple[str, ...],
    only_plan: bool, resume: bool, device: str | None, seed: int | None, list_recipes: bool,
) -> None:  # fmt: skip
    """Train a spiking network with a memory that does not grow with the number of time steps.

    RECIPE is a name (see --list) or a TOML file. The run folder holds the merged network, golden samples and metrics.
    """
    console = Console(width=None if sys.stdout.isatty() else LOG_WIDTH)
    if list_recipes:
        return console.print(_recipe_table())
    if recipe is None:
        raise click.UsageError("give a recipe: a name from --list, or a TOML file")
    overrides = {"method": method, "memory_budget": memory_budget, "device": device, "seed": seed}
    resolved = read_recipe(recipe, settings, overrides)
    changed = bool(settings or method or memory_budget)
    folder = out or Path("runs") / resolved.name
    if not only_plan:
        _require_usable(folder, resolved, resume)
    on = _device(resolved.train.device)
    train_set = _load(resolved, "train")
    spec = make_spec(resolved, train_set)
    plan = make_plan(spec, make_request(resolved))
    if only_plan:
        bptt = predict(spec, "bptt", (), resolved.train.batch_size, resolved.train.optimizer)
        return console.print(plan_table(spec, plan, bptt))
    data = Data.of(train_set, on), Data.of(_load(resolved, "test"), on)
    if not resume:  # all that can be wrong with the input has been looked at: the folder begins here
        folder.mkdir(parents=True, exist_ok=True)
        write_recipe(resolved, folder / RECIPE)
    with _arithmetic():
        accuracy = train(resolved, spec, plan, data, folder, resume, console)
    click.echo(f"run folder: {folder}   next: stdl-export {folder} --target nir,onnx --out BUNDLE")
    _check_band(resolved, accuracy, changed)


def entry() -> None:
    """Console script."""
    sys.exit(run(main))


def make_spec(recipe: Recipe, samples: Samples) -> NetworkSpec:
    """The recipe's network for these samples."""
    shape = tuple(int(n) for n in samples.images.shape[1:])
    source = InputSpec(shape=shape, data=samples.name, mean=samples.mean, std=samples.std)
    model = recipe.model
    return network_spec(model.network, source, samples.classes, model.T, model.neuron, model.options, model.dt)


def make_request(recipe: Recipe) -> PlanRequest:
    """What the recipe asks of the planner."""
    options = recipe.train
    return PlanRequest(
        method=options.method,
        batch=options.batch_size,
        subnetworks=options.subnetworks,
        optimizer=options.optimizer,
        budget=None if options.memory_budget is None else parse_bytes(options.memory_budget),
        most_copies=options.most_copies,
    )


def train(
    recipe: Recipe, spec: NetworkSpec, plan: Plan, data: tuple[Data, Data], folder: Path, resume: bool, console: Console
) -> float:
    """Train, merge, write the network and golden samples; returns the merged network's test accuracy.

    data: training and test samples; the device is theirs.
    """
    train_data, test_data = data
    device = train_data.mean.device
    torch.manual_seed(recipe.train.seed)
    method = build_method(plan.request.method, build_network(spec), plan.parts, recipe.train.optimizer)
    for part in method.parts:
        part.to(device)
    done = load_checkpoint(method, _checkpoint(folder)) if resume and _checkpoint(folder).exists() else 0
    height, width = spec.input.shape[1:]
    augment = make_augment((height, width), recipe.data.shift, recipe.data.flip)
    log.info("device: %s", device)
    Trainer(method, train_data, test_data, augment, recipe.train, folder).run(console, done)
    return _finish(recipe, method, train_data, test_data, folder)


def _finish(recipe: Recipe, method: Method, train_data: Data, test_data: Data, folder: Path) -> float:
    """Merge with proof, estimate batch normalisation again, measure, write."""
    frames, _ = next(test_data.batches(recipe.train.batch_size))
    network = merge(method, frames)
    click.echo(f"merged: logits and spikes of {len(frames)} test samples equal the chained subnetworks' bit for bit")
    if recipe.train.bn_samples:
        batch = max(2, recipe.train.batch_size // recipe.model.T)  # all T steps at once: one training batch's worth
        batches = train_data.batches(batch, limit=recipe.train.bn_samples)
        reestimate_batchnorm(network, (frames for frames, _ in batches))
    accuracy = evaluate(network, test_data, recipe.train.batch_size)
    ((frames, labels),) = test_data.batches(GOLDEN_SAMPLES, limit=GOLDEN_SAMPLES)
    write_golden(network, frames, labels, folder / "golden.npz")
    network.cpu().save(folder / "network.safetensors")
    click.echo(f"test accuracy of the merged network: {accuracy:.2%} ({len(test_data.labels)} samples)")
    return accuracy


def _load(recipe: Recipe, split: Split) -> Samples:
    """The recipe's samples; at least two to train on, since one has no statistics."""
    options = recipe.data
    limit = options.train_limit if split == "train" else options.test_limit
    samples = load(options.name, split, options.path, limit, options.seed)
    if split == "train" and len(samples.labels) < 2:
        raise BadInput(f"data set '{options.name}': one training sample is too few: raise data.train_limit")
    return samples


def _require_usable(folder: Path, recipe: Recipe, resume: bool) -> None:
    """An absent or empty folder, or, to resume, one that was begun with the same recipe."""
    stored = folder / RECIPE
    if resume:
        if not stored.is_file():
            raise BadInput(f"--resume: '{folder}' holds no run: check --out, or start without --resume")
        if (folder / "network.safetensors").exists():
            raise BadInput(f"--resume: the run in '{folder}' is complete: export it, or train into another --out")
        return require_same(recipe, stored)
    require_empty(folder)


@contextlib.contextmanager
def _arithmetic() -> Iterator[None]:
    """Float32 as every runtime computes it, while a run lasts."""
    tf32 = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False  # golden samples with ten bits of mantissa would flip spikes
    torch.set_flush_denormal(True)  # slow leaks run into denormal numbers, which cost many times more on a CPU
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = tf32
        torch.set_flush_denormal(False)


def _checkpoint(folder: Path) -> Path:
    return folder / "checkpoint" / "last.safetensors"


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise Unavailable("--device cuda: PyTorch finds no CUDA device here: use --device cpu, or install a CUDA build")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _check_band(recipe: Recipe, accuracy: float, changed: bool) -> None:
    """The recipe's band holds for the recipe as it is; one that was changed on the command line promises nothing."""
    if recipe.expect is None:
        return
    low, high = recipe.expect.test_accuracy
    if changed:
        log.info(
            "accuracy band %.1f%% to %.1f%% not checked: the recipe was changed on the command line",
            low * 100,
            high * 100,
        )
    elif not low <= accuracy <= high:
        raise CheckFailed(f"test accuracy {accuracy:.2%} is outside the recipe's band {low:.1%} to {high:.1%}")


def _recipe_table() -> Table:
    table = Table("recipe", "network", "data", "T", "method", "what")
    for name in recipe_names():
        recipe = read_recipe(name)
        table.add_row(
            name, recipe.model.network, recipe.data.name, str(recipe.model.T), recipe.train.method, recipe.description
        )
    return table
