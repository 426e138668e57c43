"""The command `stdl-export`: a trained network, a .nir file or a bundle in, a bundle for devices out."""

from __future__ import annotations

import logging
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import click
import nir
import pydantic

from stdl_export import dialects, golden, source, targets
from stdl_export import graph as graphs
from stdl_export.bundle import FP32, Arithmetic, Bundle, Membrane, Precision, class_misfit
from stdl_export.common import console
from stdl_export.common.config import apply_settings, validate
from stdl_export.common.errors import BadInput
from stdl_export.common.files import require_empty
from stdl_export.common.names import unknown
from stdl_export.explain.report import Heading, show
from stdl_export.interop import peers
from stdl_export.interop.adapt import Adapted, adapt
from stdl_export.onnx.time import TIME_FORMS, TimeForm
from stdl_export.source import Source
from stdl_export.targets import TARGETS, Job, Mode
from stdl_export.tensorrt import Profile

log = logging.getLogger("stdl")

MODES: dict[str, tuple[Mode, ...]] = {"sequence": ("sequence",), "step": ("step",), "both": ("sequence", "step")}

ONE_FILE = {".nir": "nir", ".dot": "dot", ".svg": "svg"}
"""Suffixes of --out that are no bundle but the file of a single target."""

EXAMPLES = """\b
Examples:
  stdl-export runs/digits --target onnx,tensorrt --out bundles/digits
  stdl-export runs/digits --target nir --out digits.nir        one file, for another framework
  stdl-export runs/digits --target nir --out norse.nir --for norse
  stdl-export snn.nir --target onnx --timesteps 32 --dt 1e-3 --out bundles/snn
  stdl-export bundles/digits --target tensorrt --batch 1:8:64  adds engines built on this machine
  stdl-export snn.nir --explain                                what is in it, and which targets take it
  stdl-export snn.nir --target svg --out snn.svg               a drawing
"""


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


def _list_dialects(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    """Print every dialect with its line, and leave."""
    if wanted and not context.resilient_parsing:
        width = max(map(len, dialects.DIALECTS))
        for name, dialect in dialects.DIALECTS.items():
            click.echo(f"{name:<{width}}  {dialect.explanation}")
        context.exit()


@click.command(epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.argument("source", metavar="SOURCE", type=click.Path(path_type=Path))
@click.option("--target", multiple=True, help=f"{', '.join(TARGETS)}; repeatable or comma-separated.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder of the new bundle, or FILE.nir, FILE.dot or FILE.svg for that target alone. "
    "Without it, the bundle SOURCE gets new parts.",
)
@click.option(
    "--for",
    "peer",
    metavar="PEER",
    help=f"With --out FILE.nir: rewrite the graph so that PEER reads our numbers from it, or say why it cannot. "
    f"PEER: {', '.join(peers.PEERS)}.",
)
@click.option(
    "--dialect",
    metavar="NAME|FILE",
    help="How NIR's continuous time is stepped: a name of --list-dialects, or a TOML or JSON file. "
    "Default: what the graph says, else nir.",
)
@click.option(
    "--list-dialects",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_dialects,
    help="Explain every dialect in a line.",
)
@click.option("--timesteps", metavar="N|dynamic", help="Time steps T. Default: what the graph says, else dynamic.")
@click.option(
    "--dt",
    type=float,
    help="Length of a step in the unit of the time constants, mostly seconds. "
    "Default: what --set, the dialect file, the graph or the named dialect says, else 1e-4.",
)
@click.option("--mode", type=click.Choice(list(MODES)), default="both", help="Whole sequences, single steps, or both.")
@click.option(
    "--batch",
    metavar="N|MIN:OPT:MAX",
    default="1:1:16",
    show_default=True,
    help="Batch sizes that TensorRT engines take; ONNX graphs take any.",
)
@click.option(
    "--precision",
    type=click.Choice(get_args(Precision)),
    help="Arithmetic of ONNX graphs and engines: all float32; weights and currents float16; or weights int8 per "
    "channel, with spikes that lose nothing. Default: what the bundle says, else fp32.",
)
@click.option("--time-form", type=click.Choice(TIME_FORMS), default="auto", help="How ONNX graphs say T steps.")
@click.option("--final-states", is_flag=True, help="Sequences put out their states too: steps can go on from there.")
@click.option("--golden", type=click.IntRange(min=1), help="How many golden samples to keep, or to compute.")
@click.option(
    "--inputs",
    type=click.Path(path_type=Path),
    help="FILE.npz with `input` (of several Inputs: with their names) and `labels`, if any, for golden samples.",
)
@click.option("--explain", is_flag=True, help="Print what is in the graph and which targets take it; write nothing.")
@click.option("--set", multiple=True, metavar="KEY=VALUE", help=f"{', '.join(Overrides.model_fields)}; repeatable.")
def command(**options: Any) -> None:
    """Export SOURCE (a run folder, a .nir file or a bundle) to NIR, ONNX or TensorRT, with golden samples as proof.

    With --explain, or for --target dot and svg, to what people read.
    """
    export(Options(**options))


def export(options: Options) -> None:
    """Read the source, settle what the graph says, and write what was asked for."""
    names = _targets(options)
    one_file = options.out if options.out is not None and names == [ONE_FILE.get(options.out.suffix)] else None
    _check_options(options, names, one_file)
    profile = Profile.parse(options.batch)
    overrides = validate(Overrides, apply_settings({}, options.set), "--set")
    opened = source.read(options.source)
    opened = replace(
        opened,
        name=overrides.network or opened.name,
        classes=overrides.classes or opened.classes,
        prediction=overrides.prediction or opened.prediction,
    )
    graph = graphs.with_settings(opened.graph, _settings(opened.graph, overrides, options))
    modes = MODES[options.mode]
    arithmetic = _arithmetic(opened, overrides, options)
    job = Job(graph, modes, options.time_form, profile, final_states=options.final_states, **arithmetic.model_dump())
    if options.explain:
        _explain(opened, job, options, overrides, names)
        return
    if options.out is None:
        _check_in_place(opened, graph, options)
    graphs.check(graph, f"'{options.source}'")
    predicted = targets.prediction(graph, opened.prediction)
    if one_file is not None:
        _write_one(job, names[0], options.peer, one_file)
        _say(opened.graph, graph)
        return
    if opened.classes is not None and (reason := class_misfit(graph, predicted, opened.classes)):
        raise BadInput(f"--set classes: {reason}: give one for each, and --set prediction=OUTPUT of several Outputs")
    targets.check(job, names)
    if options.out is None:
        assert opened.bundle is not None, "it was checked"
        _check_same_arithmetic(opened.bundle, job.arithmetic, options)
        bundle, notes = targets.add(opened.bundle, job, names)
    else:
        require_empty(options.out)
        kept, origin = golden.choose(graph, opened.recorded, options.inputs, options.golden)
        bundle, notes = targets.create(options.out, opened, job, names, kept, origin)
    _summary(bundle, notes)
    _say(opened.graph, graph)


def entry() -> None:
    """The console script."""
    sys.exit(console.run(command))


def _targets(options: Options) -> list[str]:
    """Each target once, in the order given; all of them where a graph is explained and none is named."""
    names = [name.strip() for item in options.target for name in item.split(",") if name.strip()]
    for name in names:
        if name not in TARGETS:
            raise unknown("target", name, TARGETS)
    if not names and options.explain:
        return list(TARGETS)
    if not names:
        raise BadInput(f"--target is empty: name one or more of {', '.join(TARGETS)}, or give --explain")
    return list(dict.fromkeys(names))


def _check_options(options: Options, names: Sequence[str], one_file: Path | None) -> None:
    """Refuse values that no source could take, and options that would have no effect."""
    if options.dt is not None and not (math.isfinite(options.dt) and options.dt > 0):
        raise BadInput(f"--dt {options.dt:g}: write a positive number of seconds")
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


def _settings(graph: nir.NIRGraph, overrides: Overrides, options: Options) -> graphs.Settings:
    """What the graph says, overruled by `--set`, overruled by an option of its own.

    A dialect that is given anew takes its dt along only where nobody else says one; that of a dialect file counts as
    said by whoever gives the file.
    """
    dialect, file_dt = _dialect(graph, overrides, options)
    said = graphs.settings(graph)
    if "stdl.dt" not in graph.metadata:
        said = replace(said, dt=dialects.choices(dialects.get(dialect)).dt or graphs.DT)
    spoken: dict[str, Any] = {"dialect": dialect}
    spoken["dt"] = next((dt for dt in (options.dt, overrides.dt, file_dt) if dt is not None), None)
    spoken |= {key: getattr(overrides, key) for key in ("reset", "input", "output")}
    if overrides.reset is not None and (base := dialects.base(dialects.get(dialect))) != "nir":
        raise BadInput(f"--set reset is for dialect nir, this is {base}: write --set dialect.reset={overrides.reset}")
    settings = replace(said, **{key: value for key, value in spoken.items() if value is not None})
    if options.timesteps is not None:
        settings = replace(settings, T=_timesteps(options.timesteps))
    return settings


def _arithmetic(opened: Source, overrides: Overrides, options: Options) -> Arithmetic:
    """As the options say, else as the bundle does that is exported again."""
    said = overrides.precision
    if options.precision is None and said is None:
        return FP32 if opened.bundle is None else opened.bundle.manifest.arithmetic
    said = said or PrecisionOverrides()
    precision = options.precision or (FP32 if opened.bundle is None else opened.bundle.manifest.arithmetic).precision
    return Arithmetic(precision=precision, membrane=said.membrane, fp32_nodes=tuple(sorted(said.nodes)))


def _check_same_arithmetic(bundle: Bundle, arithmetic: Arithmetic, options: Options) -> None:
    """One bundle has one precision: its tolerances hold for all that is in it."""
    if arithmetic != bundle.manifest.arithmetic:
        has = bundle.manifest.arithmetic.precision
        raise BadInput(
            f"bundle '{options.source}' is {has}: give --out, a new folder, for --precision {arithmetic.precision}"
        )


def _dialect(graph: nir.NIRGraph, overrides: Overrides, options: Options) -> tuple[str, float | None]:
    """The dialect of `--dialect` and `--set dialect...`, as `stdl.dialect` says it, and the dt that they say.

    That dt is then the graph's, and the dialect says none.
    """
    found = graphs.dialect(graph) if options.dialect is None else dialects.read(options.dialect)
    if overrides.dialect is not None:
        found = dialects.changed(found, overrides.dialect, "--set dialect")
    said = dialects.text(found)
    if said in dialects.DIALECTS or found.graph.dt is None:
        return said, None
    graph_choices = found.graph.model_dump(exclude_unset=True, exclude={"dt"})
    without = found.model_copy(update={"graph": dialects.GraphChoices(**graph_choices)})
    return dialects.text(without), found.graph.dt


def _title(dialect: str) -> str:
    """A dialect's name; of one that has none, what it stands on."""
    return dialect if dialect in dialects.DIALECTS else f"as given, on top of {dialects.base(dialects.get(dialect))}"


def _say(before: nir.NIRGraph, graph: nir.NIRGraph) -> None:
    """The dialect, where the graph itself did not say it, and what is taken otherwise than the graph says."""
    chosen = graphs.dialect(graph)
    if "stdl.dialect" not in before.metadata:
        name = dialects.text(chosen)
        said = f"{name}: {chosen.explanation}" if name in dialects.DIALECTS else _title(name)
        log.info(f"dialect {said}; dt {graphs.settings(graph).dt:g}")
    for remark in graphs.remarks(graph):
        log.warning(remark)


def _timesteps(text: str) -> int | None:
    if text == "dynamic":
        return None
    if not re.fullmatch(r"[0-9]{1,6}", text) or int(text) < 1:
        raise BadInput(f"--timesteps '{text:.40}': write a whole number from 1 to 999999, or dynamic")
    return int(text)


def _check_in_place(opened: Source, graph: nir.NIRGraph, options: Options) -> None:
    """Parts are added to a bundle only. What its graph and golden samples say cannot change in place."""
    if opened.bundle is None:
        raise BadInput(f"'{options.source}' is not a bundle, so --out is needed: name a new folder")
    if graphs.settings(graph) != opened.bundle.manifest.settings or options.golden or options.inputs or options.set:
        raise BadInput(
            f"bundle '{options.source}' would no longer be what its golden samples prove: give --out, a new folder"
        )


def _explain(opened: Source, job: Job, options: Options, overrides: Overrides, names: Sequence[str]) -> None:
    """Print the graph in words; BadInput behind it where it is not accepted."""
    chosen = graphs.dialect(job.graph)
    name = dialects.text(chosen)
    said = f"{name}: {chosen.explanation}" if name in dialects.DIALECTS else _title(name)
    if options.dialect is not None or overrides.dialect is not None:
        by = "the command line says it"
    else:
        by = "the graph says it" if "stdl.dialect" in opened.graph.metadata else "nobody says one"
    show(Heading(opened.name, str(options.source), said, by), job, names)
    graphs.check(job.graph, f"'{options.source}'")


def _write_one(job: Job, target: str, peer: str | None, path: Path) -> None:
    """A graph or a drawing as a file of its own, and what to do with it."""
    if path.exists():
        raise BadInput(f"'{path}' exists already: choose another --out or remove it first")
    targets.check(job, [target])
    if peer is not None:
        _write_for(adapt(job.graph, peer), path)
        return
    if target != "nir":
        targets.write_drawing(job.graph, path)
    else:
        graphs.write(job.graph, path)
    click.echo(f"{path}  {_size(path)}, {len(job.graph.nodes)} nodes")
    click.echo(NEXT[target].format(path=path))


def _write_for(made: Adapted, path: Path) -> None:
    """The file for a peer, and how to read it there."""
    graphs.write(made.graph, path)
    click.echo(f"{path}  {_size(path)}, {len(made.graph.nodes)} nodes")
    for remark in made.remarks:
        log.warning(remark)
    click.echo(f"next: in Python with {made.title}:")
    for line in made.reader(path):
        click.echo(f"  {line}")


NEXT = {
    "nir": "next: nir.read('{path}') in Python with the nir package, or the importer of your framework",
    "dot": "next: dot -Tpdf '{path}', with Graphviz",
    "svg": "next: open '{path}' in a browser",
}


def _summary(bundle: Bundle, notes: Sequence[str]) -> None:
    manifest = bundle.manifest
    steps = manifest.timesteps or "dynamic"
    click.echo(
        f"{bundle.path}  network {manifest.network}, T {steps}, dt {manifest.dt:g}, dialect {_title(manifest.dialect)}"
    )
    width = max(map(len, manifest.files))
    for name in manifest.files:
        click.echo(f"  {name:<{width}}  {_size(bundle.file(name)):>10}")
    by = {"trained": "the trained network", "reference": "the reference"}[manifest.golden.origin]
    click.echo(f"golden: {manifest.golden.samples} samples, outputs by {by}")
    for note in notes:
        click.echo(note)
    click.echo(f"next: stdl-validate {bundle.path}")


def _size(path: Path) -> str:
    size = path.stat().st_size
    return f"{size / 1024:.1f} KiB" if size < 1 << 20 else f"{size / (1 << 20):.1f} MiB"
