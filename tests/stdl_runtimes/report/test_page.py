"""The page: what is on it, that nothing in a name gets out of its place, and how a real browser shows it."""

from __future__ import annotations

import html.parser
from dataclasses import replace

import browser
import pictured
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictured import EVIL, LONG

from stdl_runtimes.report.hops import _stations
from stdl_runtimes.report.markup import compact, shortened, ticks
from stdl_runtimes.report.page import page, write_html
from stdl_runtimes.results import Check, Hop

VOID = {"meta", "link", "rect", "circle", "path"}


class Reader(html.parser.HTMLParser):
    """Elements in the order they open, and what stands in them; complains of one that is not closed."""

    def __init__(self, written):
        super().__init__(convert_charrefs=True)
        self.opened, self.words, self.tags = [], [], []
        self.feed(written)
        self.close()
        assert self.opened == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.opened.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.opened.pop() == tag

    def handle_data(self, data):
        if self.opened and self.opened[-1] != "style":
            self.words.append(data)


@pytest.mark.parametrize("report", [pictured.small(), pictured.nasty()], ids=["small", "nasty"])
def test_a_page_is_well_formed_and_loads_nothing(report):
    read = Reader(page(report))
    used = {tag for tag, _ in read.tags}
    assert used.isdisjoint(
        {"script", "img", "iframe", "object", "embed", "base", "form", "image", "use", "foreignobject"}
    )
    assert not any(name.startswith("on") or name == "src" for _, attrs in read.tags for name in attrs)
    assert {attrs["href"] for tag, attrs in read.tags if tag == "link"} == {"data:,"}
    ids = [attrs["id"] for _, attrs in read.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = [attrs["href"][1:] for tag, attrs in read.tags if tag == "a"]
    assert targets
    assert set(targets) <= set(ids)


def named(name):
    """A report in which everything that a file may name is called so."""
    report = pictured.small()
    layers = [replace(layer, node=name) for layer in report.layers[:1]]
    raster = replace(report.raster, layers=[replace(layer, node=name) for layer in report.raster.layers[:1]])
    costs = replace(report.efficiency, layers=[replace(layer, node=name) for layer in report.efficiency.layers[:1]])
    matrix = replace(report.confusions[0], classes=[name, *report.confusions[0].classes[1:]])
    hops = [replace(report.hops[0], before=name)]
    return replace(
        report, network=name, bundle=name, layers=layers, raster=raster, efficiency=costs, confusions=[matrix],
        hops=hops, hashes={name: name}, checks=[Check(name, name, False, name, "flips", 0.1)],
    )  # fmt: skip


@settings(max_examples=40)
@given(name=st.text(max_size=40))
def test_any_name_stays_in_its_place(name):
    """The elements are those of a page with harmless names, less the titles of what was too long for a picture."""
    read, plain = (Reader(page(named(each))) for each in (name, "plain"))
    assert [tag for tag, _ in read.tags if tag != "title"] == [tag for tag, _ in plain.tags if tag != "title"]
    ids = [attrs["id"] for _, attrs in read.tags if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_failed_checks_come_first_with_what_would_have_passed():
    words = " ".join(Reader(page(pictured.nasty())).words)
    failed = words.index("✗ FAIL: 2 of 3 checks")
    assert failed < words.index("would pass with flips = 0.05") < words.index("Runtimes")
    assert "✓ PASS: 1 checks on 40 samples hold for reference" in " ".join(Reader(page(pictured.small())).words)


def test_everything_is_on_the_page():
    words = "\n".join(Reader(page(pictured.small())).words)
    for expected in (
        "conv2.lif", "Accuracy on 40 golden samples", "trained (PyTorch) → reference", "p50 0.2, p90 0.24, p99 1.6",
        "MACs", "45 nm", "no engine", "threads=1", "0123456789abcdef" * 4, "2026-01-02T03:04:05+00:00",
        "39 of 40 right", "Golden sample 0", "64 of 300 neurons drawn",
    ):  # fmt: skip
        assert expected in words, expected


def test_what_was_not_measured_is_left_out():
    bare = replace(pictured.small(), raster=None, efficiency=None, confusions=[], hops=[], layers=[], skipped={})
    bare = replace(bare, runtimes=[replace(line, latency=None, accuracy=None) for line in bare.runtimes])
    read = Reader(page(bare))
    titles = [attrs["id"] for tag, attrs in read.tags if tag == "section"]
    assert titles == ["runtimes", "checks", "versions"]
    assert "svg" not in {tag for tag, _ in read.tags}


def test_layers_that_flip_are_told_apart_by_more_than_colour():
    written = page(pictured.nasty())
    words = Reader(written).words
    assert any(word.startswith("✗ 10k, 3 ties") for word in words)
    assert any(word.startswith("! 1, 3 ties") for word in words)
    assert any(word.startswith("✓ 0") for word in words)
    assert "not shown" in words


def test_the_page_is_written_whole_and_in_utf_8(tmp_path):
    write_html(pictured.nasty(), tmp_path / "page.html")
    written = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert written.endswith("</html>\n")
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]


@browser.needs_browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("report", [pictured.small(), pictured.nasty()], ids=["small", "nasty"])
def test_in_a_browser(tmp_path, report, dark):
    write_html(report, tmp_path / "page.html")
    seen = browser.look(tmp_path / "page.html", dark=dark)
    assert seen.console == []
    assert sorted(seen.asked) == ["/probe.html", "/report.html", "/report.html"]
    assert seen.phone["width"] == 360
    for view in (seen.phone, seen.desk):
        assert view["resources"] == []
        assert view["dark"] == dark
        assert (sum(map(int, view["background"][4:-1].split(","))) < 200) == dark
        assert view["scrollWidth"] == view["width"]
        assert view["sticking"] == []
        assert view["outside"] == []
        assert view["torn"] == []
        assert view["title"].startswith("stdl-validate: ")
        assert "script" not in view["tags"]
        assert view["handlers"] == 0
        assert len(view["ids"]) == len(set(view["ids"]))
        assert set(view["references"]) <= set(view["ids"])
        assert view["svgs"] > 8
        assert (view["unnamed"], view["unscoped"]) == (0, 0)
        assert view["texts"] > 50
        assert view["contrasts"][0][0] >= 4.5, view["contrasts"]
        assert view["smallest"] >= 10


def test_numbers_names_and_ticks_fit_their_place():
    numbers = (0, 9_999, 12_345, 999_400, 999_999, 5 * 10**9, 3 * 10**17)
    assert [compact(value) for value in numbers] == ["0", "9,999", "12.3k", "999k", "1M", "5G", "300P"]
    assert shortened("short", 10) == "short"
    assert shortened("block1.conv2.lif", 9) == "bl…v2.lif"
    assert ticks(0.0, 1.0) == [0.0, 0.5, 1.0]
    assert ticks(3.1, 3.1) == [3.1]
    assert all(2.0 <= tick <= 37.0 for tick in ticks(2.0, 37.0))


def test_the_way_has_every_hop_below_the_one_it_comes_from():
    found = _stations(pictured.nasty().hops)
    names = [each.name for each in found]
    assert names == [EVIL, LONG, f"0{EVIL}", f"1{EVIL}", "deeper", f"2{EVIL}", "a", "b"]
    assert [each.depth for each in found] == [0, 1, 2, 2, 3, 2, 0, 1]
    assert [each.row for each in found] == list(range(8))
    assert all(each.before.name == each.hop.before for each in found if each.hop)


def test_hops_that_lead_round_in_a_circle_end():
    hops = [Hop(*names, 1, 1, 0.0, None, passed=True) for names in (("a", "b"), ("b", "c"), ("c", "b"))]
    assert 3 <= len(_stations(hops)) < 20
