"""Decoded slices in a folder, mapped into memory: written once, read by every worker and process.

A file per slice, named by what decides its pixels: the image file's content, the size, the resize policy and whatever
else the reader was told. So the parts of a split, the folds of a cross-validation and a copy of the data set elsewhere
share their slices, and a file that changes gets another name. Each is written beside its place and then renamed, so a
reader sees all of it or none, and of two processes that write the same one either wins. Nothing in the folder tells an
image's path, but it holds the images themselves: it deserves the same care. Deleting any of it is always safe.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
import zlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import PIL
import torch
from torch import Tensor

from hccvision import images

READER_VERSION = 1  # one more whenever images.read_image or images.resize gives other pixels for the same file
LIMIT = 32 * 2**30

_SETTLED = 2.0  # seconds: a file changed later than this before it was hashed may change again at the same time stamp
_STALE = 3600.0  # seconds after which a file half written was left by a process that died
_FOOTER = 512  # bytes after the pixels
_KNOWN = 200_000  # files whose hash is remembered


class ImageCache:
    """Slices as a model wants them, kept in a folder.

    Args:
        folder: is made if it isn't there. Any number of data sets, processes and machines may share it.
        limit: bytes of slices to keep; beyond, those used longest ago go first.

    Raises:
        ValueError: if the limit is not positive.

    Example:
        >>> cache = ImageCache(tempfile.mkdtemp())
        >>> cache.store("ab12", torch.full((1, 2, 2), 7, dtype=torch.uint8), images.place((4, 4), (2, 2), "stretch"))
        >>> image, placement = cache.load("ab12", (1, 2, 2))
        >>> image.tolist(), placement.original_size
        ([[[7, 7], [7, 7]]], (4, 4))
    """

    def __init__(self, folder: str | os.PathLike[str], *, limit: int = LIMIT) -> None:
        if limit < 1:
            raise ValueError(f"limit is a number of bytes from 1, got {limit}")
        self.folder = Path(folder)
        self.limit = limit
        self.folder.mkdir(parents=True, exist_ok=True)
        self._verified: set[str] = set()

    def hashes(self, paths: Iterable[Path]) -> list[str]:
        """Give the SHA-256 of files, read again only if size, times or inode differ from those known.

        Args:
            paths: of the files.

        Returns:
            Hexadecimal, in order.

        Raises:
            FileNotFoundError: if there is no such file.
        """
        index = self.folder / "hashes.json"
        known: dict[str, Any] = {}
        with suppress(OSError, ValueError, TypeError):
            known = dict(json.loads(index.read_text(encoding="utf-8")))
        found, news = [], {}
        for path in paths:
            name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()
            stat = _stat(path)
            before = known.get(name)
            if isinstance(before, dict) and before.get("stat") == stat and isinstance(before.get("sha256"), str):
                found.append(before["sha256"])
                continue
            stat, digest = hash_file(path)
            found.append(digest)
            if time.time() - max(stat[1:3]) / 1e9 > _SETTLED:
                news[name] = {"stat": stat, "sha256": digest}
        if news:
            with suppress(OSError):  # of a folder that can only be read; the files are hashed again next time
                self._write(index, json.dumps(dict(list((known | news).items())[-_KNOWN:])).encode())
        return found

    def reserve(self, keys: Sequence[str], size: int) -> None:
        """Make room for a data set, and mark what is there of it as used now.

        Args:
            keys: of its slices.
            size: bytes of each slice's pixels.

        Raises:
            ValueError: if it is larger than the limit.
        """
        wanted = {self._path(key) for key in keys}
        need = len(wanted) * (size + _FOOTER)
        if need > self.limit:
            raise ValueError(
                f"{self.folder}: the data set takes {need:,} bytes, and the cache may take {self.limit:,}: raise the "
                "limit, or do without the cache"
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
            size: in bytes; 0 empties the cache.
            keep: files of the folder that stay, whatever they take.
        """
        stay = set(keep)
        files = []
        for path in self.folder.glob("??/*"):
            with suppress(OSError):  # gone meanwhile
                stat = path.stat()
                if path.suffix == ".part":
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

    def load(self, key: str, shape: tuple[int, int, int]) -> tuple[Tensor, images.Placement] | None:
        """Map a slice into memory; its check sum is compared once in each process.

        Args:
            key: from `key`.
            shape: ``(C, H, W)``.

        Returns:
            ``(C, H, W) uint8``, whose pages are read when they are looked at, and its placement; None if it isn't
            there, or is there damaged, and then deleted.
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
            placement = images.Placement(**{k: _tuples(v) for k, v in footer["placement"].items()})
            pixels = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
            if key not in self._verified:
                if _check_sum(pixels, footer["placement"]) != footer["crc32"]:
                    raise ValueError("something else than was written")
                self._verified.add(key)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError, RuntimeError):
            self._verified.discard(key)
            with suppress(OSError):
                path.unlink()
            return None
        return pixels.view(shape), placement

    def store(self, key: str, image: Tensor, placement: images.Placement) -> None:
        """Write a slice, whole or not at all.

        Args:
            key: from `key`.
            image: ``(C, H, W) uint8``.
            placement: of the original in it.

        Raises:
            OSError: if the folder can't be written to.
        """
        image = image.contiguous()
        plain = json.loads(json.dumps(asdict(placement)))
        footer = {"key": key, "crc32": _check_sum(image, plain), "placement": plain}
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._write(path, image.numpy().tobytes() + json.dumps(footer).encode().ljust(_FOOTER))

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / key

    def _write(self, path: Path, content: bytes) -> None:
        handle, draft = tempfile.mkstemp(suffix=".part", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.replace(draft, path)
        except PermissionError:  # Windows: it is there and mapped by another process
            if not path.exists():
                raise
        finally:
            with suppress(FileNotFoundError):
                os.unlink(draft)


def key(digest: str, settings: dict[str, Any]) -> str:
    """Name a slice by what decides its pixels.

    Args:
        digest: SHA-256 of the image file.
        settings: of reading and resizing, plain values.

    Returns:
        SHA-256 of both, of `READER_VERSION` and of Pillow's version, in hexadecimal.

    Example:
        >>> key("ab", {"channels": 3}) == key("ab", {"channels": 1})
        False
    """
    text = json.dumps([digest, settings, READER_VERSION, PIL.__version__], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def hash_file(path: Path) -> tuple[list[int], str]:
    """Hash a file that nobody writes to meanwhile.

    Args:
        path: of the file.

    Returns:
        Its size, the times of its last changes in ns and its inode, and its SHA-256 in hexadecimal.

    Raises:
        FileNotFoundError: if there is no such file.
        OSError: if it changes all the while.
    """
    for _ in range(5):
        before = _stat(path)
        with path.open("rb") as file:
            digest = hashlib.sha256()
            while block := file.read(2**20):
                digest.update(block)
        if _stat(path) == before:
            return before, digest.hexdigest()
    raise OSError(f"{path}: changes while it is read: wait until it is written")


def _stat(path: Path) -> list[int]:
    try:
        stat = path.stat()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: there is no such image file: check the path") from None
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _check_sum(pixels: Tensor, placement: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(placement).encode(), zlib.crc32(pixels.numpy().data))


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
