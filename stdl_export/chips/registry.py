"""The chips there are, by the names that `--target`, `--runtime` and `--set` use."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import cast

from stdl_export.chips.base import Chip

# Name -> module as `chips` describes it; imported when it is needed.
CHIPS: Mapping[str, str] = MappingProxyType(
    {
        "loihi2": "stdl_export.chips.loihi2",
        "speck": "stdl_export.chips.speck",
        "spinnaker2": "stdl_export.chips.spinnaker2",
        "xylo": "stdl_export.chips.xylo",
    }
)


def chip(name: str) -> Chip:
    """The module of a chip."""
    return cast(Chip, importlib.import_module(CHIPS[name]))
