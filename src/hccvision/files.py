"""Files and folders that appear whole or not at all, and the hash of a file."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from hccvision.contracts.samples import as_text
from hccvision.drafts import draft_file, draft_folder, named_after

NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV, errno.EACCES)


def write_atomically(
    path: str | os.PathLike[str],
    write: Callable[[Path], object],
    *,
    keep: str | os.PathLike[str] | None = None,
    flush: bool = True,
    overwrite: bool = True,
) -> Path:
    """Write a file under a temporary name, then rename it: readers see the old file or the new one, never a part.

    The content is flushed to the disk before the rename, so that a power failure leaves one of the two as well.

    Args:
        path: the file to create or replace, in a folder that exists.
        write: called with a temporary path in the same folder, to write the content.
        keep: where to move the old file, if there is one; None replaces it.
        flush: False skips the flush, for a file that its reader checks and can make again.
        overwrite: False never replaces a file, not even one that appears while this one is being written.

    Returns:
        The path written.

    Raises:
        FileExistsError: if the file exists and ``overwrite`` is False.
        OSError: if the file can't be written; it names the file, not the temporary one.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "a.txt")
        >>> write_atomically(path, lambda partial: partial.write_text("all of it")).read_text()
        'all of it'
    """
    path = Path(path)
    with named_after(path), draft_file(path.parent) as partial, named_after(path, partial):
        write(partial)
        if flush:
            _flush(partial)
        if not overwrite:
            put(partial, path)
            return path
        if keep is not None and path.is_file():
            os.replace(path, keep)
        os.replace(partial, path)
    return path


def refuse_existing(path: Path, *, overwrite: bool = False) -> None:
    """Raise if a file exists and may not be replaced, before the work of making another.

    Args:
        path: the file.
        overwrite: whether it may be replaced.

    Raises:
        FileExistsError: if it exists, or is a link to a missing file, and ``overwrite`` is False.
    """
    if not overwrite and os.path.lexists(path):
        raise FileExistsError(f"{path}: the file exists: write elsewhere, or pass overwrite=True to replace it")


def write_text(path: str | os.PathLike[str], text: str, *, errors: str = "strict", overwrite: bool = True) -> Path:
    r"""Write a text file atomically, as UTF-8 and without translating line ends.

    Args:
        path: the file to create or replace, in a folder that exists.
        text: its content.
        errors: what to do with what UTF-8 can't hold, as in undecodable file names: ``"strict"`` raises, ``"replace"``
            writes ``?``, and ``"backslashreplace"`` writes ``\udcff``, which JSON reads as it was.
        overwrite: as in `write_atomically`.

    Returns:
        The path written.

    Raises:
        FileExistsError: if the file exists and ``overwrite`` is False.
        OSError: if the folder can't be written to.
        UnicodeEncodeError: if the text can't be encoded and ``errors="strict"``.

    Example:
        >>> import tempfile
        >>> write_text(Path(tempfile.mkdtemp(), "a.txt"), "5 × 5").read_text(encoding="utf-8")
        '5 × 5'
    """
    content = text.encode("utf-8", errors)
    return write_atomically(path, lambda partial: partial.write_bytes(content), overwrite=overwrite)


def write_table(path: str | os.PathLike[str], rows: Iterable[Iterable[object]]) -> Path:
    r"""Write a CSV file atomically, as UTF-8 with ``\n`` at the end of each line.

    What UTF-8 can't hold, as in undecodable file names, is written as ``\udcff``.

    Args:
        path: the file to create or replace, in a folder that exists.
        rows: cells of each row, the header first.

    Returns:
        The path written.

    Raises:
        OSError: if the folder can't be written to.

    Example:
        >>> import tempfile
        >>> write_table(Path(tempfile.mkdtemp(), "a.csv"), [("image", "patient"), ("a.png", "P1, left")]).read_text()
        'image,patient\na.png,"P1, left"\n'
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return write_text(path, as_text(text.getvalue()))


def file_sha256(file: str | os.PathLike[str] | BinaryIO) -> str:
    """Compute the SHA-256 of a file.

    Args:
        file: its path, or the file opened for reading in binary mode, which is read from its position to its end.

    Returns:
        64 hexadecimal digits, as ``sha256sum`` prints them.

    Raises:
        OSError: if the file can't be read.

    Example:
        >>> import io
        >>> file_sha256(io.BytesIO(b""))[:8]
        'e3b0c442'
    """
    if isinstance(file, (str, os.PathLike)):
        with named_after(Path(file)), Path(file).open("rb") as stream:
            return file_sha256(stream)
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def require_empty(folder: str | os.PathLike[str]) -> Path:
    """Check that a folder is new or empty.

    Args:
        folder: the folder.

    Returns:
        Its path; the folder is not created.

    Raises:
        FileExistsError: if the folder holds anything, or the path is a file.

    Example:
        >>> import tempfile
        >>> require_empty(tempfile.mkdtemp()).is_dir()
        True
    """
    folder = Path(folder)
    if folder.is_dir():
        if any(folder.iterdir()):
            raise FileExistsError(f"{folder}: expected a new or empty folder: choose another, or delete this one first")
    elif folder.exists():
        raise FileExistsError(f"{folder}: expected a new or empty folder, this is a file: choose another path")
    return folder


@contextmanager
def new_folder(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Fill a new folder that appears whole or not at all.

    The content is written to a hidden folder beside the target, flushed to the disk and renamed at the end. If an
    exception leaves the ``with`` block, nothing remains.

    Args:
        folder: the folder to create; it may exist if it is empty. Missing parents are created.

    Yields:
        The folder to write to. It has the name of the final one.

    Raises:
        FileExistsError: if the folder holds anything, or the path is a file.
        OSError: if the parent folder can't be written to.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp(), "report")
        >>> with new_folder(target) as draft:
        ...     _ = (draft / "a.txt").write_text("a")
        ...     target.exists()
        False
        >>> [path.name for path in target.iterdir()]
        ['a.txt']
    """
    target = require_empty(folder).resolve()
    if target.is_dir() and (target.is_mount() or target == Path.cwd()):
        raise OSError(f"{folder}: a mounted or the working folder can't be replaced: write to a new folder in it")
    with named_after(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    with named_after(target), draft_folder(target.parent) as scratch, named_after(target, scratch / target.name):
        draft = scratch / target.name
        draft.mkdir()
        yield draft
        flush_all(draft)
        try:
            if target.is_dir():
                target.rmdir()
            draft.rename(target)
        except OSError:
            require_empty(target)  # filled by another process meanwhile
            raise


def put(partial: Path, path: Path) -> None:
    """Give a draft of a file its name, unless that is taken.

    Args:
        partial: the draft.
        path: the name.

    Raises:
        FileExistsError: if the name is taken.
        OSError: if the folder can't be written to.
    """
    try:
        os.link(partial, path)
        return
    except FileExistsError:
        refuse_existing(path)
        raise
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))  # a file system without links: take the name
    except FileExistsError:
        refuse_existing(path)
        raise
    try:
        os.replace(partial, path)
    except OSError:
        with suppress(OSError):
            path.unlink()
        raise


def flush_all(folder: Path) -> None:
    """Flush all files of a folder to the disk.

    Args:
        folder: the folder.
    """
    for path in folder.rglob("*"):
        if path.is_file():
            _flush(path)


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
