"""Spikes kept between subnetworks, in as few bits as hold them.

What subnetwork k puts out over all T steps is the input of subnetwork k + 1. Binary spikes are kept as one bit each;
sums of spikes (residual blocks) as ceil(log2(most + 1)) bit planes. Nothing is lost: only whole numbers from 0 to
`most` stand there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class PackedSpikes:
    """`planes`: uint8 [bits, ceil(numel / 8)].

    Bit i of byte n is element i * ceil(numel / 8) + n, so packing is shifts of whole rows.
    """

    planes: Tensor
    shape: torch.Size
    dtype: torch.dtype

    def unpack(self) -> Tensor:
        """The spikes as they were, `shape` and `dtype`."""
        shifts = _shifts(self.planes)
        values = (self.planes[0] >> shifts) & 1
        for weight, plane in enumerate(self.planes[1:], start=1):
            values |= ((plane >> shifts) & 1) << weight
        return values.view(-1)[: self.shape.numel()].view(self.shape).to(self.dtype)

    def to(self, device: torch.device) -> PackedSpikes:
        """The same on another device."""
        return PackedSpikes(self.planes.to(device), self.shape, self.dtype)


def bits_for(most: int) -> int:
    """Bits that hold the whole numbers 0 to `most`."""
    return max(1, most.bit_length())


def pack(spikes: Tensor, most: int) -> PackedSpikes:
    """Pack whole numbers 0 to `most` (at most 255), any shape."""
    assert most <= 255, "values are packed from bytes"
    width = -(-spikes.numel() // 8)
    values = nn.functional.pad(spikes.detach().reshape(-1).to(torch.uint8), (0, 8 * width - spikes.numel())).view(
        8, width
    )
    shifts = _shifts(values)
    planes = [(((values >> weight) & 1) << shifts).sum(0, dtype=torch.uint8) for weight in range(bits_for(most))]
    return PackedSpikes(torch.stack(planes), spikes.shape, spikes.dtype)


def _shifts(beside: Tensor) -> Tensor:
    """The eight bits of a byte, [8, 1], on the same device."""
    return torch.arange(8, dtype=torch.uint8, device=beside.device).view(8, 1)


def packed_bytes(numel: int, most: int) -> int:
    """Bytes that `pack` keeps for `numel` elements."""
    return bits_for(most) * -(-numel // 8)
