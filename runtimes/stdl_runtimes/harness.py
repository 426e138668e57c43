"""One validation from a bundle to its report: open what runs here, run the samples, take the times."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stdl_export import bundle as bundles
from stdl_export.bundle import Bundle
from stdl_export.common.errors import Unavailable
from stdl_export.common.names import unknown
from stdl_runtimes import base, cold, latency, summary
from stdl_runtimes.base import Options, Runtime
from stdl_runtimes.data import Samples
from stdl_runtimes.entries import Entry, Progress, entries_of
from stdl_runtimes.latency import Plan
from stdl_runtimes.latency_result import Latency
from stdl_runtimes.results import Check, Report
from stdl_runtimes.validate import Comparison

Bar = Callable[[str, int], contextlib.AbstractContextManager[Progress]]
"""Shows how far it is: what is done, and of how many samples."""

CHIPS = "stdl_runtimes.chips."
SIMULATED = "times are those of a simulator on this machine, they say nothing of the chip"
DEFAULT = ("reference", "onnxruntime", "tensorrt")
"""Those that run what the bundle holds. Others build engines of their own first, which takes long: name them."""


@dataclass(frozen=True)
class Request:
    """What to do. needed: runtimes without which it fails; plan: how to take the times, None where nobody asked."""

    asked: Sequence[str]
    needed: Sequence[str] = ()
    plan: Plan | None = None
    options: Mapping[str, Options] = field(default_factory=dict)


def default_runtimes(bundle: Bundle) -> list[str]:
    """What is checked where none is named: those above, and the chips for which the bundle holds a file."""
    chips = dict.fromkeys(info.chip for info in bundle.manifest.chips)
    return [*DEFAULT, *(name for name in chips if name in base.REGISTRY)]


def validate(source: Bundle | Path | str, runtimes: Sequence[str] | None = None, *, plan: Plan | None = None) -> Report:
    """What `stdl-validate` finds, for programs. source: a bundle or its folder; runtimes: those of the default if None.

    plan: how to take times; None: none are taken. A runtime that cannot run here is in `skipped` of the report, a check
    that does not hold in `failed`; BadInput where the bundle is none.
    """
    bundle = bundles.load(Path(source)) if isinstance(source, Path | str) else source
    for name in runtimes or ():
        if name not in base.REGISTRY:
            raise unknown("runtime", name, base.REGISTRY)
    request = Request(runtimes or default_runtimes(bundle), plan=plan)
    return run(bundle, Comparison(bundle), None, request, _silent)


@contextlib.contextmanager
def _silent(what: str, total: int) -> Iterator[Progress]:
    yield lambda done: None


def run(bundle: Bundle, comparison: Comparison, samples: Samples | None, request: Request, bar: Bar) -> Report:
    """Open what can be opened here, run the samples through it, measure, and put the results together."""
    asked = [*request.asked, *(name for name in request.needed if name not in request.asked)]
    with contextlib.ExitStack() as stack:
        opened, skipped = _open(bundle, comparison, asked, request.options, stack)
        entries = [entry for runtime in opened for entry in entries_of(runtime)]
        with bar("golden samples", comparison.golden.samples) as progress:
            rows = comparison.rows(entries, progress)
        predicted = None
        if samples:
            with bar(samples.name, len(samples.labels)) as progress:
                predicted = summary.DataResult(samples, comparison.on_data(entries, samples, progress))
        times = _times(comparison, entries, request, bar)
        absent = _absences(asked, request.needed, skipped)
        return summary.build(comparison, summary.Findings(rows, times, predicted, skipped, absent))


def _open(
    bundle: Bundle,
    comparison: Comparison,
    asked: Sequence[str],
    options: Mapping[str, Options],
    stack: contextlib.ExitStack,
) -> tuple[list[Runtime], dict[str, str]]:
    """The runtimes that run here, the reference first since it is the judge, and the reason for each that does not."""
    opened, skipped = [], {}
    for name in ["reference", *(name for name in asked if name != "reference")]:
        try:
            with contextlib.ExitStack() as mine:
                runtime = mine.enter_context(base.load(bundle, name, options=options.get(name)))
                _try(runtime, comparison)
                stack.push(mine.pop_all())
                opened.append(runtime)
        except Unavailable as reason:  # noqa: PERF203 (there are but a handful of runtimes)
            skipped[name] = str(reason)
    return opened, skipped


def _try(runtime: Runtime, comparison: Comparison) -> None:
    """One sample in each mode: an engine may open its files, or find that memory is short, with the first call only."""
    for entry in entries_of(runtime):
        if not entry.judges:
            entry.outputs(comparison.ends.taken(comparison.inputs, [0]), comparison.timesteps)


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


def _times(comparison: Comparison, entries: Sequence[Entry], request: Request, bar: Bar) -> list[Latency | None]:
    """Of every entry, or none; the samples are the first golden ones."""
    if request.plan is None:
        return [None] * len(entries)
    x = comparison.ends.parts(comparison.inputs, max(latency.DIFFERENT, request.plan.batch))[0]
    found: list[Latency | None] = []
    with bar("latency", len(entries)) as progress:
        for entry in entries:
            measured = latency.measure(entry.runtime, entry.mode, x, comparison.timesteps, request.plan)
            if type(entry.runtime).__module__.startswith(CHIPS):
                measured = dataclasses.replace(measured, notes=[*measured.notes, SIMULATED])
            found.append(_with_cold_start(measured, comparison.name, entry, request.options))
            progress(1)
    return found


def _with_cold_start(found: Latency, bundle: str, entry: Entry, options: Mapping[str, Options]) -> Latency:
    name = entry.runtime.name
    try:
        return dataclasses.replace(found, cold_start=cold.measure(bundle, name, entry.mode, options.get(name)))
    except Unavailable as reason:
        return dataclasses.replace(found, skipped=found.skipped | {"cold start": str(reason)})
