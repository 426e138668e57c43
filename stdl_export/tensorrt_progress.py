"""A build that can be watched and stopped: TensorRT's phases on the terminal, Ctrl-C within a step of a phase.

TensorRT builds in one call, from which no Python signal handler is reached. So the call runs in a thread of its own,
and the main thread waits for it: Ctrl-C there makes the monitor say no at its next step, and TensorRT gives up.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

log = logging.getLogger("stdl")

T = TypeVar("T")
WAIT_S = 0.1  # how often the main thread looks for a signal


class Phases(Protocol):
    """Where phases are shown."""

    def start(self, phase: str, steps: int) -> None:
        """A phase begins."""

    def step(self, phase: str, done: int) -> None:
        """So many of its steps are done."""

    def finish(self, phase: str) -> None:
        """It ends."""


class Bars:
    """One bar a phase on stderr, with the time since it began; phases within phases stand below each other."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def start(self, phase: str, steps: int) -> None:
        """A phase begins."""
        self._tasks[phase] = self._progress.add_task(phase, total=max(steps, 1))

    def step(self, phase: str, done: int) -> None:
        """So many of its steps are done."""
        if phase in self._tasks:
            self._progress.update(self._tasks[phase], completed=done)

    def finish(self, phase: str) -> None:
        """It ends."""
        if phase in self._tasks:
            self._progress.remove_task(self._tasks.pop(phase))


@contextlib.contextmanager
def shown(title: str) -> Iterator[Phases | None]:
    """Bars while the block runs, where stderr is a terminal; nothing elsewhere, so that logs stay readable."""
    if not sys.stderr.isatty():
        yield None
        return
    columns = (TextColumn(f"{title}: {{task.description}}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield Bars(progress)


def monitor(trt: Any, stopped: threading.Event, phases: Phases | None) -> Any:
    """An `IProgressMonitor` that says no once `stopped` is set. It must live as long as the build."""
    return _monitor_class(trt)(stopped, phases)


@functools.cache
def _monitor_class(trt: Any) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self, stopped: threading.Event, phases: Phases | None) -> None:
            super().__init__()
            self._stopped, self._phases = stopped, phases

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if self._phases is not None:
                self._phases.start(phase_name, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if self._phases is not None:
                self._phases.step(phase_name, step)
            return not self._stopped.is_set()

        def phase_finish(self, phase_name: str) -> None:
            if self._phases is not None:
                self._phases.finish(phase_name)

    return Monitor


def stoppable(work: Callable[[], T], stopped: threading.Event) -> T:
    """What `work` gives, run in a thread. On Ctrl-C `stopped` is set, and KeyboardInterrupt follows when it has ended.

    A second Ctrl-C does not wait.
    """
    results: list[T] = []
    failures: list[BaseException] = []
    ended = threading.Event()  # not Thread.join: interrupted, that takes a thread for ended until Python 3.12

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            failures.append(error)
        finally:
            ended.set()

    thread = threading.Thread(target=run, name="tensorrt-build", daemon=True)
    try:
        thread.start()
        _wait(ended)
    except KeyboardInterrupt:
        stopped.set()
        log.info("stopping TensorRT: it ends the step that it is in first")
        _wait(ended)
        raise
    if failures:
        raise failures[0]
    return results[0]


def _wait(ended: threading.Event) -> None:
    while not ended.wait(WAIT_S):
        pass
