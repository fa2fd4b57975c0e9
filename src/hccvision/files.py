"""Files and folders that appear whole or not at all, and the hash of a file."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def write_atomically(
    path: str | os.PathLike[str],
    write: Callable[[Path], object],
    *,
    keep: str | os.PathLike[str] | None = None,
    flush: bool = True,
) -> Path:
    """Write a file under a temporary name, then rename it: readers see the old file or the new one, never a part.

    The content is flushed to the disk before the rename, so that a power failure leaves one of the two as well.

    Args:
        path: the file to create or replace, in a folder that exists.
        write: called with the temporary path, ``.<random>.tmp`` in the same folder, to write the content.
        keep: where to move the old file, if there is one; None replaces it.
        flush: False skips the flush, for a file that its reader checks and can make again.

    Returns:
        The path written.

    Raises:
        OSError: if the folder can't be written to.

    Example:
        >>> path = Path(tempfile.mkdtemp(), "a.txt")
        >>> write_atomically(path, lambda partial: partial.write_text("all of it")).read_text()
        'all of it'
    """
    path = Path(path)
    partial = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        write(partial)
        if flush:
            _flush(partial)
        if keep is not None and path.is_file():
            os.replace(path, keep)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def write_text(path: str | os.PathLike[str], text: str, *, errors: str = "strict") -> Path:
    """Write a text file atomically, as UTF-8 and without translating line ends.

    Args:
        path: the file to create or replace, in a folder that exists.
        text: its content.
        errors: ``"strict"``, or ``"replace"`` to write ``?`` for what UTF-8 can't hold, as in undecodable file names.

    Returns:
        The path written.

    Raises:
        OSError: if the folder can't be written to.
        UnicodeEncodeError: if the text can't be encoded and ``errors="strict"``.

    Example:
        >>> write_text(Path(tempfile.mkdtemp(), "a.txt"), "5 × 5").read_text(encoding="utf-8")
        '5 × 5'
    """
    content = text.encode("utf-8", errors)
    return write_atomically(path, lambda partial: partial.write_bytes(content))


def write_table(path: str | os.PathLike[str], rows: Iterable[Iterable[object]]) -> Path:
    r"""Write a CSV file atomically, as UTF-8 with ``\n`` at the end of each line.

    Args:
        path: the file to create or replace, in a folder that exists.
        rows: cells of each row, the header first.

    Returns:
        The path written.

    Raises:
        OSError: if the folder can't be written to.

    Example:
        >>> write_table(Path(tempfile.mkdtemp(), "a.csv"), [("image", "patient"), ("a.png", "P1, left")]).read_text()
        'image,patient\na.png,"P1, left"\n'
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return write_text(path, text.getvalue())


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
        with Path(file).open("rb") as stream:
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
        >>> target = Path(tempfile.mkdtemp(), "report")
        >>> with new_folder(target) as draft:
        ...     _ = (draft / "a.txt").write_text("a")
        ...     target.exists()
        False
        >>> [path.name for path in target.iterdir()]
        ['a.txt']
    """
    target = require_empty(folder).resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", suffix=".tmp", dir=target.parent) as scratch:
        draft = Path(scratch, target.name)
        draft.mkdir()
        yield draft
        for path in draft.rglob("*"):
            if path.is_file():
                _flush(path)
        if target.is_dir():
            target.rmdir()
        draft.rename(target)


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
