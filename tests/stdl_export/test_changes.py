"""A change of a folder, stopped at each of its moments: the folder is the old one or the new one when it is opened."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from pathlib import Path

import pytest

from stdl_export.common import changes
from stdl_export.common.errors import BadInput

INDEX = "index"


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files a, b and c/d, and an index."""
    made = tmp_path / "net"
    (made / "c").mkdir(parents=True)
    for name in ("a", "b", "c/d", INDEX):
        (made / name).write_text(f"old {name}")
    return made


def change(folder: Path) -> None:
    """a and c/d are replaced, e/f is new."""
    with changes.changing(folder) as new:
        files = {}
        for name in ("a", "c/d", "e/f"):
            (new / name).parent.mkdir(exist_ok=True)
            (new / name).write_text(f"new {name}")
            files[name] = digest(f"new {name}")
        (new / INDEX).write_text(f"new {INDEX}")
        changes.commit(folder, INDEX, files)


def content(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


OLD = {name: f"old {name}" for name in ("a", "b", "c/d", INDEX)}
NEW = OLD | {name: f"new {name}" for name in ("a", "c/d", "e/f", INDEX)}


def beside(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.parent.iterdir() if path != folder)


def test_a_change_leaves_the_new_folder_and_nothing_beside_it(folder: Path) -> None:
    change(folder)
    assert (content(folder), beside(folder)) == (NEW, [])


def test_a_failure_leaves_the_old_folder_and_nothing_beside_it(folder: Path) -> None:
    def fail() -> None:
        with changes.changing(folder) as new:
            (new / "a").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (content(folder), beside(folder)) == (OLD, [])


def killed_at(folder: Path, calls: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """A change that ends at the `calls`-th rename, removal or sync, as a kill would; False where it is done before."""
    count = 0

    def stopping(call):
        def stop(*args, **kwargs):
            nonlocal count
            count += 1
            if count == calls:
                os._exit(7)  # a kill cleans nothing up, and the system frees the lock
            return call(*args, **kwargs)

        return stop

    with monkeypatch.context() as patch:
        for name in ("sync", "sync_tree"):
            patch.setattr(changes, name, stopping(getattr(changes, name)))
        for name in ("replace", "mkdir"):
            patch.setattr(Path, name, stopping(getattr(Path, name)))
        patch.setattr(shutil, "rmtree", stopping(shutil.rmtree))
        child = os.fork()
        if not child:
            try:
                change(folder)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (0, 7)
    return os.waitstatus_to_exitcode(status) == 7


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the process that is stopped is forked")
def test_stopped_anywhere_it_is_the_old_folder_or_the_new_one(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, ends = shutil.copytree(folder, tmp_path / "original"), []
    for calls in range(1, 100):
        if not killed_at(folder, calls, monkeypatch):
            break
        if (left := content(folder))[INDEX] == NEW[INDEX]:
            assert left == NEW, "the index names a file that is not there"
        changes.settle(folder)
        ends.append(content(folder))
        assert ends[-1] in (OLD, NEW), calls
        if (folder.parent / ".net.lock").exists():  # that of the killed process, which nobody holds
            (folder.parent / ".net.lock").unlink()
        assert beside(folder) == ["original"], calls
        shutil.rmtree(folder)
        shutil.copytree(original, folder)
    assert len(ends) > 12
    assert ends == sorted(ends, key=lambda end: end == NEW), "once the journal is written, it is always the new one"
    assert OLD in ends
    assert NEW in ends


def stopped(folder: Path, done: int) -> None:
    """What is there after a kill when `done` of the files had been renamed."""
    work = folder.parent / ".net.adding"
    journal = {"index": INDEX, "before": digest(f"old {INDEX}"), "after": digest(f"new {INDEX}"), "files": {}}
    for name in ("a", "c/d", "e/f"):
        journal["files"][name] = digest(f"new {name}")
    for at, name in enumerate([*journal["files"], INDEX]):
        target = folder / name if at < done else work / "new" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(f"new {name}")
    work.mkdir(exist_ok=True)
    (work / "journal.json").write_text(json.dumps(journal))


@pytest.mark.parametrize("done", range(5))
def test_what_was_begun_is_finished(folder: Path, done: int) -> None:
    stopped(folder, done)
    changes.settle(folder)
    assert (content(folder), beside(folder)) == (NEW, [])


def test_the_next_change_finishes_the_one_before(folder: Path) -> None:
    stopped(folder, 1)
    with changes.changing(folder):
        assert content(folder) == NEW


def test_a_file_that_is_lost_is_named_and_nothing_is_renamed(folder: Path) -> None:
    stopped(folder, 1)
    (folder.parent / ".net.adding" / "new" / "e" / "f").unlink()
    with pytest.raises(BadInput, match="an export into it was stopped, and its file 'e/f' is lost"):
        changes.settle(folder)
    assert (folder / "c/d").read_text() == "old c/d"


def test_a_changed_file_is_not_taken(folder: Path) -> None:
    stopped(folder, 1)
    (folder.parent / ".net.adding" / "new" / "e" / "f").write_text("another")
    with pytest.raises(BadInput, match="its file 'e/f' is lost"):
        changes.settle(folder)


def test_the_journal_of_a_folder_that_was_replaced_is_dropped(folder: Path) -> None:
    stopped(folder, 0)
    (folder / INDEX).write_text("a third one")
    changes.settle(folder)
    assert content(folder) == OLD | {INDEX: "a third one"}
    assert beside(folder) == []


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "c/../../evil"])
def test_a_journal_that_leads_out_of_the_folder(folder: Path, name: str) -> None:
    stopped(folder, 1)
    path = folder.parent / ".net.adding" / "journal.json"
    journal = json.loads(path.read_text())
    journal["files"][name] = digest("x")
    path.write_text(json.dumps(journal))
    with pytest.raises(BadInput, match="leads out of the folder"):
        changes.settle(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"index": "index"}', "[" * 100_000, "\xff"])
def test_what_is_no_journal_is_named(folder: Path, text: str) -> None:
    stopped(folder, 1)
    (folder.parent / ".net.adding" / "journal.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(BadInput, match=r"journal.json'"):
        changes.settle(folder)


@pytest.mark.parametrize("part", ["", "new", "journal.json"])
def test_links_are_not_followed(folder: Path, tmp_path: Path, part: str) -> None:
    stopped(folder, 1)
    linked = tmp_path / ".net.adding" / part
    shutil.move(linked, tmp_path / "elsewhere")
    linked.symlink_to(tmp_path / "elsewhere")
    before = content(tmp_path / "elsewhere") if part != "journal.json" else None
    changes.settle(folder)
    assert content(folder) == OLD | {"a": "new a"}
    if part == "":
        with pytest.raises(BadInput, match="is a file or a link"):
            change(folder)
    if before is not None:
        assert content(tmp_path / "elsewhere") == before


def test_changes_wait_for_each_other(folder: Path) -> None:
    """The second one begins when the first is done, and sees what it did; it is not lost where locks are removed."""
    seen, inside, together = [], 0, []

    def one(number: int) -> None:
        nonlocal inside
        with changes.changing(folder) as new:
            inside += 1
            together.append(inside)
            before = (folder / INDEX).read_text()
            seen.append(before)
            (new / INDEX).write_text(f"{before}+{number}")
            changes.commit(folder, INDEX, {})
            inside -= 1

    threads = [threading.Thread(target=one, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(together) == {1}
    assert sorted(seen, key=len) == seen
    assert (folder / INDEX).read_text().count("+") == 12
    assert beside(folder) == []


def test_reading_does_not_wait_for_a_change_that_is_being_prepared(folder: Path) -> None:
    with changes.changing(folder) as new:
        (new / "a").write_text("half")
        changes.settle(folder)
        assert (new / "a").exists()
    assert content(folder) == OLD


def test_a_folder_that_cannot_be_changed_is_read_all_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy on a read-only disk: what lies beside it stays; what was begun is said."""

    def read_only(*args: object) -> int:
        raise OSError(30, "Read-only file system", str(folder.parent / ".net.lock"))

    (folder.parent / ".net.adding" / "new").mkdir(parents=True)
    monkeypatch.setattr(changes.os, "open", read_only)
    changes.settle(folder)
    stopped(folder, 1)
    with pytest.raises(BadInput, match="to finish it failed: Read-only file system"):
        changes.settle(folder)


def test_where_nothing_can_be_written_beside_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes.os, "access", lambda path, mode: path != folder.parent)
    with pytest.raises(BadInput, match=r"new files come beside it first, and '.*' is read-only"):
        change(folder)
    assert (content(folder), beside(folder)) == (OLD, [])


def test_a_folder_where_a_file_system_is_mounted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rename would not do there."""
    monkeypatch.setattr(Path, "is_mount", lambda path: path == folder)
    with pytest.raises(BadInput, match="is where a file system is mounted: mount the folder above it"):
        change(folder)
