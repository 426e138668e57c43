"""The weights that a dense synapse of Loihi 2 really applies, which need not be those in the file.

Lava's reader shifts a matrix W up by s bits to use all 8, and finds how many low bits are 0 in every weight (n); its
model clips the result and cuts off the bits that a synapse of that sign does not have. It equals W for mixed signs in
[-128, 127], mixed and even in [-256, 254], and 0 <= W <= 255 (not all 0); else it may not.

Source: lava-nc/lava-dl `netx/utils.py` (optimize_weight_bits), lava-nc/lava `utils/weightutils.py` and
`proc/dense/models.py`. Of a recurrent layer s and n come from both matrices side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stdl_export.chips.netx import Integers
from stdl_export.common.errors import BadInput

Signs = Literal["mixed", "exc", "inh"]
Float = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Applied:
    """Weights shifted up by `shift` bits, by which what they accumulate is shifted down again."""

    weight: Integers
    recurrent: Integers | None
    shift: int

    def shifted(self, a: NDArray[np.floating]) -> Float:
        """a >> shift, exactly as whole numbers have it."""
        found: Float = np.floor(a.astype(np.float64) / 2.0**self.shift)
        return found

    def is_file(self, weight: Integers, recurrent: Integers | None = None) -> bool:
        """Are these the weights of the file?"""
        pairs = [(self.weight, weight)]
        if self.recurrent is not None and recurrent is not None:
            pairs.append((self.recurrent, recurrent))
        return all(np.array_equal(ours / 2.0**self.shift, theirs) for ours, theirs in pairs)


def applied(weight: Integers, recurrent: Integers | None = None) -> Applied:
    """What Lava makes of a matrix (out, in), and of a recurrent one beside it; BadInput where it stops."""
    both = weight if recurrent is None else np.hstack([weight, recurrent])
    low, high = int(both.min()), int(both.max())
    if low == high == 0:
        raise BadInput("all weights of a layer are 0, at which Lava's reader stops")
    if (high > 254 and low < 0) or (low < -256 and high > 0):
        both = np.clip(both, -256, 254)
        low, high = int(both.min()), int(both.max())
    signs: Signs = "inh" if high < 0 else "exc" if low >= 0 else "mixed"
    mixed = int(signs == "mixed")
    shift = int(np.floor(np.log2(_scale(low, high, signs)))) + mixed
    bits = 8 - shift - (_zero_bits(both) - mixed)
    shifted = both << shift if shift >= 0 else np.zeros_like(both)  # NumPy shifts by less than 0 bits to 0
    columns = weight.shape[1]
    parts = [shifted[:, :columns]] if recurrent is None else [shifted[:, :columns], shifted[:, columns:]]
    found = [_stored(each, bits) for each in parts]
    return Applied(found[0], found[1] if recurrent is not None else None, shift)


def _scale(low: int, high: int, signs: Signs) -> float:
    if signs == "inh":
        return -256 / low
    if signs == "exc":
        return 255 / high
    return min(127 / high if high else np.inf, -128 / low)


def _zero_bits(weight: Integers) -> int:
    """How many low bits are 0 in every weight, at most 8."""
    return next((n for n in range(8, 0, -1) if not (weight % (1 << n)).any()), 0)


def _stored(weight: Integers, bits: int) -> Integers:
    """Clipped to what a synapse of these signs holds, less the low bits that it does not have."""
    signs: Signs = "exc" if weight.min() >= 0 else "inh" if weight.max() <= 0 else "mixed"
    turned = -weight if signs == "inh" else weight
    turned = np.clip(turned, -256 if signs == "mixed" else 0, 255)
    cut = 8 - bits + int(signs == "mixed")
    kept: Integers = (turned >> cut) << cut if cut >= 0 else np.zeros_like(turned)
    return -kept if signs == "inh" else kept
