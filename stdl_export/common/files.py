"""Files that are whole or absent, hashes, and paths that stay inside their folder."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from stdl_export.common.errors import BadInput

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a disk, a quota or a file that is full."""


@contextlib.contextmanager
def atomic_file(path: Path, keep: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it onto `path` when the block succeeds, remove it when it fails.

    keep: where the file that `path` was before goes, in the same folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    part = Path(name)
    try:
        yield part
        _keep_umask(part, 0o666)
        sync(part)
        if keep is not None and path.exists():
            path.replace(keep)
        part.replace(path)
        sync(path.parent)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in FULL:
            error.filename = str(path)  # a write that fails does not say where
        raise


def remove_parts(folder: Path) -> None:
    """Remove what a killed process left behind in a folder: temporary files of `atomic_file`."""
    for part in folder.glob(".*.part"):
        if part.is_file() and not part.is_symlink():
            part.unlink(missing_ok=True)  # another process that resumes may have been first


def require_writable(path: Path) -> None:
    """Refuse an output file that could not be written, before the work for it begins; nothing is made yet."""
    if path.is_dir():
        raise BadInput(f"'{path}' is a folder: name a file in it")
    try:
        with tempfile.TemporaryFile(dir=next(folder for folder in path.absolute().parents if folder.exists())):
            pass
    except (FileExistsError, NotADirectoryError):
        raise BadInput(f"'{path}' cannot be written, since its folder is a file: choose another path") from None
    except OSError as error:
        raise BadInput(f"'{path}' cannot be written: {error.strerror}; choose another path") from None


def require_empty(path: Path) -> None:
    """Refuse an output folder that already holds something: nothing of the user's is overwritten."""
    if path.is_symlink() or path.is_file():
        raise BadInput(f"output folder '{path}' is a file or a link: choose another --out")
    if path.is_dir() and any(path.iterdir()):
        raise BadInput(f"output folder '{path}' is not empty: choose another --out or empty it first")


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as lower-case hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def inside(folder: Path, name: str) -> Path:
    """The path of `name` in `folder`; refuses absolute names, `..` and links that lead out of the folder."""
    pure = PurePosixPath(name)
    if not name.isprintable():  # control characters, lone surrogates
        raise BadInput(f"file name {name!a} in '{folder}' is not a plain name: it was refused")
    if not name or "\0" in name or "\\" in name or pure.is_absolute() or ".." in pure.parts:
        raise BadInput(f"file name '{name}' in '{folder}' leads out of the folder: it was refused")
    path = folder / pure
    try:
        real = path.resolve()
    except (OSError, RuntimeError):  # which of the two, and whether at all, differs from one Python to the next
        raise BadInput(f"file '{name}' in '{folder}' is a link to itself: it was refused") from None
    if not real.is_relative_to(folder.resolve()):
        raise BadInput(f"file '{name}' in '{folder}' is a link out of the folder: it was refused")
    return path


def size_text(size: int) -> str:
    """A number of bytes as people read it."""
    return f"{size / 1024:.1f} KiB" if size < 1 << 20 else f"{size / (1 << 20):.1f} MiB"


def _keep_umask(path: Path, mode: int) -> None:
    """Temporary files are private; give the finished one the permissions that the user's umask asks for."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(mode & ~mask)


def sync_tree(folder: Path) -> None:
    """Flush every file in a folder, and the folders."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            sync(path)


def sync(path: Path) -> None:
    """Flush to disk before the rename, so that a crash leaves the old file or the new one, never an empty one."""
    handle = os.open(path, os.O_RDONLY)  # a folder too: a rename is an entry in it
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
