"""Shapes: what comes out of a window, how large a pool is, how wide a copy."""

from __future__ import annotations

from typing import Literal

Shape = tuple[int, ...]
"""Shape of one sample in one time step: (C, H, W) or (N,)."""


def window_shape(shape: Shape, kernel: tuple[int, int], stride: tuple[int, int], padding: int, name: str) -> Shape:
    """Shape behind a window of kernel (height, width) over (C, H, W); ValueError if none fits. name: the unit's."""
    if len(shape) != 3:
        raise ValueError(f"unit '{name}' needs maps (C, H, W), its input has shape {shape}")
    height, width = (
        (size + 2 * padding - k) // step + 1 for size, k, step in zip(shape[1:], kernel, stride, strict=True)
    )
    if height < 1 or width < 1:
        raise ValueError(f"unit '{name}': a window of {kernel[0]} does not fit a map of {shape[1]}x{shape[2]}")
    return (shape[0], height, width)


def pool_size(pool: int | Literal["none", "global"], in_shape: Shape) -> tuple[int, int] | None:
    """Kernel and stride (height, width) of the pool in front of a linear map; None: there is none."""
    if pool == "global":
        return (in_shape[1], in_shape[2]) if len(in_shape) == 3 else None
    return None if pool == "none" or pool == 1 else (pool, pool)


def scaled(size: int, width: float, groups: int = 1) -> int:
    """A number of channels times `width`, at least one for each group and a multiple of the groups."""
    return max(1, round(size * width / groups)) * groups
