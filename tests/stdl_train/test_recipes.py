"""Every recipe that comes with the package: its data set takes its options, its network fits, its plan is made.

Without the data: shapes and classes come from the tables of data sets.
"""

from __future__ import annotations

from importlib.metadata import entry_points

import pytest
import torch
from stand_in import stand_in

from stdl_models.nets.registry import build_network
from stdl_models.nets.user import unexportable
from stdl_train.augment import make_augment
from stdl_train.cli import make_request, make_spec
from stdl_train.distributed import World
from stdl_train.memory import show_bytes
from stdl_train.plan_search import make_plan
from stdl_train.recipe import read_recipe, recipe_names

NAMES = recipe_names()
SMALL = ["digits-vgg5", "mnist-vgg5", "n-mnist-vgg5", "shd-mlp"]
"""Recipes whose plans are made here; those of large networks take minutes."""


@pytest.mark.parametrize("name", NAMES)
def test_the_network_takes_what_the_data_set_gives(name):
    recipe = read_recipe(name)
    samples = stand_in(recipe.data)
    spec = make_spec(recipe, samples)
    assert not unexportable(spec)
    with torch.device("meta"):
        network = build_network(spec)
    assert len(network.units) >= (recipe.train.subnetworks or 1)
    shape = (recipe.model.T, 2, *samples.shape) if samples.timed else (2, *samples.shape)
    x, labels = torch.rand(shape), torch.from_numpy(samples.labels)
    augmented, _ = make_augment(samples.shape, recipe.data, len(samples.classes), samples.timed)(x, labels)
    assert augmented.shape == shape


@pytest.mark.parametrize("name", SMALL)
def test_the_plan_is_what_the_recipe_says(name):
    recipe = read_recipe(name)
    plan = make_plan(make_spec(recipe, stand_in(recipe.data)), make_request(recipe, World()))
    assert len(plan.layout.parts) == recipe.train.subnetworks
    assert show_bytes(plan.predicted.live) == recipe.expect.memory


def test_every_data_set_has_a_recipe():
    """But for folders of one's own, whose size and classes are not known."""
    ours = [entry for entry in entry_points(group="stdl.datasets") if entry.value.startswith("stdl_train.")]
    sets = {entry.name for entry in ours} - {"image-folder", "event-folder"}
    assert {read_recipe(name).data.name for name in NAMES} >= sets
