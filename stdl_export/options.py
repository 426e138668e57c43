"""What `stdl-export` was told: its options, what `--set` may hold, and what no source could take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pydantic

from stdl_export import bundle as bundles
from stdl_export import graph as graphs
from stdl_export import targets
from stdl_export.chips import refused
from stdl_export.chips.registry import CHIPS
from stdl_export.common.errors import BadInput
from stdl_export.common.names import unknown
from stdl_export.interop import peers
from stdl_export.manifest import Membrane, Precision
from stdl_export.onnx.time import TimeForm
from stdl_export.targets import TARGETS, Mode
from stdl_export.tensorrt import DEFAULTS, BuildOptions

MODES: dict[str, tuple[Mode, ...]] = {"sequence": ("sequence",), "step": ("step",), "both": ("sequence", "step")}

ONE_FILE = {".nir": "nir", ".dot": "dot", ".svg": "svg"}
"""Suffixes of --out that are no bundle but the file of a single target."""


class PrecisionOverrides(pydantic.BaseModel):
    """`precision.nodes."1.conv"=fp32` keeps a node, `precision.membrane=fp16` halves what neurons store."""

    model_config = pydantic.ConfigDict(extra="forbid")

    membrane: Membrane = "fp32"
    nodes: dict[str, Literal["fp32"]] = {}


class Overrides(pydantic.BaseModel):
    """What `--set` may say about a graph that does not say it itself, or says it otherwise."""

    model_config = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)

    network: str | None = None
    classes: tuple[str, ...] | None = None
    prediction: str | None = None
    """The one of several Outputs that classifies a sample."""
    dt: pydantic.PositiveFloat | None = None
    reset: graphs.Reset | None = None
    input: graphs.InputMode | None = None
    output: graphs.Decoding | None = None
    dialect: dict[str, Any] | None = None
    """Choices of the dialect: `dialect.reset=subtract`, `dialect.nodes."1.lif".spike=">="`."""
    precision: PrecisionOverrides | None = None
    tensorrt: BuildOptions = DEFAULTS
    """How engines are built: `tensorrt.tf32=true`, `tensorrt.workspace_mib=512`."""
    loihi2: dict[str, Any] = {}
    """Of the chip of that name, whose own options say what it may hold; so are the others."""
    xylo: dict[str, Any] = {}
    speck: dict[str, Any] = {}
    spinnaker2: dict[str, Any] = {}

    @property
    def chips(self) -> dict[str, dict[str, Any]]:
        """What is said to each chip, by its name."""
        return {name: getattr(self, name) for name in CHIPS}


@dataclass(frozen=True)
class Options:
    """The command line as given; fields are the options of `command`."""

    source: Path
    target: tuple[str, ...]
    out: Path | None
    peer: str | None
    dialect: str | None
    timesteps: str | None
    dt: float | None
    mode: str
    batch: str
    precision: Precision | None
    time_form: TimeForm
    final_states: bool
    golden: int | None
    inputs: Path | None
    set: tuple[str, ...]
    explain: bool


def target_names(options: Options) -> list[str]:
    """Each target once, in the order given; all of them where a graph is explained and none is named."""
    names = [name.strip() for item in options.target for name in item.split(",") if name.strip()]
    for name in names:
        if name not in TARGETS:
            refused.check(name)
            raise unknown("target", name, TARGETS)
    if not names and options.explain:
        return list(TARGETS)
    if not names:
        raise BadInput(f"--target is empty: name one or more of {', '.join(TARGETS)}, or give --explain")
    return list(dict.fromkeys(names))


def single_file(options: Options, names: Sequence[str]) -> Path | None:
    """The file that is written instead of a bundle: `--out` where its suffix is that of the only target."""
    return options.out if options.out is not None and [*names] == [ONE_FILE.get(options.out.suffix)] else None


def check(options: Options, names: Sequence[str]) -> None:
    """Refuse values that no source could take, and options that would have no effect."""
    if options.dt is not None and not (math.isfinite(options.dt) and options.dt > 0):
        raise BadInput(f"--dt {options.dt:g}: write a positive number of seconds")
    if options.out is not None:
        bundles.require_outside(options.source, options.out)
    one_file = single_file(options, names)
    samples = options.golden is not None or options.inputs is not None
    if options.explain and (options.out is not None or samples):
        raise BadInput("--explain writes nothing: leave --out, --golden and --inputs out")
    if options.final_states and names and not {"onnx", "tensorrt"} & set(names):
        raise BadInput(f"--final-states: {', '.join(names)} has no such outputs: add --target onnx or tensorrt")
    if options.final_states and options.mode == "step":
        raise BadInput("--final-states: a step graph always puts out its states: leave it out, or take --mode both")
    if options.peer is not None and peers.get(options.peer) and (one_file is None or names != ["nir"]):
        raise BadInput(f"--for {options.peer} writes one file for it: give --target nir --out FILE.nir")
    if one_file is not None and options.precision is not None:
        raise BadInput(f"--precision: {one_file.suffix} files are in none: leave it out, or give --out a folder")
    if one_file is not None and samples:
        raise BadInput(
            f"--out '{one_file}': one {one_file.suffix} file holds no golden samples: "
            "give --out a folder, or leave --golden/--inputs out"
        )
    kind = None if options.out is None else ONE_FILE.get(options.out.suffix)
    if one_file is None and kind in targets.DRAWINGS:
        raise BadInput(f"--out '{options.out}' is a drawing, for --target {kind} alone: give --out a folder")


def check_engines(overrides: Overrides, names: Sequence[str]) -> None:
    """Refuse what engines are told where none is built."""
    if overrides.tensorrt != DEFAULTS and "tensorrt" not in names:
        raise BadInput("--set tensorrt: no engine is built: leave it out, or add --target tensorrt")
