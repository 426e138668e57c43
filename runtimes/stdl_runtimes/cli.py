"""The command `stdl-validate`: does every runtime do what the trained network did?"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import rich.console
import rich.progress

from stdl_export import bundle as bundles
from stdl_export.common.console import run
from stdl_export.common.errors import BadInput
from stdl_export.common.files import require_writable
from stdl_export.common.names import unknown
from stdl_runtimes import base, data, harness, report
from stdl_runtimes.entries import Progress
from stdl_runtimes.latency import Plan
from stdl_runtimes.results import Report
from stdl_runtimes.validate import Comparison

LOG_WIDTH = 132  # columns of a table that goes into a file or a pipe, which have no width of their own


@click.command(name="stdl-validate")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--runtime", "runtimes", multiple=True, metavar="NAME,...", help="Which to check. [default: see below]")
@click.option("--data", "source", metavar="NAME|FILE.npz", help="Also run a data set's test samples, with labels.")
@click.option("--data-path", metavar="DIR", help="Where the files of the data set lie.")
@click.option(
    "--data-limit",
    type=click.IntRange(min=1),
    help="Take so many samples: drawn with a fixed seed from a data set, the first of a file.",
)
@click.option("--latency", "timed", is_flag=True, help="Take times: MLPerf's scenarios, cold start, memory.")
@click.option("--latency-seconds", type=click.FloatRange(min=0, min_open=True), help="For each scenario. [default: 1]")
@click.option("--latency-batch", type=click.IntRange(min=1), help="Samples at once in Offline. [default: 64]")
@click.option(
    "--set", "settings", multiple=True, metavar="RUNTIME.KEY=VALUE", help="An option of a runtime; repeatable."
)
@click.option("--require", "required", multiple=True, metavar="NAME", help="Fail where this runtime cannot run here.")
@click.option("--report", "page", type=click.Path(path_type=Path), help="Write the tables as a page of HTML.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write every number as JSON.")
def command(
    bundle: Path,
    runtimes: tuple[str, ...],
    source: str | None,
    data_path: str | None,
    data_limit: int | None,
    timed: bool,
    latency_seconds: float | None,
    latency_batch: int | None,
    settings: tuple[str, ...],
    required: tuple[str, ...],
    page: Path | None,
    json_file: Path | None,
) -> int:
    """Check that every runtime does what the trained network in BUNDLE did, on the samples that BUNDLE carries.

    Runtimes are checked by default that run what BUNDLE holds: reference, onnxruntime, tensorrt, and chips. Others are
    named: they build engines of their own.

    Exit code 0: parity holds. 1: it does not, a required runtime is absent, or nothing could be checked. 2: bad input.
    """
    if source is None and (data_path or data_limit):
        raise click.UsageError("--data-path and --data-limit belong to --data NAME")
    if not timed and (latency_seconds or latency_batch):
        raise click.UsageError("--latency-seconds and --latency-batch belong to --latency")
    needed = _names(required)
    asked = _names(runtimes)
    for file in (json_file, page):
        if file:
            require_writable(file)
    opened = bundles.load(bundle)
    comparison = Comparison(opened)
    samples = None
    if source:
        samples = data.load(source, opened.manifest, timesteps=comparison.timesteps, path=data_path, limit=data_limit)
    plan = Plan(latency_seconds or Plan.seconds, latency_batch or Plan.batch) if timed else None
    asked = asked or harness.default_runtimes(opened)
    request = harness.Request(asked, needed, plan, _options(settings))
    result = harness.run(opened, comparison, samples, request, _progress)
    _print(result)
    if json_file:
        report.write_json(result, json_file)
    if page:
        report.write_html(result, page)
    return 0 if result.passed else 1


def entry() -> None:
    """The console script."""
    sys.exit(run(command))


def _names(values: Sequence[str]) -> list[str]:
    """Names of runtimes from an option that is repeated, comma-separated, or both."""
    names = [name.strip() for value in values for name in value.split(",") if name.strip()]
    for name in names:
        if name not in base.REGISTRY:
            raise unknown("runtime", name, base.REGISTRY)
    return names


def _options(settings: Sequence[str]) -> dict[str, dict[str, str]]:
    """By runtime what `--set` says."""
    found: dict[str, dict[str, str]] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        runtime, dot, name = key.strip().partition(".")
        if not (equals and dot and name):
            raise BadInput(f"--set '{setting}': write runtime.key=value, for example --set onnxruntime.threads=2")
        if runtime not in base.REGISTRY:
            raise unknown("runtime", runtime, base.REGISTRY)
        found.setdefault(runtime, {})[name] = value.strip()
    return found


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
