"""MNIST, Fashion-MNIST, CIFAR-10 and -100, SVHN, Tiny-ImageNet, ImageNet-1k, and folders of one's own: a row each.

A path is a folder (Parquet files as the hub has them, one sub-folder a class, or idx files) or another hub name; none
is the set's own hub name. Files that hold Python pickles are never read: unpickling runs what is in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from stdl_export.common.errors import BadInput
from stdl_train.data.images import tables
from stdl_train.data.images.class_names import CIFAR10, CIFAR100, DIGITS, FASHION
from stdl_train.data.images.folders import TEST_NAMES, folder_pictures, split_folder
from stdl_train.data.images.idx import find_idx, idx_pictures
from stdl_train.data.images.options import FolderOptions, ImageOptions, read_options
from stdl_train.data.images.pixels import View
from stdl_train.data.images.source import Pictures, as_samples
from stdl_train.data.samples import Samples, Split, divide


@dataclass(frozen=True)
class ImageSet:
    """One data set.

    hub, config: its name there; columns: possible names of pictures and of labels; test: names of its test split.
    classes: names in the order of labels, or how many, named in the files. shape: [C, H, W]; short: shorter side before
    the crop. exact: all pictures have this size. in_memory: small enough to be decoded at the start.
    mean, std: per channel over the training set, pixels in [0, 1]; figures that are usual for the set.
    pictures, licence, size: for people (training and test pictures; about the size of the download).
    """

    name: str
    hub: str
    shape: tuple[int, int, int]
    classes: tuple[str, ...] | int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pictures: tuple[int, int]
    licence: str
    size: str
    config: str | None = None
    columns: tuple[Sequence[str], Sequence[str]] = (("image", "img"), ("label",))
    test: tuple[str, ...] = ("test",)
    short: int | None = None
    exact: bool = True
    in_memory: bool = True

    @property
    def class_count(self) -> int:
        """How many classes."""
        return self.classes if isinstance(self.classes, int) else len(self.classes)


MNIST = ImageSet(
    "mnist", "ylecun/mnist", (1, 28, 28), DIGITS, (0.1307,), (0.3081,), (60_000, 10_000),
    "CC BY-SA 3.0", "18 MB",
)  # fmt: skip
FASHION_MNIST = ImageSet(
    "fashion-mnist", "zalando-datasets/fashion_mnist", (1, 28, 28), FASHION, (0.2860,), (0.3530,), (60_000, 10_000),
    "MIT", "36 MB",
)  # fmt: skip
CIFAR_10 = ImageSet(
    "cifar10", "uoft-cs/cifar10", (3, 32, 32), CIFAR10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616),
    (50_000, 10_000), "none stated", "144 MB", config="plain_text",
)  # fmt: skip
CIFAR_100 = ImageSet(
    "cifar100", "uoft-cs/cifar100", (3, 32, 32), CIFAR100, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762),
    (50_000, 10_000), "none stated", "143 MB", config="cifar100", columns=(("img", "image"), ("fine_label", "label")),
)  # fmt: skip
SVHN = ImageSet(
    "svhn", "ufldl-stanford/svhn", (3, 32, 32), DIGITS, (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970),
    (73_257, 26_032), "non-commercial use", "150 MB", config="cropped_digits",
)  # fmt: skip
TINY_IMAGENET = ImageSet(
    "tiny-imagenet", "zh-plus/tiny-imagenet", (3, 64, 64), 200, (0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821),
    (100_000, 10_000), "ImageNet's terms", "160 MB", test=("valid", "val", "validation"), in_memory=False,
)  # fmt: skip
IMAGENET_1K = ImageSet(
    "imagenet-1k", "ILSVRC/imagenet-1k", (3, 224, 224), 1000, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225),
    (1_281_167, 50_000), "ImageNet's terms (gated)", "160 GB", test=("validation", "val"), short=256, exact=False,
    in_memory=False,
)  # fmt: skip

SETS = (MNIST, FASHION_MNIST, CIFAR_10, CIFAR_100, SVHN, TINY_IMAGENET, IMAGENET_1K)

FOLDER = "image-folder"
GREY = ((0.449,), (0.226,))
"""Mean and deviation of ImageNet's three channels, averaged."""


def _dataset(
    which: ImageSet, split: Split, path: str | None = None, limit: int | None = None, seed: int = 0, **options: Any
) -> Samples:
    """Pictures [N, C, H, W] of a row of the table; options: ImageOptions."""
    chosen: ImageOptions = read_options(ImageOptions, options, which.name)
    pictures = _pictures(which, split, path, chosen, limit, seed)
    height, width = chosen.shape or which.shape[1:]
    scaled = chosen.shape is not None or chosen.resize is not None
    short = chosen.resize or (which.short if chosen.shape is None else None)
    view = View((which.shape[0], height, width), short, exact=which.exact and not scaled)
    return as_samples(pictures, split, view, (which.mean, which.std), chosen, which.in_memory, limit, seed)


mnist, fashion_mnist, cifar10, cifar100, svhn, tiny_imagenet, imagenet_1k = (partial(_dataset, row) for row in SETS)


def image_folder(
    split: Split, path: str | None = None, limit: int | None = None, seed: int = 0, **options: Any
) -> Samples:
    """Pictures [N, C, H, W] of a folder with one sub-folder a class, or train/ and test/; options: FolderOptions."""
    chosen: FolderOptions = read_options(FolderOptions, options, FOLDER)
    if path is None:
        raise BadInput(f"data set '{FOLDER}' needs a folder with one sub-folder a class: --set data.path=FOLDER")
    if chosen.shape is None:
        raise BadInput(f"data set '{FOLDER}' needs the size of its samples: --set data.options.size=64")
    if chosen.streaming:
        raise BadInput(f"data set '{FOLDER}' is read from a folder: leave data.options.streaming out")
    root = Path(path).expanduser()
    if not root.is_dir():
        raise BadInput(f"data set '{FOLDER}': folder '{root}' does not exist: check data.path")
    pictures = folder_pictures(FOLDER, root, split, None)
    if split_folder(root, split) is None:
        pictures = pictures.take(divide(pictures.labels, split, chosen.test_share, chosen.split_seed))
    mean, std = GREY if chosen.channels == 1 else (IMAGENET_1K.mean, IMAGENET_1K.std)
    view = View((chosen.channels, *chosen.shape), chosen.resize)
    statistics = (chosen.mean or mean, chosen.std or std)
    return as_samples(pictures, split, view, statistics, chosen, False, limit, seed)


def _pictures(
    which: ImageSet, split: Split, path: str | None, options: ImageOptions, limit: int | None, seed: int
) -> Pictures:
    names = ("train",) if split == "train" else which.test
    root = None if path is None else Path(path).expanduser()
    if root is not None and root.exists():
        found = _local(which, root, split, names, options.streaming)
        if isinstance(found, Pictures):
            return found
        files, table = found
        stats = [file.stat() for file in files]
        stamp = [[file.as_posix(), stat.st_size, stat.st_mtime_ns] for file, stat in zip(files, stats, strict=True)]
        where = str(root)
    else:
        where, stamp = path or which.hub, None
        table = tables.open_hub(
            which.name, where, which.config if where == which.hub else None, names[0], options.streaming
        )
    opened = tables.Table(which.name, where, table, which.columns)
    if not options.streaming:
        return opened.pictures(which.classes, stamp)
    if limit is None:
        raise BadInput(
            f"data set '{which.name}': a stream is read as far as data.{split}_limit says: set it, or download the set"
        )
    return opened.streamed(which.classes, limit, seed)


def _local(
    which: ImageSet, root: Path, split: Split, names: Sequence[str], streaming: bool
) -> Pictures | tuple[list[Path], Any]:
    """What the folder holds: idx files, Parquet files or pictures; BadInput says what to get instead."""
    if files := tables.parquet_files(root, which.config, names):
        return files, tables.open_files(which.name, files, streaming)
    if streaming:
        raise BadInput(f"data set '{which.name}': '{root}' holds no Parquet files: leave data.options.streaming out")
    if which.shape[0] == 1 and (idx := find_idx(root, split)):
        return idx_pictures(which.name, idx, _named(which))
    if (root / "train").is_dir() and any(entry.is_dir() for entry in (root / "train").iterdir()):
        return folder_pictures(which.name, root, split, which.classes)
    raise BadInput(f"data set '{which.name}': {_not_here(which, root, names)}: {tables.advice(which.hub)}")


def _named(which: ImageSet) -> tuple[str, ...]:
    assert not isinstance(which.classes, int)  # idx files name no classes, and the sets that come in them have names
    return which.classes


PICKLES = ("data_batch_1", "cifar-10-batches-py", "cifar-100-python", "meta")
MATLAB = ("train_32x32.mat", "test_32x32.mat")


def _not_here(which: ImageSet, root: Path, names: Sequence[str]) -> str:
    """Why nothing in the folder can be read."""
    if any((root / name).exists() for name in PICKLES):
        return f"'{root}' holds Python pickles, which can run code and are never read"
    if any((root / name).exists() for name in MATLAB):
        return f"'{root}' holds MATLAB files, which are not read"
    also = " or idx files" if which.shape[0] == 1 else ""
    parts = f"train/CLASS/ and {' or '.join(name for name in TEST_NAMES if name in which.test)}/CLASS/"
    return f"no {names[0]}-*.parquet, {parts}{also} in folder '{root}'"
