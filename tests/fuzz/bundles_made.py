"""The sound bundles that mutants are made of: different inputs, time forms, precisions and states."""

from __future__ import annotations

from pathlib import Path

import several
from bundles import make
from small_graphs import conv_net, frames

from stdl_export import assemble
from stdl_export.manifest import Arithmetic
from stdl_export.targets import Job
from stdl_export.tensorrt import Profile


def seeds(folder: Path) -> list[Path]:
    """Write them all; the runtimes are warm afterwards, so that a mutant's process imports nothing."""
    folder.mkdir(parents=True)
    plain = make(folder / "plain", conv_net(), frames(3, 2, 6, 6), classes=tuple("abcde"))
    half = Arithmetic(precision="fp16", membrane="fp16")
    made = [
        plain,
        make(folder / "several", several.network(), several.inputs()),
        make(folder / "half", conv_net(), frames(3, 2, 6, 6), arithmetic=half),
        make(folder / "served", conv_net(T=5), frames(3, 2, 6, 6), targets=("onnx", "triton")),
    ]
    open_time = conv_net()
    del open_time.metadata["stdl.T"]
    bare = make(folder / "scan", open_time, frames(3, 2, 6, 6), targets=())
    job = Job(open_time, ("sequence", "step"), "scan", Profile(), "fp32", final_states=True)
    return [*(bundle.path for bundle in made), assemble.add(bare, job, ["onnx"])[0].path]
