"""Arrays on disk, built piece by piece, memory-mapped when read.

    CACHE/NAME-KEY/manifest.json, 00000.frames.npy, 00001.frames.npy, ...

KEY is a hash of everything that the content depends on, so that another option is another folder. Pieces are written
into `NAME-KEY.building`, each whole or not at all; the folder is renamed when all are there. So a build that was
stopped goes on where it was, and two processes that build at once write the same bytes: who comes last takes what is
there.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stdl_export.common.errors import BadInput
from stdl_export.common.files import atomic_file, remove_parts, sha256
from stdl_export.common.store import cache_root

FORMAT = 1
"""Counts up whenever the same options give other bytes, so that older caches are not taken for new ones."""
MANIFEST = "manifest.json"
log = logging.getLogger("stdl.data")


@dataclass(frozen=True)
class Piece:
    """Some of the samples: arrays by name, their numbers among all samples, and counts worth saying (summed up)."""

    arrays: Mapping[str, npt.NDArray[Any]]
    kept: Sequence[int]
    notes: Mapping[str, int]


@dataclass(frozen=True)
class Cache:
    """A finished cache. `kept` and `notes` over all pieces, in order; `sizes`: samples of each piece."""

    folder: Path
    kept: npt.NDArray[np.intp]
    notes: Mapping[str, int]
    sizes: tuple[int, ...]

    def array(self, piece: int, name: str) -> npt.NDArray[Any]:
        """One array of one piece, memory-mapped."""
        path = self.folder / f"{piece:05}.{name}.npy"
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
        except (OSError, ValueError, EOFError) as error:
            raise BadInput(f"cache file '{path}' cannot be read ({error}): start again, it is then rebuilt") from None


def cached(name: str, key: Mapping[str, Any], count: int, make: Callable[[range], Piece], per_piece: int = 64) -> Cache:
    """The cache for this key; built with `make`, which is given ranges of 0 to count - 1, where it is not there yet.

    key: all that the content depends on, as JSON has it. BadInput where the folder cannot be written.
    """
    text = json.dumps({"format": FORMAT, "count": count, "per_piece": per_piece, **key}, sort_keys=True)
    folder = cache_root() / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:32]}"
    building = folder.with_name(folder.name + ".building")
    pieces = [range(start, min(start + per_piece, count)) for start in range(0, count, per_piece)]
    try:
        if found := _open(folder, building, len(pieces)):
            return found
        _build(folder, building, pieces, make, text)
        built = _open(folder, building, len(pieces))
    except OSError as error:
        raise BadInput(
            f"cache folder '{folder}': {error.strerror or error}: set STDL_CACHE to a folder with room"
        ) from None
    if built is None:
        raise BadInput(f"cache folder '{folder}' was damaged while it was built: start again")
    return built


def _open(folder: Path, building: Path, pieces: int) -> Cache | None:
    """The finished cache, or None where there is none; a damaged one is named and made an unfinished one again."""
    if not folder.is_dir():
        return None
    notes: dict[str, int] = {}
    kept: list[int] = []
    sizes = []
    damaged = [number for number in range(pieces) if not _whole(folder, number)]
    if damaged:
        names = ", ".join(f"{number:05}" for number in damaged[:5])
        log.warning("cache '%s': piece %s is damaged; it is built again", folder, names)
        for number in damaged:
            (folder / f"{number:05}.json").unlink(missing_ok=True)
        shutil.rmtree(building, ignore_errors=True)
        folder.replace(building)
        return None
    for number in range(pieces):
        said = _said(folder, number)
        kept += said["kept"]
        sizes.append(len(said["kept"]))
        for what, how_many in said["notes"].items():
            notes[what] = notes.get(what, 0) + how_many
    return Cache(folder, np.asarray(kept, dtype=np.intp), notes, tuple(sizes))


def _build(folder: Path, building: Path, pieces: Sequence[range], make: Callable[[range], Piece], text: str) -> None:
    building.mkdir(parents=True, exist_ok=True)
    log.info("building cache '%s'", folder)
    try:
        for number, samples in enumerate(pieces):
            if folder.exists():
                break
            if not _whole(building, number):
                _write(building, number, make(samples))
            if 10 * (number + 1) // len(pieces) > 10 * number // len(pieces) and len(pieces) > 20:
                log.info("%d of %d recordings", samples.stop, pieces[-1].stop)
        else:
            with atomic_file(building / MANIFEST) as part:
                part.write_text(text, encoding="utf-8")
            building.replace(folder)
            remove_parts(folder)  # of builds that were killed
    except OSError:
        if not folder.exists():  # else another process was faster, and renamed the folder under our hands
            raise
    if folder.exists():
        shutil.rmtree(building, ignore_errors=True)


def _write(building: Path, number: int, piece: Piece) -> None:
    """Arrays first, then the file that says what they are: a piece without it is not there."""
    files = {}
    for name, array in piece.arrays.items():
        path = building / f"{number:05}.{name}.npy"
        with atomic_file(path) as part, part.open("wb") as file:
            np.save(file, array, allow_pickle=False)
        files[path.name] = {"sha256": sha256(path), "size": path.stat().st_size, "mtime_ns": path.stat().st_mtime_ns}
    said = {"files": files, "kept": list(piece.kept), "notes": dict(piece.notes)}
    with atomic_file(building / f"{number:05}.json") as part:
        part.write_text(json.dumps(said), encoding="utf-8")


def _said(folder: Path, number: int) -> Any:
    return json.loads((folder / f"{number:05}.json").read_text(encoding="utf-8"))


def _whole(folder: Path, number: int) -> bool:
    """Whether a piece is as it was written. Its bytes are read again only where its time says it may have changed."""
    try:
        files = _said(folder, number)["files"].items()
        return all(_unchanged(folder / name, known) for name, known in files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _unchanged(path: Path, known: Mapping[str, Any]) -> bool:
    now = path.stat()
    if now.st_size != known["size"]:
        return False
    return bool(now.st_mtime_ns == known["mtime_ns"] or sha256(path) == known["sha256"])
