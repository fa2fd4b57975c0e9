"""Temporary files and folders, cleaned up after a process that was killed; and a lock on a folder."""

from __future__ import annotations

import errno
import os
import platform
import re
import shutil
import time
import uuid
import weakref
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"  # of a folder, where the folder itself can't be locked

_HOST = f"{zlib.crc32(platform.node().encode()):08x}"  # locks of other hosts may not be seen here
_DRAFT = re.compile(r"\.(?:([0-9a-f]{8})-)?[0-9a-f]{32}\.tmp")
_OLD = 24 * 3600.0  # seconds after which a draft that can't be locked here is abandoned
_PAUSE = 1.0  # seconds between two looks for abandoned drafts in a folder
_swept: dict[str, float] = {}


def is_draft(path: Path) -> bool:
    """Return whether a name is one that `draft_file` or `draft_folder` gives.

    Args:
        path: of a file or folder.

    Returns:
        Whether it is; ``.x.tmp`` is not.

    Example:
        >>> is_draft(Path(f".{'0a' * 16}.tmp")), is_draft(Path(".x.tmp"))
        (True, False)
    """
    return _DRAFT.fullmatch(path.name) is not None


@contextmanager
def draft_file(folder: Path) -> Iterator[Path]:
    """Create an empty file with a new name, and delete it at the end if it is still there.

    Args:
        folder: of the file. Drafts that killed processes left there are deleted.

    Yields:
        The path.

    Raises:
        OSError: if the folder can't be written to.
    """
    sweep(folder)
    while True:
        path = _new_name(folder)
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        if _own(handle, path):
            break
        os.close(handle)
    if fcntl is None:
        os.close(handle)  # Windows doesn't rename open files
    try:
        yield path
    finally:
        delete(path)
        if fcntl is not None:
            os.close(handle)


@contextmanager
def draft_folder(parent: Path) -> Iterator[Path]:
    """Create a folder with a new name, and delete it at the end with all that is in it.

    Args:
        parent: of the folder. Drafts that killed processes left there are deleted.

    Yields:
        The path.

    Raises:
        OSError: if the parent folder can't be written to.
    """
    sweep(parent)
    handle = None
    while True:
        path = _new_name(parent)
        path.mkdir(0o700)
        if fcntl is None:
            break
        handle = os.open(path, os.O_RDONLY)
        if _own(handle, path):
            break
        os.close(handle)
    try:
        yield path
    finally:
        delete(path)
        if handle is not None:
            os.close(handle)


def sweep(folder: Path, *, pause: float = _PAUSE) -> None:
    """Delete the drafts of processes that were killed; those in use, and all other files, stay.

    Args:
        folder: to look into.
        pause: seconds since the last look within which nothing is done.
    """
    place, now = os.path.abspath(folder), time.monotonic()
    if now - _swept.get(place, -1e9) < pause:
        return
    with suppress(OSError):
        for entry in os.scandir(place):
            path = Path(entry.path)
            if is_draft(path) and not entry.is_symlink():
                _delete_abandoned(path)
    if len(_swept) > 1000:
        _swept.clear()
    _swept[place] = time.monotonic()


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


class FolderLock:
    """A lock on a folder that ends with the process, however that ends.

    Args:
        folder: an existing folder. No file is written to it, unless the system can't lock folders.

    Raises:
        BlockingIOError: if the folder is locked, by another process or by this one.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> lock = FolderLock(folder)
        >>> FolderLock(folder)
        Traceback (most recent call last):
        ...
        BlockingIOError: ...
        >>> lock.release()
        >>> FolderLock(folder).release()
    """

    def __init__(self, folder: Path) -> None:
        self._handle: int | None = None
        for path, flags in ((folder, os.O_RDONLY), (folder / LOCK, os.O_RDWR | os.O_CREAT)):
            try:
                handle = os.open(path, flags, 0o666)
            except OSError:  # Windows opens no folders
                continue
            try:
                _take(handle)
            except OSError as error:
                os.close(handle)
                if isinstance(error, BlockingIOError):
                    raise BlockingIOError(error.errno, "the folder is in use", str(folder)) from None
                continue  # a file system that can't lock this
            self._handle = handle
            _locks.add(self)
            return

    def release(self) -> None:
        """End the lock; a second time does nothing."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)


_locks: weakref.WeakSet[FolderLock] = weakref.WeakSet()


def _release_in_child() -> None:
    """Close the locks that a forked process inherits, so that none outlives the process that took it."""
    for lock in list(_locks):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_release_in_child)


def _new_name(folder: Path) -> Path:
    return folder / f".{_HOST}-{uuid.uuid4().hex}.tmp"


def _own(handle: int, path: Path) -> bool:
    """Lock a draft against `sweep`; False if it was swept before it was locked."""
    if fcntl is None:
        return True
    with suppress(OSError):  # a file system without locks: only old drafts are swept there
        fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        return os.path.samestat(os.fstat(handle), os.lstat(path))
    except FileNotFoundError:
        return False


def _delete_abandoned(path: Path) -> None:
    """Delete a draft that no process holds: by its lock if it is of this host, otherwise by its age."""
    found = _DRAFT.fullmatch(path.name)
    handle = None
    if fcntl is not None and found is not None and found[1] == _HOST:
        with suppress(OSError):
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        abandoned = time.time() - path.lstat().st_mtime > _OLD
        if handle is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                abandoned = True  # and stays locked until it is deleted
            except BlockingIOError:
                abandoned = False
            except OSError:  # a file system without locks
                pass
        if abandoned:
            delete(path)
    except OSError:
        pass
    finally:
        if handle is not None:
            os.close(handle)


def _take(handle: int) -> None:
    if fcntl is not None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    import msvcrt

    try:
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EDEADLK):
            raise BlockingIOError(error.errno, error.strerror) from None
        raise
