"""The command `stdl-validate`: does every runtime do what the trained network did?"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import rich.console
import rich.progress

from stdl_export import bundle as bundles
from stdl_export.common.console import run
from stdl_runtimes import baseline, data, gate, harness, junit, markdown, options, report
from stdl_runtimes.baseline import Baseline
from stdl_runtimes.entries import Progress
from stdl_runtimes.gate import Gate
from stdl_runtimes.options import Options
from stdl_runtimes.results import Report
from stdl_runtimes.validate import Comparison

LOG_WIDTH = 132  # columns of a table that goes into a file or a pipe, which have no width of their own
FILE = click.Path(path_type=Path)


@click.command(name="stdl-validate")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--runtime", multiple=True, metavar="NAME,...", help="Which to check. [default: see above]")
@click.option("--data", metavar="NAME|FILE.npz", help="Also run a data set's test samples, with labels.")
@click.option("--data-path", metavar="DIR", help="Where the files of the data set lie.")
@click.option(
    "--data-limit",
    type=click.IntRange(min=1),
    help="Take so many samples: drawn with a fixed seed from a data set, the first of a file.",
)
@click.option("--latency", is_flag=True, help="Take times: MLPerf's scenarios, cold start, memory.")
@click.option(
    "--latency-seconds", type=click.FloatRange(0, 3600, min_open=True), help="For each scenario. [default: 1]"
)
@click.option("--latency-batch", type=click.IntRange(min=1), help="Samples at once in Offline. [default: 64]")
@click.option("--set", multiple=True, metavar="RUNTIME.KEY=VALUE", help="An option of a runtime; repeatable.")
@click.option("--require", multiple=True, metavar="NAME", help="Fail where this runtime cannot run here.")
@click.option("--gate", type=FILE, help="Limits to keep, in a TOML file; each is an option too.")
@click.option("--compare", type=FILE, help="Fail where an earlier --json was better.")
@click.option("--report", type=FILE, help="Write all of it as a page of HTML.")
@click.option("--json", type=FILE, help="Write every number as JSON.")
@click.option("--junit", type=FILE, help="Write the checks as JUnit XML.")
@click.option("--markdown", type=FILE, help="Write a summary as Markdown.")
@options.limits
def command(**given: Any) -> int:
    """Check that every runtime does what the trained network in BUNDLE did, on the samples that BUNDLE carries.

    Runtimes are checked by default that run what BUNDLE holds: reference, onnxruntime, tensorrt, and chips. Others are
    named: they build engines of their own.

    Exit code 0: every check holds. 1: one does not, or nothing could be checked. 2: bad input.
    """
    return validate(Options.of(given))


def validate(given: Options) -> int:
    """Check the options, run it, write what was asked for; the exit code."""
    options.check(given)
    limits, before = given.read_gate(), given.read_baseline()
    asked, needed, settings = options.names(given.runtime), options.names(given.require), options.of_runtimes(given.set)
    bundle = bundles.load(given.bundle)
    comparison = Comparison(bundle)
    if before is not None:
        baseline.require_same(before, bundle.manifest.network, comparison.timesteps)
    samples = None
    if given.data:
        path, limit = given.data_path, given.data_limit
        samples = data.load(given.data, bundle.manifest, timesteps=comparison.timesteps, path=path, limit=limit)
    request = harness.Request(asked or harness.default_runtimes(bundle), needed, given.plan, settings)
    result = _judged(harness.run(bundle, comparison, samples, request, _progress), limits, before)
    _print(result)
    _write(result, given)
    return 0 if result.passed else 1


def entry() -> None:
    """The console script."""
    sys.exit(run(command))


def _judged(result: Report, limits: Gate, before: Baseline | None) -> Report:
    """With the checks of the gate, and of the comparison with an earlier report."""
    result = result.with_checks(gate.checks(limits, result))
    return result if before is None else result.with_checks(baseline.checks(before, result, limits.compare))


def _write(result: Report, given: Options) -> None:
    """Every file that was asked for."""
    for file, write in (
        (given.json, report.write_json),
        (given.report, report.write_html),
        (given.junit, junit.write),
        (given.markdown, markdown.write),
    ):
        if file:
            write(result, file)


@contextlib.contextmanager
def _progress(what: str, total: int) -> Iterator[Progress]:
    """A bar on stderr that goes when it is done; nothing where stderr is no terminal."""
    console = rich.console.Console(stderr=True)
    with rich.progress.Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)


def _print(result: Report) -> None:
    console = rich.console.Console(width=None if sys.stdout.isatty() else LOG_WIDTH)
    for table in report.tables(result):
        console.print(report.as_rich(table))
    click.echo(result.verdict)
