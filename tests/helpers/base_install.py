"""Makes this process see only what a base install and onnxruntime bring along; run first, before anything is imported.

The distributions are those that the project's own requirements lead to, without extras. What belongs to any other is
not found, as on a device where it was never installed.
"""

from __future__ import annotations

import re
import sys
from importlib import metadata


def needed(*roots: str) -> set[str]:
    """Names of all distributions that these need, extras left out, where they are installed."""
    found: set[str] = set()
    left = [normal(root) for root in roots]
    while left:
        name = left.pop()
        if name in found:
            continue
        found.add(name)
        try:
            requires = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # for another Python or platform
        left += [normal(re.split(r"[^A-Za-z0-9._-]", line)[0]) for line in requires if "extra ==" not in line]
    return found


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


class Block:
    """Finds nothing of what is not needed; the standard library and files of the project are nobody's distribution."""

    def __init__(self, allowed: set[str]) -> None:
        owners = metadata.packages_distributions()
        self.blocked = {top for top, names in owners.items() if not {normal(name) for name in names} & allowed}

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.split(".")[0] in self.blocked:
            raise ModuleNotFoundError(f"No module named '{name}': a base install has none", name=name.split(".")[0])


block = Block(needed("stdl-toolchain", "onnxruntime"))
sys.meta_path.insert(0, block)
for wanted in ("torch", "hypothesis", "pytest"):
    assert wanted in block.blocked, f"{wanted} is not blocked"
for kept in ("numpy", "nir", "onnx", "onnxruntime", "pydantic", "h5py", "rich", "click", "safetensors"):
    assert kept not in block.blocked, f"{kept} is blocked"
