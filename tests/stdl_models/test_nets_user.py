"""A user's own network: what a builder may return, what NIR cannot say of it, and every way to be wrong."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path

import pytest
import torch

from stdl_export.common.errors import BadInput
from stdl_export.fold import fold
from stdl_export.from_torch import to_nir
from stdl_models.nets.registry import build_network, network_spec
from stdl_models.nets.user import unexportable
from stdl_models.network import InputSpec, NetworkSpec, SpikingNetwork
from stdl_models.neurons import NeuronSpec

HEAD = """
from torch import nn
from stdl_models.units.simple import ConvSpec, LinearSpec, PoolSpec, ReadoutSpec
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a module into the current directory; it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(text, name="mynet"):
        Path(f"{name}.py").write_text(HEAD + text)
        importlib.invalidate_caches()
        monkeypatch.delitem(sys.modules, name, raising=False)

    yield write
    sys.modules.pop("mynet", None)


def spec(name="mynet:build", options=None, shape=(3, 8, 8)):
    return network_spec(name, InputSpec(shape=shape), ("a", "b", "c"), 3, NeuronSpec(v_threshold=0.3), options)


GOOD = """
def build(input_shape, classes, neuron, width=4):
    return [
        ConvSpec(name="c1", channels=width, neuron=neuron),
        nn.Sequential(nn.AvgPool2d(3, stride=2, padding=1), nn.Identity()),
        ConvSpec(name="c2", channels=2 * width, neuron=neuron),
        nn.Flatten(),
        LinearSpec(name="f1", features=10, neuron=neuron),
    ]
"""


def test_a_network_of_units_is_built_exported_and_read_back(write, tmp_path):
    write(GOOD)
    made = spec(options={"width": 6})
    assert [unit.kind for unit in made.units] == ["conv", "avgpool", "conv", "linear"]
    assert (made.units[0].channels, made.units[1].stride, made.name) == (6, 2, "mynet.build")
    assert made.readout.classes == 3
    assert unexportable(made) == []
    network = build_network(made).eval()
    pool = torch.nn.AvgPool2d(3, stride=2, padding=1)
    x = torch.rand(2, 6, 8, 8)
    assert torch.equal(network.units[1].step(x, ())[0], pool(x))
    assert to_nir(fold(network)).nodes["avgpool2d2"].padding.tolist() == [1, 1]
    network.save(tmp_path / "n.safetensors")
    sys.modules.pop("mynet")
    Path("mynet.py").write_text("raise SystemExit('a file must not make us import')")
    assert SpikingNetwork.load(tmp_path / "n.safetensors").spec == made


def test_all_that_nir_cannot_say_is_listed_at_once(write, tmp_path):
    write("""
class Odd(nn.Module):
    def forward(self, x):
        return x.abs()

def build(input_shape, classes, neuron):
    return [ConvSpec(name="c", channels=4, neuron=neuron), nn.MaxPool2d(2), nn.Dropout(0.1), Odd(),
            nn.AvgPool2d(3, 1, 1, count_include_pad=False), nn.Softmax(1),
            LinearSpec(name="f", features=5, neuron=neuron), ReadoutSpec(classes=classes)]
""")
    made = spec()
    reasons = unexportable(made)
    assert [re.match(r"unit '(\w+)': (\w+)\(", reason).groups() for reason in reasons] == [
        ("maxpool2d2", "MaxPool2d"), ("dropout3", "Dropout"), ("odd4", "Odd"),
        ("avgpool2d5", "AvgPool2d"), ("softmax6", "Softmax"),
    ]  # fmt: skip
    assert "NIR has no max pooling: use PoolSpec, or a stride" in reasons[0]
    network = build_network(made)
    assert network(torch.rand(2, 3, 8, 8)).shape == (3, 2, 3)
    network.save(tmp_path / "n.safetensors")
    with pytest.raises(BadInput, match=r"unit 'maxpool2d2' is a PyTorch module .* a file holds no code") as caught:
        SpikingNetwork.load(tmp_path / "n.safetensors")
    assert "\n" not in str(caught.value)
    again = NetworkSpec.model_validate(json.loads(made.model_dump_json()))
    assert unexportable(again)[0] == reasons[0]


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        (GOOD, "nonet:build", "no module 'nonet'"),
        (GOOD, "mynet:built", "module 'mynet' has no 'built'"),
        (GOOD, "mynet:", "write package.module:builder"),
        ("build = 3", "mynet:build", "not callable"),
        ("import nothing_of_the_sort", "mynet:build", "no module 'nothing_of_the_sort'"),
        ("1 / 0", "mynet:build", "failed to load: ZeroDivisionError: division by zero"),
        ("def build(:", "mynet:build", "failed to load: SyntaxError"),
        ("def build(**k): raise ValueError('odd\\nnews')", "mynet:build", "builder failed: ValueError: odd news"),
        ("def build(shape): pass", "mynet:build", "builder failed: TypeError"),
        ("def build(**k): return nn.ReLU()", "mynet:build", "returned ReLU: return a list"),
        ("def build(**k): return [3]", "mynet:build", "item 1 is int"),
        ("def build(**k): return [nn.ReLU]", "mynet:build", "write an instance"),
        ("def build(**k): return []", "mynet:build", "no units"),
        ("def build(**k): return [nn.ReLU()]", "mynet:build", "no item has neurons"),
        ("def build(**k): return [nn.BatchNorm2d(3)]", "mynet:build", "use norm=True"),
        ("def build(**k): return [ReadoutSpec(classes=3), PoolSpec(name='p')]", "mynet:build", "only be the last"),
        ("def build(**k): return [ConvSpec(name='c', channels=2)] * 2", "mynet:build", "used twice"),
        ("def build(**k): return [ConvSpec(name='c', channels=2), ReadoutSpec(classes=9)]", "mynet:build", "9 outputs"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(write, text, name, message):
    write(text)
    with pytest.raises(BadInput, match=message) as caught:
        spec(name)
    assert "\n" not in str(caught.value)
    assert f"network '{name}'" in str(caught.value)


def test_units_that_do_not_fit_are_named(write):
    write("def build(**k): return [nn.MaxPool2d(2), ConvSpec(name='c', channels=2, kernel=9, padding=0)]")
    with pytest.raises(BadInput, match=r"unit 'c': a window of 9"):
        build_network(spec())
    with pytest.raises(BadInput, match="mynet"):
        build_network(spec(shape=(3, 1, 1)))


def test_the_example_of_the_docs_runs(write):
    page = (Path(__file__).parents[2] / "docs" / "networks.md").read_text()
    (example,) = re.findall(r"```python\n# mynet\.py\n(.*?)```", page, re.DOTALL)
    write(example)
    made = spec("mynet:build", {"width": 4}, shape=(1, 8, 8))
    assert unexportable(made) == []
    to_nir(fold(build_network(made).eval()))
