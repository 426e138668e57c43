"""`--check`: what is printed of data and encoding, and the picture of a few samples over time."""

from __future__ import annotations

import numpy as np
import pytest
from registered import provide

from stdl_export.common.console import run
from stdl_train import cli
from stdl_train.check import write_picture
from stdl_train.data.samples import Samples
from stdl_train.memory import show_bytes
from stdl_train.recipe import read_recipe, recipe_names

Image = pytest.importorskip("PIL.Image")


def uneven(split, path=None, limit=None, seed=0):
    """Recordings [T=3, 2, 4, 4]: a quarter of the values are 2, in the first step only; one class in ten is 'b'."""
    images = np.zeros((20, 3, 2, 4, 4), np.uint8)
    images[:, 0, :, 0] = 2
    return Samples(
        "uneven", images, (np.arange(20) % 10 == 9).astype(np.int64), ("a", "b"), (0.0,) * 2, (1.0,) * 2, True
    )


@pytest.fixture
def check(capsys, monkeypatch, tmp_path):
    provide(monkeypatch, {"uneven": uneven})
    monkeypatch.chdir(tmp_path)

    def call(*words):
        code = run(cli.main, ["digits-mlp", "--check", *words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_what_is_said_of_recordings(check, tmp_path):
    code, out, err = check("--set", "data.name=uneven", "--set", "model.T=3")
    assert code == 0, err
    assert "data uneven: 20 training and 20 test samples, recordings of 3 frames, 2x4x4 uint8" in out
    assert "network input: [3, B, 2, 4, 4], encoding frames; values 0 to 2, mean 0.167" in out
    assert "values that are not 0: 8.33%; by time step 25.0% 0.0% 0.0%" in out
    assert "2 classes, 2 to 18 training samples each: uneven" in " ".join(out.split())
    with Image.open(tmp_path / "digits-mlp-check.png") as picture:
        assert picture.size == (3 * (48 + 4), 8 * (48 + 4))
        assert picture.getpixel((5, 5)) == (255, 0, 255)
        assert picture.getpixel((5, 20)) == (0, 0, 0)
        assert picture.getpixel((60, 5)) == (0, 0, 0)
    assert not (tmp_path / "runs").exists()


def test_what_is_said_of_encoded_pictures(check):
    code, out, err = check("--set", "data.encoding.name=latency", "--set", "data.encoding.threshold=0.1")
    assert code == 0, err
    assert "[4, B, 1, 8, 8], encoding latency threshold=0.1; values 0 to 1" in out
    code, out, err = check()
    assert code == 0, err
    assert "still pictures, 1x8x8 float32" in out
    assert "encoding direct; values -0.811 to 1.85" in out


def test_a_picture_goes_where_it_is_told_and_nowhere_else(check, tmp_path):
    code, _, err = check("--out", "somewhere")
    assert (code, err.count("\n")) == (2, 1)
    assert "--out 'somewhere' must end in .png" in err
    assert check("--out", "mine.png")[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.png"]


@pytest.mark.parametrize(("channels", "expected"), [(1, (255, 255, 255)), (2, (0, 0, 255)), (3, (255, 0, 0))])
def test_colours_are_those_of_the_channels(tmp_path, channels, expected):
    x = np.zeros((2, 1, channels, 3, 3), np.float32)
    x[1, 0, 0, 1, 1] = 0.5
    write_picture(x, tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.getpixel((48 + 4 + 24, 24)) == expected


@pytest.mark.parametrize("name", [name for name in recipe_names() if name.startswith("digits")])
def test_the_memory_that_a_recipe_names_is_what_is_predicted(name, monkeypatch):
    provide(monkeypatch)
    recipe = read_recipe(name)
    plan = cli.make_plan(
        cli.make_spec(recipe, cli._load(recipe, "train", few=True)), cli.make_request(recipe, cli.World())
    )
    assert recipe.expect.memory == show_bytes(plan.predicted.live)
