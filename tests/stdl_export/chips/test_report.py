"""The mapping as a table and as a picture."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest

from stdl_export.chips.report import LayerUse, Mapping, Use


def mapping(**uses: float) -> Mapping:
    layers = (
        LayerUse("conv1.lif", "conv 3x3", 2048, 18368, 2304, 9),
        LayerUse("<a & b>" * 9, "dense", 10, 5072, 40576, 509, "2"),
    )
    limits = tuple(Use(name, used, 1000, "KiB", estimate=used < 500) for name, used in uses.items())
    return Mapping("chip", layers, limits, ("a remark",))


def test_the_table_has_a_line_for_each_layer_resource_and_remark() -> None:
    lines = mapping(memory=250, cores=1500.75).table
    assert lines[0].split() == ["layer", "what", "neurons", "synapses", "weights", "KiB", "fan-in", "cores"]
    assert lines[1].split()[-5:] == ["2,048", "18,368", "0.3", "9", "-"]
    assert lines[2].split()[-5:] == ["10", "5,072", "5.0", "509", "2"]
    assert lines[3] == "memory: 250 of 1,000 KiB (25.0%), an estimate"
    assert lines[4] == "cores: 1,500.75 of 1,000 KiB (150.1%): TOO MUCH"
    assert lines[5] == "a remark"


def test_it_fits_where_there_is_enough_of_everything() -> None:
    assert mapping(memory=1000).fits
    assert not mapping(memory=10, cores=1001).fits


@pytest.mark.parametrize("used", [0, 850, 5000])
def test_the_picture_is_sound_and_stays_in_its_frame(used: float) -> None:
    picture = ElementTree.fromstring(mapping(memory=used).svg())
    width = float(picture.attrib["width"])
    bars = [each for each in picture.iter() if each.tag.endswith("rect")]
    assert len(bars) == 2 * (2 * 2 + 1)
    assert all(float(bar.attrib["x"]) + float(bar.attrib["width"]) <= width for bar in bars)
    texts = ["".join(each.itertext()) for each in picture.iter() if each.tag.endswith("text")]
    assert any(text.startswith("<a & b>") and text.endswith("\u2026") and len(text) == 22 for text in texts)
    assert any("of 1,000 KiB" in text for text in texts)


def test_its_data_is_json() -> None:
    found = json.loads(json.dumps(mapping(memory=1).data))
    assert found["layers"][0]["name"] == "conv1.lif"
    assert found["uses"][0]["limit"] == 1000
