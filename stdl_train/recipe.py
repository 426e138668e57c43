"""A recipe: network, data, training and the accuracy to expect, as TOML, checked when read."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import ConfigDict, Field

from stdl_export.common.config import (
    Count,
    Fraction,
    Name,
    Natural,
    NaturalFloat,
    PositiveFloat,
    Table,
    apply_settings,
    read_toml,
    validate,
)
from stdl_export.common.errors import BadInput
from stdl_export.common.files import atomic_file
from stdl_export.common.names import unknown
from stdl_models.network import DEFAULT_DT, DIRECT, FRAMES
from stdl_models.neurons import NeuronSpec
from stdl_train.augment import AugmentTable
from stdl_train.data import encoders
from stdl_train.data.samples import check_options
from stdl_train.methods.base import MethodOptions
from stdl_train.methods.registry import MethodName

Seed = Annotated[int, Field(ge=0, lt=2**31)]

FLOAT32_MAX, FLOAT32_MIN = 3.4e38, 1.2e-38

RECIPES = files("stdl_models") / "recipes"


class ModelTable(Table):
    """The network.

    `network`: a name of stdl_models.nets.registry; `options`: of its family; `T`: time steps; `dt`: seconds a step.
    """

    network: str
    options: dict[str, Any] = Field(default_factory=dict)
    T: Count = 4
    dt: PositiveFloat = DEFAULT_DT
    neuron: NeuronSpec = NeuronSpec()

    def model_post_init(self, _context: object) -> None:
        """Hidden layers spike, and their fields are float32 numbers."""
        if self.neuron.kind == "LI":
            raise ValueError("neuron.kind is LI, which does not spike: hidden layers take IF, LIF or PLIF")
        for name, value in self.neuron.values(self.dt).items():
            if abs(value) > FLOAT32_MAX or (name in ("tau", "r") and abs(value) < FLOAT32_MIN):
                raise ValueError(f"neuron field {name} = {value:g} does not fit float32: check dt, beta and gain")


class EncodingTable(Table):
    """How pictures become input over time: a registered encoder's `name`, its `seed`, and its own options beside them.

    Recordings have one encoding, "frames".
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    name: Name = DIRECT
    seed: Seed = 0

    @property
    def options(self) -> dict[str, Any]:
        """The encoder's own."""
        return dict(self.model_extra or {})

    def model_post_init(self, _context: object) -> None:
        """Options are plain values, known to the encoder."""
        for key, value in self.options.items():
            if not isinstance(value, (bool, int, float, str)):
                raise ValueError(f"{key} = {value!r:.40} is neither a number, a word nor true or false")
        if self.name not in (DIRECT, FRAMES):
            check_options(encoders.find(self.name), self.options, f"encoding '{self.name}'", encoders.SAID)
        elif self.options:
            raise ValueError(f"encoding '{self.name}' takes no options, found {', '.join(self.options)}")


class DataTable(AugmentTable):
    """`name`: a registered data set; `path`: its folder or hub name; limits draw so many samples with `seed`.

    `options`: the data set's own; `encoding`: of samples over time, direct for pictures, frames for recordings;
    `workers`: processes that read ahead what does not lie in memory. Augmentation keys: AugmentTable.
    """

    name: str
    path: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    encoding: EncodingTable | None = None
    workers: Annotated[int, Field(ge=0, le=256)] = 0
    train_limit: Count | None = None
    test_limit: Count | None = None
    seed: Natural = 0


class TrainTable(MethodOptions):
    """How to train. `memory_budget`: bytes of a whole step such as "4GiB".

    What is not said, the plan decides: `subnetworks`: K (without a budget 4); `most_copies`: cap on the auxiliary units
    of a subnetwork (4); `width`: factor on the width of auxiliary units; `time_chunk`: steps computed
    together; `micro_batches`: pieces of a batch. `sync_batchnorm`: statistics over all processes that train together.
    `bn_samples`: training images over which batch normalisation is estimated again after merging (0: left as trained).
    `ema_decay`: of a running average of the weights, which is then what is evaluated, merged and exported. `patience`:
    epochs without a test accuracy better by more than `min_delta` after which training stops. `keep`: the epoch that is
    merged. `checkpoint_every`: batches between checkpoints inside an epoch; none: at its end only. `tensorboard`: write
    event files beside metrics.jsonl.
    """

    method: MethodName = "stdl"
    subnetworks: Count | None = None
    memory_budget: str | None = None
    most_copies: Count | None = None
    width: Annotated[float, Field(gt=0, le=1)] | None = None
    time_chunk: Count | None = None
    micro_batches: Count | None = None
    sync_batchnorm: bool = False
    epochs: Count = 10
    batch_size: Annotated[int, Field(ge=2)] = 50  # batch normalisation has no statistics over one sample
    warmup_epochs: NaturalFloat = 0.5
    bn_samples: Natural = 2000
    ema_decay: Fraction | None = None
    patience: Count | None = None
    min_delta: NaturalFloat = 0.0
    keep: Literal["last", "best"] = "last"
    checkpoint_every: Count | None = None
    tensorboard: bool = False
    seed: Seed = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def model_post_init(self, _context: object) -> None:
        """Steps of every subnetwork are float32 numbers: Adam's first ones are ten times the learning rate."""
        _check_rate(self.optimizer.lr * max(self.subnetwork_lr or (1.0,)), "optimizer.lr")


def _check_rate(highest: float, key: str) -> None:
    if highest > FLOAT32_MAX / 10:
        raise ValueError(f"a learning rate of {highest:g} does not fit float32: lower {key}")


class QuantizeTable(Table):
    """A fine-tune behind the training, on the whole numbers that a chip has for weights (`--quantize`).

    `lr`: of its first step; it falls to zero along a cosine, as in training.
    """

    chip: Name
    epochs: Count = 3
    lr: PositiveFloat = 2e-4

    def model_post_init(self, _context: object) -> None:
        """As in `[train]`."""
        _check_rate(self.lr, "quantize.lr")


class ExpectTable(Table):
    """What to expect of an unchanged recipe.

    `test_accuracy`: the band, in fractions, that it must reach. `memory`: predicted bytes of a training step.
    `published`: what others report for this setting, a fraction, and `source` who and by which method: to be reached,
    but nothing fails for it. `minutes`: of a run, as measured, with `machine` in words.
    """

    test_accuracy: tuple[float, float] | None = None
    published: Fraction | None = None
    source: str | None = None
    memory: str | None = None
    minutes: PositiveFloat | None = None
    machine: str | None = None


class Recipe(Table):
    """One training run."""

    name: Name
    description: str = ""
    model: ModelTable
    data: DataTable
    train: TrainTable = TrainTable()
    quantize: QuantizeTable | None = None
    expect: ExpectTable | None = None


def recipe_names() -> list[str]:
    """Recipes that come with the package."""
    return sorted(Path(entry.name).stem for entry in RECIPES.iterdir() if entry.name.endswith(".toml"))


def read_recipe(source: str, settings: Iterable[str] = (), overrides: dict[str, Any] | None = None) -> Recipe:
    """A recipe by name or file, with `--set` settings and the command's own options (`train` keys) laid over it."""
    path = Path(source)
    if source in recipe_names():
        table, name = read_toml(Path(str(RECIPES / f"{source}.toml"))), source
    elif path.suffix == ".toml" or path.exists():
        table, name = read_toml(path), path.stem
    else:
        raise unknown("recipe", source, recipe_names())
    apply_settings(table, settings)
    train = table.setdefault("train", {})
    if isinstance(train, dict):
        train.update({key: value for key, value in (overrides or {}).items() if value is not None})
    table.setdefault("name", re.sub(r"[^\w.-]", "-", name, flags=re.ASCII))
    return validate(Recipe, table, f"recipe '{source}'")


def write_recipe(recipe: Recipe, path: Path) -> None:
    """The resolved recipe as TOML; atomic."""
    with atomic_file(path) as part:
        part.write_text(tomli_w.dumps(recipe.model_dump(mode="json", exclude_none=True)), encoding="utf-8")


def require_same(recipe: Recipe, path: Path) -> None:
    """Refuse to go on with a run under another recipe; names the first key that differs.

    The device may be another: weights are the same everywhere, though bit for bit only where the device is the same.
    """
    stored = validate(Recipe, read_toml(path), f"'{path}'")
    ours, theirs = _flat(recipe.model_dump(mode="json")), _flat(stored.model_dump(mode="json"))
    for key in sorted(ours.keys() | theirs.keys()):
        if key != "train.device" and ours.get(key) != theirs.get(key):
            raise BadInput(
                f"--resume: '{path}' was begun with {key} = {theirs.get(key)!r}, this command says {ours.get(key)!r}: "
                "use the same settings, or another --out"
            )


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
