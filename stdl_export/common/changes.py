"""Changes of a folder that are whole or absent, and one at a time, even where a process is killed in the middle.

A folder `net` has an index file, which names all the others. While it is changed, two things lie beside it:

    .net.lock                 held by the process that changes it; the system lets go of it when that process ends
    .net.adding/new/...       what is to come into the folder, its new index file included
    .net.adding/journal.json  once all of that is on disk: which files they are, and from which index to which

From the moment the journal is there, the change counts as made: what is left of it are renames, and whoever opens the
folder next makes them, where the process that began was stopped. Without a journal there was no change, and what lies
in `.net.adding` is removed. The index is renamed last: it never names a file that is not there.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pydantic

from stdl_export.common.config import read_json, validate
from stdl_export.common.errors import BadInput, one_line
from stdl_export.common.files import atomic_file, inside, sha256, sync, sync_tree

fcntl: Any = None
with contextlib.suppress(ImportError):  # where there is no POSIX, nobody waits
    import fcntl

log = logging.getLogger("stdl")

NEW, JOURNAL = "new", "journal.json"
MAX_JOURNAL_BYTES = 16 << 20


class Journal(pydantic.BaseModel):
    """`journal.json`: SHA-256 by name of every new file but the index, and of the index before and after."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    index: str
    before: str
    after: str
    files: dict[str, str]


@contextlib.contextmanager
def changing(folder: Path) -> Iterator[Path]:
    """Wait for whoever changes the folder, then yield an empty folder for what is new; it is removed afterwards.

    Give what was written there to `commit` inside the block. The new files lie in the folder's file system, so that a
    rename is enough.
    """
    real = folder.resolve()
    if real.is_mount():
        raise BadInput(f"'{folder}' is where a file system is mounted: mount the folder above it, or use one inside")
    real.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(real.parent, os.W_OK):
        raise BadInput(
            f"'{folder}' cannot be changed: new files come beside it first, and '{real.parent}' is read-only"
        )
    with _locked(real, wait=True):
        _recover(real)
        work = _work(real)
        _discard(work)
        (work / NEW).mkdir(parents=True)
        try:
            yield work / NEW
        finally:
            if not (work / JOURNAL).exists():  # what was begun and failed is finished at the next opening
                shutil.rmtree(work, ignore_errors=True)


def commit(folder: Path, index: str, files: Mapping[str, str]) -> None:
    """Move the files that were written in `changing` into the folder, `index` last. files: SHA-256 by name."""
    real = folder.resolve()
    work = _work(real)
    before, after = sha256(real / index), sha256(work / NEW / index)
    journal = Journal(index=index, before=before, after=after, files=dict(files))
    sync_tree(work / NEW)
    with atomic_file(work / JOURNAL) as part:
        part.write_text(json.dumps(journal.model_dump()), encoding="utf-8")
    _rename(real, work / NEW, journal)
    _discard(work)


def settle(folder: Path) -> None:
    """Finish a change that was stopped, or remove what one left that had not come so far; BadInput where that fails.

    A change that goes on is left alone, and waited for where it is renaming already.
    """
    real = folder.resolve()
    work = _work(real)
    if not work.is_dir() or work.is_symlink():
        return
    try:
        with _locked(real, wait=(work / JOURNAL).exists()) as mine:
            if mine:
                _recover(real)
                _discard(work)
    except OSError as error:
        if (work / JOURNAL).exists():
            reason = f"{error.strerror or error}{f' ({error.filename})' if error.filename else ''}"
            raise BadInput(f"'{folder}': an export into it was stopped, and to finish it failed: {reason}") from None


def renaming(folder: Path) -> bool:
    """Are files of the folder being replaced now?"""
    work = _work(folder.resolve())
    return not work.is_symlink() and (work / JOURNAL).exists()


def _recover(real: Path) -> None:
    """Make the renames that are left of a change, if it was one of this folder."""
    work = _work(real)
    if any(path.is_symlink() for path in (work, work / NEW, work / JOURNAL)) or not (work / JOURNAL).is_file():
        return  # nothing of ours is a link
    journal = _read(work / JOURNAL)
    index = inside(real, journal.index)
    if not index.is_file() or sha256(index) not in (journal.before, journal.after):
        return  # another folder has taken the place of the one that was changed
    for name, expected in (journal.files | {journal.index: journal.after}).items():
        source, target = inside(work / NEW, name), inside(real, name)
        found = source if source.is_file() else target
        if not found.is_file() or sha256(found) != expected:
            raise BadInput(f"'{real}': an export into it was stopped, and its file '{name}' is lost: export it again")
    _rename(real, work / NEW, journal)
    log.warning(f"'{real}': an export into it was stopped while it replaced files; that is finished now")


def _rename(real: Path, new: Path, journal: Journal) -> None:
    for name in (*journal.files, journal.index):
        source, target = inside(new, name), inside(real, name)
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            source.replace(target)
            sync(target.parent)


def _read(path: Path) -> Journal:
    try:
        if path.stat().st_size > MAX_JOURNAL_BYTES:
            raise BadInput(f"'{path}' is larger than {MAX_JOURNAL_BYTES >> 20} MiB: remove '{path.parent}'")
        content = read_json(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"'{path}' is no journal: {one_line(str(error)):.100}; remove '{path.parent}'") from None
    return validate(Journal, content, f"'{path}'")


@contextlib.contextmanager
def _locked(real: Path, wait: bool) -> Iterator[bool]:
    """Hold the lock of a folder; yields whether it is held, which without `wait` another process may prevent."""
    path = real.with_name(f".{real.name}.lock")
    handle = _lock(path, wait)
    try:
        yield handle is not None
    finally:
        if handle is not None:
            path.unlink(
                missing_ok=True
            )  # while it is held: whoever waits for it sees that it is gone, and takes a new one
            os.close(handle)


def _lock(path: Path, wait: bool) -> int | None:
    said = False
    while True:
        handle = os.open(path, os.O_RDONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        if fcntl is None:
            return handle
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(FileNotFoundError):
                if os.fstat(handle).st_ino == path.stat().st_ino:
                    return handle
        except BlockingIOError:
            if not wait:
                os.close(handle)
                return None
            if not said:
                log.info(f"another export changes '{path.with_name(path.name[1:-5])}': waiting for it")
                said = True
            _wait(handle)
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _wait(handle: int) -> None:
    """Until the lock is free; it is then taken anew, since its file may be another."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
    except BaseException:
        os.close(handle)
        raise


def _work(real: Path) -> Path:
    return real.with_name(f".{real.name}.adding")


def _discard(work: Path) -> None:
    if work.is_symlink() or work.is_file():
        raise BadInput(f"'{work}' is a file or a link, but new files are to be kept there: remove it")
    if work.exists():
        (work / JOURNAL).unlink(missing_ok=True)  # first: without it the rest is only to be removed
        shutil.rmtree(work)
