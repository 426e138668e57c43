"""A picture as it is stored -> uint8 [C, H, W]: decoded, in the set's channels, scaled, cropped."""

from __future__ import annotations

import io
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from stdl_export.common.errors import Unavailable

if TYPE_CHECKING:
    from PIL.Image import Image

Stored = bytes | Path | npt.NDArray[np.uint8]
"""An encoded picture, its file, or pixels [H, W]."""

AREA, ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)
"""Of a random crop: share of the picture's area, and width to height (Szegedy et al. 2015)."""
TRIES = 10
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "PPM", "GIF")
"""What pillow may try; others of its readers start programs."""
TOP16 = 257
"""65535 / 255: 16 bits to 8."""


class BadPicture(Exception):
    """A picture that cannot be used; the text says why."""


@dataclass(frozen=True)
class View:
    """What is made of a picture. short: its shorter side before the crop, None: the smallest that covers the shape.

    exact: a picture of another size than the shape is an error.
    """

    shape: tuple[int, int, int]  # C, H, W
    short: int | None = None
    exact: bool = False


def to_pixels(stored: Stored, view: View, generator: np.random.Generator | None = None) -> npt.NDArray[np.uint8]:
    """[C, H, W]; BadPicture where it is damaged or of another kind. generator: draws a random crop, None: the centre's.

    Transparent pixels are laid over black, which is no input. 16 bits become 8. Rotation tags (EXIF) are not followed.
    """
    channels, height, width = view.shape
    if isinstance(stored, np.ndarray) and generator is None and (channels, *stored.shape) == (1, height, width):
        return stored[None]
    picture = _in_channels(_opened(stored), channels)
    if generator is not None:
        picture = _random_crop(picture, (width, height), generator)
    elif picture.size != (width, height) or view.short is not None:
        if view.exact:
            found = (picture.height, picture.width, channels)
            raise BadPicture(
                f"has shape {found}, not {(height, width, channels)}: set data.options.size to scale all pictures"
            )
        picture = _centre_crop(picture, (width, height), view.short)
    pixels = np.asarray(picture, dtype=np.uint8)
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _opened(stored: Stored) -> Image:
    """Decoded to the last byte."""
    try:
        from PIL import Image
    except ImportError:
        raise Unavailable("pictures are decoded with pillow: pip install pillow") from None
    if isinstance(stored, np.ndarray):
        return Image.fromarray(stored)
    try:
        picture = Image.open(io.BytesIO(stored if isinstance(stored, bytes) else stored.read_bytes()), formats=FORMATS)
        picture.load()
    except (OSError, ValueError, SyntaxError, EOFError, TypeError, struct.error, zlib.error, OverflowError) as error:
        raise BadPicture(f"cannot be decoded: {_reason(error)}") from None
    except (Image.DecompressionBombError, MemoryError) as error:
        raise BadPicture(f"is too large: {_reason(error)}") from None
    return picture


def _reason(error: BaseException) -> str:
    """Without the address of a buffer in memory."""
    text = str(error) or type(error).__name__
    return "it is no picture in a known format" if "cannot identify" in text else text


def _in_channels(picture: Image, channels: int) -> Image:
    """Mode L or RGB."""
    if picture.mode == "F":
        raise BadPicture("has floating point pixels, whose range is not known: save it with 8 or 16 bits a channel")
    mode = "L" if channels == 1 else "RGB"
    try:
        picture = _in_bytes(picture) if picture.mode.startswith("I") else _opaque(picture)
        return picture if picture.mode == mode else picture.convert(mode)
    except ValueError as error:
        raise BadPicture(f"has pixels of mode {picture.mode}, which is not known here ({error})") from None


def _in_bytes(picture: Image) -> Image:
    """16 bits to 8; pillow's own conversion cuts at 255."""
    from PIL import Image

    values = np.asarray(picture)
    if values.min() < 0 or values.max() > 65535:
        raise BadPicture(f"has values from {values.min()} to {values.max()}: save it with 8 or 16 bits a channel")
    return Image.fromarray(np.rint(values / TOP16).astype(np.uint8))


def _opaque(picture: Image) -> Image:
    """Transparent pixels laid over black."""
    from PIL import Image

    if not picture.has_transparency_data:
        return picture
    over = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", over.size, (0, 0, 0, 255)), over)


def _centre_crop(picture: Image, size: tuple[int, int], short: int | None) -> Image:
    """Scaled to cover `size` (width, height), or to a shorter side of `short`, then the middle of it."""
    from PIL import Image

    cover = max(size[0] / picture.width, size[1] / picture.height)
    scale = cover if short is None else max(cover, short / min(picture.size))
    box_width, box_height = size[0] / scale, size[1] / scale
    left, top = (picture.width - box_width) / 2, (picture.height - box_height) / 2
    box = (max(0.0, left), max(0.0, top), min(picture.width, left + box_width), min(picture.height, top + box_height))
    return picture.resize(size, Image.Resampling.BILINEAR, box=box)


def _random_crop(picture: Image, size: tuple[int, int], generator: np.random.Generator) -> Image:
    """A box of random area, shape and place, scaled to `size` (width, height); the whole where none fits."""
    from PIL import Image

    box: tuple[float, float, float, float] = (0, 0, *picture.size)
    for _ in range(TRIES):
        area = generator.uniform(*AREA) * picture.width * picture.height
        aspect = math.exp(generator.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
        width, height = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if 1 <= width <= picture.width and 1 <= height <= picture.height:
            left, top = generator.uniform(0, picture.width - width), generator.uniform(0, picture.height - height)
            box = (left, top, min(picture.width, left + width), min(picture.height, top + height))
            break
    return picture.resize(size, Image.Resampling.BILINEAR, box=box)
