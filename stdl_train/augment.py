"""Augmentation of batches, on their device: shift, mirror, RandAugment and cutout by kornia, mixup and cutmix here.

Pictures [B, C, H, W] in [0, 1], or recordings [T, B, C, H, W] as event counts, before they are encoded. What is drawn
for a sample holds for all its time steps. Everything is drawn from torch's global generator, on the CPU.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from stdl_export.common.config import Natural, NaturalFloat, Table

Augment = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Samples and labels [B] -> the same shape, and labels [B] or, where samples were mixed, shares [B, classes]."""

Step = Callable[[Tensor], Tensor]

GEOMETRY = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
"""Of RandAugment, what makes sense for event counts: the others change brightness and colour."""


class AugmentTable(Table):
    """Augmentation keys of a recipe's `[data]`.

    `flip`: mirror left to right, every other sample; `shift`: by up to so many pixels; `randaugment`: so many
    operations drawn for each batch, of `magnitude` (above 0, below 30), geometric ones only unless samples are pictures
    in colour; `cutout`: side of a square that is set to 0; `mixup`, `cutmix`: the parameter alpha of the Beta
    distribution of shares, 0: none; with both, each batch takes one of them.
    """

    flip: bool = False
    shift: Natural = 0
    randaugment: Annotated[int, Field(ge=0, le=5)] = 0
    magnitude: Annotated[int, Field(gt=0, lt=30)] = 9
    cutout: Natural = 0
    mixup: NaturalFloat = 0.0
    cutmix: NaturalFloat = 0.0


def make_augment(shape: tuple[int, ...], options: AugmentTable, classes: int, timed: bool = False) -> Augment:
    """What the options ask for. shape: (C, H, W) of a sample in one time step; timed: samples are recordings."""
    transform = _transform(shape, options, timed)
    mixes = [mix for mix, alpha in ((mixup, options.mixup), (cutmix, options.cutmix)) if alpha > 0]

    def augment(x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if transform is not None:
            x = transform(x) if not timed else _same_for_all_steps(transform, x)
        if not mixes or len(labels) < 2:
            return x, labels
        mix = mixes[int(torch.randint(len(mixes), ())) if len(mixes) > 1 else 0]
        return mix(x, nn.functional.one_hot(labels, classes).float(), options.mixup if mix is mixup else options.cutmix)

    return augment


def mixup(x: Tensor, shares: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Each sample plus another one of the batch, lambda to 1 - lambda (Zhang et al. 2018). x: [..., B, C, H, W]."""
    share, other = _beta(alpha), torch.randperm(len(shares)).to(x.device)
    mixed = share * x + (1 - share) * x.index_select(-4, other)
    return mixed, share * shares + (1 - share) * shares[other]


def cutmix(x: Tensor, shares: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """A box of each sample from another one of the batch; labels by area (Yun et al. 2019). x: [..., B, C, H, W]."""
    share, other = _beta(alpha), torch.randperm(len(shares)).to(x.device)
    height, width = x.shape[-2:]
    top, bottom = _side(height, share)
    left, right = _side(width, share)
    mixed = x.clone()
    box = (..., slice(top, bottom), slice(left, right))
    mixed[box] = x.index_select(-4, other)[box]
    kept = 1 - (bottom - top) * (right - left) / (height * width)
    return mixed, kept * shares + (1 - kept) * shares[other]


def _beta(alpha: float) -> float:
    return float(torch.distributions.Beta(alpha, alpha).sample())


def _side(size: int, share: float) -> tuple[int, int]:
    """Begin and end of a box's side of size * sqrt(1 - share) around a centre drawn at random, cut at the border."""
    half, centre = size * (1 - share) ** 0.5 / 2, int(torch.randint(size, ()))
    return max(0, round(centre - half)), min(size, round(centre + half))


def _same_for_all_steps(transform: Step, x: Tensor) -> Tensor:
    """Apply what works on [B, C, H, W] to [T, B, C, H, W]: time stands beside the channels, which share all draws."""
    folded = transform(x.transpose(0, 1).flatten(1, 2))  # [B, T*C, H, W]
    unfolded: Tensor = folded.unflatten(1, (x.shape[0], -1))
    return unfolded.transpose(0, 1).contiguous()


def _transform(shape: tuple[int, ...], options: AugmentTable, timed: bool) -> Step | None:
    """kornia's part; None where nothing is asked of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own deprecations at import
        import kornia.augmentation as kornia
        from kornia.augmentation.auto import RandAugment
        from kornia.augmentation.auto.rand_augment.rand_augment import default_policy

    channels, height, width = shape
    steps: list[Any] = []
    if options.shift:
        steps.append(kornia.RandomCrop((height, width), padding=options.shift, cropping_mode="resample"))
    if options.flip:
        steps.append(kornia.RandomHorizontalFlip(p=0.5))
    if options.randaugment:
        colour = channels == 3 and not timed
        policy = [entry for entry in default_policy if colour or entry[0][0] in GEOMETRY]
        steps.append(RandAugment(options.randaugment, options.magnitude, policy))
    if options.cutout:
        area = min(1.0, options.cutout**2 / (height * width))
        steps.append(kornia.RandomErasing(p=1.0, scale=(area, area), ratio=(1.0, 1.0)))
    if not steps:
        return None
    sequential: Step = kornia.AugmentationSequential(*steps, data_keys=["input"])
    return sequential
