"""Image files, arrays and tensors to 8-bit arrays ``(H, W, C) uint8``, and these to the size a model takes.

`Window` maps grey levels of any depth to 8 bits; `Placement` states how an image was fitted into the model's input, and
converts boxes and label maps in both directions. Further file formats are registered in ``IMAGE_FORMATS``. Patients
stay anonymous: only what `Provenance` lists is passed on from a DICOM header, and neither errors nor warnings quote it.
"""

from typing import TYPE_CHECKING

from hccvision.images.arrays import from_array, to_image
from hccvision.images.formats.checks import choose_frame
from hccvision.images.formats.dicom import DICOMFormat
from hccvision.images.formats.image_format import AXES, ImageFormat
from hccvision.images.formats.nifti import NIfTIFormat
from hccvision.images.formats.picture import PictureFormat
from hccvision.images.formats.tiff import TIFFFormat
from hccvision.images.image_file import ImageFile
from hccvision.images.placement import POLICIES, Placement, place, resize
from hccvision.images.provenance import Provenance
from hccvision.images.read import (
    format_of,
    frame_count,
    image_size,
    is_image,
    read_affine,
    read_image,
    read_labels,
    read_provenance,
    read_values,
    suffixes,
)
from hccvision.images.slices import Slice
from hccvision.images.window import DEFAULT_WINDOW, WINDOWS, Window, to_uint8

__all__ = [
    "AXES", "DEFAULT_WINDOW", "POLICIES", "SUFFIXES", "WINDOWS", "DICOMFormat", "ImageFile", "ImageFormat",
    "NIfTIFormat", "PictureFormat", "Placement", "Provenance", "Slice", "TIFFFormat", "Window", "choose_frame",
    "format_of", "frame_count", "from_array", "image_size", "is_image", "place", "read_affine", "read_image",
    "read_labels", "read_provenance", "read_values", "resize", "suffixes", "to_image", "to_uint8",
]  # fmt: skip

if TYPE_CHECKING:
    SUFFIXES: tuple[str, ...]
else:

    def __getattr__(name: str) -> tuple[str, ...]:
        """Return `suffixes` under its former name ``SUFFIXES``, current at every look-up."""
        if name == "SUFFIXES":
            return suffixes()
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
