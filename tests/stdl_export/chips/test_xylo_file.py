"""Specifications for Xylo: what is written is read back and runs the same; what is wrong is refused by name."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xylo_networks import random_inputs, random_specification

from stdl_export.chips import xylo_file
from stdl_export.chips.xylo_file import DTYPES, Specification
from stdl_export.chips.xylo_model import Model
from stdl_export.common.errors import BadInput


def _rng():
    return np.random.default_rng(3)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_written_read_and_run(tmp_path_factory, seed):
    folder, rng = tmp_path_factory.mktemp("xylo"), np.random.default_rng(seed)
    network = random_specification(rng)
    xylo_file.write(network, folder / "a.npz", folder / "a.json", {"chip": "XyloAudio 2"})
    again, about = xylo_file.read(folder / "a.npz", folder / "a.json")
    assert about == {"chip": "XyloAudio 2"}
    for name, value in network.said().items():
        np.testing.assert_equal(again.said()[name], value, name)
    inputs = random_inputs(rng, network)
    np.testing.assert_array_equal(Model(again).run(inputs).v_out, Model(network).run(inputs).v_out)


def test_the_files_hold_what_the_tools_take(tmp_path):
    network = random_specification(_rng())
    xylo_file.write(network, tmp_path / "a.npz", tmp_path / "a.json")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        assert {name: arrays[name].dtype.name for name in arrays.files} == DTYPES
    plain = json.loads((tmp_path / "a.json").read_text())["specification"]
    assert {*plain} == {"weight_shift_in", "weight_shift_rec", "weight_shift_out", "aliases", "dt"}
    assert len(plain["aliases"]) == network.hidden


WRONG = {
    "threshold": lambda s: s.threshold * 0, "dash_mem": lambda s: s.dash_mem + np.uint8(16),
    "dash_syn_out": lambda s: s.dash_syn_out.astype(np.int64), "weights_rec": lambda s: s.weights_rec[:-1],
    "weights_out": lambda s: s.weights_out[0], "weights_in": lambda s: np.repeat(s.weights_in, 3, axis=2),
    "bias": lambda s: s.bias[:0], "weight_shift_in": lambda s: 8, "weight_shift_out": lambda s: 1.0,
    "dt": lambda s: -1.0, "aliases": lambda s: ((s.hidden,),) * s.hidden,
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_the_chip_cannot_hold_is_refused_by_name(name):
    network = random_specification(_rng())
    with pytest.raises(BadInput, match=name):
        Specification(
            **({k: getattr(network, k) for k in Specification.__dataclass_fields__} | {name: WRONG[name](network)})
        )


def _refusal(arrays, rest):
    try:
        xylo_file.read(arrays, rest)
    except BadInput as error:
        return str(error)
    return None


def test_damaged_files_are_one_line(tmp_path):
    network, rng = random_specification(_rng()), _rng()
    arrays, rest = tmp_path / "a.npz", tmp_path / "a.json"
    xylo_file.write(network, arrays, rest)
    whole = {arrays: arrays.read_bytes(), rest: rest.read_bytes()}
    refused = 0
    for round_ in range(300):
        path = (arrays, rest)[round_ % 2]
        content = bytearray(whole[path])
        if round_ % 3:
            for at in rng.integers(0, len(content), int(rng.integers(1, 6))):
                content[at] = int(rng.integers(256))
        else:
            del content[int(rng.integers(len(content))) :]
        path.write_bytes(content)
        said = _refusal(arrays, rest)
        assert said is None or ("\n" not in said and str(tmp_path) in said)
        refused += said is not None
        path.write_bytes(whole[path])
    assert refused > 200


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda c: c.pop("specification"), "specification"),
        (lambda c: c["specification"].pop("dt"), "dt"),
        (lambda c: c["specification"].update(more=1), "more"),
        (lambda c: c["specification"].update(aliases=[["x"]]), "aliases"),
        (lambda c: c["specification"].update(aliases=3), "aliases"),
    ],
)
def test_foreign_json(tmp_path, change, match):
    arrays, rest = tmp_path / "a.npz", tmp_path / "a.json"
    xylo_file.write(random_specification(_rng()), arrays, rest)
    content = json.loads(rest.read_text())
    change(content)
    rest.write_text(json.dumps(content))
    with pytest.raises(BadInput, match=match):
        xylo_file.read(arrays, rest)


def test_pickles_and_huge_headers_are_refused(tmp_path):
    arrays, rest = tmp_path / "a.npz", tmp_path / "a.json"
    network = random_specification(_rng())
    xylo_file.write(network, arrays, rest)
    np.savez(arrays, weights_in=np.array([{}], dtype=object))
    with pytest.raises(BadInput, match=r"a\.npz"):
        xylo_file.read(arrays, rest)
    arrays.unlink()
    with pytest.raises(BadInput, match="does not exist"):
        xylo_file.read(arrays, rest)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.data())
def test_random_values_out_of_range_are_refused_by_name(seed, data):
    network = random_specification(np.random.default_rng(seed))
    name = data.draw(st.sampled_from([*DTYPES, *xylo_file.SHIFTS]))
    array = getattr(network, name)
    if name in xylo_file.SHIFTS:
        wrong = data.draw(st.integers(8, 99) | st.integers(-9, -1))
    elif name.startswith(("dash", "threshold")):
        wrong = array.copy()
        low, high = (16, 255) if name.startswith("dash") else (-999, 0)
        wrong[data.draw(st.integers(0, array.size - 1))] = data.draw(st.integers(low, high))
    else:
        wrong = array.astype(data.draw(st.sampled_from(["int32", "float32", "uint16"])))
    said = {field: getattr(network, field) for field in Specification.__dataclass_fields__}
    with pytest.raises(BadInput, match=name):
        Specification(**(said | {name: wrong}))
