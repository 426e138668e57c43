"""Results worth keeping between runs, in the user's cache folder: one file an entry, whole or not there.

    CACHE/NAME/KEY.entry     one line of JSON (SHA-256 and size of what follows), then the content
    CACHE/NAME/KEY.lock      held by the process that makes the entry; empty

A cache only saves time. So an entry that is damaged counts as absent, a folder that cannot be written is said once and
done without, and the folder may be deleted at any time. STDL_CACHE names another folder, STDL_CACHE_MIB another limit.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from stdl_export.common.config import read_json
from stdl_export.common.errors import BadInput
from stdl_export.common.files import atomic_file

log = logging.getLogger("stdl")

LIMIT_MIB = 4096
MAX_HEADER = 4096


def cache_root() -> Path:
    """STDL_CACHE, else this project's folder in the user's cache folder by the rules of the platform."""
    chosen = os.environ.get("STDL_CACHE")
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("stdl-toolchain", appauthor=False)


@dataclass(frozen=True)
class Store:
    """Entries of one kind. Keys are plain file names; whoever makes one hashes into it all that it depends on."""

    name: str

    @property
    def folder(self) -> Path:
        """Where the entries lie."""
        return cache_root() / self.name

    def get(self, key: str) -> bytes | None:
        """The content of an entry; None where there is none, or where it is not what was written."""
        path = self._path(key)
        try:
            raw = path.read_bytes()
        except OSError:
            return None
        content = _checked(raw)
        if content is None:
            log.warning("cache '%s' is damaged: it is made again", path)
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # the entries used least lately go first
        return content

    def put(self, key: str, content: bytes) -> None:
        """Keep an entry, and drop the oldest ones above the limit. A cache that cannot be written is a warning."""
        said = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
        path = self._path(key)
        try:
            with atomic_file(path) as part, part.open("wb") as file:
                file.write(json.dumps(said).encode() + b"\n")
                file.write(content)
            self._prune(path)
        except OSError as error:
            log.warning("cache '%s' cannot be written (%s): nothing is kept", path, error.strerror or error)
        except BadInput as error:
            log.warning("%s; nothing is dropped from the cache", error)

    @contextlib.contextmanager
    def locked(self, key: str, waiting: str) -> Iterator[None]:
        """Hold an entry for one process at a time; `waiting` is logged where another one has it.

        The system lets go of the lock of a process that was killed; what it left half-written is removed here.
        """
        import filelock

        lock = filelock.FileLock(self._path(key).with_suffix(".lock"))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                log.info(waiting)
                lock.acquire()
        except (OSError, NotImplementedError) as error:  # read-only, or a file system without locks
            log.warning("cache '%s' cannot be locked (%s): nothing is shared", self.folder, error)
            yield
            return
        try:
            for left in self.folder.glob(f".{key}.entry.*.part"):
                left.unlink(missing_ok=True)
            yield
        finally:
            lock.release()

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.entry"

    def _prune(self, newest: Path) -> None:
        """Drop the entries that were used least lately until the rest fits; never the one just written."""
        kept = newest.stat().st_size
        others = [(path.stat().st_mtime_ns, path) for path in self.folder.glob("*.entry") if path != newest]
        for _, path in sorted(others, reverse=True):
            kept += path.stat().st_size
            if kept > limit_bytes():
                path.unlink(missing_ok=True)


def limit_bytes() -> int:
    """How much one kind of entries may take on disk."""
    text = os.environ.get("STDL_CACHE_MIB", str(LIMIT_MIB))
    if not text.isascii() or not text.isdigit():
        raise BadInput(f"STDL_CACHE_MIB='{text:.40}': write a whole number of MiB")
    return int(text) << 20


def _checked(raw: bytes) -> bytes | None:
    head, newline, content = raw[:MAX_HEADER].partition(b"\n")
    content = raw[len(head) + 1 :]
    try:
        said = read_json(head.decode())
        good = bool(newline) and said["size"] == len(content)
        return content if good and said["sha256"] == hashlib.sha256(content).hexdigest() else None
    except (ValueError, RecursionError, KeyError, TypeError):
        return None
