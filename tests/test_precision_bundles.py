"""fp16 and int8 from the command line: what the bundle says of itself, and what stdl-validate makes of it."""

from __future__ import annotations

import json
from pathlib import Path

import nir
import numpy as np
import pytest
from small_graphs import chain, conv_net, full, lif

from stdl_export import bundle as bundles
from stdl_export.arrays import read_arrays
from stdl_export.cli import command as export
from stdl_export.common import console
from stdl_export.manifest import FP32, TOLERANCES, Arithmetic
from stdl_runtimes import base
from stdl_runtimes.cli import command as validate


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder with `net.nir` and `wide.nir`."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(3)
    net = conv_net()
    for name in ("conv1", "conv2", "readout"):
        node = net.nodes[name]
        node.weight = rng.uniform(-0.2, 0.2, size=node.weight.shape).astype(np.float32)
        node.bias = np.zeros_like(node.bias)
    nir.write("net.nir", net)
    nir.write("wide.nir", wide_net())


def wide_net() -> nir.NIRGraph:
    """A first input that is 0 has a weight 500 times as large as the others, so that int8 makes those 0 or 1 or 2."""
    weight = np.random.default_rng(2).normal(0.15, 0.3, size=(8, 33)).astype(np.float32)
    weight[:, 0] = 150
    return chain(nir.Linear(weight), lif(8), nir.Linear(full(0.3, 5, 8)), lif(5), shape=(33,), output=(5,), T=6)


def run(*args: str) -> int:
    return console.run(export, [*args])


def exported(*args: str, target: str = "onnx") -> bundles.Bundle:
    assert run(*args, "--target", target, "--out", "out") == 0
    return bundles.load(Path("out"))


@pytest.mark.parametrize(
    ("args", "arithmetic"),
    [
        (["--precision", "fp16"], Arithmetic(precision="fp16")),
        (["--precision", "int8"], Arithmetic(precision="int8")),
        (
            ["--precision", "fp16", "--set", "precision.membrane=fp16"],
            Arithmetic(precision="fp16", membrane="fp16"),
        ),
        (
            ["--precision", "int8", "--set", 'precision.nodes."conv1"=fp32'],
            Arithmetic(precision="int8", fp32_nodes=("conv1",)),
        ),
    ],
)
def test_a_good_network_passes(args: list[str], arithmetic: Arithmetic) -> None:
    pytest.importorskip("onnxruntime")
    bundle = exported("net.nir", *args)
    assert bundle.manifest.arithmetic == arithmetic
    assert bundle.manifest.tolerances == TOLERANCES[arithmetic.precision]
    types = "float16" if arithmetic.membrane == "fp16" else "float32"
    assert {info.dtype for info in bundle.manifest.states} == {types}
    assert {array.dtype.name for array in read_arrays(bundle.file("states.npz")).values()} == {types}
    assert console.run(validate, ["out", "--require", "onnxruntime", "--json", "found.json"]) == 0
    assert Path("found.json").read_text(encoding="utf-8")


def test_single_steps_carry_fp16_states() -> None:
    pytest.importorskip("onnxruntime")
    bundle = exported("net.nir", "--precision", "fp16", "--set", "precision.membrane=fp16")
    x = bundle.golden().input[:3]
    with base.load(bundle, "onnxruntime") as runtime, runtime.session(3) as session:
        steps = np.stack([session.step(x) for _ in range(4)])
        np.testing.assert_array_equal(steps, runtime.run(x))


def test_a_network_that_int8_ruins_fails(capsys: pytest.CaptureFixture[str]) -> None:
    """Said at the export, found by validation; keeping that node in fp32 makes it pass."""
    pytest.importorskip("onnxruntime")
    x = np.abs(np.random.default_rng(0).normal(0.2, 0.5, size=(6, 32, 33))).astype(np.float32)
    x[:, :, 0] = 0
    np.savez("x.npz", input=x)
    exported("wide.nir", "--precision", "int8", "--inputs", "x.npz")
    said = capsys.readouterr().err
    assert "node 'n0': int8 weights put the current of 8 of 8 output channels off by up to" in said
    assert console.run(validate, ["out", "--require", "onnxruntime"]) == 1
    assert "spikes of 'n1' flipped, 0.300% may" in "".join(capsys.readouterr())
    kept = ["--set", 'precision.nodes."n0"=fp32', "--inputs", "x.npz", "--out", "kept"]
    assert run("wide.nir", "--precision", "int8", "--target", "onnx", *kept) == 0
    assert console.run(validate, ["kept", "--require", "onnxruntime"]) == 0


def test_a_bundle_keeps_its_precision(capsys: pytest.CaptureFixture[str]) -> None:
    """Exported again it is what it was; in place it can be nothing else."""
    bundle = exported("net.nir", "--precision", "int8", "--set", 'precision.nodes."conv2"=fp32', target="nir")
    assert run("out", "--target", "onnx") == 0
    assert bundles.load(Path("out")).manifest.arithmetic == bundle.manifest.arithmetic
    assert run("out", "--target", "onnx", "--out", "again") == 0
    assert bundles.load(Path("again")).manifest.arithmetic == bundle.manifest.arithmetic
    capsys.readouterr()
    assert run("out", "--target", "onnx", "--precision", "fp16") == 2
    assert "bundle 'out' is int8: give --out, a new folder, for --precision fp16" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--set", "precision.nodes.conv1=fp32"], "node 'conv1' is fp32 anyway"),
        (["--precision", "int8", "--set", "precision.nodes.conf1=fp32"], "did you mean 'conv1'?"),
        (["--precision", "int8", "--set", "precision.nodes.conv1=fp16"], "'precision.nodes.conv1' = 'fp16'"),
        (["--precision", "int8", "--set", "precision.membran=fp16"], "did you mean 'precision.membrane'?"),
        (["--set", "precision.membrane=fp16"], "give --precision fp16 or int8 with it"),
    ],
)
def test_what_cannot_be_is_one_line(args: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("net.nir", *args, "--target", "onnx", "--out", "out") == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert said.replace("'precision.membrane'", "'membrane'") in line
    assert not Path("out").exists()


def test_the_manifest_of_an_older_bundle_is_fp32() -> None:
    bundle = exported("net.nir", target="nir")
    said = json.loads((bundle.path / "manifest.json").read_text(encoding="utf-8"))
    del said["arithmetic"], said["tolerances"]["outputs"]
    (bundle.path / "manifest.json").write_text(json.dumps(said), encoding="utf-8")
    manifest = bundles.load(bundle.path).manifest
    assert manifest.arithmetic == FP32
    assert manifest.tolerances == TOLERANCES["fp32"]
