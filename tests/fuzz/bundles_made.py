"""The sound bundles that mutants are made of: different inputs, time forms, precisions, states, and chips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import random_graphs
import several
from bundles import make
from skip_graphs import residual
from small_graphs import conv_net, frames
from speck_graphs import speck_graph
from xylo_graphs import xylo_graph

from stdl_export import assemble
from stdl_export.manifest import Arithmetic
from stdl_export.targets import Job
from stdl_export.tensorrt import Profile


def seeds(folder: Path) -> list[Path]:
    """Write them all; the runtimes are warm afterwards, so that a mutant's process imports nothing."""
    folder.mkdir(parents=True)
    rng, skips = np.random.default_rng(0), residual(1, "sequence")
    plain = make(folder / "plain", conv_net(), frames(3, 2, 6, 6), classes=tuple("abcde"))
    half = Arithmetic(precision="fp16", membrane="fp16")
    made = [
        plain,
        make(folder / "several", several.network(), several.inputs()),
        make(folder / "half", conv_net(), frames(3, 2, 6, 6), arithmetic=half),
        make(folder / "loihi2", skips, random_graphs.inputs(skips, 6, 4), targets=("onnx", "loihi2")),
        make(folder / "speck", speck_graph(rng), rng.integers(0, 3, (6, 3, 2, 8, 8)), targets=("onnx", "speck")),
        make(folder / "xylo", xylo_graph(rng), rng.integers(0, 4, (12, 3, 5)), targets=("onnx", "xylo")),
        make(folder / "served", conv_net(T=5), frames(3, 2, 6, 6), targets=("onnx", "triton")),
    ]
    open_time = conv_net()
    del open_time.metadata["stdl.T"]
    bare = make(folder / "scan", open_time, frames(3, 2, 6, 6), targets=())
    job = Job(open_time, ("sequence", "step"), "scan", Profile(), "fp32", final_states=True)
    return [*(bundle.path for bundle in made), assemble.add(bare, job, ["onnx"])[0].path]
