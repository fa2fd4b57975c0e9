"""PNG, JPEG, TIFF, BMP, DICOM and NIfTI files to 8-bit arrays, and arrays to the size a model takes.

Images are everywhere ``(H, W, C) uint8``. `Window` says how grey levels of any depth come to 8 bits; `Placement` says
how an image was fitted into the model's input, and takes boxes there and back. Nothing here gives away whose image it
is: of a DICOM file's header only what `Provenance` lists is passed on, and neither errors nor warnings quote it.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib
import logging
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import TiffImageFile

Boxes = TypeVar("Boxes", np.ndarray, torch.Tensor)

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp", ".dcm", ".nii", ".nii.gz")
POLICIES = ("stretch", "letterbox")
AXES = ("sagittal", "coronal", "axial")  # along x, y and z of the patient
WINDOWS = ("file", "percentile", "zscore", "fixed")
_ORIENTATION, _PHOTOMETRIC = 0x0112, 0x0106  # EXIF and TIFF tags
_MOST_PIXELS = 2**27  # of one slice; a broken header may ask for all the memory there is
_LEAST_SHARE = 0.01  # of the pixels, and of the window's width, below which a fixed window is not the image's


@dataclass(frozen=True)
class Window:
    """How grey levels of any depth come to 8 bits; a model keeps its own, so prediction can't differ from training.

    Numbers from the lower to the upper bound go linearly to 0-255 and those beyond to the ends. A ``"fixed"`` window is
    for numbers that mean the same in every file; an image that can't be of that kind is refused.

    Args:
        kind: ``"file"``: as `read_image` shows a file by itself, by its own VOI or the 0.5 and 99.5 percentiles, 8 bits
            as they are; ``"percentile"``: bounds in percent of the image's pixels; ``"zscore"``: in its standard
            deviations from its mean; ``"fixed"``: in the numbers themselves.
        low: the lower bound; None: 0.5 percent or −3 standard deviations.
        high: the upper bound; None: 99.5 percent or 3 standard deviations.

    Raises:
        ValueError: if the kind is unknown, the bounds are not ascending, missing, or not for that kind.

    Example:
        >>> Window("fixed", 0, 1000).apply(np.array([-7, 0, 500, 1000, 2000], np.int16))
        array([  0,   0, 128, 255, 255], dtype=uint8)
        >>> Window("zscore")
        Window(kind='zscore', low=-3.0, high=3.0)
    """

    kind: str = "file"
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in WINDOWS:
            raise ValueError(f"unknown kind of window {self.kind!r}: use one of {', '.join(map(repr, WINDOWS))}")
        low, high = {"percentile": (0.5, 99.5), "zscore": (-3.0, 3.0)}.get(self.kind, (None, None))
        low, high = (low if self.low is None else self.low), (high if self.high is None else self.high)
        if self.kind == "file":
            if (low, high) != (None, None):
                raise ValueError(f"a window of kind 'file' has no bounds, got {low} and {high}: leave them out")
            return
        if low is None or high is None or not np.isfinite([low, high]).all() or not low < high:
            raise ValueError(f"a window of kind {self.kind!r} has bounds low < high, got {low} and {high}")
        if self.kind == "percentile" and not 0 <= low < high <= 100:
            raise ValueError(f"expected percentiles 0 <= low < high <= 100, got {low} and {high}")
        object.__setattr__(self, "low", float(low))
        object.__setattr__(self, "high", float(high))

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Bring grey levels to 8 bits.

        Args:
            values: of any shape, bool, integers or real floats, before any other window.

        Returns:
            uint8 of the same shape; zeros where all numbers are the same, except that a fixed window refuses them.

        Raises:
            ValueError: if the array is empty, not of real numbers, or holds NaN or infinity. For a fixed window also
                if less than 1 % of the pixels lie inside it, if they fill less than 1 % of it, or if they are of 8 bits
                and it reaches beyond 0 and 255: such levels went through a window before. The message gives both
                ranges.
        """
        values = np.asarray(values)
        if self.kind == "file":
            return to_uint8(values)
        assert self.low is not None
        assert self.high is not None
        numbers = _finite(values)
        low, high = self.low, self.high
        if self.kind == "fixed":
            _require_inside(numbers, low, high, values.dtype in (np.uint8, bool))
        elif self.kind == "percentile":
            low, high = np.percentile(numbers, (low, high))
            if low == high:
                low, high = numbers.min(), numbers.max()
        else:
            numbers = np.ldexp(numbers, -np.frexp(np.abs(numbers).max())[1])  # up to 1: squares stay in range
            low, high = (float(numbers.mean() + k * numbers.std()) for k in (low, high))
        return _stretch(numbers, low, high)


DEFAULT_WINDOW = Window()


@dataclass(frozen=True)
class Provenance:
    """Where an image comes from, as far as its file says and without whose it is; None for what it doesn't say.

    Args:
        series: DICOM: 12 hexadecimal digits, the same for all slices of one series. They are a hash of its UID: who has
            the UID can find them, but they can't be turned back.
        spacing: ``(between rows, between columns)`` in mm.
        thickness: of the slice in mm.
        position: of the slice in mm along its normal, rising to the patient's left, back or head, whichever is nearest.
        scanner: manufacturer and model.
        modality: DICOM's abbreviation, such as ``"MR"``.

    Example:
        >>> Provenance(spacing=(0.72, 0.72)).scanner is None
        True
    """

    series: str | None = None
    spacing: tuple[float, float] | None = None
    thickness: float | None = None
    position: float | None = None
    scanner: str | None = None
    modality: str | None = None


def is_image(path: str | Path) -> bool:
    """Say whether a file is an image by its name, or, if the name does not tell, DICOM by its first bytes.

    Args:
        path: the file. Only one whose suffix is not in `SUFFIXES` is opened.

    Returns:
        True for a known suffix in upper or lower case and for the word ``DICM`` at byte 128; False for hidden files
        and for the index of a DICOM medium, ``DICOMDIR``.

    Example:
        >>> is_image("liver/P007_03.PNG"), is_image("liver/P007_03.xml"), is_image("liver/._P007_03.png")
        (True, False, False)
    """
    path = Path(path)
    if path.name.startswith(".") or path.name == "DICOMDIR":
        return False
    return path.name.lower().endswith(SUFFIXES) or _is_dicom(path)


def read_image(
    path: str | Path,
    *,
    channels: int = 3,
    frame: int | None = None,
    axis: str | None = None,
    window: Window = DEFAULT_WINDOW,
    source: BinaryIO | None = None,
) -> np.ndarray:
    """Read one image of any kind as 8 bits.

    EXIF orientation is applied, alpha is composited over black, and more than 8 bits go through `to_uint8`.
    DICOM: rescaled, then shown through the file's VOI lookup table or its first window, or through `to_uint8` where it
    has none; of enhanced multi-frame files, those of the frame or the shared ones. MONOCHROME1 is inverted.
    NIfTI: a slice, turned as DICOM shows it, by the file's affine: columns run to the patient's left (or back), rows to
    the back (or feet). Oblique volumes are not resampled: their nearest axes count.

    Args:
        path: the file.
        channels: 3 repeats grey, 1 takes the luminance of colour (ITU-R 601); another number must be the file's own.
        frame: which frame or slice, from 0, of a file that holds several.
        axis: of a NIfTI volume: ``"axial"`` slices, counted towards the head, ``"coronal"`` ones, to the back, or
            ``"sagittal"`` ones, to the patient's left; None: along the last stored axis, as stored.
        window: how the numbers come to 8 bits, instead of the file's own way. It takes rescaled DICOM values without
            VOI, and of 8-bit colour all channels at once.
        source: the file, already opened in binary mode and seekable; it is read from its start and stays open. None
            opens the path.

    Returns:
        ``(H, W, channels) uint8``.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: if the file is DICOM or NIfTI and the extra ``medical`` is not installed.
        ValueError: if it can't be decoded, has no pixels, has other channels, does not fit a fixed window, holds
            several frames and none or a wrong one is named, or has no such axis.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "a.png")
        >>> Image.new("L", (484, 300), 7).save(path)
        >>> image = read_image(path)
        >>> image.shape, image.dtype, image[0, 0].tolist()
        ((300, 484, 3), dtype('uint8'), [7, 7, 7])

    Source: DICOM PS3.3, C.7.6.3.1.2 (photometric interpretation), C.7.6.16.2 (functional groups) and C.11.2 (VOI).
    """
    path, kind = _file(path, axis, source)
    values, show, inverted = kind.read(path, frame, axis, source)
    try:
        pixels = _to_image(values, channels, window, show)
    except ValueError as error:
        message = str(error)
        raise ValueError(message if message.startswith(str(path)) else f"{path}: {message}") from None
    return 255 - pixels if inverted else pixels


def read_values(path: str | Path, *, frame: int | None = None, axis: str | None = None) -> np.ndarray:
    """Read the numbers of one image before any window: what `Window.apply` takes, or the labels of a mask.

    Args:
        path: the file.
        frame: which frame or slice, from 0, of a file that holds several.
        axis: of the slices of a NIfTI volume; see `read_image`.

    Returns:
        ``(H, W)`` grey, or ``(H, W, n)`` with colours or alpha, turned like `read_image`'s: rescaled DICOM and NIfTI
        values in a type that holds them, of other files the pixels. MONOCHROME1 is not inverted.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: if the file is DICOM or NIfTI and the extra ``medical`` is not installed.
        ValueError: as `read_image`.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "a.png")
        >>> Image.fromarray(np.array([[0, 1000]], np.uint16)).save(path)
        >>> read_values(path)
        array([[   0, 1000]], dtype=uint16)
    """
    path, kind = _file(path, axis)
    values = kind.read(path, frame, axis, None).values
    if values.dtype.kind not in "buif":
        raise ValueError(f"{path}: expected pixels of real numbers, got {values.dtype}: convert the file first")
    return values


def image_size(path: str | Path, *, axis: str | None = None, source: BinaryIO | None = None) -> tuple[int, int]:
    """Give the size `read_image` would give, from the file's header wherever that tells it.

    Args:
        path: the file; of several frames the first.
        axis: of the slices of a NIfTI volume; see `read_image`.
        source: the file, already opened; see `read_image`.

    Returns:
        ``(height, width)`` in pixels, after EXIF orientation.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: if the file is DICOM or NIfTI and the extra ``medical`` is not installed.
        ValueError: if its header can't be read or states no image.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "a.png")
        >>> Image.new("L", (484, 300)).save(path)
        >>> image_size(path)
        (300, 484)
    """
    path, kind = _file(path, axis, source)
    return kind.size(path, axis, source)


def frame_count(path: str | Path, *, axis: str | None = None) -> int:
    """Count the frames or slices of a file, from its header.

    Args:
        path: the file.
        axis: of the slices of a NIfTI volume; see `read_image`.

    Returns:
        How many `read_image` can be asked for, from ``frame=0`` on.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: if the file is DICOM or NIfTI and the extra ``medical`` is not installed.
        ValueError: if its header can't be read.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "a.tif")
        >>> Image.new("L", (8, 8)).save(path, save_all=True, append_images=[Image.new("L", (8, 8))])
        >>> frame_count(path)
        2
    """
    path, kind = _file(path, axis)
    return kind.frames(path, axis)


def read_provenance(
    path: str | Path, *, frame: int | None = None, axis: str | None = None, source: BinaryIO | None = None
) -> Provenance:
    """Read where an image comes from, from the file's header; never the patient's name, number or dates.

    Args:
        path: the file. Pictures such as PNG say nothing; NIfTI says spacing, thickness and position, in mm where it
            states no unit.
        frame: which frame or slice, from 0; None: the first.
        axis: of the slices of a NIfTI volume; see `read_image`.
        source: the file, already opened; see `read_image`.

    Returns:
        What the file says; measures that are not positive numbers count as not said.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: if the file is DICOM or NIfTI and the extra ``medical`` is not installed.
        ValueError: if its header can't be read.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "a.png")
        >>> Image.new("L", (484, 300)).save(path)
        >>> read_provenance(path) == Provenance()
        True

    Source: DICOM PS3.3, C.7.6.2 (image plane) and C.7.6.16.2.1 (pixel measures).
    """
    path, kind = _file(path, axis, source)
    return kind.origin(path, frame, axis, source)


def from_array(array: np.ndarray, *, channels: int = 3, window: Window = DEFAULT_WINDOW) -> np.ndarray:
    """Turn a user's array into an image as `read_image` would give it.

    Args:
        array: ``(H, W)``, ``(H, W, 1)``, ``(H, W, 3)`` RGB, ``(H, W, 4) uint8`` RGBA, composited over black, or
            ``(H, W, channels)``. uint8 is taken for a picture and stays as it is; other types, floats in [0, 1] no
            less than 16 bits, go through `to_uint8`, all channels in one window.
        channels: of the image.
        window: how the numbers come to 8 bits, if not so. A fixed one takes them as raw values in its own unit.

    Returns:
        ``(H, W, channels) uint8``; the array itself where it already is that.

    Raises:
        ValueError: if the array has another shape, is empty, is not of real numbers, holds NaN or infinity, or does not
            fit a fixed window.

    Example:
        >>> from_array(np.array([[0, 500], [1000, 1500]], np.uint16))[..., 0]
        array([[  0,  85],
               [170, 255]], dtype=uint8)
    """
    array = np.asarray(array)
    own = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or array.size == 0 or own not in (1, 3, 4, channels):
        raise ValueError(
            f"expected an image array (H, W), (H, W, 1), (H, W, 3), (H, W, 4) or (H, W, {channels}), got "
            f"{array.shape}: give one image at a time, channels last"
        )
    if own == 4 and channels != 4 and array.dtype != np.uint8:
        raise ValueError(f"an RGBA array must be uint8, got {array.dtype}: scale it to 0-255, or leave the alpha out")
    return _to_image(array, channels, window, to_uint8)


def to_uint8(array: np.ndarray, *, percentiles: tuple[float, float] = (0.5, 99.5)) -> np.ndarray:
    """Bring grey levels of any depth to 8 bits.

    Numbers between the two percentiles go linearly to 0-255 and those beyond to the ends; where the percentiles
    coincide, the least and the greatest number take their place. uint8 stays as it is and bool becomes 0 and 255.

    Args:
        array: of any shape, bool, integers or real floats.
        percentiles: the window, in percent of the pixels.

    Returns:
        uint8 of the same shape; zeros where all numbers are the same.

    Raises:
        ValueError: if the array is empty, not of real numbers, or holds NaN or infinity, or the percentiles are not
            ascending within 0 and 100.

    Example:
        >>> to_uint8(np.array([-1.0, 0.0, 1.0]), percentiles=(0, 100))
        array([  0, 128, 255], dtype=uint8)
    """
    array = np.asarray(array)
    if array.size == 0 or array.dtype.kind not in "buif":
        raise ValueError(f"expected pixels of real numbers, got {array.dtype} {array.shape}: convert the array first")
    if not 0 <= percentiles[0] < percentiles[1] <= 100:
        raise ValueError(f"expected percentiles 0 <= low < high <= 100, got {percentiles}")
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array.astype(np.uint8) * np.uint8(255)
    values = _finite(array)
    low, high = np.percentile(values, percentiles)
    if low == high:
        low, high = values.min(), values.max()
    return _stretch(values, low, high)


@dataclass(frozen=True)
class Placement:
    """How one image lies in the model's input: scaled, then moved.

    Args:
        scale_x: input pixels per original pixel along x.
        scale_y: the same along y.
        pad_x: columns of padding on the left, in pixels of the input.
        pad_y: rows of padding on top, in pixels of the input.
        original_size: ``(height, width)`` of the image.
        input_size: ``(height, width)`` of the model's input.

    Example:
        >>> p = place((300, 484), (300, 300), "letterbox")
        >>> p.pad_y, p.to_input(np.array([[0, 0, 484, 300]])).tolist()
        (57, [[0.0, 57.0, 300.0, 243.0]])
        >>> p.to_original(torch.tensor([[0.0, 0.0, 300.0, 150.0]]))
        tensor([[  0.,   0., 484., 150.]])
    """

    scale_x: float
    scale_y: float
    pad_x: int
    pad_y: int
    original_size: tuple[int, int]
    input_size: tuple[int, int]

    def to_input(self, boxes: Boxes) -> Boxes:
        """Take boxes from the original image into the model's input.

        Args:
            boxes: ``(..., 4)``, xyxy pixels of the original image, NumPy or torch.

        Returns:
            The same kind, xyxy pixels of the input; integers become float32.
        """
        boxes = _floating(boxes)
        return boxes * _like(boxes, self.scale_x, self.scale_y) + _like(boxes, self.pad_x, self.pad_y)

    def to_original(self, boxes: Boxes) -> Boxes:
        """Take boxes from the model's input back into the original image, cut to its edges.

        Args:
            boxes: ``(..., 4)``, xyxy pixels of the model's input, NumPy or torch.

        Returns:
            The same kind, xyxy pixels of the original image; integers become float32.
        """
        boxes = _floating(boxes)
        height, width = self.original_size
        moved = (boxes - _like(boxes, self.pad_x, self.pad_y)) / _like(boxes, self.scale_x, self.scale_y)
        return moved.clip(_like(boxes, 0, 0), _like(boxes, width, height))


def place(original_size: tuple[int, int], image_size: tuple[int, int], policy: str) -> Placement:
    """Work out how an image of one size fits into another.

    Args:
        original_size: ``(height, width)`` of the image.
        image_size: ``(height, width)`` of the model's input.
        policy: ``"stretch"`` fills the input, ``"letterbox"`` keeps the aspect and centres the image.

    Returns:
        The placement, with the scales of whole resized pixels.

    Raises:
        ValueError: if a size is not positive or the policy is unknown.

    Example:
        >>> place((300, 600), (300, 300), "stretch").scale_x
        0.5
    """
    if min(*original_size, *image_size) < 1:
        raise ValueError(f"expected sizes (height, width) of at least 1 pixel, got {original_size} and {image_size}")
    if policy not in POLICIES:
        raise ValueError(f"unknown resize policy {policy!r}: use one of {', '.join(map(repr, POLICIES))}")
    (height, width), (input_height, input_width) = original_size, image_size
    resized_height, resized_width = image_size
    if policy == "letterbox":
        scale = min(input_height / height, input_width / width)
        resized_height, resized_width = (max(1, round(side * scale)) for side in original_size)
    return Placement(
        scale_x=resized_width / width,
        scale_y=resized_height / height,
        pad_x=(input_width - resized_width) // 2,
        pad_y=(input_height - resized_height) // 2,
        original_size=(height, width),
        input_size=(input_height, input_width),
    )


def resize(image: np.ndarray, image_size: tuple[int, int], policy: str = "stretch") -> tuple[np.ndarray, Placement]:
    """Fit an image into the model's input, bilinear with antialiasing, letterboxes on black.

    Args:
        image: ``(H, W, C) uint8``, of any number of channels.
        image_size: ``(height, width)`` of the model's input.
        policy: ``"stretch"`` or ``"letterbox"``; see `place`.

    Returns:
        ``(height, width, C) uint8``, and the placement that was done.

    Raises:
        ValueError: if the image is not ``(H, W, C) uint8``, a size is not positive or the policy is unknown.

    Example:
        >>> resized, placement = resize(np.full((300, 600, 3), 9, np.uint8), (300, 300), "letterbox")
        >>> resized.shape, placement.pad_y, resized[74:76, 0, 0].tolist()
        ((300, 300, 3), 75, [0, 9])
    """
    if image.ndim != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(f"expected an image (H, W, C) uint8, got {image.shape} {image.dtype}: use from_array first")
    placement = place(image.shape[:2], image_size, policy)
    height, width = round(image.shape[0] * placement.scale_y), round(image.shape[1] * placement.scale_x)
    channels = image.shape[2]
    planes = [image] if channels == 3 else list(np.moveaxis(image, 2, 0))
    resized = [np.asarray(Image.fromarray(p).resize((width, height), Image.Resampling.BILINEAR)) for p in planes]
    result = np.zeros((*placement.input_size, channels), np.uint8)
    y, x = placement.pad_y, placement.pad_x
    result[y : y + height, x : x + width] = resized[0] if channels == 3 else np.stack(resized, axis=2)
    return result, placement


def _floating(boxes: Any) -> Any:
    """Give the boxes as floats of the same kind."""
    if not isinstance(boxes, torch.Tensor):
        boxes = np.asarray(boxes)
    if boxes.shape[-1:] != (4,):
        raise ValueError(f"expected boxes (..., 4), got {tuple(boxes.shape)}: give xyxy pixels")
    if isinstance(boxes, torch.Tensor):
        return boxes if boxes.is_floating_point() else boxes.float()
    return boxes if boxes.dtype.kind == "f" else boxes.astype(np.float32)


def _like(boxes: Any, x: float, y: float) -> Any:
    """Give x, y, x, y in the kind, type and place of the boxes."""
    return boxes.new_tensor([x, y, x, y]) if isinstance(boxes, torch.Tensor) else np.array([x, y, x, y], boxes.dtype)


def _finite(array: np.ndarray) -> np.ndarray:
    """Give the numbers as float64 of finite range."""
    if array.size == 0 or array.dtype.kind not in "buif":
        raise ValueError(f"expected pixels of real numbers, got {array.dtype} {array.shape}: convert the array first")
    values = array.astype(np.float64)
    with np.errstate(all="ignore"):
        if not np.isfinite(np.ptp(values)):
            raise ValueError("the pixels hold NaN or infinity: replace them first, for instance by numpy.nan_to_num")
    return values


def _stretch(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Take numbers from low to high linearly to 0 to 255; zeros where there is nothing between."""
    if low == high:
        return np.zeros(values.shape, np.uint8)
    if max(-low, high) > 1e307:  # then high - low may be infinite
        values, low, high = values / 16, low / 16, high / 16
    return _levels((np.clip(values, low, high) - low) / (high - low))


def _levels(share: np.ndarray) -> np.ndarray:
    """Turn shares of the range, 0 to 1, into 0 to 255."""
    return np.rint(share * 255).astype(np.uint8)


def _require_inside(values: np.ndarray, low: float, high: float, of_8_bits: bool) -> None:
    ranges = (
        f"grey levels from {values.min():g} to {values.max():g} do not fit the fixed window from {low:g} to {high:g}"
    )
    if of_8_bits and (low < 0 or high > 255):
        raise ValueError(f"8-bit {ranges}: they have been through a window already; give the raw values")
    inside = np.mean((values >= low) & (values <= high))
    if inside < _LEAST_SHARE:
        raise ValueError(f"{ranges}, {100 * inside:.2g} % of the pixels are inside: give raw values in the same unit")
    if np.ptp(np.clip(values, low, high)) < _LEAST_SHARE * (high - low):
        raise ValueError(
            f"{ranges}, they fill less than 1 % of it: give raw values in the same unit, and leave out empty slices"
        )


def _to_image(
    values: np.ndarray, channels: int, window: Window, show: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Bring numbers to 8 bits, by the window or by the file's own way, and to the channels asked for."""
    if window.kind == "file":
        return _to_channels(show(values), channels)
    if values.dtype == np.uint8:  # which may have alpha
        return window.apply(_to_channels(values, channels))
    return _to_channels(window.apply(values), channels)


def _to_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """Turn ``(H, W)`` or ``(H, W, n) uint8`` into ``(H, W, channels)``; 2 is grey and 4 is colour with alpha."""
    if pixels.ndim == 2:
        pixels = pixels[..., np.newaxis]
    own = pixels.shape[2]
    if own == channels:
        return pixels
    if channels not in (1, 3) or own > 4:
        raise ValueError(f"the image has {own} channels, {channels} are asked for: ask for {own}, or use another image")
    if own in (2, 4):
        over_black = pixels[..., :-1].astype(np.uint16) * pixels[..., -1:]
        pixels = ((over_black + 127) // 255).astype(np.uint8)
    if pixels.shape[2] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=2)
    luminance = pixels @ np.array([19595, 38470, 7471], np.uint32)  # 0.299, 0.587, 0.114 of 65536
    return ((luminance + 0x8000) >> 16).astype(np.uint8)[..., np.newaxis]


class _Slice(NamedTuple):
    """The numbers of one slice before any window, the file's own way to 8 bits, and whether small numbers are white."""

    values: np.ndarray
    show: Callable[[np.ndarray], np.ndarray]
    inverted: bool = False


class _Kind(NamedTuple):
    """What is done with one kind of file."""

    read: Callable[[Path, int | None, str | None, BinaryIO | None], _Slice]
    size: Callable[[Path, str | None, BinaryIO | None], tuple[int, int]]
    frames: Callable[[Path, str | None], int]
    origin: Callable[[Path, int | None, str | None, BinaryIO | None], Provenance]


def _file(path: str | Path, axis: str | None, source: BinaryIO | None = None) -> tuple[Path, _Kind]:
    """Give the path with what is done with its kind of file."""
    path = Path(path)
    if axis is not None and axis not in AXES:
        raise ValueError(f"unknown axis {axis!r}: use one of {', '.join(map(repr, AXES))}, or None")
    if source is None and not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such image file: check the path")
    name = path.name.lower()
    if name.endswith((".nii", ".nii.gz")):
        return path, _Kind(_read_nifti, _size_of_nifti, _count_of_nifti, _origin_of_nifti)
    if axis is not None:
        raise ValueError(f"{path}: axis={axis!r} is for NIfTI volumes, and this is none: leave it out")
    if name.endswith(".dcm") or _is_dicom(path, source):
        return path, _Kind(_read_dicom, _size_of_dicom, _count_of_dicom, _origin_of_dicom)
    return path, _Kind(_read_picture, _size_of_picture, _count_of_picture, lambda *_: Provenance())


def _rewound(path: Path, source: BinaryIO | None) -> Path | BinaryIO:
    """Return what a decoder is to read: the open file from its start, or the path."""
    if source is None:
        return path
    source.seek(0)
    return source


def _is_dicom(path: Path, source: BinaryIO | None = None) -> bool:
    try:
        with path.open("rb") if source is None else nullcontext(source) as stream:
            stream.seek(0)
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
    """Name the file and the remedy in whatever a decoder raises on broken bytes."""
    try:
        yield
    except (ImportError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(
            f"{path}: can't be read as an image ({reason}): export it again from its source, or remove it"
        ) from error


def _medical(module: str, path: Path) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f'{path}: reading it needs {module}: pip install "hccvision[medical]"') from error


def _frame(path: Path, frame: int | None, count: int) -> int:
    if frame is None and count != 1:
        raise ValueError(f"{path}: holds {count} frames: say which, from frame=0 to frame={count - 1}")
    if frame is not None and not 0 <= frame < count:
        raise ValueError(f"{path}: expected a frame from 0 to {count - 1}, got {frame}")
    return frame or 0


def _plausible(path: Path, height: int, width: int) -> tuple[int, int]:
    if height < 1 or width < 1:
        raise ValueError(f"{path}: states no image size, as DICOM reports and plans do: leave it out")
    if height * width > _MOST_PIXELS:
        raise ValueError(
            f"{path}: states a slice of {width}×{height} pixels, and at most {_MOST_PIXELS} are read: export it again, "
            "or remove it"
        )
    return height, width


def _frames(file: Image.Image) -> int:
    return 1 if file.format == "MPO" else getattr(file, "n_frames", 1)  # the second picture of a camera is a preview


def _read_picture(path: Path, frame: int | None, axis: str | None, source: BinaryIO | None) -> _Slice:
    with _decoding(path):
        file = Image.open(_rewound(path, source))
    with file:
        with _decoding(path):
            count = _frames(file)
        index = _frame(path, frame, count)
        with _decoding(path):
            file.seek(index)
            white_is_zero = isinstance(file, TiffImageFile) and file.tag_v2.get(_PHOTOMETRIC) == 0
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith(("I", "F")):  # Pillow itself inverts only up to 8 bits
                return _Slice(np.array(image), to_uint8, white_is_zero)
            if image.has_transparency_data:
                mode = "LA" if image.mode == "LA" else "RGBA"
            else:
                mode = "L" if image.mode == "L" else "RGB"
            return _Slice(np.array(image.convert(mode)), to_uint8)


def _size_of_picture(path: Path, axis: str | None, source: BinaryIO | None) -> tuple[int, int]:
    with _decoding(path), Image.open(_rewound(path, source)) as file:
        turned = file.getexif().get(_ORIENTATION) in (5, 6, 7, 8)
        width, height = ImageOps.exif_transpose(file).size if turned else file.size
        return height, width


def _count_of_picture(path: Path, axis: str | None) -> int:
    with _decoding(path), Image.open(path) as file:
        return _frames(file)


_SILENCE = threading.RLock()  # filters of warnings belong to the whole process
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_SILENCE.acquire, after_in_parent=_SILENCE.release, after_in_child=_SILENCE.release)


@contextmanager
def _dicom(path: Path, what: str = "an image") -> Iterator[None]:
    """As `_decoding`, and keep back all that may quote the patient's data: warnings, log lines and quotes in errors."""
    with _SILENCE, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger = logging.getLogger("pydicom")
        disabled, logger.disabled = logger.disabled, True
        try:
            yield
        except (ImportError, MemoryError):
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: " + re.sub(r"['\"].*['\"]", "…", " ".join(str(error).split()))
            if isinstance(error, AttributeError) and error.name:
                reason = f"it has no {error.name}"
            raise ValueError(
                f"{path}: can't be read as {what} ({reason}): export it again uncompressed, or remove it"
            ) from None
        finally:
            logger.disabled = disabled


def _dataset(path: Path, source: BinaryIO | None = None, **options: Any) -> Any:
    pydicom = _medical("pydicom", path)
    with _dicom(path, "DICOM"):
        try:
            return pydicom.dcmread(_rewound(path, source), force=True, **options)
        except Exception as error:
            kind = type(error).__name__
    raise ValueError(f"{path}: can't be read as DICOM ({kind}): export it again, or remove it")


def _read_dicom(path: Path, frame: int | None, axis: str | None, source: BinaryIO | None) -> _Slice:
    dataset = _dataset(path, source)
    if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise ValueError(f"{path}: holds no pixels, as DICOM reports and plans do: leave it out")
    index = _frame(path, frame, _stated_frames(path, dataset))
    with _dicom(path):
        from pydicom.encaps import get_frame
        from pydicom.pixels import apply_color_lut, get_decoder, pixel_array
        from pydicom.uid import JPEG2000TransferSyntaxes

        height, width = int(dataset.Rows), int(dataset.Columns)
        if "TransferSyntaxUID" not in dataset.file_meta:
            dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2"  # the standard's default
        syntax = dataset.file_meta.TransferSyntaxUID
        decoder = get_decoder(syntax)
    _plausible(path, height, width)
    if not decoder.is_available:
        wanted = [d.rpartition("requires ")[2].replace("numpy and ", "") for d in decoder.missing_dependencies]
        remedy = ", or ".join(w.replace("gdcm>", "python-gdcm>") for w in wanted)
        raise ValueError(
            f"{path}: its pixels are compressed as {syntax.name}, and no decoder for that is installed: install "
            f"{remedy}, or export the file again uncompressed"
        )
    with _dicom(path):
        if syntax in JPEG2000TransferSyntaxes:
            _require_ending(get_frame(dataset.PixelData, index, number_of_frames=_stated_frames(path, dataset)))
        stored = pixel_array(dataset, index=index)
        inverted = dataset.PhotometricInterpretation == "MONOCHROME1"
        if dataset.PhotometricInterpretation == "PALETTE COLOR":
            stored = apply_color_lut(stored, dataset)
            return _Slice(_full_range(stored, 8 * stored.dtype.itemsize), to_uint8)
        if stored.ndim == 3 or dataset.BitsAllocated == 1:
            return _Slice(_full_range(stored, dataset.BitsStored), to_uint8, inverted)
        values = _rescaled(stored, _of_frame(dataset, index, "PixelValueTransformationSequence"))
        voi = _of_frame(dataset, index, "FrameVOILUTSequence")

    def show(values: np.ndarray) -> np.ndarray:
        with _dicom(path):
            return _through_voi(values, voi)

    return _Slice(values, show, inverted)


def _require_ending(frame: bytes) -> None:
    """Refuse a JP2 header with a box of length 0 before the codestream: pydicom 3.0 would look at it for ever."""
    at = 12 if frame.startswith(b"\0\0\0\x0cjP  ") else len(frame)
    while at < len(frame) and frame[at + 4 : at + 8] != b"jp2c":
        length = int.from_bytes(frame[at : at + 4], "big")
        if length == 0:
            raise ValueError(f"a JPEG 2000 header breaks off at byte {at}")
        at += length


def _stated_frames(path: Path, dataset: Any) -> int:
    with _dicom(path):
        return int(dataset.get("NumberOfFrames") or 1)


def _of_frame(dataset: Any, index: int, group: str) -> Any:
    """Give the item that holds a frame's functional group, its own or the shared one; the dataset if there is none."""
    own, shared = (dataset.get(f"{kind}FunctionalGroupsSequence") or [] for kind in ("PerFrame", "Shared"))
    for item in (*own[index : index + 1], *shared[:1]):
        if item.get(group):
            return item[group].value[0]
    return dataset


def _rescaled(stored: np.ndarray, item: Any) -> np.ndarray:
    """Take stored values through the modality transformation (DICOM PS3.3, C.11.1)."""
    from pydicom.pixels import apply_rescale

    if item.get("ModalityLUTSequence") or (item.get("RescaleSlope"), item.get("RescaleIntercept")) != (1, 0):
        return apply_rescale(stored, item)
    return stored


def _through_voi(values: np.ndarray, item: Any) -> np.ndarray:
    """Take rescaled values through the VOI transformation to 8 bits (DICOM PS3.3, C.11.2)."""
    from pydicom.pixels import apply_voi

    if item.get("VOILUTSequence"):
        entries, first, bits = item.VOILUTSequence[0].LUTDescriptor
        # pydicom wraps numbers beyond the table around instead of giving them its last entry
        numbers = np.clip(np.rint(_finite(values)), first, first + (entries or 2**16) - 1).astype(np.int64)
        return _full_range(apply_voi(numbers, item), bits)
    function = str(item.get("VOILUTFunction") or "LINEAR").upper()
    centre, width = _first_number(item.get("WindowCenter")), _first_number(item.get("WindowWidth"))
    if not np.isfinite([centre, width]).all() or width < (1 if function == "LINEAR" else 1e-6):
        return to_uint8(values)
    return _levels(_window(_finite(values), centre, width, function))


def _window(values: np.ndarray, centre: float, width: float, function: str) -> np.ndarray:
    """Give shares of the output range, 0 to 1 (DICOM PS3.3, C.11.2.1.2 and C.11.2.1.3)."""
    if function == "SIGMOID":
        return (1 + np.tanh(2 * (values - centre) / width)) / 2
    if function == "LINEAR":
        centre, width = centre - 0.5, max(width - 1, 1e-6)
    return np.clip((values - centre) / width + 0.5, 0, 1)


def _first_number(value: Any) -> float:
    """Give the first of the numbers of a DICOM element, NaN where it is absent or empty."""
    return float(np.ravel(np.nan if value is None or value == "" else value)[0])


def _full_range(values: np.ndarray, bits: int) -> np.ndarray:
    if not 1 <= bits <= 64:
        raise ValueError(f"expected pixels of 1 to 64 bits, got {bits}")
    return values if values.dtype == np.uint8 and bits == 8 else _levels(np.clip(values / (2.0**bits - 1), 0, 1))


def _size_of_dicom(path: Path, axis: str | None, source: BinaryIO | None) -> tuple[int, int]:
    dataset = _dataset(path, source, stop_before_pixels=True)
    with _dicom(path):
        height, width = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
    return _plausible(path, height, width)


def _count_of_dicom(path: Path, axis: str | None) -> int:
    return _stated_frames(path, _dataset(path, stop_before_pixels=True))


def _origin_of_dicom(path: Path, frame: int | None, axis: str | None, source: BinaryIO | None) -> Provenance:
    dataset = _dataset(path, source, stop_before_pixels=True)
    index = _frame(path, frame or 0, _stated_frames(path, dataset))
    with _dicom(path, "DICOM"):
        measures = _of_frame(dataset, index, "PixelMeasuresSequence")
        corner = _numbers(_of_frame(dataset, index, "PlanePositionSequence").get("ImagePositionPatient"), 3)
        turn = _numbers(_of_frame(dataset, index, "PlaneOrientationSequence").get("ImageOrientationPatient"), 6)
        position = None
        if corner is not None and turn is not None and np.isfinite(normal := np.cross(turn[:3], turn[3:])).all():
            length = float(np.linalg.norm(normal))
            if length > 0:
                sign = np.sign(normal[np.argmax(np.abs(normal))])
                position = round(float(sign * normal @ corner / length), 4)
        thickness, spacing = _numbers(measures.get("SliceThickness"), 1), _numbers(measures.get("PixelSpacing"), 2)
        series = str(dataset.get("SeriesInstanceUID") or "")
        modality = str(dataset.get("Modality") or "")
        made_by = [str(dataset.get(name) or "") for name in ("Manufacturer", "ManufacturerModelName")]
        return Provenance(
            series=hashlib.sha256(series.encode()).hexdigest()[:12] if series else None,
            spacing=(float(spacing[0]), float(spacing[1])) if spacing is not None and (spacing > 0).all() else None,
            thickness=float(thickness[0]) if thickness is not None and thickness[0] > 0 else None,
            position=position,
            scanner=" ".join(" ".join(made_by).split()) or None,
            modality=modality if re.fullmatch("[A-Z0-9 _]{1,16}", modality) else None,
        )


def _numbers(value: Any, count: int) -> np.ndarray | None:
    """Give so many finite numbers of a DICOM element, None where it holds others."""
    try:
        numbers = np.ravel(np.asarray(value, np.float64))
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == count and np.isfinite(numbers).all() else None


class _Volume(NamedTuple):
    """A NIfTI volume, and how one slice is cut out of it and turned.

    ``along`` is the stored axis of the slices and ``plane`` the other two; ``turns`` gives for each stored axis the
    world's axis and the direction along it, and ``backwards`` is whether slices count against the stored order.
    """

    image: Any
    shape: tuple[int, ...]
    along: int
    plane: list[int]
    turns: np.ndarray
    backwards: bool

    @property
    def transposed(self) -> bool:
        return bool(self.turns[self.plane[0], 0] < self.turns[self.plane[1], 0])


def _nifti(path: Path, axis: str | None, source: BinaryIO | None = None) -> _Volume:
    nibabel = _medical("nibabel", path)
    with _decoding(path):
        image = nibabel.load(path) if source is None else _nifti_from(nibabel, path, source)
        turns = nibabel.io_orientation(image.affine)
        placed = any(int(image.header[code]) for code in ("qform_code", "sform_code"))
    shape = (*image.shape, 1)[:3]
    if len(shape) < 3 or np.prod(image.shape[3:]) != 1:
        raise ValueError(f"{path}: expected one volume of slices, got the shape {image.shape}: split it first")
    along = 2
    if axis is not None:
        if not placed or not np.isfinite(turns).all():
            raise ValueError(f"{path}: does not say how it lies in the patient, so it has no axis: leave axis out")
        along = int(np.flatnonzero(turns[:, 0] == AXES.index(axis))[0])
    plane = [i for i in range(3) if i != along]
    _plausible(path, *(int(shape[i]) for i in plane))
    rising = turns[along, 1] > 0  # to the right, the front or the head; DICOM counts to the left and the back
    backwards = axis is not None and bool(rising != (axis == "axial"))
    return _Volume(image, tuple(int(n) for n in shape), along, plane, turns, backwards)


def _nifti_from(nibabel: Any, path: Path, source: BinaryIO) -> Any:
    """Load a volume from an open file, as ``nibabel.load`` does from a path."""
    source.seek(0)
    stream: Any = gzip.GzipFile(fileobj=source) if path.name.lower().endswith(".gz") else source
    header_size = stream.read(4)
    stream.seek(0)
    is_second = 540 in (int.from_bytes(header_size, order) for order in ("little", "big"))  # 348 in NIfTI-1
    kind = nibabel.Nifti2Image if is_second else nibabel.Nifti1Image
    return kind.from_file_map({"image": nibabel.FileHolder(fileobj=stream)})


def _read_nifti(path: Path, frame: int | None, axis: str | None, source: BinaryIO | None) -> _Slice:
    volume = _nifti(path, axis, source)
    index = _frame(path, frame, volume.shape[volume.along])
    if volume.backwards:
        index = volume.shape[volume.along] - 1 - index
    where: list[Any] = [slice(None)] * 3 + [0] * len(volume.image.shape)
    where[volume.along] = index
    with _decoding(path):
        plane = np.asarray(volume.image.dataobj[tuple(where[: len(volume.image.shape)])])
        plane = plane.reshape([volume.shape[i] for i in volume.plane])
        plane = np.flip(
            plane, tuple(n for n, i in enumerate(volume.plane) if volume.turns[i, 1] > 0)
        )  # the world axes point right, front and up
    return _Slice(plane.T if volume.transposed else plane, to_uint8)


def _size_of_nifti(path: Path, axis: str | None, source: BinaryIO | None) -> tuple[int, int]:
    volume = _nifti(path, axis, source)
    first, second = (volume.shape[i] for i in volume.plane)
    return (second, first) if volume.transposed else (first, second)


def _count_of_nifti(path: Path, axis: str | None) -> int:
    volume = _nifti(path, axis)
    return volume.shape[volume.along]


def _origin_of_nifti(path: Path, frame: int | None, axis: str | None, source: BinaryIO | None) -> Provenance:
    volume = _nifti(path, axis, source)
    index = _frame(path, frame or 0, volume.shape[volume.along])
    if volume.backwards:
        index = volume.shape[volume.along] - 1 - index
    with _decoding(path):
        unit = {"meter": 1000.0, "micron": 0.001}.get(volume.image.header.get_xyzt_units()[0], 1.0)
        affine = unit * np.diag([-1, -1, 1]) @ volume.image.affine[:3]  # DICOM's axes, in mm
    sides = np.linalg.norm(affine[:, :3], axis=0)
    if not (np.isfinite(affine).all() and (sides > 0).all()):
        return Provenance()
    first, second = (float(sides[i]) for i in volume.plane)
    normal = np.cross(*(affine[:, i] / sides[i] for i in volume.plane))
    normal = normal / np.linalg.norm(normal) * np.sign(normal[np.argmax(np.abs(normal))])
    position = float(normal @ (affine[:, 3] + index * affine[:, volume.along]))
    return Provenance(
        spacing=(second, first) if volume.transposed else (first, second),
        thickness=float(sides[volume.along]),
        position=round(position, 4),
    )
