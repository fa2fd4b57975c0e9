"""Formats of image files. Importing this registers the library's own."""

from hccvision.images.formats import dicom, nifti, picture

__all__ = ["dicom", "nifti", "picture"]
