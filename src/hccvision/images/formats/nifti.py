"""NIfTI volumes: slices along any anatomical axis, oriented as DICOM displays them."""

from __future__ import annotations

import gzip
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from hccvision.images.formats.checks import MAX_BYTES, choose_frame, import_medical, require_plausible_size
from hccvision.images.formats.image_format import AXES, ImageFormat
from hccvision.images.image_file import ImageFile
from hccvision.images.provenance import Provenance
from hccvision.images.slices import Slice
from hccvision.registry import IMAGE_FORMATS

_MAX_BEFORE = 2**26  # bytes of header and extensions
_MILLIMETRES = {"meter": 1000.0, "micron": 0.001}


@IMAGE_FORMATS.register("nifti")
class NIfTIFormat(ImageFormat):
    """NIfTI, read by nibabel.

    The affine orients a slice: columns run to the patient's left (or back), rows to the back (or feet). Oblique volumes
    are not resampled: their nearest axes count. Without an axis, slices are those along the last stored axis.
    """

    suffixes = (".nii", ".nii.gz")
    takes_axis = True

    def read(self, file: ImageFile, frame: int | None, axis: str | None) -> Slice:
        """Read one slice; see `ImageFormat.read`."""
        volume = _open(file, axis)
        index = volume.stored_index(choose_frame(file.path, frame, volume.count))
        where: list[Any] = [slice(None)] * 3 + [0] * len(volume.image.shape)
        where[volume.along] = index
        plane = np.asarray(volume.image.dataobj[tuple(where[: len(volume.image.shape)])])
        plane = plane.reshape([volume.shape[i] for i in volume.plane])
        # the world axes point right, front and up; the display's left, back and down
        plane = np.flip(plane, tuple(n for n, i in enumerate(volume.plane) if volume.orientation[i, 1] > 0))
        return Slice(plane.T if volume.transposed else plane)

    def size(self, file: ImageFile, axis: str | None) -> tuple[int, int]:
        """Return ``(height, width)`` from the header; see `ImageFormat.size`."""
        volume = _open(file, axis)
        return volume.displayed(*(volume.shape[i] for i in volume.plane))

    def frames(self, file: ImageFile, axis: str | None) -> int:
        """Return the number of slices; see `ImageFormat.frames`."""
        return _open(file, axis).count

    def verify(self, file: ImageFile) -> None:
        """Raise if the values can't be in an uncompressed file of this length; see `ImageFormat.verify`."""
        with file.open() as stream:
            packed, length = stream.read(2) == b"\x1f\x8b", stream.seek(0, 2)
        header = _open(file, None).image.header
        shape, offset = header.get_data_shape(), int(header.get_data_offset())
        stated = offset + math.prod(int(n) for n in shape) * header.get_data_dtype().itemsize
        if not packed and length < stated:
            raise ValueError(f"truncated: its values end at byte {stated}, the file at {length}")

    def provenance(self, file: ImageFile, frame: int | None, axis: str | None) -> Provenance:
        """Return spacing, thickness and position, in mm if the file states no unit; see `ImageFormat.provenance`."""
        volume = _open(file, axis)
        index = volume.stored_index(choose_frame(file.path, frame or 0, volume.count))
        unit = _MILLIMETRES.get(volume.image.header.get_xyzt_units()[0], 1.0)
        affine = unit * np.diag([-1, -1, 1]) @ volume.image.affine[:3]  # DICOM's axes, in mm
        sides = np.linalg.norm(affine[:, :3], axis=0)
        if not (np.isfinite(affine).all() and (sides > 0).all()):
            return Provenance()
        normal = np.cross(*(affine[:, i] / sides[i] for i in volume.plane))
        normal = normal / np.linalg.norm(normal) * np.sign(normal[np.argmax(np.abs(normal))])
        position = float(normal @ (affine[:, 3] + index * affine[:, volume.along]))
        return Provenance(
            spacing=volume.displayed(*(float(sides[i]) for i in volume.plane)),
            thickness=float(sides[volume.along]),
            position=round(position, 4),
        )

    def affine(self, file: ImageFile) -> np.ndarray | None:
        """Return the affine of the header; see `ImageFormat.affine`."""
        return np.asarray(_open(file, None).image.affine)


@dataclass(frozen=True)
class _Volume:
    """A NIfTI volume, and how to cut and orient one slice.

    Attributes:
        image: nibabel's image.
        shape: number of voxels along the three stored axes.
        along: stored axis across the slices.
        plane: the other two stored axes.
        orientation: ``(3, 2)``, the world axis nearest to each stored axis, and its direction, 1 or −1.
        backwards: whether slices are numbered against the stored order.
    """

    image: Any
    shape: tuple[int, ...]
    along: int
    plane: list[int]
    orientation: np.ndarray
    backwards: bool

    @property
    def count(self) -> int:
        """Number of slices."""
        return self.shape[self.along]

    @property
    def transposed(self) -> bool:
        """Whether the first stored axis of the plane runs along the columns of the display."""
        return bool(self.orientation[self.plane[0], 0] < self.orientation[self.plane[1], 0])

    def displayed(self, first: Any, second: Any) -> tuple[Any, Any]:
        """Return figures of the two stored axes of the plane in the order rows, columns of the display."""
        return (second, first) if self.transposed else (first, second)

    def stored_index(self, frame: int) -> int:
        """Return the stored index of a slice."""
        return self.count - 1 - frame if self.backwards else frame


def _open(file: ImageFile, axis: str | None) -> _Volume:
    path = file.path
    nibabel = import_medical("nibabel", path)
    _require_plausible_volume(nibabel, file)
    image = nibabel.load(path) if file.source is None else _load(nibabel, file)
    orientation = nibabel.io_orientation(image.affine)
    placed = any(int(image.header[code]) for code in ("qform_code", "sform_code"))
    shape = (*image.shape, 1)[:3]
    if len(shape) < 3 or np.prod(image.shape[3:]) != 1:
        raise ValueError(f"{path}: expected one volume of slices, got the shape {image.shape}: split it first")
    along = 2
    if axis is not None:
        if not placed or not np.isfinite(orientation).all():
            raise ValueError(f"{path}: does not say how it lies in the patient, so it has no axis: leave axis out")
        along = int(np.flatnonzero(orientation[:, 0] == AXES.index(axis))[0])
    plane = [i for i in range(3) if i != along]
    require_plausible_size(path, *(int(shape[i]) for i in plane))
    rising = orientation[along, 1] > 0  # to the right, the front or the head; DICOM counts to the left and the back
    backwards = axis is not None and bool(rising != (axis == "axial"))
    return _Volume(image, tuple(int(n) for n in shape), along, plane, orientation, backwards)


def _require_plausible_volume(nibabel: Any, file: ImageFile) -> None:
    """Refuse a volume by its header, before nibabel reads what stands between that and the values, or all of them."""
    with file.open() as opened:
        stream: Any = gzip.GzipFile(fileobj=opened) if _is_packed(file) else opened
        start = stream.read(540)
    kind = _kind(nibabel, start).header_class
    header = kind(start[: kind.sizeof_hdr], check=False)
    before = header.get_data_offset()
    stated = before + math.prod(int(n) for n in header.get_data_shape()) * header.get_data_dtype().itemsize
    if not 0 <= before <= _MAX_BEFORE or stated > MAX_BYTES:
        raise ValueError(
            f"{file.path}: states a volume of {stated} bytes, {before} before its values, more than the {MAX_BYTES} "
            f"and {_MAX_BEFORE} that can be read: split it, or export it again"
        )


def _load(nibabel: Any, file: ImageFile) -> Any:
    """Load a volume from an open file, as ``nibabel.load`` does from a path."""
    stream: Any = file.content
    if _is_packed(file):
        stream = gzip.GzipFile(fileobj=stream)
    start = stream.read(4)
    stream.seek(0)
    return _kind(nibabel, start).from_file_map({"image": nibabel.FileHolder(fileobj=stream)})


def _is_packed(file: ImageFile) -> bool:
    return file.path.name.lower().endswith(".gz")


def _kind(nibabel: Any, start: bytes) -> Any:
    """Return the class of images for a file that begins with these bytes."""
    is_second = 540 in (int.from_bytes(start[:4], order) for order in ("little", "big"))  # 348 in NIfTI-1
    return nibabel.Nifti2Image if is_second else nibabel.Nifti1Image
