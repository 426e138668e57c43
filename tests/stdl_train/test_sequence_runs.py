"""Whole runs on input that changes over time: train, resume, export, validate on the data set, without a difference."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny_run
import torch
from registered import provide

from stdl_export import cli as export
from stdl_export.common.console import run
from stdl_runtimes import cli as validate
from stdl_train import cli
from stdl_train.data.samples import Samples, draw

POISSON = (
    'data.encoding.name="poisson"',
    "data.encoding.gain=0.7",
    "data.encoding.seed=4",
    "model.T=4",
    "model.neuron.gain=2",
)


def flashes(split, path=None, limit=None, seed=0, T=3, width=6):
    """Noise, and in one step a bright bar, lying or standing, in one of two channels: [T, 2, width, width] counts."""
    rng = np.random.default_rng(split == "test")
    labels = np.arange(120 if split == "train" else 60) % 4
    images = rng.integers(0, 3, (len(labels), T, 2, width, width), dtype=np.uint8)
    for recording, label, step in zip(images, labels, rng.integers(0, T, len(labels)), strict=True):
        picture = recording[step, label // 2]
        (picture if label % 2 else picture.T)[2:4] = 9
    chosen = draw(len(labels), limit, seed)
    classes = ("off standing", "off lying", "on standing", "on lying")
    return Samples("flashes", images[chosen], labels[chosen], classes, (0.3, 0.3), (2.0, 2.0), timed=True)


@pytest.fixture
def registered(monkeypatch):
    provide(monkeypatch, {"flashes": flashes})


@pytest.fixture
def command(capsys, registered):
    """Run one; (exit code, stdout, stderr)."""

    def call(main, *words):
        code = run(main, [str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def recipe(folder, text):
    path = folder / "mine.toml"
    path.write_text(text)
    return path


FLASHES = """
[model]
network = "mlp"
options = { hidden = [32, 16] }
T = 3
[data]
name = "flashes"
[train]
subnetworks = 2
epochs = 12
batch_size = 20
"""


def deployed(command, source, folder, data, *options):
    """The data set's accuracy in every runtime, from a validation report, and the manifest."""
    assert command(export.command, source, "--target", "nir,onnx", "--out", folder)[0] == 0
    report = folder.parent / "out.json"
    words = ("--runtime", "reference,onnxruntime", "--data", data, "--json", report, *options)
    code, out, err = command(validate.command, folder, *words)
    assert code == 0, out + err
    return json.loads(report.read_text()), json.loads((folder / "manifest.json").read_text())


def test_recordings_from_data_to_deployment(tmp_path, command):
    code, out, err = command(cli.main, recipe(tmp_path, FLASHES), "--out", tmp_path / "run")
    assert code == 0, err
    trained = float(out.split("merged network: ")[1].split("%")[0])
    assert trained > 50  # of four classes
    with np.load(tmp_path / "run" / "golden.npz") as golden:
        expected = (np.moveaxis(flashes("test").images, 1, 0) - np.float32(0.3)) / np.float32(2)
        np.testing.assert_array_equal(golden["input"], expected)
    report, manifest = deployed(command, tmp_path / "run", tmp_path / "bundle", "flashes")
    assert (manifest["input"]["mode"], manifest["input"]["encoding"]) == ("sequence", "frames")
    assert manifest["classes"] == ["off standing", "off lying", "on standing", "on lying"]
    text = json.dumps(report)
    assert f"{trained / 100:.4f}"[:5] in text
    whole = flashes("test")
    np.savez(tmp_path / "mine.npz", images=whole.images, labels=whole.labels)
    assert command(validate.command, tmp_path / "bundle", "--data", tmp_path / "mine.npz")[0] == 0
    np.savez(tmp_path / "short.npz", images=whole.images[:, :2], labels=whole.labels)
    code, _, err = command(validate.command, tmp_path / "bundle", "--data", tmp_path / "short.npz")
    assert code == 2
    assert "the network takes [N, 3, 2, 6, 6]" in err
    code, _, err = command(validate.command, tmp_path / "bundle", "--data", "digits")
    assert code == 2
    assert "data set 'digits' holds still pictures, which is not what the network was trained on" in err


def test_options_of_a_data_set_go_with_the_network(tmp_path, command):
    settings = ("data.options.width=5", "data.options.T=4", "model.T=4", "train.epochs=1")
    words = [word for setting in settings for word in ("--set", setting)]
    assert command(cli.main, recipe(tmp_path, FLASHES), *words, "--out", tmp_path / "run")[0] == 0
    report, manifest = deployed(command, tmp_path / "run", tmp_path / "bundle", "flashes")
    assert manifest["data"]["options"] == {"width": 5, "T": 4}
    assert manifest["input"]["tensors"][0]["shape"] == [2, 5, 5]
    assert report


def test_an_encoder_draws_the_same_in_training_and_validation(tmp_path, command):
    assert tiny_run.train(tmp_path / "run", *POISSON, "train.epochs=2") == 0
    _, manifest = deployed(command, tmp_path / "run", tmp_path / "bundle", "digits", "--data-limit", "40")
    assert manifest["input"]["encoding_options"] == {"gain": 0.7}
    assert manifest["input"]["encoding_seed"] == 4
    assert manifest["data"]["mean"] == [0.0]
    with np.load(tmp_path / "bundle" / "golden.npz") as golden:
        assert set(np.unique(golden["input"])) == {0.0, 1.0}
    manifest["input"]["encoding_options"] = {"gian": 0.7}
    (tmp_path / "bundle" / "manifest.json").write_text(json.dumps(manifest))
    code, _, err = command(validate.command, tmp_path / "bundle", "--data", "digits")
    assert code == 2
    assert "encoding 'poisson' does not take the options that the bundle says" in err
    assert err.count("\n") == 1


def test_a_run_that_draws_is_resumed_bit_for_bit(tmp_path, registered, monkeypatch):
    settings = (
        *POISSON,
        "train.epochs=2",
        "train.checkpoint_every=1",
        "data.shift=1",
        "data.mixup=0.4",
        "data.cutmix=1.0",
    )
    assert tiny_run.train(tmp_path / "whole", *settings) == 0
    encoded, calls = cli.Data.encoded, []

    def stop(self, images, chosen, epoch=None):
        calls.append(epoch)
        if calls.count(2) == 2:
            raise KeyboardInterrupt
        return encoded(self, images, chosen, epoch)

    monkeypatch.setattr(cli.Data, "encoded", stop)
    assert tiny_run.train(tmp_path / "parts", *settings) != 0
    monkeypatch.setattr(cli.Data, "encoded", encoded)
    assert tiny_run.train(tmp_path / "parts", *settings, resume=True) == 0
    ours, theirs = (tiny_run.network(tmp_path / name) for name in ("parts", "whole"))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("digits", ["data.encoding.name=poison"], "unknown encoding 'poison': did you mean 'poisson'"),
        ("digits", ["data.encoding.name=poisson", "data.encoding.gian=2"], "no option 'gian': did you mean 'gain'"),
        ("digits", ["data.encoding.name=poisson", "data.encoding.gain=[1]"], "neither a number, a word"),
        ("digits", ["data.encoding.name=poisson", "data.encoding.gain=-1"], "gain = -1 must be a number above 0"),
        ("digits", ["data.encoding.gain=1"], "encoding 'direct' takes no options"),
        ("digits", ["data.encoding.name=frames"], "holds still pictures, data.encoding.name is 'frames'"),
        ("digits", ["data.options.size=3"], "data set 'digits' has no option 'size'"),
        ("flashes", ["data.encoding.name=poisson"], "holds recordings, data.encoding.name is 'poisson'"),
        ("flashes", ["model.T=5"], "recordings of 3 time steps, model.T is 5: --set model.T=3"),
        ("flashes", ["data.options.widht=5"], "no option 'widht': did you mean 'width'"),
        ("flashes", ["data.worker=2"], "unknown key 'data.worker': did you mean 'workers'"),
    ],
)
def test_what_does_not_fit_is_one_line_before_the_run_begins(tmp_path, command, name, settings, said):
    words = [word for setting in [f"data.name={name}", *settings] for word in ("--set", setting)]
    code, out, err = command(cli.main, recipe(tmp_path, FLASHES), *words, "--out", tmp_path / "run")
    assert (code, err.count("\n")) == (2, 1), out + err
    assert said in err
    assert not (tmp_path / "run").exists()
