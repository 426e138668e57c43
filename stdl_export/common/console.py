"""The frame of every command: logging on stderr, errors as one line, exit codes 0, 1 and 2."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence

import click

from stdl_export.common.errors import StdlError, one_line

log = logging.getLogger("stdl")


def run(command: click.Command, args: Sequence[str] | None = None) -> int:
    """Run a click command; return its exit code. Bad input is one line on stderr and 2, a failed check is 1.

    STDL_DEBUG=1 in the environment lets the traceback through, for whoever works on this code.
    """
    _log_to_stderr()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # clean up as after Ctrl-C
    try:
        code = command.main(args=None if args is None else list(args), standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.exceptions.Abort:
        return _fail("stopped", 130)
    except click.ClickException as error:
        where = f" (see '{error.ctx.command_path} --help')" if isinstance(error, click.UsageError) and error.ctx else ""
        return _fail(error.format_message() + where, 2)
    except (StdlError, OSError) as error:
        if os.environ.get("STDL_DEBUG"):
            raise
        return _fail(_text(error), error.exit_code if isinstance(error, StdlError) else 2)


def _text(error: StdlError | OSError) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"'{error.filename}': {error.strerror}" if error.filename else error.strerror
    return str(error)


def _fail(message: str, code: int) -> int:
    print(f"error: {one_line(message)}", file=sys.stderr)
    return code


def _log_to_stderr() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.handlers[:] = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False
