"""report.html of a real run: what it shows, that it needs nothing else, and that text stays text."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

import pytest
import torch
from networks import plain_spec
from tiny_run import TINY, metrics, train

from stdl_models.nets.registry import build_network
from stdl_models.units.layers import spiking_neurons
from stdl_train import cli
from stdl_train.data.samples import load
from stdl_train.distributed import World
from stdl_train.html_report import write_report
from stdl_train.memory import show_bytes
from stdl_train.plan import PlanRequest
from stdl_train.plan_search import make_plan
from stdl_train.recipe import read_recipe

EVIL = '</pre><script src="https://elsewhere/x.js">alert(1)</script>&amp;'
SETTINGS = ("train.epochs=3", f"description={json.dumps(EVIL)}")


@dataclass
class Element:
    """One element: its attributes, what it stands in, and its own text."""

    tag: str
    attributes: dict[str, str | None]
    parents: list[str]
    text: str = ""


@dataclass
class Page(HTMLParser):
    """Reads a page whose elements must all be closed, in order."""

    elements: list[Element] = field(default_factory=list)
    open: list[Element] = field(default_factory=list)

    def __post_init__(self):
        super().__init__()

    def handle_starttag(self, tag, attributes):
        assert len({name for name, _ in attributes}) == len(attributes), tag
        element = Element(tag, dict(attributes), [parent.tag for parent in self.open])
        self.elements.append(element)
        if tag != "meta":
            self.open.append(element)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop().tag == tag

    def handle_data(self, data):
        if self.open:
            self.open[-1].text += data

    def texts(self, tag):
        return [element.text for element in self.elements if element.tag == tag]


def read(path):
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    page.close()
    assert page.open == []
    assert [page.elements[0].tag, *page.texts("title")][0] == "html"
    return page


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert train(folder, *SETTINGS) == 0
    return folder


@pytest.fixture(scope="module")
def page(folder):
    return read(folder / "report.html")


def figures(page):
    """Caption -> points of each curve, one list of (x, y) a line."""
    found, points = {}, []
    for element in page.elements:
        if element.tag == "figcaption":
            points = found.setdefault(element.text, [])
        elif element.tag == "polyline":
            points.append([tuple(map(float, pair.split(","))) for pair in element.attributes["points"].split()])
    return found


def test_curves_have_a_point_for_every_epoch_and_line(page, folder):
    """One line a subnetwork, two accuracies, one line a layer; higher values stand higher."""
    lines = metrics(folder)
    curves = figures(page)
    assert {caption: len(curve) for caption, curve in curves.items()} == {
        "Loss": 2,
        "Accuracy": 2,
        "Firing rate (spikes per neuron and step)": 2,
        "Learning rate": 1,
    }
    assert all(len(points) == 3 for curve in curves.values() for points in curve)
    for number, points in enumerate(curves["Loss"]):
        values = [line["loss"][number] for line in lines]
        heights = [-y for _, y in points]  # y runs downwards
        assert sorted(range(3), key=values.__getitem__) == sorted(range(3), key=heights.__getitem__)


def test_legends_name_subnetworks_and_layers_with_their_last_values(page, folder):
    last = metrics(folder)[-1]
    texts = page.texts("text")
    assert {"fc1.if", "fc2.if"} == last["firing"].keys()
    for name, value in {
        "subnetwork 1": last["loss"][0],
        "subnetwork 2": last["loss"][1],
        "test": last["test_accuracy"],
        **last["firing"],
    }.items():
        assert f"{name}: {value:.4g}" in texts


def test_the_plan_picture_shows_every_unit_and_auxiliary_unit(page):
    """Two units and the readout; behind the first subnetwork a copy of the second unit and a classifier."""
    texts = page.texts("text")
    assert [texts.count(name) for name in ("fc1", "fc2", "readout", "classifier")] == [1, 2, 1, 1]
    assert [texts.count(f"subnetwork {number}") for number in (1, 2, 3)] == [1, 1, 0]
    assert sum("stroke-dasharray" in element.attributes for element in page.elements) == 2  # what merging drops


def test_memory_is_predicted_and_measured(page, folder):
    """Against a plan made here; on a CPU what is measured is what was predicted."""
    recipe = read_recipe(str(folder / "recipe.toml"))
    spec = cli.make_spec(recipe, load("digits", "train", None, 100, 0))
    predicted = show_bytes(make_plan(spec, cli.make_request(recipe, World())).predicted.live)
    rows = dict(zip(page.texts("th"), page.texts("td"), strict=True))
    assert rows["training step, predicted"] == predicted
    assert rows["training step, measured"] == f"{predicted} (1.000 of the prediction)"
    assert rows["most in use by the process"] == show_bytes(max(line["memory"] for line in metrics(folder)))
    assert rows["PyTorch"] == torch.__version__


def test_it_loads_nothing_from_anywhere(page, folder):
    """Nothing that a browser would fetch or run; the text of the recipe may say what it likes."""
    assert not {e.tag for e in page.elements} & {"script", "link", "img", "iframe", "object", "embed", "image", "use"}
    names = {name for element in page.elements for name in element.attributes}
    assert not names & {"src", "href", "xlink:href", "data", "style", "action", "srcset"}
    assert not [name for name in names if name.startswith("on")]
    assert not re.search(r"url\(|@import|https?:", "".join(page.texts("style")))
    outside = (folder / "report.html").read_text(encoding="utf-8").replace("https://elsewhere/x.js", "")
    assert not re.search(r"https?:", outside)


def test_text_of_the_recipe_is_escaped(page):
    """It stands in the page as it was written, and opens or closes no element."""
    (recipe,) = page.texts("pre")
    assert EVIL in recipe.replace('\\"', '"')
    assert "script" not in {element.tag for element in page.elements}


def test_names_of_layers_and_units_are_escaped(tmp_path):
    """Names that no recipe can give, to be safe from those that a builder could."""
    name = "<script>&'\"</svg>"
    spec = plain_spec(T=2)
    plan = make_plan(spec, PlanRequest("stdl", 4, subnetworks=2))
    units = tuple(unit.model_copy(update={"name": f"{name}{unit.name}"}) for unit in spec.units)
    layers = [f"{name}{layer}" for layer, _ in spiking_neurons(build_network(spec))]
    line = {
        "loss": [1.0, 2.0], "train_accuracy": 0.5, "test_accuracy": 0.5, "learning_rate": 0.1, "memory": 1,
        "seconds": 1.0, "firing": dict.fromkeys(layers, 0.25),
    }  # fmt: skip
    strange = spec.model_copy(update={"units": units})
    write_report(read_recipe(TINY[0]), strange, plan, [line], 0.5, None, torch.device("cpu"), tmp_path / "report.html")
    page = read(tmp_path / "report.html")
    assert {f"{layer}: 0.25" for layer in layers} <= set(page.texts("text"))
    assert {unit.name for unit in units} <= set(page.texts("text"))
    assert "script" not in {element.tag for element in page.elements}


def test_a_run_whose_history_is_empty_has_a_report_without_curves(tmp_path):
    spec = plain_spec(T=2)
    plan = make_plan(spec, PlanRequest("stdl", 4, subnetworks=2))
    write_report(read_recipe(TINY[0]), spec, plan, [], 0.5, None, torch.device("cpu"), tmp_path / "report.html")
    assert figures(read(tmp_path / "report.html")) == {}
