"""Recipes: all that come with the package are valid, and a mistake is told in one line with the nearest known name."""

from __future__ import annotations

import pytest

from stdl_export.common.errors import BadInput
from stdl_train.recipe import read_recipe, recipe_names, require_same, write_recipe


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_valid_and_says_what_it_is(name):
    recipe = read_recipe(name)
    assert recipe.name == name
    assert recipe.description


def test_settings_and_options_lie_over_the_recipe(tmp_path):
    recipe = read_recipe(
        "digits-vgg5", ["train.epochs=3", "data.path=/some/where", "model.neuron.kind=IF"], {"seed": 7}
    )
    assert (recipe.train.epochs, recipe.data.path, recipe.model.neuron.kind, recipe.train.seed) == (
        3,
        "/some/where",
        "IF",
        7,
    )
    write_recipe(recipe, tmp_path / "recipe.toml")
    assert read_recipe(str(tmp_path / "recipe.toml")) == recipe
    require_same(recipe, tmp_path / "recipe.toml")
    with pytest.raises(BadInput, match=r"begun with train\.epochs = 3, this command says \d+"):
        require_same(
            read_recipe("digits-vgg5", ["data.path=/some/where", "model.neuron.kind=IF"], {"seed": 7}),
            tmp_path / "recipe.toml",
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["train.epoch=3"], r"unknown key 'train\.epoch': did you mean 'epochs'\?"),
        (["train.epochs=0"], "'train.epochs' = 0: Input should be greater than or equal to 1"),
        (["train.epochs=many"], "'train.epochs' = 'many'"),
        (["train.epochs=3", "trian.lr=1"], "unknown key 'trian': did you mean 'train'"),
        (["model.neuron.beta=1.5"], "'model.neuron.beta' = 1.5"),
        (["no-value"], "write key=value"),
        (["train.epochs.more=1"], "'epochs' is a value, not a table"),
        (["=3"], "write key=value"),
        (["train.optimizer.lr=1e39"], r"'train': a learning rate of 1e\+39 does not fit float32: lower optimizer\.lr$"),
    ],
)
def test_mistakes_in_settings(settings, message):
    with pytest.raises(BadInput, match=message) as caught:
        read_recipe("digits-vgg5", settings)
    assert "\n" not in str(caught.value)


def test_mistakes_in_files_and_names(tmp_path):
    with pytest.raises(BadInput, match="unknown recipe 'digits-vgg6': did you mean 'digits-vgg5'"):
        read_recipe("digits-vgg6")
    with pytest.raises(BadInput, match="does not exist"):
        read_recipe("mine.toml")
    (tmp_path / "r.toml").write_text("[model\n")
    with pytest.raises(BadInput, match="not valid TOML"):
        read_recipe(str(tmp_path / "r.toml"))
    (tmp_path / "r.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(BadInput, match="not UTF-8"):
        read_recipe(str(tmp_path / "r.toml"))
    (tmp_path / "r.toml").write_text('[model]\nnetwork = "vgg5"\n')
    with pytest.raises(BadInput, match="'data' is missing"):
        read_recipe(str(tmp_path / "r.toml"))
