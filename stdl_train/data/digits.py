"""`digits`: 1,797 handwritten digits of 8x8 pixels with 17 grey levels, embedded, with a fixed split (1,438 / 359).

The optical recognition of handwritten digits data set (Alpaydin and Kaynak 1998, UCI Machine Learning Repository, CC
BY 4.0), in the form in which scikit-learn ships it. A fifth of each class, drawn once, is the test set.
"""

from __future__ import annotations

from importlib.resources import files

import numpy as np

from stdl_export.common.errors import BadInput
from stdl_train.data.samples import Samples, Split, draw

LEVELS = 16
MEAN, STD = (0.305,), (0.376,)
"""Mean and standard deviation of the training images' pixels in [0, 1]."""


def digits(split: Split, path: str | None = None, limit: int | None = None, seed: int = 0) -> Samples:
    """Images [N, 1, 8, 8] in [0, 1]. There is nothing to download and no path."""
    if path is not None:
        raise BadInput("data set 'digits' is built in: leave data.path out")
    with (files("stdl_train.data") / "digits.npz").open("rb") as file, np.load(file, allow_pickle=False) as stored:
        images, labels, test = stored["images"], stored["labels"], stored["test"]
    chosen = np.flatnonzero(test if split == "test" else ~test)
    chosen = chosen[draw(len(chosen), limit, seed)]
    return Samples(
        name="digits",
        images=(images[chosen, None] / np.float32(LEVELS)).astype(np.float32),
        labels=labels[chosen].astype(np.int64),
        classes=tuple("0123456789"),
        mean=MEAN,
        std=STD,
    )
