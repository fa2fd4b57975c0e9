"""Files and folders that the readers open: existing folders, safe relative names, UTF-8 texts."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hccvision.annotations.names import annotation_stem
from hccvision.images.read import is_image

_MAX_BYTES = 2**30  # of a JSON file: twice COCO's own largest
_PIECE, _LONGEST = 2**20, 64  # bytes read at once; bytes of the longest word


def existing_folder(folder: str | os.PathLike[str]) -> Path:
    """Return a folder as a path.

    Args:
        folder: the folder.

    Returns:
        Its path.

    Raises:
        FileNotFoundError: if there is no such folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder")
    return root


def images_in(folder: Path) -> list[Path]:
    """List the images directly in a folder.

    Args:
        folder: an existing folder.

    Returns:
        The image files by name.
    """
    return [p for p in sorted(folder.iterdir()) if p.is_file() and is_image(p)]


def by_stem(paths: Iterable[Path]) -> dict[str, list[Path]]:
    """Group image files by the stem that their annotation has.

    Args:
        paths: image files.

    Returns:
        The files of each stem, in the order given.
    """
    groups: dict[str, list[Path]] = {}
    for path in paths:
        groups.setdefault(annotation_stem(path), []).append(path)
    return groups


def file_within(folder: Path, name: str) -> Path | None:
    r"""Return the path of a relative file name, if it stays inside the folder.

    Args:
        folder: the folder that the name is relative to.
        name: the name as a file states it, with ``/`` or ``\\``.

    Returns:
        The path; None if the name points outside the folder or can't be a file name.

    Example:
        >>> file_within(Path("liver"), "a/b.png").as_posix(), file_within(Path("liver"), "../b.png")
        ('liver/a/b.png', None)
    """
    parts = name.replace("\\", "/").split("/")
    if not name.strip() or "\0" in name or ".." in parts or parts[0] == "" or re.match("[A-Za-z]:", parts[0]):
        return None
    if any(len(part.encode("utf-8", "surrogatepass")) > 255 for part in parts) or len(name) > 2000:
        return None
    return folder.joinpath(*parts)


def read_text(path: Path) -> str:
    """Read a UTF-8 text file, with or without a byte order mark.

    Args:
        path: the file.

    Returns:
        Its text.

    Raises:
        ValueError: if it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error}): save it again as UTF-8") from error


def read_json(path: Path) -> Any:
    """Read a JSON file of at most 1 GiB.

    Args:
        path: the file.

    Returns:
        Its value.

    Raises:
        ValueError: if it is not JSON or too large.
    """
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"{path}: expected a JSON file of at most 1 GiB, got {path.stat().st_size} bytes: split it")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a readable JSON file ({error}): export it again") from error


def words_in(path: Path, words: Iterable[str]) -> set[str]:
    """Return which of some words a file holds, without parsing it.

    Args:
        path: the file.
        words: of at most 64 bytes.

    Returns:
        Those that occur; also "{" or "[" if the file begins with it; none if it can't be read.
    """
    wanted = {word: word.encode() for word in words}
    found: set[str] = set()
    try:
        with path.open("rb") as file:
            piece = file.read(_PIECE)
            found.update(chr(c) for c in piece.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] if c in b"{[")
            end = b""
            while piece and wanted:
                found.update(word for word, code in wanted.items() if code in end + piece)
                wanted = {word: code for word, code in wanted.items() if word not in found}
                end, piece = piece[-_LONGEST:], file.read(_PIECE)
    except OSError:
        return set()
    return found
