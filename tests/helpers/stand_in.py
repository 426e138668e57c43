"""Samples of the form that a recipe's data set gives, without its files: shapes and classes from the tables of sets."""

from __future__ import annotations

import numpy as np

from stdl_train.data.events import sets as events
from stdl_train.data.events.frames import frame_shape
from stdl_train.data.events.options import read_options as read_event_options
from stdl_train.data.images import sets as images
from stdl_train.data.images.options import ImageOptions
from stdl_train.data.images.options import read_options as read_image_options
from stdl_train.data.samples import Samples, load

IMAGES = {row.name: row for row in images.SETS}
EVENTS = {
    row.name: (row, classes)
    for row, classes in (
        (events.N_MNIST, 10),
        (events.DVS_GESTURE, 11),
        (events.CIFAR10_DVS, 10),
        (events.N_CALTECH101, 101),
        (events.SHD, 20),
    )
}


def stand_in(data) -> Samples:
    """Two samples for a recipe's `[data]`; the set's own where it comes with the package."""
    if data.name in IMAGES:
        row = IMAGES[data.name]
        options = read_image_options(ImageOptions, data.options, row.name)
        shape, count, timed = (row.shape[0], *(options.shape or row.shape[1:])), row.class_count, False
        mean, std = row.mean, row.std
    elif data.name in EVENTS:
        which, count = EVENTS[data.name]
        shape, timed = frame_shape(which.sensor, read_event_options(which.options, data.options, which.name)), True
        mean, std = (0.0,) * shape[1], (1.0,) * shape[1]
    else:
        return load(data.name, "train", None, 2, 0, data.options)
    classes = tuple(f"class {number}" for number in range(count))
    labels = np.array([0, count - 1], dtype=np.int64)
    return Samples(data.name, np.zeros((2, *shape), np.uint8), labels, classes, mean, std, timed)
