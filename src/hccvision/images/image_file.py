"""One image file, which may be open already."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO


@dataclass(frozen=True)
class ImageFile:
    """An image file to read.

    Args:
        path: the file.
        source: the file opened in binary mode and seekable, so that it need not be opened again; None opens the path.

    Example:
        >>> import io
        >>> with ImageFile(Path("a.bin"), io.BytesIO(b"12345")).open() as stream:
        ...     stream.read(3)
        b'123'
    """

    path: Path
    source: BinaryIO | None = None

    @property
    def content(self) -> Path | BinaryIO:
        """The open file at its start, or the path: what decoders accept."""
        if self.source is None:
            return self.path
        self.source.seek(0)
        return self.source

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Open the file at its start; a source stays open afterwards.

        Yields:
            The binary stream.
        """
        if self.source is not None:
            self.source.seek(0)
            yield self.source
        else:
            with self.path.open("rb") as stream:
                yield stream
