"""Reading libraries, imported when a file needs them."""

from __future__ import annotations

import importlib
from typing import Any

from stdl_export.common.errors import Unavailable


def library(module: str, what: str) -> Any:
    """A module of a library that is no part of a base install; Unavailable says how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise Unavailable(f"{what} needs {package} ({error}): pip install {package}") from None
