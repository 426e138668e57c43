"""The user's cache folder: entries are whole or absent, the oldest go, and without it everything still works."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from stdl_export.common.errors import BadInput
from stdl_export.common.store import Store, limit_bytes

STORE = Store("things")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STDL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("STDL_CACHE_MIB", raising=False)


@pytest.mark.parametrize("content", [b"", b"\n\n\0", bytes(range(256)) * 40])
def test_what_is_put_is_what_is_got(content: bytes) -> None:
    assert STORE.get("a") is None
    STORE.put("a", content)
    assert STORE.get("a") == content
    STORE.put("a", content + b"!")
    assert STORE.get("a") == content + b"!"


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw[:-1],
        lambda raw: raw + b"x",
        lambda raw: raw[:-1] + b"x",
        lambda raw: b"",
        lambda raw: raw.replace(b"size", b"sise"),
        lambda raw: b"[]\n" + raw,
        lambda raw: b"\xff" * 5000,
        lambda raw: b"[" * 4000 + b"\n",
    ],
)
def test_a_damaged_entry_counts_as_absent_and_is_named(damage, caplog: pytest.LogCaptureFixture) -> None:
    STORE.put("a", b"content")
    path = STORE.folder / "a.entry"
    path.write_bytes(damage(path.read_bytes()))
    assert STORE.get("a") is None
    assert f"cache '{path}' is damaged" in caplog.text


def test_the_entries_used_least_lately_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    for number, key in enumerate("abc"):
        STORE.put(key, bytes(600_000))
        os.utime(STORE.folder / f"{key}.entry", (number, number))
    assert STORE.get("a") is not None  # used now
    monkeypatch.setenv("STDL_CACHE_MIB", "2")
    STORE.put("d", bytes(600_000))  # three of them fit in 2 MiB
    assert [key for key in "abcd" if STORE.get(key) is not None] == ["a", "c", "d"]
    monkeypatch.setenv("STDL_CACHE_MIB", "0")
    STORE.put("e", bytes(600_000))
    assert [key for key in "abcde" if STORE.get(key) is not None] == ["e"]


@pytest.mark.parametrize("text", ["", "-1", "1.5", "much"])
def test_a_limit_that_is_none(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("STDL_CACHE_MIB", text)
    with pytest.raises(BadInput, match="STDL_CACHE_MIB"):
        limit_bytes()
    STORE.put("a", b"content")
    assert STORE.get("a") == b"content"


def test_a_folder_that_cannot_be_written_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STDL_CACHE", str(tmp_path / "file"))
    with STORE.locked("a", "waiting"):
        STORE.put("a", b"content")
    assert STORE.get("a") is None
    assert "cannot be locked" in caplog.text
    assert "cannot be written" in caplog.text


def test_a_lock_is_for_one_at_a_time_and_the_other_waits(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "stdl")
    order: list[str] = []
    inside, waiting = threading.Event(), threading.Event()

    def second() -> None:
        inside.wait(10)
        waiting.set()
        with STORE.locked("a", "waiting for the first"):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with STORE.locked("a", "unheard"):
        inside.set()
        waiting.wait(10)
        while "waiting for the first" not in caplog.text:
            thread.join(0.01)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def test_a_killed_process_leaves_no_lock_and_no_half_entry() -> None:
    """It dies while it writes; whoever comes next sweeps up behind it."""
    code = (
        "import os, signal\n"
        "from stdl_export.common import store\n"
        "os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)\n"
        "kept = store.Store('things')\n"
        "with kept.locked('a', ''):\n"
        "    kept.put('a', b'content')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -9
    assert list(STORE.folder.glob(".a.entry.*.part"))
    assert STORE.get("a") is None
    with STORE.locked("a", "unheard"):
        assert not list(STORE.folder.glob(".a.entry.*.part"))
        STORE.put("a", b"content")
    assert STORE.get("a") == b"content"
