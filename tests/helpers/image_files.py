"""Small files in the layouts in which sets of pictures are distributed, written byte by byte or by the library."""

from __future__ import annotations

import gzip
import io
import struct

import numpy as np
import pytest


def encoded(pixels, form="PNG", **options) -> bytes:
    """A picture [H, W] or [H, W, C] as the bytes of a file."""
    image = pytest.importorskip("PIL.Image")
    buffer = io.BytesIO()
    image.fromarray(pixels).save(buffer, format=form, **options)
    return buffer.getvalue()


def some_pixels(count, shape, seed=0):
    """[count, *shape] bytes, all different."""
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def write_idx(path, values):
    """Bytes as an idx file; packed where the name ends in .gz."""
    data = bytes((0, 0, 0x08, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def write_parquet(path, pictures, labels, image="image", label="label", names=None):
    """Encoded pictures with labels as the hub has them, with the library's own feature types."""
    datasets = pytest.importorskip("datasets")
    kind = datasets.ClassLabel(names=names) if names else datasets.Value("int64")
    features = datasets.Features({image: datasets.Image(), label: kind})
    rows = [{image: {"bytes": data, "path": None}, label: n} for data, n in zip(pictures, labels, strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_list(rows, features=features).to_parquet(str(path))


def write_picture(path, pixels, **options):
    """A picture's file; its format is its suffix's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    form = {".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF"}.get(path.suffix.lower(), path.suffix[1:].upper())
    path.write_bytes(encoded(pixels, form, **options))
