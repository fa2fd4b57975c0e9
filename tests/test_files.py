import hashlib
import io
import os
import re
import shutil
from pathlib import Path

import pytest

from hccvision.files import file_sha256, new_folder, require_empty, write_atomically, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def broken(*paths):
    raise OSError("disk full")


def test_a_file_is_replaced_whole_and_the_old_one_can_be_kept(tmp_path):
    path = tmp_path / "a.txt"
    assert write_text(str(path), "one") == path
    assert write_atomically(path, lambda p: p.write_text("two"), keep=tmp_path / "old.txt") == path
    assert (path.read_text(), (tmp_path / "old.txt").read_text()) == ("two", "one")
    assert names(tmp_path) == ["a.txt", "old.txt"]
    write_atomically(tmp_path / "new.txt", lambda p: p.write_text("new"), keep=tmp_path / "none.txt")
    assert not (tmp_path / "none.txt").exists()


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch, step):
    path = write_text(tmp_path / "a.txt", "old")
    if step != "write":
        monkeypatch.setattr(os, step, broken)

    def write(partial: Path) -> None:
        partial.write_text("new")
        if step == "write":
            broken()

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, write)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_content_reaches_the_disk_before_the_name(tmp_path, monkeypatch):
    done = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, name=name, real=real: (done.append(name), real(*a))[1])
    write_text(tmp_path / "a.txt", "a")
    assert done == ["fsync", "replace"]
    write_atomically(tmp_path / "a.txt", lambda p: p.write_text("b"), flush=False)
    assert done[2:] == ["replace"]


def test_text_is_utf8_with_the_line_ends_given(tmp_path):
    assert write_text(tmp_path / "a.txt", "5 ×\r\n\n").read_bytes() == b"5 \xc3\x97\r\n\n"
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "b.txt", "\udc80")
    assert write_text(tmp_path / "b.txt", "\udc80", errors="replace").read_bytes() == b"?"


def test_the_hash_of_a_file_and_of_an_open_one(tmp_path):
    content = os.urandom(3_000_000)
    (tmp_path / "a").write_bytes(content)
    wanted = hashlib.sha256(content).hexdigest()
    assert file_sha256(tmp_path / "a") == file_sha256(str(tmp_path / "a")) == file_sha256(io.BytesIO(content)) == wanted
    with pytest.raises(FileNotFoundError):
        file_sha256(tmp_path / "gone")


def test_only_new_and_empty_folders_pass(tmp_path):
    (tmp_path / "full").mkdir()
    file = write_text(tmp_path / "full" / "a.txt", "a")
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "new/deep"):
        assert require_empty(tmp_path / folder) == tmp_path / folder
    assert not (tmp_path / "new").exists()
    for path in (tmp_path / "full", file):
        with pytest.raises(FileExistsError, match=f"{path.name}: expected a new or empty folder"):
            require_empty(path)
        with pytest.raises(FileExistsError, match="expected a new or empty folder"), new_folder(path):
            pass
    assert file.read_text() == "a"


@pytest.mark.parametrize("existing", [True, False])
def test_a_folder_appears_whole(tmp_path, existing):
    target = tmp_path / "deep" / "data"
    if existing:
        target.mkdir(parents=True)
    with new_folder(target) as draft:
        (draft / "sub").mkdir()
        (draft / "sub" / "a.txt").write_text("a")
        assert draft.name == "data"
        assert [path for path in target.parent.iterdir() if not path.name.startswith(".")] == [target] * existing
    assert (target / "sub" / "a.txt").read_text() == "a"
    assert names(target.parent) == ["data"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_folder_that_fails_leaves_nothing(tmp_path, error):
    def fill() -> None:
        with new_folder(tmp_path / "data") as draft:
            (draft / "a.txt").write_text("a")
            raise error

    with pytest.raises(error):
        fill()
    assert names(tmp_path) == []


def test_errors_name_the_target_and_never_a_hidden_draft(tmp_path):
    def full(path):
        raise OSError(28, "No space left on device")

    cases = {
        "a.txt": lambda: write_atomically(tmp_path / "a.txt", full),
        "missing/a.txt": lambda: write_text(tmp_path / "missing" / "a.txt", "a"),
        "new/b.txt": lambda: fill(lambda draft: (draft / "b.txt").read_text()),
        "new/c.txt": lambda: fill(lambda draft: shutil.copyfile(draft / "none", draft / "c.txt")),
        "new": lambda: fill(full),
        "new: bad": lambda: fill(lambda draft: int(f"{draft}: bad")),
    }

    def fill(act):
        with new_folder(tmp_path / "new") as draft:
            (draft / "none").touch()
            if act is full:
                act(draft)
            (draft / "c.txt").mkdir()
            act(draft)

    for named, act in cases.items():
        with pytest.raises((OSError, ValueError), match=re.escape(str(tmp_path / named))) as caught:
            act()
        assert ".hccvision-" not in str(caught.value)
        assert names(tmp_path) == []


def test_a_mounted_or_the_working_folder_is_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match="write to a new folder in it"), new_folder("."):
        pytest.fail("the work was begun")
    monkeypatch.setattr(Path, "is_mount", lambda path: path.name == "disk")
    (tmp_path / "disk").mkdir()
    with pytest.raises(OSError, match="write to a new folder in it"), new_folder("disk"):
        pytest.fail("the work was begun")
