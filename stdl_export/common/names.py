"""Offer the nearest known name where an unknown one was given."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from stdl_export.common.errors import BadInput


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`, or None where nothing is close."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return found[0] if found else None


def unknown(what: str, name: str, known: Iterable[str]) -> BadInput:
    """The error for an unknown name: `unknown recipe 'digit-vgg5': did you mean 'digits-vgg5'? Known: ...`."""
    options = sorted(known)
    guess = nearest(name, options)
    hint = f"did you mean '{guess}'? " if guess else ""
    return BadInput(f"unknown {what} '{name}': {hint}known: {', '.join(options) or 'none'}")
