"""Pictures, wherever they lie -> `Samples`: decoded at the start, or when they are asked for."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from stdl_export.common.errors import BadInput
from stdl_train.data.events.cache import Piece, cached
from stdl_train.data.images.options import ImageOptions
from stdl_train.data.images.pixels import BadPicture, Stored, View, to_pixels
from stdl_train.data.samples import Samples, Split, draw

log = logging.getLogger("stdl.data")

Indices = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Pictures:
    """The pictures of one split, not read yet.

    read: number -> what is stored, BadPicture or OSError where it cannot be; title: of each, for messages; stamp: what
    tells that the content has changed, as JSON has it, None: it is not known.
    """

    name: str
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    read: Callable[[int], Stored]
    title: Callable[[int], str]
    stamp: Sequence[Any] | None = None

    def take(self, chosen: Indices) -> Pictures:
        """Only those, with the titles that they had."""
        return replace(
            self,
            labels=self.labels[chosen],
            read=partial(_at, self.read, chosen),
            title=partial(_at, self.title, chosen),
            stamp=None if self.stamp is None else [*self.stamp, _digest(chosen)],
        )


def _at(what: Callable[[int], Any], chosen: Indices, index: int) -> Any:
    return what(int(chosen[index]))


def _digest(chosen: Indices) -> str:
    return hashlib.sha256(chosen.astype("<i8").tobytes()).hexdigest()


class DecodedPictures:
    """Pixels [N, C, H, W] uint8, decoded when they are asked for; a `Source`."""

    dtype: np.dtype[Any] = np.dtype(np.uint8)

    def __init__(self, pictures: Pictures, view: View) -> None:
        self._pictures, self._view = pictures, view
        self.shape = (len(pictures.labels), *view.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, indices: Indices) -> npt.NDArray[np.uint8]:
        wanted = np.atleast_1d(np.arange(len(self))[indices])
        out = np.empty((len(wanted), *self._view.shape), dtype=np.uint8)
        for row, index in enumerate(wanted):
            out[row] = self._one(int(index))
        return out

    def _one(self, index: int) -> npt.NDArray[np.uint8]:
        try:
            return to_pixels(self._pictures.read(index), self._view, self._generator(index))
        except (BadPicture, OSError) as problem:
            raise BadInput(f"{_where(self._pictures, index, problem)}; {SKIP}") from None

    def _generator(self, _index: int) -> np.random.Generator | None:
        return None


class CroppedPictures(DecodedPictures):
    """The same with random crops in training, drawn by `seed`, epoch and index; without an epoch the centre's."""

    def __init__(self, pictures: Pictures, view: View, seed: int, epoch: int | None = None) -> None:
        super().__init__(pictures, view)
        self._seed, self._epoch = seed, epoch

    def for_epoch(self, epoch: int) -> CroppedPictures:
        """The same pictures with that epoch's draws."""
        return CroppedPictures(self._pictures, self._view, self._seed, epoch)

    def _generator(self, index: int) -> np.random.Generator | None:
        return None if self._epoch is None else np.random.default_rng([self._seed, self._epoch, index])


SKIP = "repair it, or leave such out with data.options.skip_damaged = true"


def _where(pictures: Pictures, index: int, problem: object) -> str:
    return f"data set '{pictures.name}': {pictures.title(index)} {problem}"


def as_samples(
    pictures: Pictures, split: Split, view: View, statistics: tuple[tuple[float, ...], tuple[float, ...]],
    options: ImageOptions, in_memory: bool, limit: int | None, seed: int,
) -> Samples:  # fmt: skip
    """Draw, check labels, leave damaged ones out where asked, decode now or later. statistics: mean and std."""
    pictures = pictures.take(draw(len(pictures.labels), limit, seed))
    if not len(pictures.labels):
        raise BadInput(f"data set '{pictures.name}': its {split} split is empty: check data.path")
    _check_labels(pictures)
    if options.skip_damaged:
        pictures = _sound(pictures, view)
    crops = options.crop == "random" and split == "train"
    source = CroppedPictures(pictures, view, seed) if crops else DecodedPictures(pictures, view)
    whole = options.in_memory if options.in_memory is not None else in_memory
    mean, std = statistics
    return Samples(
        name=pictures.name, images=source[np.arange(len(source))] if whole and not crops else source,
        labels=pictures.labels, classes=pictures.classes, mean=mean, std=std,
    )  # fmt: skip


def _check_labels(pictures: Pictures) -> None:
    wrong = np.flatnonzero((pictures.labels < 0) | (pictures.labels >= len(pictures.classes)))
    if len(wrong):
        first = int(wrong[0])
        raise BadInput(
            _where(pictures, first, f"has label {pictures.labels[first]}, outside 0 to {len(pictures.classes) - 1}")
        )


def _sound(pictures: Pictures, view: View) -> Pictures:
    """Without those that cannot be decoded. What was found is kept in the cache, as long as the files are the same."""
    look = partial(_look, pictures, view)
    count = len(pictures.labels)
    if pictures.stamp is None:
        found = look(range(count))
        kept, skipped = np.asarray(found.kept, dtype=np.intp), found.notes["skipped"]
    else:
        key = {"set": pictures.name, "kind": "sound", "view": json.dumps(vars(view)), "stamp": list(pictures.stamp)}
        cache = cached(pictures.name, key, count, look, per_piece=4096)
        kept, skipped = cache.kept, cache.notes.get("skipped", 0)
    if skipped:
        log.warning("data set '%s': %d of %d pictures are damaged and left out", pictures.name, skipped, count)
    if not len(kept):
        raise BadInput(f"data set '{pictures.name}': all {count} pictures are damaged")
    return pictures.take(kept)


def _look(pictures: Pictures, view: View, numbers: range) -> Piece:
    kept = [number for number in numbers if _is_sound(pictures, view, number)]
    return Piece({}, kept, {"skipped": len(numbers) - len(kept)})


def _is_sound(pictures: Pictures, view: View, number: int) -> bool:
    try:
        to_pixels(pictures.read(number), view)
    except (BadPicture, OSError) as problem:
        log.warning("%s; left out", _where(pictures, number, problem))
        return False
    return True
