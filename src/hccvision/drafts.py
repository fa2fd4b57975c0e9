"""Temporary files and folders beside their targets, and the removal of those that a killed process left."""

from __future__ import annotations

import os
import platform
import re
import shutil
import time
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_HOST = f"{zlib.crc32(platform.node().encode()):08x}"  # process ids mean nothing on another host
_NAME = re.compile(r"\.hccvision-([0-9a-f]{8})-(\d+)-[0-9a-f]{32}\.tmp")
_MINUTE, _DAY = 60.0, 24 * 3600.0
_swept: dict[str, float] = {}


def is_draft(path: Path) -> bool:
    """Return whether a name is one that `draft_file` or `draft_folder` gives.

    Args:
        path: of a file or folder.

    Returns:
        Whether it is; ``.x.tmp`` is not.

    Example:
        >>> is_draft(Path(f".hccvision-0123abcd-99-{'0' * 32}.tmp")), is_draft(Path(".x.tmp"))
        (True, False)
    """
    return _NAME.fullmatch(path.name) is not None


@contextmanager
def draft_file(folder: Path) -> Iterator[Path]:
    """Create an empty file with a new name, and delete it at the end if it is still there.

    Args:
        folder: of the file.

    Yields:
        The path.

    Raises:
        OSError: if the folder can't be written to.
    """
    sweep(folder)
    path = _new_name(folder)
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield path
    finally:
        delete(path)


@contextmanager
def draft_folder(parent: Path) -> Iterator[Path]:
    """Create a folder with a new name, and delete it at the end with all that is in it.

    Args:
        parent: of the folder.

    Yields:
        The path.

    Raises:
        OSError: if the parent folder can't be written to.
    """
    path = new_draft_folder(parent)
    try:
        yield path
    finally:
        delete(path)


def new_draft_folder(parent: Path) -> Path:
    """Create a folder with a new name, for a caller that deletes it; a later sweep does if the process is killed.

    Args:
        parent: of the folder.

    Returns:
        The path.

    Raises:
        OSError: if the parent folder can't be written to.
    """
    sweep(parent)
    path = _new_name(parent)
    path.mkdir()
    return path


def sweep(folder: Path, *, pause: float = _MINUTE) -> None:
    """Delete abandoned drafts; other files and links stay.

    A draft is abandoned if its process, of this host, no longer exists and nothing in it has changed for a minute, or,
    for any host, for a day.

    Args:
        folder: to look into, at most once in that time.
        pause: seconds, instead of a minute.
    """
    place, now = os.path.abspath(folder), time.time()
    if now - _swept.get(place, 0.0) < pause:
        return
    _swept[place] = now
    with suppress(OSError):
        for entry in os.scandir(place):
            if _NAME.fullmatch(entry.name) and not entry.is_symlink() and _is_abandoned(Path(entry.path), now, pause):
                delete(Path(entry.path))


def delete(path: Path) -> None:
    """Delete a draft, a file or a folder, as far as that is possible.

    Args:
        path: of the draft.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


@contextmanager
def named_after(target: Path, draft: Path | None = None) -> Iterator[None]:
    """Let errors name the target of a draft: they would name the hidden draft, or nothing.

    Args:
        target: what the draft is for.
        draft: its path, once there is one.

    Example:
        >>> with named_after(Path("a.txt")):
        ...     raise OSError(28, "No space left on device")
        Traceback (most recent call last):
        ...
        OSError: [Errno 28] No space left on device: 'a.txt'
    """
    hidden = "\0" if draft is None else str(draft)
    try:
        yield
    except Exception as error:
        error.args = tuple(a.replace(hidden, str(target)) if isinstance(a, str) else a for a in error.args)
        if isinstance(error, OSError) and error.errno is not None:
            if error.filename is None or is_draft(Path(os.fsdecode(error.filename))):
                error.filename = str(target)
                del error.filename2
            for name in ("filename", "filename2"):
                path = getattr(error, name)
                if isinstance(path, str):
                    setattr(error, name, path.replace(hidden, str(target)))
        raise


def _new_name(folder: Path) -> Path:
    return folder / f".hccvision-{_HOST}-{os.getpid()}-{uuid.uuid4().hex}.tmp"


def _is_abandoned(path: Path, now: float, pause: float) -> bool:
    import psutil

    found = _NAME.fullmatch(path.name)
    age = now - max(each.lstat().st_mtime for each in (path, *path.rglob("*")))
    ended = found is not None and found[1] == _HOST and not psutil.pid_exists(int(found[2]))
    return age > (pause if ended else _DAY)
