"""Facts about image files: each file is opened once, and what it tells is shared by all that ask.

A file's bytes are hashed and its image is decoded in the same pass. The facts are kept in memory for as long as the
process runs and the file's size, times and inode stay the same, so that `check`, `split`, `leakage` and the manifest of
a training read the files of a data set once in all.
"""

from __future__ import annotations

import os
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from hccvision.contracts.samples import Sample
from hccvision.curation.thumbnails import gradient_bits, grey_picture, shrink
from hccvision.files import file_sha256
from hccvision.images.read import image_size, read_provenance, verify_image

LIMIT = 40_000  # files whose facts are kept, 7 kB each

_TICK = 20_000_000  # ns: a file system's clock may stand still for as long
_COARSE = 2_000_000_000  # ns: where it counts whole seconds

Stamp = tuple[int, int, int, int]  # size, time of the last change of the content and of the entry in ns, inode
Seen = tuple[Stamp, str | None]  # and the SHA-256, if it is known


@dataclass(frozen=True, eq=False)
class Facts:
    """What one read of an image file tells.

    Args:
        sha256: 64 hexadecimal digits; None where the file can't be read.
        decoded: whether the image was decoded, or only hashed; the fields below are set if it was.
        size: ``(height, width)`` in pixels; None where the header can't be read.
        thumbnail: ``(80, 80) uint8``; None where the image can't be decoded to its end.
        greys: the grey levels of an image that has no more than two; () for others.
        mode: Pillow's colour mode, such as ``"RGB"``; "" for other than pictures.
        format: Pillow's name of the format, such as ``"JPEG"``, whatever the file's suffix; "" for other than pictures.
        scanner: manufacturer and model, where the file states them; else "".
        orientation: of EXIF, 1 to 8; above 1 the stored pixels are turned or mirrored when they are read.
        error: why there is no size or no thumbnail, without the path; "" if there are both.
    """

    sha256: str | None = None
    decoded: bool = False
    size: tuple[int, int] | None = None
    thumbnail: np.ndarray | None = None
    greys: tuple[int, ...] = ()
    mode: str = ""
    format: str = ""
    scanner: str = ""
    orientation: int = 1
    error: str = ""

    @property
    def perceptual_hash(self) -> np.ndarray | None:
        """``(64,) uint8`` as by `thumbnails.perceptual_hash`; None where there is no thumbnail."""
        return None if self.thumbnail is None else np.packbits(gradient_bits(self.thumbnail))


class FactCache:
    """Facts about files, kept in memory; a file is read again if its size, times or inode have changed.

    Args:
        limit: number of files to remember; those used longest ago are forgotten first.

    Raises:
        ValueError: if the limit is not positive.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "a.png")
        >>> Image.new("L", (484, 300)).save(path)
        >>> cache = FactCache()
        >>> cache.facts(path).size, cache.facts(path) is cache.facts(path)
        ((300, 484), True)
    """

    def __init__(self, limit: int = LIMIT) -> None:
        if limit < 1:
            raise ValueError(f"limit is a number of files from 1, got {limit}")
        self.limit = limit
        self._known: OrderedDict[str, tuple[Stamp, Facts]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._known)

    def __reduce__(self) -> tuple[type[FactCache], tuple[int]]:  # a copy in another process starts empty
        return FactCache, (self.limit,)

    def facts(self, path: str | os.PathLike[str], *, decode: bool = True) -> Facts:
        """Return the facts about a file, from memory or by reading it.

        Args:
            path: the file; if it is missing or unreadable, ``error`` of the facts says so.
            decode: whether the image is needed; False: the hash alone, and a file that must be read is not decoded.

        Returns:
            The facts.
        """
        path = Path(path)
        with suppress(OSError, ValueError):
            known = self._get(path, stamp(path), decode)
            if known is not None:
                return known
        facts, seen = _read(path, decode)
        if seen is not None:
            with self._lock:
                key = os.path.abspath(path)
                self._known[key] = (seen, facts)
                self._known.move_to_end(key)
                while len(self._known) > self.limit:
                    self._known.popitem(last=False)
        return facts

    def sha256(self, path: str | os.PathLike[str]) -> str:
        """Return the SHA-256 of a file, from memory or by reading it.

        Args:
            path: any file.

        Returns:
            64 hexadecimal digits.

        Raises:
            OSError: if the file can't be read.
        """
        return self.facts(path, decode=False).sha256 or file_sha256(path)

    def known_sha256(self, path: str | os.PathLike[str], seen: Stamp) -> str | None:
        """Return the SHA-256 of a file if it is known, without reading the file.

        Args:
            path: the file.
            seen: its `stamp` now.

        Returns:
            64 hexadecimal digits, or None.
        """
        facts = self._get(Path(path), seen, decode=False)
        return None if facts is None else facts.sha256

    def seen(self, path: str | os.PathLike[str]) -> Seen | None:
        """Return how a file looks now, without reading it; see `require_unchanged`.

        Args:
            path: the file.

        Returns:
            Its `stamp`, and its SHA-256 if it is known; None if there is no such file.
        """
        with suppress(OSError):
            now = stamp(path)
            return now, self.known_sha256(path, now)
        return None

    def clear(self) -> None:
        """Forget all facts."""
        with self._lock:
            self._known.clear()

    def _get(self, path: Path, seen: Stamp, decode: bool) -> Facts | None:
        key = os.path.abspath(path)
        with self._lock:
            before, facts = self._known.get(key, (None, Facts()))
            if before != seen or (decode and not facts.decoded):
                return None
            self._known.move_to_end(key)
            return facts


FACTS = FactCache()


def facts_of(data: Sequence[Sample], *, decode: bool = True, cache: FactCache | None = None) -> list[Facts]:
    """Return the facts about the image file of each sample; a file is opened only if it is not known.

    Args:
        data: samples.
        decode: whether the images are needed; False: the hashes alone.
        cache: where facts are kept; None: the process's own, `FACTS`.

    Returns:
        Facts in the order of the samples.
    """
    known = FACTS if cache is None else cache
    return [known.facts(sample.path, decode=decode) for sample in data]


def stamp(path: str | os.PathLike[str]) -> Stamp:
    """Return what changes whenever a file does.

    Args:
        path: the file.

    Returns:
        Its size, the times of the last change of its content and of its entry in ns, and its inode.

    Raises:
        OSError: if there is no such file.
    """
    return _stamp(os.stat(path))


def require_unchanged(path: str | os.PathLike[str], before: Seen | None) -> None:
    """Refuse a file that has changed; it is read only if its size is the same and its times are not.

    Args:
        path: the file.
        before: what `FactCache.seen` returned; None: nothing is known.

    Raises:
        OSError: if there is no such file.
        ValueError: if its size or its SHA-256 differ; the message has both values.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "a.png")
        >>> _ = path.write_bytes(b"123")
        >>> before = FACTS.seen(path)
        >>> _ = path.write_bytes(b"1234")
        >>> require_unchanged(path, before)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: ...a.png: has changed since it was read: it had 3 bytes, and has 4: read the data again
    """
    if before is None or (now := stamp(path)) == before[0]:
        return
    was, sizes = before[1], (before[0][0], now[0])
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"{path}: has changed since it was read: it had {sizes[0]} bytes, and has {sizes[1]}: read the data again"
        )
    if was is not None and (digest := file_sha256(path)) != was:
        raise ValueError(
            f"{path}: has changed since it was read: its SHA-256 was {was}, and is {digest}: read the data again"
        )


def _stamp(found: os.stat_result) -> Stamp:
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def _read(path: Path, decode: bool) -> tuple[Facts, Stamp | None]:
    """Read a file; return its facts, and its stamp if they may be kept."""
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise FileNotFoundError(f"{path}: not a file")
        keep = _settle(_stamp(found))
        with path.open("rb") as stream:
            before = _stamp(os.fstat(stream.fileno()))
            facts = Facts(sha256=file_sha256(stream))
            if decode:
                facts, final = _decoded(facts, path, stream)
                keep = keep and final
        return facts, before if keep and stamp(path) == before == _stamp(found) else None
    except (OSError, ValueError, MemoryError) as error:
        reason = _reason(error, path)
    try:
        image_size(path)  # its message says what to do
    except (OSError, ValueError, ImportError, MemoryError) as error:
        reason = _reason(error, path)
    return Facts(decoded=decode, error=reason), None


def _settle(seen: Stamp) -> bool:
    """Wait until a change of a file written just now would show in its times; return False where that takes long."""
    newest = max(seen[1:3])
    age = time.time_ns() - newest
    if 0 <= age < _TICK:
        time.sleep((_TICK - age) / 1e9)
    return age > (_COARSE if newest % 10**9 == 0 else -1)


def _decoded(facts: Facts, path: Path, stream: BinaryIO) -> tuple[Facts, bool]:
    """Add what the image tells; also return whether that is final, or needs a library that is not installed."""
    size = small = None
    greys: tuple[int, ...] = ()
    reason, final = "", True
    try:
        size = image_size(path, source=stream)
        picture = grey_picture(path, source=stream)
        some = picture.resize((16, 16), Image.Resampling.NEAREST)
        if len(set(some.tobytes())) <= 2:
            greys = tuple(np.flatnonzero(picture.histogram()).tolist())
        greys = greys if len(greys) <= 2 else ()
        small = shrink(picture)
    except (OSError, ValueError, ImportError, MemoryError) as error:
        reason = _why(path, stream, size, error).replace(repr(stream), repr(str(path)))  # as Pillow quotes a file
        final = not isinstance(error, (ImportError, MemoryError))
    mode = kind = scanner = ""
    orientation = 1
    if size is not None:
        with suppress(Exception):  # whatever a decoder raises
            stream.seek(0)
            with Image.open(stream) as file:
                mode, kind = file.mode, str(file.format).replace("MPO", "JPEG")
                orientation = int(file.getexif().get(0x0112, 1))
        if not kind:  # pictures state none
            with suppress(OSError, ValueError, ImportError, MemoryError):
                scanner = read_provenance(path, source=stream).scanner or ""
    told: dict[str, Any] = {
        "mode": mode,
        "format": kind,
        "scanner": scanner,
        "orientation": orientation,
        "error": reason,
    }
    return replace(facts, decoded=True, size=size, thumbnail=small, greys=greys, **told), final


def _why(path: Path, stream: BinaryIO, size: tuple[int, int] | None, error: Exception) -> str:
    """Return why an image can't be decoded: that it is truncated, or else the error."""
    try:
        if size is not None:
            verify_image(path, source=stream)
    except (OSError, ValueError, ImportError, MemoryError) as reason:
        return _reason(reason, path)
    return _reason(error, path)


def _reason(error: Exception, path: Path) -> str:
    if isinstance(error, MemoryError):
        return f"reading it needs more memory than there is ({error or 'MemoryError'}): make a smaller copy"
    return str(error).removeprefix(f"{path}: ")
