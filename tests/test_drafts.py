"""Drafts of files and folders: unique, never in the way of a file of somebody else's, gone after a kill."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hccvision import drafts
from hccvision.drafts import draft_file, draft_folder, is_draft, sweep
from hccvision.files import new_folder, write_atomically, write_text
from hccvision.replacement import new_files, put_back

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="fcntl and SIGKILL are not on Windows")

HOLDER = """
import sys, time
from pathlib import Path
from hccvision.drafts import draft_file, draft_folder
folder = Path(sys.argv[1])
with draft_file(folder) as file, draft_folder(folder) as inner:
    (inner / "a.txt").write_text("half")
    print("ready", flush=True)
    time.sleep(600)
"""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def holder(tmp_path):
    """A process that holds a draft of a file and one of a folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def age(folder, seconds):
    """Let all that is in a folder be older, and the next sweep look at it."""
    for path in folder.rglob("*"):
        os.utime(path, (time.time() - seconds,) * 2, follow_symlinks=False)
    drafts._swept.clear()


@POSIX
def test_drafts_of_a_killed_process_go_after_a_minute_and_those_in_use_stay(tmp_path, holder):
    (tmp_path / ".x.tmp").write_text("the user's")
    there = names(tmp_path)
    assert sum(is_draft(Path(name)) for name in there) == 2
    age(tmp_path, 3600)
    sweep(tmp_path)
    assert names(tmp_path) == there
    holder.kill()
    holder.wait()
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    (folder / "a.txt").write_text("more")  # by a process of another container, that can't be seen here
    age(folder, 30)
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir() if is_draft(path)] == [folder.name]
    age(tmp_path, 61)
    write_text(tmp_path / "b.txt", "b")
    assert names(tmp_path) == [".x.tmp", "b.txt"]


def test_drafts_of_another_host_go_when_they_are_a_day_old(tmp_path):
    path = tmp_path / f".hccvision-0123abcd-4194999-{'a' * 32}.tmp"
    path.write_text("half")
    for hours, there in ((23, True), (25, False)):
        age(tmp_path, hours * 3600)
        sweep(tmp_path)
        assert path.exists() == there


def test_a_folder_is_swept_once_a_minute(tmp_path, monkeypatch):
    drafts._swept.clear()
    looked = []
    real = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: looked.append(path) or real(path))
    for _ in range(3):
        sweep(tmp_path)
    assert len(looked) == 1


@POSIX
def test_a_link_with_the_name_of_a_draft_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    link = tmp_path / f".hccvision-0123abcd-1-{'0' * 32}.tmp"
    link.symlink_to(tmp_path / "mine.txt")
    age(tmp_path, 1e6)
    sweep(tmp_path)
    assert link.is_symlink()
    assert (tmp_path / "mine.txt").read_text() == "mine"


@POSIX
def test_a_draft_follows_no_link(tmp_path, monkeypatch):
    (tmp_path / "mine.txt").write_text("mine")
    name = tmp_path / f".hccvision-0123abcd-1-{'0' * 32}.tmp"
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
def test_a_folder_of_older_files_stays_where_it_is(inside, tmp_path, monkeypatch):
    folder = tmp_path / "report"
    for text in ("old", "new"):
        if inside and folder.exists():
            monkeypatch.chdir(folder)
        with new_files("." if inside and folder.exists() else folder, last="a.txt") as draft:
            for name in ("a.txt", "b.txt"):
                (draft / name).write_text(text)
            assert {path.read_text() for path in folder.glob("*.txt")} <= {"old"}
        assert {path.name: path.read_text() for path in folder.iterdir()} == {"a.txt": text, "b.txt": text}
        assert names(tmp_path) == ["report"]


@pytest.mark.parametrize("meanwhile", [False, True])
def test_files_are_added_without_replacing_any_or_not_at_all(meanwhile, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")

    def fill():
        with new_files(tmp_path, last="a.txt", overwrite=False) as draft:
            for name in ("a.txt", "b.txt"):
                (draft / name).write_text("ours")
            if meanwhile:
                (tmp_path / "a.txt").write_text("theirs")

    if meanwhile:
        with pytest.raises(FileExistsError, match=r"a.txt: the file exists"):
            fill()
        assert names(tmp_path) == ["a.txt", "mine.txt"]
        assert (tmp_path / "a.txt").read_text() == "theirs"
    else:
        fill()
        assert names(tmp_path) == ["a.txt", "b.txt", "mine.txt"]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("move", range(8))
def test_a_folder_whose_replacement_was_killed_at_any_move_is_put_back(move, tmp_path, monkeypatch):
    for name in ("a.txt", "b.txt", "mine.txt"):
        (tmp_path / name).write_text("old")
    moves = iter(range(100))

    def killed(*_):
        raise Killed

    def fill(text):
        with new_files(tmp_path, last="a.txt") as draft:
            for name in ("a.txt", "b.txt", "c.txt"):
                (draft / name).write_text(text)

    def counted(real):
        return lambda *paths: real(*paths) if next(moves) < move else killed()

    with monkeypatch.context() as broken:  # from the fatal move on, nothing is done any more
        broken.setattr(os, "replace", counted(os.replace))
        broken.setattr(Path, "rename", counted(Path.rename))
        broken.setattr("hccvision.replacement.put_back", lambda folder: None)
        with contextlib.suppress(Killed):
            fill("new")
    put_back(tmp_path)
    found = {path.name: path.read_text() for path in tmp_path.iterdir()}
    older = {"a.txt": "old", "b.txt": "old", "mine.txt": "old"}
    assert found == (older if move < 7 else {"a.txt": "new", "b.txt": "new", "c.txt": "new", "mine.txt": "old"})
    fill("newer")
    assert names(tmp_path) == ["a.txt", "b.txt", "c.txt", "mine.txt"]
