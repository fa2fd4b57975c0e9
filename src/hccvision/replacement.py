"""Several files of a folder that replace older ones all together."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hccvision.drafts import draft_folder, named_after
from hccvision.files import flush_all, new_folder, put

ASIDE = ".hccvision-replaced"  # folder of the older files while the new ones take their places
_ABSENT = ".absent"  # in it: the names that no older file had


@contextmanager
def new_files(folder: str | os.PathLike[str], *, last: str, overwrite: bool = True) -> Iterator[Path]:
    """Fill a folder with files that replace older ones of their names all together; other files there stay.

    The files are written to a hidden folder and flushed to the disk. Then the older ones are moved aside, the new ones
    to their places, and the older ones deleted. After an error the folder is as it was. A process that is killed during
    the moves leaves the older files aside; the next call, or `put_back`, moves them back.

    Args:
        folder: the folder; it is created, with its parents, if it doesn't exist.
        last: name of the file that is moved aside first and to its place last: where it is, the others are too.
        overwrite: False never replaces a file, not even one that appears meanwhile.

    Yields:
        The folder to write to.

    Raises:
        FileExistsError: if there is a file of one of the names and ``overwrite`` is False.
        IsADirectoryError: if a folder has the name of one of the files.
        OSError: if the folder can't be written to.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for text in ("old", "new"):
        ...     with new_files(folder, last="a.txt") as draft:
        ...         _ = (draft / "a.txt").write_text(text)
        >>> [(path.name, path.read_text()) for path in folder.iterdir()]
        [('a.txt', 'new')]
    """
    target = Path(folder)
    if not target.exists():
        with new_folder(target) as draft:
            yield draft
        return
    put_back(target)
    with draft_folder(target) as scratch, named_after(target, scratch / "new"):
        draft = scratch / "new"
        draft.mkdir()
        yield draft
        flush_all(draft)
        names = sorted((path.name for path in draft.iterdir()), key=lambda name: name == last)
        (_replace if overwrite else _add)(scratch, target, names)


def put_back(folder: Path) -> None:
    """Move the older files back to their places after a process was killed while it replaced them.

    Args:
        folder: that `new_files` filled; nothing is done if nothing is aside.

    Raises:
        OSError: if the folder can't be written to.
    """
    aside = folder / ASIDE
    if not (aside / _ABSENT).is_file():
        return
    for name in json.loads((aside / _ABSENT).read_text(encoding="utf-8")):
        (folder / Path(name).name).unlink(missing_ok=True)
    for path in aside.iterdir():
        if path.name != _ABSENT:
            os.replace(path, folder / path.name)
    (aside / _ABSENT).unlink()
    aside.rmdir()


def _add(scratch: Path, target: Path, names: list[str]) -> None:
    """Move files to a folder, all or none of them."""
    done: list[Path] = []
    try:
        for name in names:
            put(scratch / "new" / name, target / name)
            done.append(target / name)
    except BaseException:
        for path in done:
            path.unlink(missing_ok=True)
        raise


def _replace(scratch: Path, target: Path, names: list[str]) -> None:
    if folders := [name for name in names if (target / name).is_dir()]:
        raise IsADirectoryError(f"{target / folders[0]}: expected a file or nothing, this is a folder: rename it")
    older = [name for name in names if os.path.lexists(target / name)]
    (scratch / "old").mkdir()
    (scratch / "old" / _ABSENT).write_text(json.dumps([n for n in names if n not in older]), encoding="utf-8")
    flush_all(scratch / "old")
    aside = (scratch / "old").rename(target / ASIDE)
    try:
        for name in reversed(older):
            os.replace(target / name, aside / name)
        for name in names:
            os.replace(scratch / "new" / name, target / name)
    except BaseException:
        put_back(target)
        raise
    aside.rename(scratch / "old")  # from now on there is nothing to put back
