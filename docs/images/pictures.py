"""Draws docs/images/digits.png and cifar10-jpeg.png: eight training pictures of each class, a class in each row.

python docs/images/pictures.py --cifar10 FOLDER     # of Parquet files, as docs/data.md says; without it only the digits
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from stdl_train.data.samples import Samples, load

COLUMNS, GAP = 8, 3


def main() -> None:
    """The first pictures of each class, as `stdl-train` is given them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cifar10")
    folder = parser.parse_args().cifar10
    _sheet(load("digits", "train"), 5).save(Path(__file__).parent / "digits.png", optimize=True)
    if folder:
        samples = load("cifar10", "train", folder, limit=2000)
        _sheet(samples, 1).save(Path(__file__).parent / "cifar10-jpeg.png", optimize=True)


def _sheet(samples: Samples, scale: int) -> Image.Image:
    channels, height, width = samples.shape
    rows, tile = len(samples.classes), (height * scale + GAP, width * scale + GAP)
    sheet = np.full((rows * tile[0] + GAP, COLUMNS * tile[1] + GAP, channels), 250, dtype=np.uint8)
    for label in range(rows):
        pictures = samples.take(np.flatnonzero(samples.labels == label)[:COLUMNS])
        for column, picture in enumerate(pictures):
            pixels = np.rint(255 * picture).astype(np.uint8).transpose(1, 2, 0)
            top, left = GAP + label * tile[0], GAP + column * tile[1]
            large = pixels.repeat(scale, axis=0).repeat(scale, axis=1)
            sheet[top : top + height * scale, left : left + width * scale] = large
    return Image.fromarray(sheet[..., 0] if channels == 1 else sheet)


if __name__ == "__main__":
    main()
