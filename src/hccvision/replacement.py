"""Several files of a folder that replace older ones all together."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hccvision.drafts import draft_folder
from hccvision.files import flush_all

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux


@contextmanager
def new_files(folder: str | os.PathLike[str], *, last: str) -> Iterator[Path]:
    """Fill a folder with files that replace older ones of their names all together; other files there stay.

    They are written to a hidden folder and flushed to the disk. Only when all are there, they replace the older ones:
    as a folder, in one act, unless other files are in it. Then the older ones are deleted and the new ones moved to
    their place, so that new and old are never mixed. If an exception leaves the ``with`` block, nothing has changed.

    Args:
        folder: the folder; it is created, with its parents, if it doesn't exist.
        last: name of the file that is deleted first and moved last: where it is, the others are too.

    Yields:
        The folder to write to.

    Raises:
        IsADirectoryError: if a folder has the name of one of the files.
        OSError: if the folder can't be written to.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with new_files(folder, last="a.txt") as draft:
        ...     _ = (draft / "a.txt").write_text("a")
        >>> [path.name for path in folder.iterdir()]
        ['a.txt']
    """
    target = Path(folder).resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = os.access(target.parent, os.W_OK) and not os.path.ismount(target) and not _is_in_use(target)
    if not beside:
        target.mkdir(exist_ok=True)
    with draft_folder(target.parent if beside else target) as scratch:
        draft = scratch / target.name
        draft.mkdir()
        yield draft
        flush_all(draft)
        names = {path.name for path in draft.iterdir()}
        if not beside or not _replace_folder(draft, target, names):
            _replace_files(draft, target, names, last)


def _is_in_use(folder: Path) -> bool:
    """Return whether the working folder of this process is the folder or in it."""
    try:
        return Path.cwd().is_relative_to(folder)
    except OSError:  # it was deleted
        return False


def _replace_folder(draft: Path, target: Path, names: set[str]) -> bool:
    """Put a folder in the place of another that has no other files; False if there are any, or it can't be done."""
    if not target.exists():
        draft.rename(target)
        return True
    if any(path.name not in names or path.is_dir() for path in target.iterdir()):
        return False
    shutil.copymode(target, draft)
    return _exchange(draft, target)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one act, where the system can."""
    if sys.platform != "linux":
        return False
    try:
        rename = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError):  # a C library without it
        return False
    return rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0


def _replace_files(draft: Path, target: Path, names: set[str], last: str) -> None:
    if folders := [name for name in names if (target / name).is_dir()]:
        raise IsADirectoryError(f"{target / folders[0]}: expected a file or nothing, this is a folder: rename it")
    order = sorted(names, key=lambda name: name != last)
    for name in order:
        (target / name).unlink(missing_ok=True)
    for name in reversed(order):
        os.replace(draft / name, target / name)
