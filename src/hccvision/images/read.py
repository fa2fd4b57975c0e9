"""Image files of any registered format to 8-bit arrays, raw values, sizes and acquisition details."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np

from hccvision.images.formats.checks import decoding, require_plausible_bytes
from hccvision.images.formats.image_format import AXES, ImageFormat
from hccvision.images.image_file import ImageFile
from hccvision.images.provenance import Provenance
from hccvision.images.window import DEFAULT_WINDOW, Window
from hccvision.registry import IMAGE_FORMATS

_FIRST_BYTES = 512


def suffixes() -> tuple[str, ...]:
    """Return the file name suffixes of all registered formats, in lower case with the dot.

    Returns:
        The suffixes; some contain others, such as ``".nii.gz"``.

    Example:
        >>> ".png" in suffixes(), ".xml" in suffixes()
        (True, False)
    """
    return tuple(dict.fromkeys(suffix for image_format in _formats() for suffix in image_format.suffixes))


def is_image(path: str | Path) -> bool:
    """Return whether a file is an image, judged by its name or, if the name does not tell, by its first bytes.

    Args:
        path: the file. It is opened only if its suffix is not among `suffixes`.

    Returns:
        True for a known suffix in upper or lower case, and for first bytes that a format recognises, such as DICOM's;
        False for hidden files and for a format's index files, such as ``DICOMDIR``.

    Example:
        >>> is_image("liver/P007_03.PNG"), is_image("liver/P007_03.xml"), is_image("liver/._P007_03.png")
        (True, False, False)
    """
    path = Path(path)
    formats = _formats()
    if path.name.startswith(".") or any(path.name in image_format.index_names for image_format in formats):
        return False
    if path.name.lower().endswith(suffixes()):
        return True
    first_bytes = _first_bytes(ImageFile(path))
    return any(_matches(image_format, path, first_bytes) for image_format in formats)


def format_of(path: str | Path) -> ImageFormat:
    """Return the format that reads a file.

    Args:
        path: the file.

    Returns:
        Of the formats that match the file the one with the longest fitting suffix, then the first in alphabetical
        order; the fallback, Pillow, if none matches.

    Example:
        >>> format_of("P007.nii.gz").takes_axis, format_of("P007_03.png").takes_axis
        (True, False)
    """
    return _format_of(ImageFile(Path(path)))


def read_image(
    path: str | Path,
    *,
    channels: int = 3,
    frame: int | None = None,
    axis: str | None = None,
    window: Window = DEFAULT_WINDOW,
    source: BinaryIO | None = None,
) -> np.ndarray:
    """Read one image of any format as 8 bits.

    Pictures: EXIF orientation is applied, alpha is composited over black, and more than 8 bits are converted by
    `to_uint8`. DICOM: values are rescaled, then displayed through the file's VOI lookup table or its first window, or
    by `to_uint8` where it has none; MONOCHROME1 is inverted. NIfTI: one slice, oriented as DICOM displays it.

    Args:
        path: the file.
        channels: number of channels: 3 repeats grey, 1 takes the luminance of colour (ITU-R 601); any other number must
            be the file's own.
        frame: number of the frame or slice, from 0, in a file that holds several.
        axis: of a volume: ``"axial"`` slices, numbered towards the head, ``"coronal"`` ones, towards the back, or
            ``"sagittal"`` ones, towards the patient's left; None: along the last stored axis, as stored.
        window: mapping to 8 bits instead of the file's own. It is applied to rescaled DICOM values without VOI, and to
            all channels of 8-bit colour at once.
        source: the file opened in binary mode and seekable, to be read from its start and left open; None opens the
            path.

    Returns:
        ``(H, W, channels) uint8``.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: if the file is DICOM or NIfTI and the extra ``medical`` is not installed.
        ValueError: if it can't be decoded, has no pixels, has other channels, does not fit a fixed window, holds
            several frames and ``frame`` is None or out of range, or has no such axis.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> path = Path(tempfile.mkdtemp(), "a.png")
        >>> Image.new("L", (484, 300), 7).save(path)
        >>> image = read_image(path)
        >>> image.shape, image.dtype, image[0, 0].tolist()
        ((300, 484, 3), dtype('uint8'), [7, 7, 7])
    """
    file, image_format = _find(path, axis, source)
    with decoding(file.path):
        plane = image_format.read(file, frame, axis)
    try:
        return plane.to_image(channels, window)
    except ValueError as error:
        message = str(error)
        raise ValueError(message if message.startswith(f"{file.path}: ") else f"{file.path}: {message}") from None


def read_values(
    path: str | Path, *, frame: int | None = None, axis: str | None = None, source: BinaryIO | None = None
) -> np.ndarray:
    """Read the values of one image before any window, as `Window.apply` takes them; for masks see `read_labels`.

    Args:
        path: the file.
        frame: number of the frame or slice, from 0, in a file that holds several.
        axis: of a volume; see `read_image`.
        source: the file opened already; see `read_image`.

    Returns:
        ``(H, W)`` grey, or ``(H, W, n)`` with colours or alpha, oriented like `read_image`'s: rescaled values of DICOM
        and NIfTI in a type that holds them, pixels of other files. MONOCHROME1 is not inverted.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: if the file is DICOM or NIfTI and the extra ``medical`` is not installed.
        ValueError: as `read_image`.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> path = Path(tempfile.mkdtemp(), "a.png")
        >>> Image.fromarray(np.array([[0, 1000]], np.uint16)).save(path)
        >>> read_values(path)
        array([[   0, 1000]], dtype=uint16)
    """
    file, image_format = _find(path, axis, source)
    with decoding(file.path):
        values = image_format.read(file, frame, axis).values
    if values.dtype.kind not in "buif":
        raise ValueError(f"{file.path}: expected pixels of real numbers, got {values.dtype}: convert the file first")
    return values


def read_labels(
    path: str | Path, *, frame: int | None = None, axis: str | None = None, source: BinaryIO | None = None
) -> np.ndarray:
    """Read the label values of a mask as they are stored, oriented as `read_image` orients the image.

    Args:
        path: the file; of a picture with a palette the indices are read.
        frame: number of the frame or slice, from 0, in a file that holds several.
        axis: of a volume; see `read_image`.
        source: the file opened already; see `read_image`.

    Returns:
        ``(H, W)``, or ``(H, W, n)`` with colours or alpha.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: if the file is DICOM or NIfTI and the extra ``medical`` is not installed.
        ValueError: as `read_image`; also for JPEG, which does not keep label values.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> path = Path(tempfile.mkdtemp(), "a.png")
        >>> Image.fromarray(np.array([[0, 3]], np.uint8)).save(path)
        >>> read_labels(path).tolist()
        [[0, 3]]
    """
    file, image_format = _find(path, axis, source)
    with decoding(file.path):
        return image_format.labels(file, frame, axis)


def image_size(path: str | Path, *, axis: str | None = None, source: BinaryIO | None = None) -> tuple[int, int]:
    """Return the size of the image that `read_image` returns, read from the header where that states it.

    Args:
        path: the file; of several frames the first counts.
        axis: of a volume; see `read_image`.
        source: the file opened already; see `read_image`.

    Returns:
        ``(height, width)`` in pixels, after EXIF orientation.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: if the file is DICOM or NIfTI and the extra ``medical`` is not installed.
        ValueError: if the header can't be read or states no image.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> path = Path(tempfile.mkdtemp(), "a.png")
        >>> Image.new("L", (484, 300)).save(path)
        >>> image_size(path)
        (300, 484)
    """
    file, image_format = _find(path, axis, source)
    with decoding(file.path):
        return image_format.size(file, axis)


def frame_count(path: str | Path, *, axis: str | None = None, source: BinaryIO | None = None) -> int:
    """Return the number of frames or slices in a file, read from its header.

    Args:
        path: the file.
        axis: of a volume; see `read_image`.
        source: the file opened already; see `read_image`.

    Returns:
        The number of frames; `read_image` accepts ``frame=0`` to one less.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: if the file is DICOM or NIfTI and the extra ``medical`` is not installed.
        ValueError: if the header can't be read.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> path = Path(tempfile.mkdtemp(), "a.tif")
        >>> Image.new("L", (8, 8)).save(path, save_all=True, append_images=[Image.new("L", (8, 8))])
        >>> frame_count(path)
        2
    """
    file, image_format = _find(path, axis, source)
    with decoding(file.path):
        return image_format.frames(file, axis)


def verify_image(path: str | Path, *, source: BinaryIO | None = None) -> None:
    """Raise if a file is empty or cut short, judged by its structure without decoding it.

    Args:
        path: the file.
        source: the file opened already; see `read_image`.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: if the file is DICOM or NIfTI and the extra ``medical`` is not installed.
        ValueError: if it holds no bytes, or ends before its last pixel.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "a.png")
        >>> path.touch()
        >>> verify_image(path)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: ...a.png: can't be read as an image (ValueError: empty: it has 0 bytes): export it again ...
    """
    file, image_format = _find(path, None, source)
    with decoding(file.path):
        with file.open() as stream:
            start = stream.read(_FIRST_BYTES)
            if not start:
                raise ValueError("empty: it has 0 bytes")
            if not any(start) and not any(any(piece) for piece in iter(lambda: stream.read(2**20), b"")):
                raise ValueError("blank: it holds nothing but zeros")
        image_format.verify(file)


def read_affine(path: str | Path, *, source: BinaryIO | None = None) -> np.ndarray | None:
    """Read how a volume lies in the patient from the file's header.

    Args:
        path: the file.
        source: the file opened already; see `read_image`.

    Returns:
        ``(4, 4)``, from voxel indices to mm; None where the format does not state it.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: if the file is NIfTI and the extra ``medical`` is not installed.
        ValueError: if the header can't be read.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> path = Path(tempfile.mkdtemp(), "a.png")
        >>> Image.new("L", (484, 300)).save(path)
        >>> read_affine(path) is None
        True
    """
    file, image_format = _find(path, None, source)
    with decoding(file.path):
        return image_format.affine(file)


def read_provenance(
    path: str | Path, *, frame: int | None = None, axis: str | None = None, source: BinaryIO | None = None
) -> Provenance:
    """Read the acquisition details of an image from the file's header; never the patient's name, number or dates.

    Args:
        path: the file. Pictures such as PNG state nothing; NIfTI states spacing, thickness and position, in mm if it
            names no unit.
        frame: number of the frame or slice, from 0; None: the first.
        axis: of a volume; see `read_image`.
        source: the file opened already; see `read_image`.

    Returns:
        What the file states; measures that are not positive numbers are None.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: if the file is DICOM or NIfTI and the extra ``medical`` is not installed.
        ValueError: if the header can't be read.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> path = Path(tempfile.mkdtemp(), "a.png")
        >>> Image.new("L", (484, 300)).save(path)
        >>> read_provenance(path) == Provenance()
        True
    """
    file, image_format = _find(path, axis, source)
    with decoding(file.path):
        return image_format.provenance(file, frame, axis)


def _find(path: str | Path, axis: str | None, source: BinaryIO | None) -> tuple[ImageFile, ImageFormat]:
    """Return an existing file with its format, which takes the axis."""
    file = ImageFile(Path(path), source)
    if axis is not None and axis not in AXES:
        raise ValueError(f"unknown axis {axis!r}: use one of {', '.join(map(repr, AXES))}, or None")
    if source is None and not file.path.is_file():
        raise FileNotFoundError(f"{file.path}: there is no such image file: check the path")
    if source is None:
        require_plausible_bytes(file.path)
    image_format = _format_of(file)
    if axis is not None and not image_format.takes_axis:
        volumes = [suffix for known in _formats() if known.takes_axis for suffix in known.suffixes]
        raise ValueError(f"{file.path}: axis={axis!r} is for volumes ({', '.join(volumes)}): leave it out")
    return file, image_format


def _format_of(file: ImageFile) -> ImageFormat:
    name, first_bytes = file.path.name.lower(), _first_bytes(file)
    fallback = IMAGE_FORMATS.names(fallback=True)[0]
    others = _formats(exclude=fallback)
    others.sort(key=lambda f: max((len(s) for s in f.suffixes if name.endswith(s)), default=0), reverse=True)
    return next((f for f in others if _matches(f, file.path, first_bytes)), IMAGE_FORMATS.get(fallback)())


def _matches(image_format: ImageFormat, path: Path, first_bytes: bytes) -> bool:
    """Return whether a file has a format; one that fails to say so is reported, and leaves the file to the others."""
    try:
        return image_format.matches(path, first_bytes)
    except Exception as error:  # a format of anyone's
        warnings.warn(
            f"{path}: the image format {type(image_format).__name__} failed to say whether it is its own "
            f"({type(error).__name__}: {error}) and is passed over: correct its method matches",
            stacklevel=5,
        )
        return False


def _formats(exclude: str = "") -> list[ImageFormat]:
    return [IMAGE_FORMATS.get(name)() for name in IMAGE_FORMATS.names() if name != exclude]


def _first_bytes(file: ImageFile) -> bytes:
    try:
        with file.open() as stream:
            return stream.read(_FIRST_BYTES)
    except OSError:
        return b""
