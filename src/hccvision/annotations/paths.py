"""Files and folders that the readers open: existing folders, safe relative names, UTF-8 texts."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from hccvision.annotations.names import annotation_stem
from hccvision.images.read import is_image


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
