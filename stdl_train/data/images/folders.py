"""Pictures in folders that are named after their classes.

FOLDER/CLASS/**                            a share of each class is drawn for testing
FOLDER/train/CLASS/**, FOLDER/val/CLASS/** or the split is in the folders (test, val, valid or validation)
FOLDER/val/images/*, val_annotations.txt   as Tiny-ImageNet is distributed
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from stdl_export.common.errors import BadInput
from stdl_export.common.names import nearest
from stdl_train.data.images.pixels import Stored
from stdl_train.data.images.source import Pictures
from stdl_train.data.samples import Split

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".pgm", ".ppm", ".gif")
TEST_NAMES = ("test", "val", "valid", "validation")
ANNOTATIONS = "val_annotations.txt"
"""File name and class of each picture, separated by tabs; more columns are boxes."""

Labelled = list[tuple[Path, int]]


def split_folder(root: Path, split: Split) -> Path | None:
    """The folder of this split; None where the folders have no splits."""
    if not (root / "train").is_dir():
        return None
    if split == "train":
        return root / "train"
    found = [root / name for name in TEST_NAMES if (root / name).is_dir()]
    if not found:
        raise BadInput(f"folder '{root}' has train/ and none of {', '.join(TEST_NAMES)}/: add the pictures for testing")
    return next((folder for folder in found if (folder / ANNOTATIONS).is_file() or _folders(folder)), found[0])


def folder_pictures(name: str, root: Path, split: Split, classes: Sequence[str] | int | None) -> Pictures:
    """The split's pictures, or all where the folders have no splits, in the order of their paths.

    classes: names in the order of their labels; or how many there must be; None: as many as there are.
    """
    part = split_folder(root, split)
    names = _folders(root / "train" if part else root)
    known = _known(name, root, names, classes)
    files = (
        _annotated(part, known) if part and (part / ANNOTATIONS).is_file() else _in_folders(name, part or root, known)
    )
    stats = [file.stat() for file, _ in files]
    return Pictures(
        name=name,
        labels=np.array([label for _, label in files], dtype=np.int64),
        classes=known,
        read=partial(_file, [file for file, _ in files]),
        title=partial(_title, [file.relative_to(root).as_posix() for file, _ in files]),
        stamp=[[file.as_posix(), stat.st_size, stat.st_mtime_ns] for (file, _), stat in zip(files, stats, strict=True)],
    )


def _file(files: list[Path], index: int) -> Stored:
    return files[index]


def _title(names: list[str], index: int) -> str:
    return f"picture '{names[index]}'"


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _known(name: str, root: Path, found: list[str], classes: Sequence[str] | int | None) -> tuple[str, ...]:
    """The classes in the order of their labels; BadInput where the folders are not those."""
    if not found:
        raise BadInput(f"data set '{name}': '{root}' needs one sub-folder of pictures a class: check data.path")
    if classes is None:
        return tuple(found)
    if isinstance(classes, int):
        if len(found) != classes:
            raise BadInput(f"data set '{name}': '{root}' has {len(found)} class folders, the set {classes}")
        return tuple(found)
    for folder in found:
        if folder not in classes:
            guess = nearest(folder, classes)
            hint = f"rename it to '{guess}'" if guess else f"its classes are {', '.join(classes[:12])}"
            raise BadInput(f"data set '{name}': '{root}' has a folder '{folder}', which is no class of the set: {hint}")
    return tuple(classes)


def _in_folders(name: str, part: Path, classes: tuple[str, ...]) -> Labelled:
    """Every picture below a class folder; one without any is an error, since its class could never be learned."""
    strange = sorted(set(_folders(part)) - set(classes))
    if strange:
        raise BadInput(
            f"data set '{name}': '{part}' has a folder '{strange[0]}', which is no class of the training set"
        )
    files: Labelled = []
    for label, folder in enumerate(classes):
        found = sorted(path for path in (part / folder).rglob("*") if _is_picture(path))
        if not found:
            raise BadInput(
                f"data set '{name}': class folder '{part / folder}' holds no pictures ({', '.join(SUFFIXES)}): "
                "fill it or remove it"
            )
        files += [(path, label) for path in found]
    return files


def _is_picture(path: Path) -> bool:
    return not path.name.startswith(".") and path.suffix.lower() in SUFFIXES and path.is_file()


def _annotated(part: Path, classes: tuple[str, ...]) -> Labelled:
    """Tiny-ImageNet's validation pictures, labelled by a file beside them."""
    number = {name: label for label, name in enumerate(classes)}
    files: Labelled = []
    path = part / ANNOTATIONS
    for line, text in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        file, _, rest = text.partition("\t")
        label = number.get(rest.partition("\t")[0])
        picture = part / "images" / Path(file).name  # never a path out of the folder
        if label is None or not picture.is_file():
            raise BadInput(
                f"'{path}' line {line}: it needs the name of a file in images/, a tab, and a class: {text!r:.80}"
            )
        files.append((picture, label))
    return sorted(files)
