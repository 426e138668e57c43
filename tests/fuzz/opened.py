"""Which files a process opens: by Python, seen by an audit hook, and by C libraries, seen by the kernel (inotify)."""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from pathlib import Path
from typing import Any

IN_OPEN = 0x20


class Watch:
    """Notes every file that this process opens outside of the given folders, from now on; it cannot be taken back.

    Python's own files and those of the system's libraries are no matter. guarded: files and folders that the kernel
    watches, since what a C library opens passes Python by; of a folder the names in it are noted.
    """

    def __init__(self, allowed: list[Path], guarded: list[Path]) -> None:
        self._allowed = [os.path.realpath(path) for path in allowed]
        self._guarded: dict[int, Path] = {}
        self.found: list[str] = []
        libc = ctypes.CDLL(None, use_errno=True)
        self._kernel = libc.inotify_init1(os.O_NONBLOCK)
        for path in guarded:
            number = libc.inotify_add_watch(self._kernel, os.fsencode(path), IN_OPEN)
            if number < 0:
                raise OSError(ctypes.get_errno(), "inotify", str(path))
            self._guarded[number] = path
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(args[0], (str, bytes)):
            path = os.path.realpath(os.fsdecode(args[0]))  # a link out counts as what it leads to
            if not any(path == each or path.startswith(each + os.sep) for each in self._allowed):
                self.found.append(path)

    def opened(self) -> list[str]:
        """What was opened and should not have been."""
        try:
            events = os.read(self._kernel, 1 << 20)
        except BlockingIOError:
            events = b""
        at = 0
        while at < len(events):
            number, _, _, length = struct.unpack_from("iIII", events, at)
            name = events[at + 16 : at + 16 + length].rstrip(b"\0")
            self.found.append(str(self._guarded[number] / os.fsdecode(name)))
            at += 16 + length
        return self.found
