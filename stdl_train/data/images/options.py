"""What every set of pictures takes as `[data.options]`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from stdl_export.common.config import FiniteFloat, Natural, PositiveFloat, Table, validate

Side = Annotated[int, Field(ge=1, le=4096)]


class ImageOptions(Table):
    """How pictures become samples [C, H, W], and what to do with damage.

    size: [H, W] of the samples, or one number for both; None: the set's own. resize: the shorter side to which a
    picture is scaled before the crop; None: the smallest that covers `size`, or the set's own.
    crop: "center", or "random": in training a box of 8 to 100 % of the area, drawn anew each epoch (Szegedy et al.
    2015), resized to `size`. in_memory: decode all pictures at the start; None: small sets only.
    streaming: take the samples from the hub as they come, without a download of the whole set; needs limits.
    skip_damaged: leave damaged pictures out, counted and said; all are decoded once to find them.
    """

    size: Side | tuple[Side, Side] | None = None
    resize: Side | None = None
    crop: Literal["center", "random"] = "center"
    in_memory: bool | None = None
    streaming: bool = False
    skip_damaged: bool = False

    @property
    def shape(self) -> tuple[int, int] | None:
        """`size` as (H, W)."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size


class FolderOptions(ImageOptions):
    """Of `image-folder`. channels: 3, or 1 for grey; mean, std: per channel, None: of ImageNet.

    test_share, split_seed: where the folder has no train/ and test/, the share of each class that is drawn for testing.
    """

    channels: Literal[1, 3] = 3
    mean: tuple[FiniteFloat, ...] | None = None
    std: tuple[PositiveFloat, ...] | None = None
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    split_seed: Natural = 0


def read_options(model: type[ImageOptions], options: Mapping[str, Any], name: str) -> Any:
    """Check `[data.options]`; BadInput names the nearest where one is not known."""
    return validate(model, options, f"options of data set '{name}'")
