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
from stdl_export.common.errors import BadInput, CheckFailed, Unavailable, join_reasons
from stdl_export.common.files import remove_parts, require_empty
from stdl_models.nets.registry import build_network, network_spec
from stdl_models.nets.user import unexportable
from stdl_models.network import DIRECT, FRAMES, InputSpec, NetworkSpec, SpikingNetwork
from stdl_train.augment import make_augment
from stdl_train.check import check
from stdl_train.data import encoders
from stdl_train.data.samples import Samples, Split, load
from stdl_train.distributed import World, check_batch, join_batchnorms, joined
from stdl_train.html_report import write_report
from stdl_train.loading import Data, Encoding
from stdl_train.loop import Trainer, evaluate, event_writer
from stdl_train.memory import StepBytes, count_step, parse_bytes
from stdl_train.merge import GOLDEN_SAMPLES, merge, reestimate_batchnorm, write_golden
from stdl_train.methods.base import Method
from stdl_train.methods.registry import METHODS, build_method
from stdl_train.methods.stdl import Stdl
from stdl_train.placement import Pipeline, Stage, parse_placement
from stdl_train.plan import Plan, PlanRequest, costs
from stdl_train.plan_search import make_plan
from stdl_train.quantize import Tuning
from stdl_train.recipe import (
    EncodingTable,
    ExpectTable,
    Recipe,
    read_recipe,
    recipe_names,
    require_same,
    write_recipe,
)
from stdl_train.report import plan_table

log = logging.getLogger("stdl")

RECIPE = "recipe.toml"
FEWEST = 2
"""Training samples that have statistics; a plan needs no more of them, for their shape."""

LOG_WIDTH = 132
"""Columns of a table that goes into a file or a pipe, which have no width of their own."""

EXAMPLES = """
\b
Examples:
  stdl-train digits-vgg5                                 train, merge, write runs/digits-vgg5
  stdl-train cifar10-vgg11 --set data.path=FOLDER        Parquet files in a local folder
  stdl-train digits-vgg5 --memory-budget 8MiB --plan     what would be trained, and its bytes
  stdl-train digits-vgg5 --method bptt --out runs/bptt   the same network by BPTT
  torchrun --nproc-per-node 2 -m stdl_train digits-vgg5  two processes, docs/distributed.md
  stdl-train digits-events --check                       the data over time, before training
  stdl-train digits-vgg5 --quantize loihi2               a fine-tune on the weights of a chip
  stdl-train digits-vgg5 --resume                        go on behind the last checkpoint
"""


@click.command(epilog=EXAMPLES)
@click.argument("recipe", required=False)
@click.option("--out", type=click.Path(path_type=Path), help="Run folder; default runs/RECIPE.")
@click.option("--method", type=click.Choice(list(METHODS)), help="How to train; default: what the recipe says.")
@click.option("--memory-budget", metavar="SIZE", help="Bytes of a whole training step, such as 4GiB.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a key of the recipe; repeatable.")
@click.option("--plan", "only_plan", is_flag=True, help="Print the plan with its predicted bytes, and stop.")
@click.option("--check", "only_check", is_flag=True, help="Show the data and what the network is given, and stop.")
@click.option("--resume", is_flag=True, help="Go on in --out behind the last checkpoint.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Default: what the recipe says, else auto.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), help="Seed of weights, order and augmentation.")
@click.option("--placement", metavar="DEVICES", help="Devices of the subnetworks, such as cuda:0,cuda:1.")
@click.option("--quantize", metavar="CHIP", help="Fine-tune for a chip's whole-numbered weights: loihi2, speck, xylo.")
@click.option("--allow-unexportable", is_flag=True, help="Train a network even if it can not be exported.")
@click.option("--list", "list_recipes", is_flag=True, help="List the recipes that come with the package.")
def main(
    recipe: str | None, out: Path | None, method: str | None, memory_budget: str | None, settings: tuple[str, ...],
    only_plan: bool, only_check: bool, resume: bool, device: str | None, seed: int | None, placement: str | None,
    quantize: str | None, allow_unexportable: bool, list_recipes: bool,
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
    if quantize is not None:
        settings = (*settings, f"quantize.chip={quantize}")
    resolved = read_recipe(recipe, settings, overrides)
    if only_check:
        return check_data(resolved, out or Path(f"{resolved.name}-check.png"), console)
    changed = bool(settings or method or memory_budget)
    folder = out or Path("runs") / resolved.name
    on = _device(resolved.train.device)
    with joined(on.type) as world:
        _train_together(resolved, folder, world, placement, only_plan, resume, allow_unexportable, changed, console)


def _train_together(
    resolved: Recipe, folder: Path, world: World, placement: str | None, only_plan: bool, resume: bool,
    allow_unexportable: bool, changed: bool, console: Console,
) -> None:  # fmt: skip
    """What each process does: check, plan, train; the first one writes and speaks."""
    on = _device(resolved.train.device)
    check_world(resolved, world, placement)
    if not only_plan:
        _require_usable(folder, resolved, resume)
        if resolved.train.tensorboard:
            event_writer()  # a missing package is said before the folder begins
    train_set = _load(resolved, "train", few=only_plan)
    spec = make_spec(resolved, train_set)
    if not allow_unexportable and (reasons := unexportable(spec)):
        raise BadInput(
            f"this network could not be exported: {join_reasons(reasons)}: --allow-unexportable trains it anyway"
        )
    plan = make_plan(spec, make_request(resolved, world))
    tuning = Tuning.of(resolved, spec)
    stages = None if placement is None else parse_placement(placement, len(plan.layout.parts))
    on = stages[0].device if stages else on
    if only_plan:
        return console.print(plan_table(spec, plan, costs(spec, plan)))
    given = (on, spec.input, spec.T, resolved.data.workers)
    data = Data.of(train_set, *given), Data.of(_load(resolved, "test"), *given)
    world.wait()  # every process has looked at the folder
    if not resume and world.first:  # all that can be wrong with the input has been looked at: the folder begins here
        folder.mkdir(parents=True, exist_ok=True)
        write_recipe(resolved, folder / RECIPE)
    with _arithmetic():
        accuracy = train(resolved, spec, plan, tuning, data, folder, resume, console, world, stages)
    if accuracy is None:
        return
    click.echo(f"run folder: {folder}   next: stdl-export {folder} --target nir,onnx --out BUNDLE")
    _check_band(resolved, accuracy, changed)


def entry() -> None:
    """Console script."""
    sys.exit(run(main))


def make_spec(recipe: Recipe, samples: Samples) -> NetworkSpec:
    """The recipe's network for these samples."""
    source, model = make_input(recipe, samples), recipe.model
    return network_spec(model.network, source, samples.classes, model.T, model.neuron, model.options, model.dt)


def make_input(recipe: Recipe, samples: Samples) -> InputSpec:
    """What the recipe's network is given: normalised pictures, frames of recordings, or an encoder's spikes."""
    table = recipe.data.encoding or EncodingTable(name=FRAMES if samples.timed else DIRECT)
    if samples.timed != (table.name == FRAMES):
        kind, right = ("recordings", FRAMES) if samples.timed else ("still pictures", DIRECT)
        raise BadInput(
            f"data set '{samples.name}' holds {kind}, data.encoding.name is '{table.name}': set it to {right}"
            + ("" if samples.timed else ", poisson, latency or rows")
        )
    if samples.steps not in (None, recipe.model.T):
        raise BadInput(
            f"data set '{samples.name}' gives recordings of {samples.steps} time steps, model.T is {recipe.model.T}: "
            f"--set model.T={samples.steps}, or set the data set's own option under data.options"
        )
    encoder = None if table.name in (DIRECT, FRAMES) else encoders.find(table.name)
    shape = samples.shape if encoder is None else encoders.shape_of(encoder, samples.shape, table.options)
    channels = shape[0]
    as_stored = table.name in (DIRECT, FRAMES)
    source = InputSpec(
        shape=shape,
        data=samples.name,
        data_options=recipe.data.options,
        mean=samples.mean if as_stored else (0.0,) * channels,
        std=samples.std if as_stored else (1.0,) * channels,
        encoding=table.name,
        encoding_options=table.options,
        encoding_seed=table.seed,
    )
    if encoding := Encoding.of(source, recipe.model.T):
        encoding(torch.zeros(1, *samples.shape), torch.zeros(1, dtype=torch.long))  # refuses bad values of its options
    return source


def check_data(recipe: Recipe, picture: Path, console: Console) -> None:
    """`--check`: read the data, encode a batch, show both."""
    if picture.suffix.lower() != ".png":
        raise BadInput(f"--check writes a picture: --out '{picture}' must end in .png")
    samples = _load(recipe, "train"), _load(recipe, "test")
    source = make_input(recipe, samples[0])
    check(samples, source, recipe.model.T, recipe.train.batch_size, picture, console)


def make_request(recipe: Recipe, world: World) -> PlanRequest:
    """What the recipe asks of the planner, for one process's share of a batch."""
    options = recipe.train
    return PlanRequest(
        method=options.method,
        batch=options.batch_size // world.size,
        options=options,
        subnetworks=options.subnetworks,
        budget=None if options.memory_budget is None else parse_bytes(options.memory_budget),
        most_copies=options.most_copies,
        width=options.width,
        time_chunk=options.time_chunk,
        micro_batches=options.micro_batches,
    )


def train(
    recipe: Recipe, spec: NetworkSpec, plan: Plan, tuning: Tuning | None, data: tuple[Data, Data], folder: Path,
    resume: bool, console: Console, world: World, stages: list[Stage] | None,
) -> float | None:  # fmt: skip
    """Train, merge, write the network and golden samples; returns the merged network's test accuracy.

    Of several processes, the first merges and writes; None in the others.

    data: training and test samples; the device is theirs.
    """
    train_data, test_data = data
    device = train_data.mean.device
    torch.manual_seed(recipe.train.seed)
    method = build_method(plan.request.method, build_network(spec), plan.layout, recipe.train)
    for part in method.parts:
        if recipe.train.sync_batchnorm and world.size > 1:
            join_batchnorms(part)
        part.to(device)
    pipeline = Pipeline(method, stages) if stages and isinstance(method, Stdl) else None
    sample = tuple(train_data.images.shape[-3:])
    augment = make_augment(sample, recipe.data, len(spec.classes), train_data.timed)
    trainer = Trainer(method, train_data, test_data, augment, recipe.train, folder, world, pipeline)
    if resume:
        trainer.resume()
    log.info("device: %s", device)
    trainer.run(console)
    trainer.settle()
    if not world.first:
        return None
    network, accuracy = _finish(recipe, method, train_data, test_data)
    if tuning is not None:
        network, accuracy = tuning.run(network, train_data, test_data, augment, folder, resume, console)
    ((x, labels),) = test_data.batches(GOLDEN_SAMPLES, limit=GOLDEN_SAMPLES)
    write_golden(network, x, labels, folder / "golden.npz")
    network = network.cpu()
    measured = _measure(recipe, spec, plan, train_data)
    history = trainer.progress.history
    write_report(recipe, spec, plan, history, accuracy, measured, device, folder / "report.html")
    network.save(folder / "network.safetensors")  # last: a run folder that holds it is complete
    return accuracy


def check_world(recipe: Recipe, world: World, placement: str | None) -> None:
    """What several processes or several devices can not do is said before anything begins."""
    options = recipe.train
    if world.size > 1 and recipe.quantize is not None:
        raise BadInput("--quantize fine-tunes in one process: run it without torchrun")
    if world.size > 1:
        check_batch(options.batch_size, world)
    if placement is None:
        return
    if world.size > 1:
        raise BadInput("--placement puts subnetworks of one process on several devices: run it without torchrun")
    if not METHODS[options.method].splits or options.order == "time":
        raise BadInput(
            f"--placement needs subnetworks that work one after the other: method {options.method} in "
            f"{options.order}-major order has none; use --method stdl"
        )
    for key, value in {"ema_decay": options.ema_decay, "checkpoint_every": options.checkpoint_every}.items():
        if value is not None:
            raise BadInput(f"--placement has several batches on their way, so train.{key} can not be had: leave it out")


def _measure(recipe: Recipe, spec: NetworkSpec, plan: Plan, train_data: Data) -> StepBytes | None:
    """Bytes of a real training step, counted on a fresh network; none where it is compiled: only its rims are seen."""
    if recipe.train.compile or (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return None  # other processes are through
    device = train_data.mean.device
    method = build_method(plan.request.method, build_network(spec), plan.layout, recipe.train)
    for part in method.parts:
        part.to(device).train()
    x, labels = next(train_data.batches(recipe.train.batch_size))
    return count_step(method, x, labels)


def _finish(recipe: Recipe, method: Method, train_data: Data, test_data: Data) -> tuple[SpikingNetwork, float]:
    """Merge with proof, estimate batch normalisation again, measure."""
    x, labels = next(test_data.batches(recipe.train.batch_size))
    network = merge(method, x)
    click.echo(f"merged: logits and spikes of {len(labels)} test samples equal the chained subnetworks' bit for bit")
    if recipe.train.bn_samples:
        batch = max(2, recipe.train.batch_size // recipe.model.T)  # all T steps at once: one training batch's worth
        batches = train_data.batches(batch, limit=recipe.train.bn_samples)
        reestimate_batchnorm(network, (x for x, _ in batches))
    accuracy = evaluate(network, test_data, recipe.train.batch_size)
    click.echo(f"test accuracy of the merged network: {accuracy:.2%} ({len(test_data.labels)} samples)")
    return network, accuracy


def _load(recipe: Recipe, split: Split, few: bool = False) -> Samples:
    """The recipe's samples; at least two to train on, since one has no statistics. `few`: no more than those two."""
    options = recipe.data
    limit = options.train_limit if split == "train" else options.test_limit
    if few:
        limit = min(limit or FEWEST, FEWEST)
    samples = load(options.name, split, options.path, limit, options.seed, options.options)
    if split == "train" and len(samples.labels) < FEWEST:
        raise BadInput(f"data set '{options.name}': one training sample is too few: raise data.train_limit")
    return samples


def _require_usable(folder: Path, recipe: Recipe, resume: bool) -> None:
    """An absent or empty folder, or, to resume, one that was begun with the same recipe."""
    stored = folder / RECIPE
    if folder.is_dir() and not folder.is_symlink():
        remove_parts(folder)  # a killed process could not clean up
    if resume:
        if not stored.is_file():
            raise BadInput(f"--resume: '{folder}' holds no run: check --out, or start without --resume")
        if (folder / "network.safetensors").exists():
            raise BadInput(f"--resume: the run in '{folder}' is complete: export it, or train into another --out")
        require_same(recipe, stored)
        return remove_parts(folder / "checkpoint")
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


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise Unavailable("--device cuda: PyTorch finds no CUDA device here: use --device cpu, or install a CUDA build")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _check_band(recipe: Recipe, accuracy: float, changed: bool) -> None:
    """The recipe's band holds for the recipe as it is; one that was changed on the command line promises nothing."""
    if recipe.expect is not None and recipe.expect.published is not None:
        log.info("published: %.2f%% (%s)", recipe.expect.published * 100, recipe.expect.source)
    if recipe.expect is None or recipe.expect.test_accuracy is None:
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


def _to_reach(expect: ExpectTable) -> str:
    """Test accuracy: the band that a run must reach, or what others report."""
    if expect.test_accuracy is not None:
        low, high = expect.test_accuracy
        return f"{low:.0%} to {high:.0%}"
    return "" if expect.published is None else f"{expect.published:.2%}, {expect.source}"


def _recipe_table() -> Table:
    """One line a recipe, those of a data set together. memory: predicted, of a training step."""
    table = Table("data", "recipe", "network", "T", "memory", "time", "to reach", "what")
    for column in table.columns[:5]:
        column.no_wrap, column.overflow = True, "fold"
    recipes = sorted((read_recipe(name) for name in recipe_names()), key=lambda recipe: (recipe.data.name, recipe.name))
    for recipe in recipes:
        expect = recipe.expect or ExpectTable()
        time = "" if expect.minutes is None else f"{expect.minutes:g} min, {expect.machine}"
        table.add_row(
            recipe.data.name, recipe.name, recipe.model.network, str(recipe.model.T), expect.memory or "", time,
            _to_reach(expect), recipe.description,
        )  # fmt: skip
    return table
