"""A reason why a graph is not accepted. `acceptance` collects them; shapes that do not fit are told in `shapes`."""

from __future__ import annotations

from dataclasses import dataclass

from stdl_export.inline import Path as NodeName

WHOLE_GRAPH = "(graph)"
MAX_REASONS = 50


@dataclass(frozen=True)
class Problem:
    """One reason why a graph is not accepted, with the node it concerns."""

    node: NodeName
    type: str
    reason: str

    def __str__(self) -> str:
        return f"node '{self.node}' ({self.type}): {self.reason}" if self.node != WHOLE_GRAPH else self.reason


def limited(reasons: list[str]) -> list[str]:
    """As many reasons as a person reads on one line, and how many more there are."""
    more = len(reasons) - MAX_REASONS
    return reasons if more <= 0 else [*reasons[:MAX_REASONS], f"and {more} more"]
