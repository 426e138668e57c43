"""TensorRT's log, which is the only place where it says why something failed.

A failed build or a refused engine is a None and lines in the log. The first line at error level is the cause; those
behind it are its consequences. One logger serves a whole process: while a builder or a runtime lives, TensorRT ignores
any other.
"""

from __future__ import annotations

import functools
import logging
import threading
from typing import Any

from stdl_export.common.errors import one_line

log = logging.getLogger("stdl")

# Lines at error level that are none: the first use of the log, and what each real error draws along without a driver.
NOISE = ("Thread context has not been set", "catchCudaError")

# What TensorRT writes where it is memory that is missing; the first one rarely means what it says.
MEMORY = ("could not find any implementation", "insufficient memory", "out of memory", "outofmemory", "cudaerrormemory")

SKIPPED = "skipping tactic"


class Lines:
    """What the log said since `clear`; written from TensorRT's threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Forget what was said."""
        with self._lock:
            self.errors: list[str] = []
            self.skipped = 0  # tactics without enough memory: slower engines, good ones

    def add(self, level: str, text: str) -> None:
        """A line at the level of that name in `ILogger.Severity`."""
        line = one_line(text)
        if any(noise in line for noise in NOISE):
            return
        with self._lock:
            if level in ("ERROR", "INTERNAL_ERROR"):
                self.errors.append(line)
            elif level == "WARNING" and SKIPPED in line.lower():
                self.skipped += 1
        log.debug("TensorRT %s: %s", level.lower(), line)

    @property
    def cause(self) -> str | None:
        """The first error."""
        return self.errors[0] if self.errors else None

    @property
    def short_of_memory(self) -> bool:
        """Whether any error reads like memory that ran out."""
        return any(sign in line.lower() for line in self.errors for sign in MEMORY)


@functools.cache
def logger(trt: Any) -> Any:
    """The process' `ILogger` of a flavour (its module); its `lines` are a `Lines`."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.lines = Lines()

        def log(self, severity: Any, message: str) -> None:
            self.lines.add(severity.name, message)

    return Log()
