"""The command `stdl-validate`: does every runtime do what the trained network did?"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click
import rich.console
import rich.progress

from stdl_export import bundle as bundles
from stdl_export.bundle import Bundle
from stdl_export.common.console import run
from stdl_export.common.errors import Unavailable
from stdl_export.common.files import require_writable
from stdl_export.common.names import unknown
from stdl_runtimes import base, data, latency, report, summary
from stdl_runtimes.base import Runtime
from stdl_runtimes.entries import Progress, entries_of
from stdl_runtimes.results import Check, Report
from stdl_runtimes.validate import Comparison

LOG_WIDTH = 132  # columns of a table that goes into a file or a pipe, which have no width of their own


@click.command(name="stdl-validate")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--runtime", "runtimes", multiple=True, metavar="NAME,...", help="Which to check. [default: all]")
@click.option("--data", "source", metavar="NAME|FILE.npz", help="Also run a data set's test samples, with labels.")
@click.option("--data-path", metavar="DIR", help="Where the files of the data set lie.")
@click.option(
    "--data-limit",
    type=click.IntRange(min=1),
    help="Take so many samples: drawn with a fixed seed from a data set, the first of a file.",
)
@click.option("--latency", "timed", is_flag=True, help="Time single samples: p50, p90, p99 in milliseconds.")
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
    required: tuple[str, ...],
    page: Path | None,
    json_file: Path | None,
) -> int:
    """Check that every runtime does what the trained network in BUNDLE did, on the samples that BUNDLE carries.

    Exit code 0: parity holds. 1: it does not, a required runtime is absent, or nothing could be checked. 2: bad input.
    """
    if source is None and (data_path or data_limit):
        raise click.UsageError("--data-path and --data-limit belong to --data NAME")
    needed = _names(required)
    asked = list(dict.fromkeys([*(_names(runtimes) or base.REGISTRY), *needed]))
    for file in (json_file, page):
        if file:
            require_writable(file)
    opened = bundles.load(bundle)
    comparison = Comparison(opened)
    samples = None
    if source:
        samples = data.load(source, opened.manifest, timesteps=comparison.timesteps, path=data_path, limit=data_limit)
    result = _validate(opened, comparison, samples, asked, needed, timed)
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


def _validate(
    bundle: Bundle,
    comparison: Comparison,
    samples: data.Samples | None,
    asked: Sequence[str],
    needed: Sequence[str],
    timed: bool,
) -> Report:
    """Open what can be opened here, run the samples through it, measure, and put the results together."""
    with contextlib.ExitStack() as stack:
        opened, skipped = _open(bundle, asked, stack)
        entries = [entry for runtime in opened for entry in entries_of(runtime)]
        with _progress("golden samples", comparison.golden.samples) as progress:
            rows = comparison.rows(entries, progress)
        predicted = None
        if samples:
            with _progress(samples.name, len(samples.labels)) as progress:
                predicted = summary.DataResult(samples, comparison.on_data(entries, samples, progress))
        frame = comparison.ends.parts(comparison.inputs, 1)[0]
        times = [
            latency.measure(entry.runtime, entry.mode, frame, comparison.timesteps) if timed else None
            for entry in entries
        ]
        found = summary.Findings(rows, times, predicted, skipped, _absences(asked, needed, skipped))
        return summary.build(comparison, found)


def _open(bundle: Bundle, asked: Sequence[str], stack: contextlib.ExitStack) -> tuple[list[Runtime], dict[str, str]]:
    """The runtimes that run here, the reference first since it is the judge, and the reason for each that does not."""
    opened, skipped = [], {}
    for name in ["reference", *(name for name in asked if name != "reference")]:
        try:
            opened.append(stack.enter_context(base.load(bundle, name)))
        except Unavailable as reason:  # noqa: PERF203 (there are but a handful of runtimes)
            skipped[name] = str(reason)
    return opened, skipped


def _absences(asked: Sequence[str], needed: Sequence[str], skipped: Mapping[str, str]) -> list[Check]:
    """Failed checks for what could not be run: a required runtime, or everything that was asked for."""
    absent = [
        Check("required", name, passed=False, text=f"it is required, but was skipped: {skipped[name]}")
        for name in needed
        if name in skipped
    ]
    if set(asked) <= skipped.keys():
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
        absent.append(Check("anything", "stdl-validate", passed=False, text=f"nothing was checked: {reasons}"))
    return absent


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
