"""What all builders of random graphs share: structure drawn from hypothesis, numbers from a generator seeded by it."""

from __future__ import annotations

from typing import Any

import nir
import numpy as np
from hypothesis import strategies as st


class Builder:
    """A graph under construction."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        self.nodes: dict[str, nir.NIRNode] = {}
        self.edges: list[tuple[str, str]] = []

    def one_of(self, *options: Any) -> Any:
        """One of the options, which hypothesis draws."""
        return self.draw(st.sampled_from(options))
