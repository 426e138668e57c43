"""Every kind of picture as bytes [C, H, W]: modes, scaling, crops, and what cannot be used."""

from __future__ import annotations

import numpy as np
import pytest
from image_files import encoded, some_pixels

from stdl_train.data.images.pixels import BadPicture, View, to_pixels

Image = pytest.importorskip("PIL.Image")

COLOUR, GREY = View((3, 4, 6)), View((1, 4, 6))
RGB = some_pixels(1, (4, 6, 3))[0]
LEVELS = some_pixels(1, (4, 6))[0]


def saved(image, form="PNG", **options):
    import io

    buffer = io.BytesIO()
    image.save(buffer, format=form, **options)
    return buffer.getvalue()


def test_colour_and_grey_are_what_was_stored():
    assert np.array_equal(to_pixels(encoded(RGB), COLOUR), RGB.transpose(2, 0, 1))
    assert np.array_equal(to_pixels(encoded(LEVELS), GREY), LEVELS[None])
    assert np.array_equal(to_pixels(encoded(LEVELS), COLOUR), np.stack([LEVELS] * 3))
    grey = to_pixels(encoded(RGB), GREY)[0]
    assert np.abs(grey - RGB @ np.array([0.299, 0.587, 0.114])).max() < 1.01


def test_transparent_pixels_are_laid_over_black_and_their_hidden_colour_is_not_seen():
    alpha = np.zeros((4, 6), np.uint8)
    alpha[:, :3], alpha[0, 5] = 255, 128
    found = to_pixels(encoded(np.dstack([RGB, alpha])), COLOUR).transpose(1, 2, 0)
    assert np.array_equal(found[:, :3], RGB[:, :3])
    assert np.abs(found[0, 5] - RGB[0, 5] * (128 / 255)).max() < 1.01
    assert not found[1:, 3:].any()


def test_palettes_with_and_without_a_transparent_colour():
    palette = Image.fromarray(RGB).quantize(24)
    expected = np.asarray(palette.convert("RGB")).transpose(2, 0, 1)
    assert np.array_equal(to_pixels(saved(palette), COLOUR), expected)
    number = int(np.asarray(palette)[2, 3])
    found = to_pixels(saved(palette, transparency=number), COLOUR)
    hidden = np.asarray(palette) == number
    assert not found[:, hidden].any()
    assert np.array_equal(found[:, ~hidden], expected[:, ~hidden])


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bits_become_eight_and_are_not_cut_off(form):
    levels = (LEVELS.astype(np.uint16) * 257).astype(np.uint16)
    assert np.array_equal(to_pixels(encoded(levels, form), GREY), LEVELS[None])
    assert np.array_equal(to_pixels(encoded(levels, form), COLOUR)[2], LEVELS)


def test_black_and_white_and_cmyk():
    bits = Image.fromarray(LEVELS).convert("1")
    assert np.array_equal(to_pixels(saved(bits), GREY)[0], np.asarray(bits) * np.uint8(255))
    assert to_pixels(saved(Image.fromarray(RGB).convert("CMYK"), "JPEG"), COLOUR).shape == (3, 4, 6)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"not a picture", "cannot be decoded: it is no picture in a known format"),
        (b"", "cannot be decoded"),
        (encoded(some_pixels(1, (40, 60, 3))[0], "JPEG")[:-900], "cannot be decoded: .*truncated"),
        (encoded(some_pixels(1, (40, 60, 3))[0])[:-900], "cannot be decoded"),
        (encoded(LEVELS.astype(np.float32), "TIFF"), "floating point"),
        (encoded(LEVELS.astype(np.int32) - 300, "TIFF"), "has values from -"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no picture in a known format"),
    ],
)
def test_what_cannot_be_used_says_why(data, message):
    with pytest.raises(BadPicture, match=message):
        to_pixels(data, COLOUR)


def test_a_picture_that_says_it_is_enormous_is_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5)
    with pytest.raises(BadPicture, match="is too large"):
        to_pixels(encoded(RGB), COLOUR)


def test_a_picture_is_scaled_to_cover_and_cut_in_the_middle():
    """As scaling the whole and cutting would give it: the filter sees what lies beside the cut."""
    wide = np.zeros((8, 24), np.uint8)
    wide[:, 8:16] = 200  # the middle third
    assert (to_pixels(encoded(wide), View((1, 4, 4)))[0, :, 1:3] == 200).all()
    assert to_pixels(encoded(wide), View((1, 4, 12)))[0, :, [0, 6, 11]].tolist() == [[0] * 4, [200] * 4, [0] * 4]
    whole = np.asarray(Image.fromarray(RGB).resize((12, 8), Image.Resampling.BILINEAR)).astype(int)
    found = to_pixels(encoded(RGB), View((3, 4, 4), short=8)).transpose(1, 2, 0)
    assert np.abs(found - whole[2:6, 4:8]).max() <= 1


def test_random_crops_differ_and_can_be_repeated():
    ramp = np.tile(np.arange(0, 240, 4, dtype=np.uint8), (50, 1))
    view = View((1, 8, 8))
    crops = [to_pixels(encoded(ramp), view, np.random.default_rng([0, epoch])) for epoch in range(30)]
    assert np.array_equal(crops[3], to_pixels(encoded(ramp), view, np.random.default_rng([0, 3])))
    spans = [int(crop[0, 4, -1]) - int(crop[0, 4, 0]) for crop in crops]
    assert min(spans) < 120 < max(spans)
    assert len({crop.tobytes() for crop in crops}) > 25
