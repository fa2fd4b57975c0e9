"""PNG, JPEG, TIFF, BMP, DICOM and NIfTI files to 8-bit arrays, and arrays to the size a model takes.

Images are everywhere ``(H, W, C) uint8``. `Placement` says how an image was fitted into the model's input, and takes
boxes there and back.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import TiffImageFile

Reader = Callable[[Path, int | None], np.ndarray]
Sizer = Callable[[Path], tuple[int, int]]
Boxes = TypeVar("Boxes", np.ndarray, torch.Tensor)

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp", ".dcm", ".nii", ".nii.gz")
POLICIES = ("stretch", "letterbox")
_ORIENTATION, _PHOTOMETRIC = 0x0112, 0x0106  # EXIF and TIFF tags


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


def read_image(path: str | Path, *, channels: int = 3, frame: int | None = None) -> np.ndarray:
    """Read one image of any kind as 8 bits.

    EXIF orientation is applied, alpha is composited over black, and more than 8 bits go through `to_uint8`.
    DICOM: rescaled, then shown through the file's VOI lookup table or its first window, or through `to_uint8` where it
    has none; MONOCHROME1 is inverted. The windows inside the functional groups of enhanced multi-frame files are not
    looked at. NIfTI: a slice along the last stored axis, turned as DICOM shows it, by the file's affine: columns run to
    the patient's left (or back), rows to the back (or feet).

    Args:
        path: the file.
        channels: 3 repeats grey, 1 takes the luminance of colour (ITU-R 601); another number must be the file's own.
        frame: which frame or slice, from 0, of a file that holds several.

    Returns:
        ``(H, W, channels) uint8``.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: if the file is DICOM or NIfTI and the extra ``medical`` is not installed.
        ValueError: if it can't be decoded, has no pixels, has other channels, or holds several frames and none or a
            wrong one is named.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "a.png")
        >>> Image.new("L", (484, 300), 7).save(path)
        >>> image = read_image(path)
        >>> image.shape, image.dtype, image[0, 0].tolist()
        ((300, 484, 3), dtype('uint8'), [7, 7, 7])

    Source: DICOM PS3.3, C.7.6.3.1.2 (photometric interpretation) and C.11.2 (VOI).
    """
    path, reader, _ = _file(path)
    pixels = reader(path, frame)
    try:
        return _to_channels(pixels, channels)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def image_size(path: str | Path) -> tuple[int, int]:
    """Give the size `read_image` would give, from the file's header wherever that tells it.

    Args:
        path: the file; of several frames the first.

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
    path, _, sizer = _file(path)
    return sizer(path)


def from_array(array: np.ndarray, *, channels: int = 3) -> np.ndarray:
    """Turn a user's array into an image as `read_image` would give it.

    Args:
        array: ``(H, W)``, ``(H, W, 1)``, ``(H, W, 3)`` RGB, ``(H, W, 4) uint8`` RGBA, composited over black, or
            ``(H, W, channels)``. Types other than uint8 go through `to_uint8`, all channels in one window.
        channels: of the image.

    Returns:
        ``(H, W, channels) uint8``; the array itself where it already is that.

    Raises:
        ValueError: if the array has another shape, is empty, is not of real numbers, or holds NaN or infinity.

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
    return _to_channels(to_uint8(array), channels)


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
    if low == high:
        return np.zeros(array.shape, np.uint8)
    return _levels((np.clip(values, low, high) - low) / (high - low))


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
    values = array.astype(np.float64)
    with np.errstate(all="ignore"):
        if not np.isfinite(np.ptp(values)):
            raise ValueError("the pixels hold NaN or infinity: replace them first, for instance by numpy.nan_to_num")
    return values


def _levels(share: np.ndarray) -> np.ndarray:
    """Turn shares of the range, 0 to 1, into 0 to 255."""
    return np.rint(share * 255).astype(np.uint8)


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


def _file(path: str | Path) -> tuple[Path, Reader, Sizer]:
    """Give the path with the reader and the sizer for its kind of file."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such image file: check the path")
    name = path.name.lower()
    if name.endswith((".nii", ".nii.gz")):
        return path, _read_nifti, _size_of_nifti
    if name.endswith(".dcm") or _is_dicom(path):
        return path, _read_dicom, _size_of_dicom
    return path, _read_picture, _size_of_picture


def _is_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


@contextmanager
def _decoding(path: Path, remedy: str = "export it again from its source, or remove it") -> Iterator[None]:
    """Name the file and the remedy in whatever a decoder raises on broken bytes."""
    try:
        yield
    except (ImportError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"{path}: can't be read as an image ({reason}): {remedy}") from error


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


def _read_picture(path: Path, frame: int | None) -> np.ndarray:
    with _decoding(path):
        file = Image.open(path)
    with file:
        with _decoding(path):  # the second picture of a camera's MPO is a preview
            count = 1 if file.format == "MPO" else getattr(file, "n_frames", 1)
        index = _frame(path, frame, count)
        with _decoding(path):
            file.seek(index)
            white_is_zero = isinstance(file, TiffImageFile) and file.tag_v2.get(_PHOTOMETRIC) == 0
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith(("I", "F")):
                pixels = to_uint8(np.array(image))
                return 255 - pixels if white_is_zero else pixels  # Pillow itself inverts only up to 8 bits
            if image.has_transparency_data:
                mode = "LA" if image.mode == "LA" else "RGBA"
            else:
                mode = "L" if image.mode == "L" else "RGB"
            return np.array(image.convert(mode))


def _size_of_picture(path: Path) -> tuple[int, int]:
    with _decoding(path), Image.open(path) as file:
        turned = file.getexif().get(_ORIENTATION) in (5, 6, 7, 8)
        width, height = ImageOps.exif_transpose(file).size if turned else file.size
        return height, width


def _dataset(path: Path, **options: Any) -> Any:
    pydicom = _medical("pydicom", path)
    try:
        return pydicom.dcmread(path, force=True, **options)
    except Exception as error:  # its text may quote the patient's data
        kind = type(error).__name__
        raise ValueError(f"{path}: can't be read as DICOM ({kind}): export it again, or remove it") from None


def _read_dicom(path: Path, frame: int | None) -> np.ndarray:
    dataset = _dataset(path)
    if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise ValueError(f"{path}: holds no pixels, as DICOM reports and plans do: leave it out")
    with _decoding(path):
        count = int(dataset.get("NumberOfFrames") or 1)
    index = _frame(path, frame, count)
    with _decoding(path, "install a decoder for it, export it again uncompressed, or remove it"):
        from pydicom.pixels import apply_color_lut, pixel_array

        if "TransferSyntaxUID" not in dataset.file_meta:
            dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2"  # the standard's default
        stored = pixel_array(dataset, index=index)
        if dataset.PhotometricInterpretation == "PALETTE COLOR":
            stored = apply_color_lut(stored, dataset)
            return _full_range(stored, 8 * stored.dtype.itemsize)
        if stored.ndim == 3 or dataset.BitsAllocated == 1:
            pixels = _full_range(stored, dataset.BitsStored)
        else:
            pixels = _dicom_grey(stored, dataset)
        return 255 - pixels if dataset.PhotometricInterpretation == "MONOCHROME1" else pixels


def _dicom_grey(stored: np.ndarray, dataset: Any) -> np.ndarray:
    """Take stored values through the modality and the VOI transformation (DICOM PS3.3, C.11.1 and C.11.2)."""
    from pydicom.pixels import apply_rescale, apply_voi

    values = stored
    if dataset.get("ModalityLUTSequence") or (dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")) != (1, 0):
        values = apply_rescale(stored, dataset)
    if dataset.get("VOILUTSequence"):
        shown = apply_voi(np.rint(values).astype(np.int64), dataset)
        return _full_range(shown, dataset.VOILUTSequence[0].LUTDescriptor[2])
    function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    centre, width = _first_number(dataset.get("WindowCenter")), _first_number(dataset.get("WindowWidth"))
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
    return values if values.dtype == np.uint8 and bits == 8 else _levels(np.clip(values / (2.0**bits - 1), 0, 1))


def _size_of_dicom(path: Path) -> tuple[int, int]:
    dataset = _dataset(path, stop_before_pixels=True)
    height, width = dataset.get("Rows"), dataset.get("Columns")
    if not height or not width:
        raise ValueError(f"{path}: states no image size, as DICOM reports and plans do: leave it out")
    return int(height), int(width)


def _nifti(path: Path) -> tuple[Any, np.ndarray]:
    """Give the volume, and for both axes of its slices the world axis and the direction along it."""
    nibabel = _medical("nibabel", path)
    with _decoding(path):
        volume = nibabel.load(path)
        axes = nibabel.io_orientation(volume.affine)[:2]
    if len(volume.shape) < 2 or np.prod(volume.shape[3:]) != 1:
        raise ValueError(f"{path}: expected one volume of slices, got the shape {volume.shape}: split it first")
    return volume, axes


def _read_nifti(path: Path, frame: int | None) -> np.ndarray:
    volume, axes = _nifti(path)
    further = volume.shape[2:]
    index = _frame(path, frame, further[0] if further else 1)
    with _decoding(path):
        plane = np.asarray(volume.dataobj[(..., index, *(0,) * (len(further) - 1)) if further else ...])
        plane = np.flip(
            plane, tuple(axis for axis in (0, 1) if axes[axis, 1] > 0)
        )  # the world axes point right, front and up
        return to_uint8(plane.T if axes[0, 0] < axes[1, 0] else plane)


def _size_of_nifti(path: Path) -> tuple[int, int]:
    volume, axes = _nifti(path)
    first, second = (int(n) for n in volume.shape[:2])
    return (second, first) if axes[0, 0] < axes[1, 0] else (first, second)
