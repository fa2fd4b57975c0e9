"""DICOM slices, classic or enhanced multi-frame, displayed as their files say.

Only what `Provenance` lists is passed on from a header, and neither errors nor warnings quote the rest.

Source: DICOM PS3.3, C.7.6.2 (image plane), C.7.6.3.1.2 (photometric interpretation), C.7.6.16.2 (functional groups).
"""

from __future__ import annotations

import hashlib
import io
import logging
import math
import os
import re
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from hccvision.images.formats.checks import MAX_UNPACKED, choose_frame, import_medical, require_plausible_size
from hccvision.images.formats.dicom_display import full_range_to_uint8, padding_of, rescale, through_voi, warn_if_blank
from hccvision.images.formats.image_format import ImageFormat
from hccvision.images.formats.picture_ends import require_few_scans
from hccvision.images.image_file import ImageFile
from hccvision.images.provenance import Provenance
from hccvision.images.slices import Slice
from hccvision.registry import IMAGE_FORMATS

_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_IMPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2"  # the standard's default transfer syntax
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_UNCOMPRESSED = (_IMPLICIT_LITTLE_ENDIAN, "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
# elements that a file without the preamble may begin with: meta length, SOP class, character set, image type, …
_FIRST_ELEMENTS = {2: (0, 1, 2, 16), 8: (0, 1, 5, 8, 18, 19, 22, 24, 32)}
_FIRST_TYPES = (b"UL", b"OB", b"UI", b"CS", b"SH", b"LO", b"DA", b"TM")


@IMAGE_FORMATS.register("dicom")
class DICOMFormat(ImageFormat):
    """DICOM, read by pydicom.

    Values are rescaled, then displayed through the file's VOI lookup table or its first window, or by percentiles where
    it has none; enhanced multi-frame files take those of the frame or the shared ones. MONOCHROME1 is inverted.
    """

    suffixes = (".dcm",)
    index_names = ("DICOMDIR",)

    def matches(self, path: Path, first_bytes: bytes) -> bool:
        """Return whether a file is DICOM by its name, by ``DICM`` at byte 128, or by a first element without that."""
        return super().matches(path, first_bytes) or first_bytes[128:132] == b"DICM" or _begins(first_bytes)

    def read(self, file: ImageFile, frame: int | None, axis: str | None) -> Slice:
        """Read one frame; see `ImageFormat.read`."""
        path, dataset = file.path, _read(file)
        if not any(name in dataset for name in _PIXELS):
            raise ValueError(f"{path}: holds no pixels, like DICOM reports and plans: leave it out")
        index = choose_frame(path, frame, _frame_count(path, dataset))
        _require_decoder(path, dataset)
        with _nothing_quoted(path):
            from pydicom.pixels import apply_color_lut, pixel_array

            _require_sound_frame(dataset, index, _frame_count(path, dataset))
            stored = pixel_array(dataset, index=index)
            inverted = dataset.PhotometricInterpretation == "MONOCHROME1"
            if dataset.PhotometricInterpretation == "PALETTE COLOR":
                stored = apply_color_lut(stored, dataset)
                return _full_range(path, stored, 8 * stored.dtype.itemsize)
            if stored.ndim == 3 or dataset.BitsAllocated == 1:
                return _full_range(path, stored, dataset.BitsStored, inverted)
            padding = padding_of(stored, dataset)
            values = rescale(stored, _functional_group(dataset, index, "PixelValueTransformationSequence"))
            voi = _functional_group(dataset, index, "FrameVOILUTSequence")

        def show(values: np.ndarray) -> np.ndarray:
            with _nothing_quoted(path):
                shown = through_voi(values, voi, padding)
            warn_if_blank(path, shown, values, padding, "its window (VOI)")
            return shown

        warn_if_blank(path, values, stored, padding, "its rescaling")
        return Slice(values, show, inverted, padding)

    def labels(self, file: ImageFile, frame: int | None, axis: str | None) -> np.ndarray:
        """Return the values of `read`, but bits and indices of a palette as they are stored."""
        dataset = _read(file, stop_before_pixels=True)
        with _nothing_quoted(file.path):
            is_index = dataset.get("PhotometricInterpretation") == "PALETTE COLOR" or dataset.get("BitsAllocated") == 1
        if not is_index:
            return self.read(file, frame, axis).values
        path, dataset = file.path, _read(file)
        count = _frame_count(path, dataset)
        index = choose_frame(path, frame, count)
        _require_decoder(path, dataset)
        with _nothing_quoted(path):
            from pydicom.pixels import pixel_array

            _require_sound_frame(dataset, index, count)
            return np.array(pixel_array(dataset, index=index))

    def size(self, file: ImageFile, axis: str | None) -> tuple[int, int]:
        """Return ``(height, width)`` from the header; see `ImageFormat.size`."""
        path, dataset = file.path, _read(file, stop_before_pixels=True)
        with _nothing_quoted(path):
            height, width = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
        require_plausible_size(path, height, width)
        return height, width

    def frames(self, file: ImageFile, axis: str | None) -> int:
        """Return the number of frames from the header; see `ImageFormat.frames`."""
        return _frame_count(file.path, _read(file, stop_before_pixels=True))

    def verify(self, file: ImageFile) -> None:
        """Raise if uncompressed pixels can't be in the file, or others need a decoder; see `ImageFormat.verify`."""
        path = file.path
        with file.open() as stream:
            dataset = _read(ImageFile(path, stream), stop_before_pixels=True)
            left = -stream.tell() + stream.seek(0, 2)
        if "Rows" in dataset:
            _require_decoder(path, dataset)
        with _nothing_quoted(path):
            syntax = getattr(dataset, "file_meta", {}).get("TransferSyntaxUID") or _IMPLICIT_LITTLE_ENDIAN
            sides = [int(dataset.get(key) or 1) for key in ("NumberOfFrames", "Rows", "Columns", "SamplesPerPixel")]
            stated = math.prod(sides) * int(dataset.get("BitsAllocated") or 0) // 8
            subsampled = "422" in str(dataset.get("PhotometricInterpretation"))
        if syntax in _UNCOMPRESSED and not subsampled and "Rows" in dataset and left < stated + _header_length(syntax):
            raise ValueError(
                f"{path}: can't be read as an image (truncated: its pixels take {stated} bytes, and {left} follow its "
                "header): export it again, or remove it"
            )

    def provenance(self, file: ImageFile, frame: int | None, axis: str | None) -> Provenance:
        """Return what the header states; see `ImageFormat.provenance`."""
        path, dataset = file.path, _read(file, stop_before_pixels=True)
        index = choose_frame(path, frame or 0, _frame_count(path, dataset))
        with _nothing_quoted(path, "DICOM"):
            measures = _functional_group(dataset, index, "PixelMeasuresSequence")
            thickness, spacing = _numbers(measures.get("SliceThickness"), 1), _numbers(measures.get("PixelSpacing"), 2)
            series = str(dataset.get("SeriesInstanceUID") or "")
            modality = str(dataset.get("Modality") or "")
            made_by = [str(dataset.get(name) or "") for name in ("Manufacturer", "ManufacturerModelName")]
            return Provenance(
                series=hashlib.sha256(series.encode()).hexdigest()[:12] if series else None,
                spacing=(float(spacing[0]), float(spacing[1])) if spacing is not None and (spacing > 0).all() else None,
                thickness=float(thickness[0]) if thickness is not None and thickness[0] > 0 else None,
                position=_position(dataset, index),
                scanner=" ".join(" ".join(made_by).split()) or None,
                modality=modality if re.fullmatch("[A-Z0-9 _]{1,16}", modality) else None,
            )


def _header_length(syntax: str) -> int:
    """Return the number of bytes of the element of the pixels before their values."""
    return 8 if syntax == _IMPLICIT_LITTLE_ENDIAN else 12


def _full_range(path: Path, stored: np.ndarray, bits: int, inverted: bool = False) -> Slice:
    """Return pixels that are shown over their full range; more than 8 bits keep their depth until then."""
    if bits <= 8:
        return Slice(full_range_to_uint8(stored, bits), inverted=inverted)

    def show(values: np.ndarray) -> np.ndarray:
        shown = full_range_to_uint8(values, bits)
        warn_if_blank(path, shown, values, None, f"the range of its {bits} bits")
        return shown

    return Slice(stored, show, inverted)


def _begins(first_bytes: bytes) -> bool:
    """Return whether bytes begin with a DICOM element of the first groups, little-endian, explicit or implicit."""
    group, element = (int.from_bytes(first_bytes[n : n + 2], "little") for n in (0, 2))
    if len(first_bytes) < 16 or element not in _FIRST_ELEMENTS.get(group, ()):
        return False
    length = int.from_bytes(first_bytes[4:8], "little")
    following = int.from_bytes(first_bytes[8 + length : 10 + length], "little")
    return first_bytes[4:6] in _FIRST_TYPES or (length % 2 == 0 and length <= 128 and following in (group, 8))


_SILENCE = threading.RLock()  # warning filters belong to the whole process
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_SILENCE.acquire, after_in_parent=_SILENCE.release, after_in_child=_SILENCE.release)


@contextmanager
def _nothing_quoted(path: Path, what: str = "an image") -> Iterator[None]:
    """As `decoding`, without anything that may quote the patient's data: warnings, log lines, quotes in errors."""
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


def _read(file: ImageFile, **options: Any) -> Any:
    pydicom = import_medical("pydicom", file.path)
    with _nothing_quoted(file.path, "DICOM"):
        _require_plausible_unpacked(file)
        try:
            return pydicom.dcmread(file.content, force=True, **options)
        except Exception as error:
            kind = type(error).__name__
    raise ValueError(f"{file.path}: can't be read as DICOM ({kind}): export it again, or remove it")


def _require_plausible_unpacked(file: ImageFile) -> None:
    """Refuse a deflated file of more than `MAX_UNPACKED` bytes, which pydicom would unpack as a whole."""
    with file.open() as stream:
        start = stream.read(2**16)
        if _DEFLATED not in start:
            return
        meta = 132 if start[128:132] == b"DICM" else 0
        if start[meta : meta + 4] != b"\2\0\0\0":
            raise ValueError("it does not state the length of its meta information")
        stream.seek(meta + 12 + int.from_bytes(start[meta + 8 : meta + 12], "little"))
        inflate, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
        packed = stream.read(2**20)
        while packed and not inflate.eof:
            size += len(inflate.decompress(packed, 2**24))
            if size > MAX_UNPACKED:
                raise ValueError(f"unpacked it has more than the {MAX_UNPACKED} bytes that can be read")
            packed = inflate.unconsumed_tail or stream.read(2**20)


def _frame_count(path: Path, dataset: Any) -> int:
    with _nothing_quoted(path):
        return int(dataset.get("NumberOfFrames") or 1)


def _require_decoder(path: Path, dataset: Any) -> None:
    """Refuse a slice of implausible size, or compressed in a way that needs a decoder that is not installed."""
    with _nothing_quoted(path):
        from pydicom.pixels import get_decoder

        height, width = int(dataset.Rows), int(dataset.Columns)
        if "TransferSyntaxUID" not in dataset.file_meta:
            dataset.file_meta.TransferSyntaxUID = _IMPLICIT_LITTLE_ENDIAN
        syntax = dataset.file_meta.TransferSyntaxUID
        decoder = get_decoder(syntax)
    require_plausible_size(path, height, width)
    if not decoder.is_available:
        wanted = [d.rpartition("requires ")[2].replace("numpy and ", "") for d in decoder.missing_dependencies]
        remedy = ", or ".join(w.replace("gdcm>", "python-gdcm>") for w in wanted)
        raise ValueError(
            f"{path}: its pixels are compressed as {syntax.name}, and no decoder for that is installed: install "
            f"{remedy}, or export the file again uncompressed"
        )


def _require_sound_frame(dataset: Any, index: int, count: int) -> None:
    """Refuse compressed frames that would keep a decoder busy: JPEG of many scans, and a broken JPEG 2000 header.

    pydicom 3.0 would loop forever over a JP2 header with a box of length 0 before the codestream.
    """
    from pydicom.encaps import get_frame
    from pydicom.uid import JPEG2000TransferSyntaxes, JPEGTransferSyntaxes

    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax not in (*JPEG2000TransferSyntaxes, *JPEGTransferSyntaxes):
        return
    frame = get_frame(dataset.PixelData, index, number_of_frames=count)
    if syntax in JPEGTransferSyntaxes:
        with suppress(UnidentifiedImageError), Image.open(io.BytesIO(frame), "r", ["JPEG"]) as image:
            require_few_scans(image)
        return
    at = 12 if frame.startswith(b"\0\0\0\x0cjP  ") else len(frame)
    while at < len(frame) and frame[at + 4 : at + 8] != b"jp2c":
        length = int.from_bytes(frame[at : at + 4], "big")
        if length == 0:
            raise ValueError(f"a JPEG 2000 header breaks off at byte {at}")
        at += length


def _functional_group(dataset: Any, index: int, group: str) -> Any:
    """Return the item of a frame's functional group, its own or the shared one; the dataset if there is none."""
    own, shared = (dataset.get(f"{kind}FunctionalGroupsSequence") or [] for kind in ("PerFrame", "Shared"))
    for item in (*own[index : index + 1], *shared[:1]):
        if item.get(group):
            return item[group].value[0]
    return dataset


def _position(dataset: Any, index: int) -> float | None:
    """Return the position of a frame along its normal in mm; None where the header does not state it."""
    corner = _numbers(_functional_group(dataset, index, "PlanePositionSequence").get("ImagePositionPatient"), 3)
    turn = _numbers(_functional_group(dataset, index, "PlaneOrientationSequence").get("ImageOrientationPatient"), 6)
    if corner is None or turn is None or not np.isfinite(normal := np.cross(turn[:3], turn[3:])).all():
        return None
    length = float(np.linalg.norm(normal))
    if length == 0:
        return None
    sign = np.sign(normal[np.argmax(np.abs(normal))])
    return round(float(sign * normal @ corner / length), 4)


def _numbers(value: Any, count: int) -> np.ndarray | None:
    """Return the finite numbers of a DICOM element, None where it does not hold ``count`` of them."""
    try:
        numbers = np.ravel(np.asarray(value, np.float64))
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == count and np.isfinite(numbers).all() else None
