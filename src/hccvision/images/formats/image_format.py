"""What a format of image files has to define."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hccvision.images.image_file import ImageFile
from hccvision.images.provenance import Provenance
from hccvision.images.slices import Slice

AXES = ("sagittal", "coronal", "axial")  # along x, y and z of the patient


class ImageFormat:
    """A format of image files: how to recognise a file and how to read it.

    Derive from it, define `read`, and register the class by ``@IMAGE_FORMATS.register("name")``: `read_image`, the
    readers of folders, training and prediction then use it. It is built without arguments and holds no state. Its
    methods need not handle broken files: any exception is raised again as a ValueError that names the file.

    Attributes:
        suffixes: endings of file names, in lower case with the dot.
        index_names: names of files that have the format, but hold no image.
        takes_axis: whether a file is a volume that can be sliced along any of `AXES`.
        is_plain: whether a file may be passed on as it is: it has no header that may tell who the patient is.

    Example:
        >>> class NumPyFormat(ImageFormat):
        ...     suffixes = (".npy",)
        ...
        ...     def read(self, file, frame, axis):
        ...         return Slice(np.load(file.content))
        >>> NumPyFormat().matches(Path("liver/A.NPY"), b"")
        True
    """

    suffixes: tuple[str, ...] = ()
    index_names: tuple[str, ...] = ()
    takes_axis: bool = False
    is_plain: bool = False

    def matches(self, path: Path, first_bytes: bytes) -> bool:
        """Return whether a file has this format; by default whether its name ends with one of the suffixes.

        Of several formats, the one with the longest suffix that fits the name reads the file, then the first in
        alphabetical order. A file that none matches is left to the format registered with ``fallback=True``, Pillow.

        Args:
            path: the file, which may not exist.
            first_bytes: its first 512 bytes; empty if it can't be opened.

        Returns:
            True to read the file.
        """
        return path.name.lower().endswith(self.suffixes)

    def read(self, file: ImageFile, frame: int | None, axis: str | None) -> Slice:
        """Read one slice.

        Args:
            file: an existing file that `matches`. Decoders that accept open files read ``file.content``, others
                ``file.path``.
            frame: number of the frame, unchecked; pass it to `choose_frame` with the number of frames in the file.
            axis: one of `AXES` or None; always None if the format does not take an axis.

        Returns:
            The slice.
        """
        raise NotImplementedError

    def labels(self, file: ImageFile, frame: int | None, axis: str | None) -> np.ndarray:
        """Return the label values of one slice of a mask; by default the values of `read`.

        Args:
            file: as in `read`.
            frame: as in `read`.
            axis: as in `read`.

        Returns:
            ``(H, W)``; ``(H, W, n)`` for a mask that was saved with colours.
        """
        return self.read(file, frame, axis).values

    def size(self, file: ImageFile, axis: str | None) -> tuple[int, int]:
        """Return ``(height, width)`` of a slice; by default of the first one, which is read.

        Args:
            file: as in `read`.
            axis: as in `read`.

        Returns:
            The size in pixels.
        """
        height, width = self.read(file, 0, axis).values.shape[:2]
        return height, width

    def frames(self, file: ImageFile, axis: str | None) -> int:
        """Return the number of frames in a file; by default 1.

        Args:
            file: as in `read`.
            axis: as in `read`.

        Returns:
            The number of values that ``frame`` can have.
        """
        return 1

    def verify(self, file: ImageFile) -> None:
        """Raise if the file is visibly incomplete, judged by its structure without decoding; by default never.

        Args:
            file: as in `read`.
        """

    def provenance(self, file: ImageFile, frame: int | None, axis: str | None) -> Provenance:
        """Return the acquisition details a file states; by default none.

        Args:
            file: as in `read`.
            frame: as in `read`; None: the first.
            axis: as in `read`.

        Returns:
            The details, without anything about the patient.
        """
        return Provenance()

    def affine(self, file: ImageFile) -> np.ndarray | None:
        """Return how a volume lies in the patient; by default None.

        Args:
            file: as in `read`.

        Returns:
            ``(4, 4)``, from voxel indices to mm; None where the file does not state it.
        """
        return None
