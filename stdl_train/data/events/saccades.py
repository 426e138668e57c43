"""Pictures that move before the camera in three small saccades, as N-MNIST was recorded (Orchard et al. 2015)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stdl_train.data.events.camera import Floats
from stdl_train.data.events.events import Sensor

CORNERS = np.array([[0.0, -1.0], [-1.0, 1.0], [1.0, 1.0], [0.0, -1.0]])
"""(x, y) of where the three saccades begin and end: a triangle that ends where it began."""


@dataclass(frozen=True)
class Saccades:
    """How pictures move: pixels of the sensor and microseconds."""

    sensor: Sensor
    scale: float = 1.5
    """Sensor pixels for one pixel of the picture."""
    reach: float = 1.5
    """Half the height and width of the triangle; varies by `variation` of itself, as does where the picture lies."""
    variation: float = 0.2
    saccade_us: int = 100_000

    @property
    def duration_us(self) -> int:
        """Of one recording."""
        return self.saccade_us * (len(CORNERS) - 1)

    def light(
        self, pictures: npt.NDArray[np.float64], generators: Sequence[np.random.Generator]
    ) -> Callable[[int], Floats]:
        """Time in us -> what the sensor sees of pictures [N, h, w] at that time, [N, H, W], by bilinear interpolation.

        Interpolation along x and y are two matrices, so a picture seen at (dx, dy) is Wy @ picture @ Wx^T.
        """
        drawn = np.array([generator.uniform(-1, 1, 4) for generator in generators])
        reach = self.reach * (1 + self.variation * drawn[:, :2])  # [N, 2] for x, y
        offset = self.reach * self.variation * drawn[:, 2:]
        height, width = pictures.shape[1:]

        def seen(time_us: int) -> Floats:
            shift = offset + reach * self.position(time_us)
            across = self._weights(self.sensor.width, width, shift[:, 0])
            down = self._weights(self.sensor.height, height, shift[:, 1])
            view: Floats = down @ pictures @ across.transpose(0, 2, 1)
            return view

        return seen

    def position(self, time_us: int) -> Floats:
        """(x, y) on the triangle: each saccade speeds up and slows down again, half a period of a cosine."""
        leg = min(time_us // self.saccade_us, len(CORNERS) - 2)
        share = (1 - np.cos(np.pi * (time_us / self.saccade_us - leg))) / 2
        place: Floats = CORNERS[leg] + share * (CORNERS[leg + 1] - CORNERS[leg])
        return place

    def _weights(self, pixels: int, size: int, shift: Floats) -> Floats:
        """[N, pixels, size]: share of each pixel of the picture in each of the sensor; nothing outside the picture."""
        where = (np.arange(pixels) - (pixels - 1) / 2 - shift[:, None]) / self.scale + (size - 1) / 2
        weights: Floats = np.maximum(0, 1 - np.abs(where[:, :, None] - np.arange(size)))
        return weights
