"""A folder of decoded slices, mapped into memory: written once, read by every worker and process.

There is a file per slice, named by what determines its pixels: the content of the image file, the size, the resize
policy and the other options of the reader. So the parts of a split, the folds of a cross-validation and a copy of the
data set share their slices, and a file that changes gets another name. Files are written atomically; if two processes
write the same slice, either file stays. Nothing in the folder tells an image's path, but it holds the images
themselves, and needs the same protection. Deleting any of it is always safe.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
import zlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import PIL
import torch
from torch import Tensor

from hccvision.curation.facts import FACTS, stamp
from hccvision.files import file_sha256, write_atomically
from hccvision.images.placement import Placement

READER_VERSION = 2  # to be raised whenever images.read_image or images.resize returns other pixels for a file
LIMIT = 32 * 2**30

_SETTLED = 2.0  # seconds: a file hashed sooner after its last change may change again within the same time stamp
_STALE = 3600.0  # seconds after which an unfinished file was left by a process that died
_FOOTER = 512  # bytes after the pixels
_KNOWN = 200_000  # files whose hash is kept


class ImageCache:
    """Slices at the size of a model's input, kept in a folder.

    Args:
        folder: the folder, created if missing. Any number of data sets, processes and machines may share it; where it
            can't be written to, a warning says so.
        limit: bytes of slices to keep; beyond that, those used longest ago are deleted first.

    Raises:
        FileExistsError: if the folder is a file.
        ValueError: if the limit is not positive.

    Example:
        >>> import tempfile
        >>> from hccvision.images.placement import place
        >>> cache = ImageCache(tempfile.mkdtemp())
        >>> cache.store("ab12", torch.full((1, 2, 2), 7, dtype=torch.uint8), place((4, 4), (2, 2), "stretch"))
        True
        >>> image, placement = cache.load("ab12", (1, 2, 2))
        >>> image.tolist(), placement.original_size
        ([[[7, 7], [7, 7]]], (4, 4))
    """

    def __init__(self, folder: str | os.PathLike[str], *, limit: int = LIMIT) -> None:
        if limit < 1:
            raise ValueError(f"limit is a number of bytes from 1, got {limit}")
        self.folder = Path(folder)
        self.limit = limit
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise
        except OSError as error:
            _warn_unwritable(self.folder, error)
        self._verified: set[str] = set()

    def hashes(self, paths: Iterable[Path]) -> list[str]:
        """Return the SHA-256 of files, reading only those whose size, times or inode have changed.

        Args:
            paths: the files.

        Returns:
            Hexadecimal, in order.

        Raises:
            FileNotFoundError: if there is no such file.
        """
        index = self.folder / "hashes.json"
        known: dict[str, Any] = {}
        with suppress(OSError, ValueError, TypeError, RecursionError):
            known = dict(json.loads(index.read_text(encoding="utf-8")))
        found, news = [], {}
        for path in paths:
            name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()
            stat = _stat(path)
            before = known.get(name)
            if isinstance(before, dict) and before.get("stat") == stat and isinstance(before.get("sha256"), str):
                found.append(before["sha256"])
                continue
            digest = FACTS.known_sha256(path, (stat[0], stat[1], stat[2], stat[3]))
            if digest is None:
                stat, digest = hash_file(path)
            found.append(digest)
            if time.time() - max(stat[1:3]) / 1e9 > _SETTLED:
                news[name] = {"stat": stat, "sha256": digest}
        if news:
            with suppress(OSError):  # a read-only folder: the files are hashed again next time
                self._write(index, json.dumps(dict(list((known | news).items())[-_KNOWN:])).encode())
        return found

    def reserve(self, keys: Sequence[str], size: int) -> None:
        """Make room for a data set, and mark its slices that are there as used now.

        Args:
            keys: keys of its slices.
            size: bytes of each slice's pixels.

        Raises:
            ValueError: if the data set is larger than the limit.
        """
        wanted = {self._path(key) for key in keys}
        need = len(wanted) * (size + _FOOTER)
        if need > self.limit:
            raise ValueError(
                f"{self.folder}: the data set takes {need:,} bytes, and the cache may take {self.limit:,}: raise the "
                "limit, or train without the cache"
            )
        there = 0
        for path in wanted:
            with suppress(OSError):
                there += path.stat().st_size
                os.utime(path)
        self.trim(self.limit - need + there, keep=wanted)

    def trim(self, size: int = 0, *, keep: Iterable[Path] = ()) -> None:
        """Delete slices, those used longest ago first, until no more than ``size`` bytes are left.

        Args:
            size: bytes to leave; 0 empties the cache.
            keep: files of the folder that are kept in any case.
        """
        stay = set(keep)
        files = []
        for path in self.folder.glob("??/*"):
            with suppress(OSError):  # deleted by another process
                stat = path.stat()
                if path.suffix in (".tmp", ".part"):
                    if time.time() - stat.st_mtime > _STALE:
                        path.unlink()
                else:
                    files.append((stat.st_mtime_ns, stat.st_size, path))
        total = sum(file[1] for file in files)
        for _, taken, path in sorted(files):
            if total <= size:
                return
            if path not in stay:
                with suppress(OSError):
                    path.unlink()
                    total -= taken

    def load(self, key: str, shape: tuple[int, int, int]) -> tuple[Tensor, Placement] | None:
        """Map a slice into memory; its checksum is compared once in each process.

        Args:
            key: key from `key`.
            shape: ``(C, H, W)``.

        Returns:
            ``(C, H, W) uint8``, read from disk on access, and its placement; None if the slice is missing, or damaged
            and therefore deleted.
        """
        path = self._path(key)
        size = shape[0] * shape[1] * shape[2]
        try:
            with path.open("rb") as file:
                if file.seek(0, os.SEEK_END) != size + _FOOTER:
                    raise ValueError("cut off")
                file.seek(size)
                footer = json.loads(file.read())
            if footer["key"] != key:
                raise ValueError("of another slice")
            placement = Placement(**{k: _tuples(v) for k, v in footer["placement"].items()})
            pixels = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
            if key not in self._verified:
                if _check_sum(pixels, footer["placement"]) != footer["crc32"]:
                    raise ValueError("something else than was written")
                self._verified.add(key)
        except OSError:  # missing, or unreadable
            return None
        except (ValueError, KeyError, TypeError, AttributeError, RuntimeError):
            self._verified.discard(key)
            with suppress(OSError):
                path.unlink()
            return None
        return pixels.view(shape), placement

    def store(self, key: str, image: Tensor, placement: Placement) -> bool:
        """Write a slice atomically; warn if the folder can't be written to.

        Args:
            key: key from `key`.
            image: ``(C, H, W) uint8``.
            placement: placement of the original image in it.

        Returns:
            Whether it is kept.
        """
        image = image.contiguous()
        plain = json.loads(json.dumps(asdict(placement)))
        footer = {"key": key, "crc32": _check_sum(image, plain), "placement": plain}
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._write(path, image.numpy().tobytes() + json.dumps(footer).encode().ljust(_FOOTER))
        except OSError as error:
            _warn_unwritable(self.folder, error)
            return False
        return True

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / key

    def _write(self, path: Path, content: bytes) -> None:
        try:
            write_atomically(path, lambda draft: draft.write_bytes(content), flush=False)  # checksums find damage
        except PermissionError:  # Windows: it is there and mapped by another process
            if not path.exists():
                raise


def key(digest: str, settings: dict[str, Any]) -> str:
    """Compute the name of a slice from what determines its pixels.

    Args:
        digest: SHA-256 of the image file.
        settings: options of reading and resizing, plain values.

    Returns:
        SHA-256 of both, `READER_VERSION` and Pillow's version, in hexadecimal.

    Example:
        >>> key("ab", {"channels": 3}) == key("ab", {"channels": 1})
        False
    """
    text = json.dumps([digest, settings, READER_VERSION, PIL.__version__], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def hash_file(path: Path) -> tuple[list[int], str]:
    """Hash a file, and make sure that it did not change meanwhile.

    Args:
        path: the file.

    Returns:
        Its size, the times of its last changes in ns and its inode; and its SHA-256 in hexadecimal.

    Raises:
        FileNotFoundError: if there is no such file.
        OSError: if it keeps changing.
    """
    for _ in range(5):
        before = _stat(path)
        digest = file_sha256(path)
        if _stat(path) == before:
            return before, digest
    raise OSError(f"{path}: it changed while it was read: wait until it is written")


def _warn_unwritable(folder: Path, error: OSError) -> None:
    warnings.warn(
        f"{folder}: images can't be kept in this cache ({error.strerror or error}); going on without: correct that, or "
        "pass another folder",
        stacklevel=3,
    )


def _stat(path: Path) -> list[int]:
    try:
        return list(stamp(path))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: there is no such image file: check the path") from None


def _check_sum(pixels: Tensor, placement: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(placement).encode(), zlib.crc32(pixels.numpy().data))


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
