"""Augmentation of a batch of images, by kornia: a random shift and a mirror image, drawn for each sample."""

from __future__ import annotations

import warnings
from collections.abc import Callable

from torch import Tensor

Augment = Callable[[Tensor], Tensor]
"""[B, C, H, W] in [0, 1] -> the same shape; draws from torch's global generator."""


def make_augment(size: tuple[int, int], shift: int, flip: bool) -> Augment:
    """Shift by up to `shift` pixels with zeros moving in, mirror left to right with probability 1/2. `size`: (H, W)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own deprecations at import
        from kornia.augmentation import AugmentationSequential, RandomCrop, RandomHorizontalFlip

    steps = []
    if shift:
        steps.append(RandomCrop(size, padding=shift, cropping_mode="resample"))
    if flip:
        steps.append(RandomHorizontalFlip(p=0.5))
    if not steps:
        return lambda images: images
    augment: Augment = AugmentationSequential(*steps, data_keys=["input"])
    return augment
