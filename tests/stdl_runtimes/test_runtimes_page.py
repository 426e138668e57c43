"""docs/runtimes.md is true: its code runs, in order, and its table has the runtimes there are."""

import re
from pathlib import Path

import bundles
import nir
import numpy as np
import pytest
from chains import chain, varied_lif

from stdl_runtimes import base

PAGE = (Path(__file__).parents[2] / "docs" / "runtimes.md").read_text(encoding="utf-8")


def test_every_block_of_code_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(0)
    nodes = {
        "flat": nir.Flatten({"input": np.array([2, 16, 16])}, 0, -1),
        "fc": nir.Affine(rng.normal(0, 0.1, (3, 512)).astype(np.float32), rng.normal(size=3).astype(np.float32)),
        "lif": varied_lif(rng, (3,)),
    }
    graph = chain((2, 16, 16), (3,), nodes, T=8, input="sequence")
    bundles.make(tmp_path / "bundle", graph, np.zeros((8, 1, 2, 16, 16), np.float32))
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(blocks) >= 6
    known = {}
    for block in blocks:
        exec(compile(block, "docs/runtimes.md", "exec"), known)
    assert known["output"].shape == (8, 4, 3)
    assert known["output"].any()
    assert known["scores"].keys() == {1}
    assert "'threads': '1'" in capsys.readouterr().out
    assert (tmp_path / "night.safetensors").is_file()


def test_the_table_has_every_runtime():
    listed = set(re.findall(r"`([a-z0-9-]+)`", "".join(re.findall(r"^\| (`.*?) \|", PAGE, flags=re.MULTILINE))))
    assert set(base.REGISTRY) - {"xylo", "speck"} <= listed
