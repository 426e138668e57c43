"""What every event data set takes as `[data.options]`: frames, augmentation on events, and what to do with damage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from stdl_export.common.config import Count, NaturalFloat, Table, validate

Share = Annotated[float, Field(ge=0, lt=1)]
Pixels = Annotated[int, Field(ge=1, le=4096)]


class EventOptions(Table):
    """How recordings become frames [T, P, H, W].

    T: frames of every recording. slice: what a frame holds, an equal "time" or an equal "count" of events.
    window: microseconds or events of a frame, counted from the first event; what comes after T windows is left out, and
    a shorter recording ends in empty frames. None: each recording is divided into T equal parts.
    size: [H, W] to which the sensor is divided down; events of pixels that fall together are added up.
    polarity: "channels" (darker, brighter) or "merged" into one.
    drop: share of events left out, jitter_us: standard deviation of noise on timestamps; in training only, drawn anew
    each epoch. sort: put events in order where a recording goes back in time, instead of refusing it.
    skip_damaged: leave damaged recordings out, counted and said.
    """

    T: Annotated[int, Field(ge=1, le=4096)] = 10
    slice: Literal["time", "count"] = "time"
    window: Count | None = None
    size: tuple[Pixels, Pixels] | None = None
    polarity: Literal["channels", "merged"] = "channels"
    drop: Share = 0.0
    jitter_us: NaturalFloat = 0.0
    sort: bool = False
    skip_damaged: bool = False

    @property
    def augments(self) -> bool:
        """Whether frames differ from epoch to epoch."""
        return self.drop > 0 or self.jitter_us > 0


def read_options(model: type[EventOptions], options: Mapping[str, Any], name: str) -> Any:
    """Check `[data.options]`; BadInput names the nearest where one is not known."""
    return validate(model, options, f"options of data set '{name}'")
