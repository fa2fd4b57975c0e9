"""Drafts of files and folders: unique, never in the way of a file of somebody else's, gone after a kill."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hccvision import drafts
from hccvision.drafts import FolderLock, draft_file, draft_folder, is_draft, sweep
from hccvision.files import new_folder, write_atomically, write_text
from hccvision.replacement import new_files

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="fcntl and SIGKILL are not on Windows")

HOLDER = """
import sys, time
from pathlib import Path
from hccvision.drafts import FolderLock, draft_file, draft_folder
folder = Path(sys.argv[1])
with draft_file(folder) as file, draft_folder(folder) as inner:
    (inner / "a.txt").write_text("half")
    lock = FolderLock(folder)
    print("ready", flush=True)
    time.sleep(600)
"""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def holder(tmp_path):
    """A process that holds a draft of a file, one of a folder and a lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


@POSIX
def test_drafts_of_a_killed_process_go_and_those_in_use_stay(tmp_path, holder):
    (tmp_path / ".x.tmp").write_text("the user's")
    there = names(tmp_path)
    assert sum(is_draft(Path(name)) for name in there) == 2
    sweep(tmp_path, pause=0)
    assert names(tmp_path) == there
    with pytest.raises(BlockingIOError):
        FolderLock(tmp_path)
    holder.kill()
    holder.wait()
    FolderLock(tmp_path).release()
    drafts._swept.clear()
    write_text(tmp_path / "b.txt", "b")
    assert names(tmp_path) == [".x.tmp", "b.txt"]


def test_drafts_of_another_host_go_when_they_are_a_day_old(tmp_path):
    old, new = (tmp_path / f".0123abcd-{letter * 32}.tmp" for letter in "ab")
    for path in (old, new):
        path.write_text("half")
    os.utime(old, (time.time() - 25 * 3600,) * 2)
    sweep(tmp_path, pause=0)
    assert names(tmp_path) == [new.name]


@POSIX
def test_a_link_with_the_name_of_a_draft_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    link = tmp_path / f".{'0' * 32}.tmp"
    link.symlink_to(tmp_path / "mine.txt")
    sweep(tmp_path, pause=0)
    assert link.is_symlink()
    assert (tmp_path / "mine.txt").read_text() == "mine"


@POSIX
def test_a_draft_follows_no_link(tmp_path, monkeypatch):
    (tmp_path / "mine.txt").write_text("mine")
    name = tmp_path / f".{'0' * 32}.tmp"
    name.symlink_to(tmp_path / "mine.txt")
    monkeypatch.setattr(drafts, "_new_name", lambda folder: name)
    with pytest.raises(FileExistsError):
        write_text(tmp_path / "a.txt", "a")
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_draft_is_deleted_at_the_end_whatever_it_holds(tmp_path):
    with draft_folder(tmp_path) as folder, draft_file(tmp_path) as file:
        (folder / "sub").mkdir()
        (folder / "sub" / "a").write_text("a")
        assert file.is_file()
    assert names(tmp_path) == []


def test_a_lock_ends_with_its_release(tmp_path):
    lock = FolderLock(tmp_path)
    with pytest.raises(BlockingIOError):
        FolderLock(tmp_path)
    lock.release()
    lock.release()
    FolderLock(tmp_path).release()


@POSIX
def test_a_forked_process_does_not_prolong_a_lock(tmp_path):
    lock = FolderLock(tmp_path)
    child = os.fork()
    if child == 0:
        time.sleep(5)
        os._exit(0)
    lock.release()
    try:
        end = time.monotonic() + 3
        while True:  # until the child has closed its copy
            try:
                FolderLock(tmp_path).release()
                break
            except BlockingIOError:
                assert time.monotonic() < end
                time.sleep(0.01)
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_while_another_is_written_is_never_replaced(links, tmp_path, monkeypatch):
    if not links:  # as on a FAT stick
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(1, "Operation not permitted")))
    path = tmp_path / "a.xml"

    def write(partial):
        partial.write_text("ours")
        path.write_text("a human's")

    with pytest.raises(FileExistsError, match=r"a.xml: the file exists: write elsewhere, or pass overwrite=True"):
        write_atomically(path, write, overwrite=False)
    assert path.read_text() == "a human's"
    assert names(tmp_path) == ["a.xml"]
    assert write_text(tmp_path / "b.xml", "ours", overwrite=False).read_text() == "ours"
    (tmp_path / "c.xml").symlink_to(tmp_path / "gone")
    with pytest.raises(FileExistsError, match="the file exists"):
        write_text(tmp_path / "c.xml", "ours", overwrite=False)
    assert names(tmp_path) == ["a.xml", "b.xml", "c.xml"]


@pytest.mark.parametrize("links", [True, False])
def test_of_many_writers_exactly_one_wins(links, tmp_path, monkeypatch):
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(95, "Operation not supported")))
    for number in range(20):
        path, won, start = tmp_path / f"{number}.txt", [], threading.Barrier(4)

        def write(text, path=path, won=won, start=start):
            start.wait()
            try:
                write_text(path, text, overwrite=False)
                won.append(text)
            except FileExistsError:
                pass

        threads = [threading.Thread(target=write, args=(str(i),)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert won == [path.read_text()]
    assert len(names(tmp_path)) == 20


def test_files_that_replace_others_all_together(tmp_path):
    for name in ("a.txt", "b.txt", "mine.txt"):
        (tmp_path / name).write_text("old")

    def fill(*, fails):
        with new_files(tmp_path, last="a.txt") as draft:
            for name in ("a.txt", "b.txt"):
                (draft / name).write_text("new")
            if fails:
                raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fill(fails=True)
    assert {path.read_text() for path in tmp_path.iterdir()} == {"old"}
    fill(fails=False)
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a.txt": "new", "b.txt": "new", "mine.txt": "old"}
    (tmp_path / "b.txt").unlink()
    (tmp_path / "b.txt").mkdir()
    with pytest.raises(IsADirectoryError, match=r"b.txt: expected a file or nothing"):
        fill(fails=False)
    assert names(tmp_path) == ["a.txt", "b.txt", "mine.txt"]


def test_a_folder_that_another_process_fills_meanwhile_stays_as_it_is(tmp_path):
    def fill():
        with new_folder(tmp_path / "data") as draft:
            (draft / "a.txt").write_text("ours")
            (tmp_path / "data").mkdir()
            (tmp_path / "data" / "a.txt").write_text("theirs")

    with pytest.raises(FileExistsError, match="expected a new or empty folder"):
        fill()
    assert (tmp_path / "data" / "a.txt").read_text() == "theirs"
    assert names(tmp_path) == ["data"]


@pytest.mark.parametrize("inside", [False, True])
def test_a_folder_of_older_files_only_is_exchanged_in_one_act(inside, tmp_path, monkeypatch):
    folder = tmp_path / "report"
    for text in ("old", "new"):
        if inside and folder.exists():
            monkeypatch.chdir(folder)  # the working folder stays where it is
        with new_files(folder, last="a.txt") as draft:
            for name in ("a.txt", "b.txt"):
                (draft / name).write_text(text)
            assert {path.read_text() for path in folder.glob("*.txt")} <= {"old"}
        assert {path.name: path.read_text() for path in folder.iterdir()} == {"a.txt": text, "b.txt": text}
        assert names(tmp_path) == ["report"]
    if inside:
        assert Path("a.txt").read_text() == "new"
