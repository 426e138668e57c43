"""Draws docs/images/digits-events.png: one recording of each class, a frame of 30 ms after the other, left to right.

python docs/images/digits_events.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from stdl_train.data.events.digits_events import digits_events

SCALE, GAP = 3, 3
BRIGHTER, DARKER, BACK = np.array([200, 60, 40]), np.array([40, 90, 190]), np.array([250, 250, 250])


def main() -> None:
    """Red where pixels became brighter, blue where darker, the stronger the more often (from 3 events on full)."""
    samples = digits_events("test")
    firsts = np.array([np.flatnonzero(samples.labels == label)[0] for label in range(len(samples.classes))])
    frames = samples.take(firsts)  # [10, T, 2, H, W]
    strength = np.minimum(frames / 3, 1)[..., None]
    colour = BACK + strength[:, :, 1] * (BRIGHTER - BACK) + strength[:, :, 0] * (DARKER - BACK)
    tiles = np.clip(colour, 0, 255).astype(np.uint8).repeat(SCALE, axis=2).repeat(SCALE, axis=3)
    rows, columns, height, width, _ = tiles.shape
    sheet = np.full((rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, 3), 255, dtype=np.uint8)
    for row in range(rows):
        for column in range(columns):
            top, left = GAP + row * (height + GAP), GAP + column * (width + GAP)
            sheet[top : top + height, left : left + width] = tiles[row, column]
    Image.fromarray(sheet).save(Path(__file__).parent / "digits-events.png", optimize=True)


if __name__ == "__main__":
    main()
