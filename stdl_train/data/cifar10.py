"""`cifar10` through the `datasets` library: from its hub name, or from a local folder of Parquet files.

CIFAR-10 (Krizhevsky 2009): 50,000 training and 10,000 test images, 3x32x32, ten classes. A local folder holds files
named `train-*.parquet` and `test-*.parquet` with an image column (`img` or `image`) and a `label` column, which is
how the hub stores it. Only the images that are drawn are decoded.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stdl_export.common.errors import BadInput, Unavailable, one_line
from stdl_train.data.samples import Samples, Split, draw

HUB_NAME = "uoft-cs/cifar10"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
"""Per channel over the training set, pixels in [0, 1]; the figures that are usual for CIFAR-10."""
SHAPE = (32, 32, 3)


def cifar10(split: Split, path: str | None = None, limit: int | None = None, seed: int = 0) -> Samples:
    """Images [N, 3, 32, 32] in [0, 1]. path: a folder of Parquet files, or a hub name; None: the hub's own."""
    table = _open(path or HUB_NAME, split)
    image, label = _column(table, ("img", "image"), path), _column(table, ("label",), path)
    if not len(table):
        raise BadInput(f"data set 'cifar10' in '{path or HUB_NAME}': its {split} split is empty")
    table = table.select(draw(len(table), limit, seed))
    labels = np.asarray(table[label], dtype=np.int64)
    if not 0 <= labels.min() <= labels.max() < len(CLASSES):
        raise BadInput(
            f"data set 'cifar10' in '{path or HUB_NAME}': labels from {labels.min()} to {labels.max()}, not 0 to 9"
        )
    images = np.stack([_pixels(table, image, index) for index in range(len(table))])
    return Samples(
        name="cifar10",
        images=(images.transpose(0, 3, 1, 2) / np.float32(255)).astype(np.float32),
        labels=labels,
        classes=CLASSES,
        mean=MEAN,
        std=STD,
    )


def _open(where: str, split: Split) -> Any:
    """The split as a `datasets.Dataset` with an image column that decodes to PIL images."""
    try:
        import datasets
    except ImportError:
        raise Unavailable(
            "data set 'cifar10' needs the datasets library: pip install 'stdl-toolchain[train]'"
        ) from None
    datasets.disable_progress_bars()
    try:
        if where != HUB_NAME and Path(where).exists():
            files = sorted(str(file) for file in Path(where).glob(f"{split}-*.parquet"))
            if not files:
                raise BadInput(f"data set 'cifar10': no {split}-*.parquet in folder '{where}': check data.path")
            return datasets.load_dataset("parquet", data_files={split: files}, split=split)
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", where) or where.startswith("."):
            raise BadInput(f"data set 'cifar10': folder '{where}' does not exist: check data.path")
        return datasets.load_dataset(where, split=split)
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        raise BadInput(
            f"data set 'cifar10' cannot be read from '{where}' ({one_line(str(error))[:160]}): "
            "give a folder of Parquet files with --set data.path=FOLDER, or check the connection to the hub"
        ) from None


def _column(table: Any, names: tuple[str, ...], path: str | None) -> str:
    for name in names:
        if name in table.column_names:
            return name
    raise BadInput(
        f"data set 'cifar10' in '{path or HUB_NAME}': no column {' or '.join(names)}, found {table.column_names}"
    )


def _pixels(table: Any, column: str, index: int) -> npt.NDArray[np.uint8]:
    """[32, 32, 3]; names the sample that is damaged."""
    try:
        pixels = np.asarray(table[index][column].convert("RGB"), dtype=np.uint8)
    except (OSError, AttributeError) as error:
        raise BadInput(f"data set 'cifar10': image {index} cannot be decoded: {error}") from None
    if pixels.shape != SHAPE:
        raise BadInput(f"data set 'cifar10': image {index} has shape {pixels.shape}, not {SHAPE}")
    return pixels
