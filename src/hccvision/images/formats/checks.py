"""Checks shared by the formats, with errors that name the file and the remedy."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MAX_PIXELS = 2**27  # of one slice; a broken header may state any number
MAX_BYTES = 2**32  # of a file, or of a volume
MAX_UNPACKED = 2**29  # bytes of a deflated file


@contextmanager
def decoding(source: str | Path) -> Iterator[None]:
    """Convert whatever a decoder raises on broken data to a ValueError that starts with the file.

    Args:
        source: the file, or a description of an image in memory.

    Raises:
        ValueError: for any exception but ImportError and MemoryError; a ValueError that names the file already is
            passed on unchanged.

    Example:
        >>> with decoding("a.png"):
        ...     raise OSError("truncated")
        Traceback (most recent call last):
        ...
        ValueError: a.png: can't be read as an image (OSError: truncated): export it again from its source, or remove it
    """
    try:
        yield
    except (ImportError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, ValueError) and str(error).startswith(f"{source}: "):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(
            f"{source}: can't be read as an image ({reason}): export it again from its source, or remove it"
        ) from error


def choose_frame(path: Path, frame: int | None, count: int) -> int:
    """Return the number of the frame to read.

    Args:
        path: the file, for messages.
        frame: number of the frame, from 0; None if the file should have one only.
        count: number of frames in the file.

    Returns:
        The frame, from 0 to ``count - 1``.

    Raises:
        ValueError: if there is no such frame, or several and none was chosen.

    Example:
        >>> choose_frame(Path("a.tif"), None, 1), choose_frame(Path("a.tif"), 2, 3)
        (0, 2)
    """
    if frame is None and count != 1:
        raise ValueError(f"{path}: holds {count} frames: choose one, from frame=0 to frame={count - 1}")
    if frame is not None and not 0 <= frame < count:
        raise ValueError(f"{path}: expected a frame from 0 to {count - 1}, got {frame}")
    return frame or 0


def require_plausible_size(path: Path, height: int, width: int) -> None:
    """Refuse a slice without pixels, or of more than a broken header alone could state.

    Args:
        path: the file, for messages.
        height: rows as stated by the file.
        width: columns as stated by the file.

    Raises:
        ValueError: if a side is not positive or there are more than `MAX_PIXELS` pixels.
    """
    if height < 1 or width < 1:
        raise ValueError(f"{path}: states no image size, like DICOM reports and plans: leave it out")
    if height * width > MAX_PIXELS:
        raise ValueError(
            f"{path}: states a slice of {width}×{height} pixels, more than the {MAX_PIXELS} that can be read: export "
            "it again, or remove it"
        )


def require_plausible_bytes(path: Path) -> None:
    """Refuse a file of more than `MAX_BYTES`, which a decoder may read as a whole.

    Args:
        path: an existing file.

    Raises:
        ValueError: if it is larger.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(
            f"{path}: has {size} bytes, more than the {MAX_BYTES} that can be read: split it, or remove it"
        )


def import_medical(module: str, path: Path) -> Any:
    """Import a module of the extra ``medical``.

    Args:
        module: name of the module.
        path: the file that needs it, for messages.

    Returns:
        The module.

    Raises:
        ImportError: if it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f'{path}: reading it needs {module}: pip install "hccvision[medical]"') from error
