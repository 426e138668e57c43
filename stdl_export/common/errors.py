"""The few error types that reach a user: one line each, saying what, where and what to do."""

from __future__ import annotations

from collections.abc import Iterable


class StdlError(Exception):
    """An error whose text is written for the user. `exit_code` is what the command line exits with."""

    exit_code = 2


class BadInput(StdlError):
    """The user's input cannot be used: a file, an option, a recipe, a graph. Exit code 2."""


class Unavailable(StdlError):
    """A backend, device or package that was asked for is not here. Exit code 2 unless a command lists it as skipped."""


class CheckFailed(StdlError):
    """The input was fine but a check did not hold: parity, an accuracy band, a required runtime. Exit code 1."""

    exit_code = 1


def one_line(text: str) -> str:
    """Text with every run of white space, newlines included, as one space: error messages are one line."""
    return " ".join(text.split())


def join_reasons(reasons: Iterable[object]) -> str:
    """Every reason at once, on one line."""
    return "; ".join(one_line(str(reason)) for reason in reasons)
