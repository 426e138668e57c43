"""The command `stdl-export`: a trained network, a .nir file or a bundle in, a bundle for devices out."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import click
import nir

from stdl_export import assemble, dialects, golden, one_file, options, settle, source, targets
from stdl_export import graph as graphs
from stdl_export.bundle import Bundle, class_misfit
from stdl_export.common import console
from stdl_export.common.config import apply_settings, validate
from stdl_export.common.errors import BadInput
from stdl_export.common.files import require_empty, size_text
from stdl_export.dialects import Dialect
from stdl_export.explain.report import Heading, show
from stdl_export.interop import peers
from stdl_export.manifest import Precision
from stdl_export.onnx.time import TIME_FORMS
from stdl_export.options import MODES, Options, Overrides
from stdl_export.source import Source
from stdl_export.targets import TARGETS, Job
from stdl_export.tensorrt import Profile

log = logging.getLogger("stdl")

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
def command(**given: Any) -> None:
    """Export SOURCE (a run folder, a .nir file or a bundle) to NIR, ONNX or TensorRT, with golden samples as proof.

    With --explain, or for --target dot and svg, to what people read.
    """
    export(Options(**given))


def export(given: Options) -> None:
    """Read the source, settle what the graph says, and write what was asked for."""
    names = options.target_names(given)
    options.check(given, names)
    profile = Profile.parse(given.batch)
    overrides = validate(Overrides, apply_settings({}, given.set), "--set")
    options.check_engines(overrides, names)
    opened = settle.described(source.read(given.source), overrides)
    graph = graphs.with_settings(opened.graph, settle.settings(opened.graph, overrides, given))
    arithmetic = settle.arithmetic(opened, overrides, given)
    job = Job(
        graph, MODES[given.mode], given.time_form, profile, final_states=given.final_states,
        engines=overrides.tensorrt, chips=overrides.chips, **arithmetic.model_dump(),
    )  # fmt: skip
    if given.explain:
        _explain(opened, job, given, overrides, names)
        return
    if given.out is None:
        settle.check_in_place(opened, graph, overrides, given)
    graphs.check(graph, f"'{given.source}'")
    predicted = assemble.prediction(graph, opened.prediction)
    file = options.single_file(given, names)
    if file is not None:
        one_file.write(job, names[0], given.peer, file)
    else:
        _write_bundle(opened, job, given, names, predicted)
    _say(opened.graph, graph)


def _write_bundle(
    opened: Source, job: Job, given: Options, names: Sequence[str], predicted: graphs.NodeName | None
) -> None:
    """A new bundle in `--out`, or new parts of the bundle that is the source; and what is in it now."""
    if opened.classes is not None and (reason := class_misfit(job.graph, predicted, opened.classes)):
        raise BadInput(f"--set classes: {reason}: give one for each, and --set prediction=OUTPUT of several Outputs")
    has = () if opened.bundle is None or given.out is not None else opened.bundle.manifest.files
    targets.check(job, names, has)
    if given.out is None:
        assert opened.bundle is not None, "it was checked"
        settle.check_same_arithmetic(opened.bundle, job.arithmetic, given)
        bundle, notes = assemble.add(opened.bundle, job, names)
    else:
        require_empty(given.out)
        kept, origin = golden.choose(job.graph, opened.recorded, given.inputs, given.golden)
        bundle, notes = assemble.create(given.out, opened, job, names, kept, origin)
    _summary(bundle, notes)


def entry() -> None:
    """The console script."""
    sys.exit(console.run(command))


def _title(dialect: str) -> str:
    """A dialect's name; of one that has none, what it stands on."""
    return dialect if dialect in dialects.DIALECTS else f"as given, on top of {dialects.base(dialects.get(dialect))}"


def _explained(dialect: Dialect) -> str:
    """A dialect's name and its line."""
    name = dialects.text(dialect)
    return f"{name}: {dialect.explanation}" if name in dialects.DIALECTS else _title(name)


def _say(before: nir.NIRGraph, graph: nir.NIRGraph) -> None:
    """The dialect, where the graph itself did not say it, and what is taken otherwise than the graph says."""
    if "stdl.dialect" not in before.metadata:
        log.info(f"dialect {_explained(graphs.dialect(graph))}; dt {graphs.settings(graph).dt:g}")
    for remark in graphs.remarks(graph):
        log.warning(remark)


def _explain(opened: Source, job: Job, given: Options, overrides: Overrides, names: Sequence[str]) -> None:
    """Print the graph in words; BadInput behind it where it is not accepted."""
    if given.dialect is not None or overrides.dialect is not None:
        by = "the command line says it"
    else:
        by = "the graph says it" if "stdl.dialect" in opened.graph.metadata else "nobody says one"
    show(Heading(opened.name, str(given.source), _explained(graphs.dialect(job.graph)), by), job, names)
    graphs.check(job.graph, f"'{given.source}'")


def _summary(bundle: Bundle, notes: Sequence[str]) -> None:
    manifest = bundle.manifest
    steps = manifest.timesteps or "dynamic"
    click.echo(
        f"{bundle.path}  network {manifest.network}, T {steps}, dt {manifest.dt:g}, dialect {_title(manifest.dialect)}"
    )
    width = max(map(len, manifest.files))
    for name in manifest.files:
        click.echo(f"  {name:<{width}}  {size_text(bundle.file(name).stat().st_size):>10}")
    by = {"trained": "the trained network", "reference": "the reference"}[manifest.golden.origin]
    click.echo(f"golden: {manifest.golden.samples} samples, outputs by {by}")
    for note in notes:
        click.echo(note)
    click.echo(f"next: stdl-validate {bundle.path}")
