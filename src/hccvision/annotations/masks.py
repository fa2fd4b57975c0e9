"""Masks with one label value per pixel, converted to boxes, one for each connected component."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from hccvision.annotations import voc
from hccvision.annotations.components import components
from hccvision.annotations.names import stem
from hccvision.contracts.samples import Annotation
from hccvision.files import new_folder, require_empty
from hccvision.images.read import format_of, frame_count, image_size, read_affine, read_image, read_labels


def boxes(
    mask: np.ndarray, *, labels: Mapping[int, str | None] | None = None, min_area: int = 1, connectivity: int = 8
) -> Annotation:
    """Compute the box of each connected component of each label value.

    Args:
        mask: ``(H, W)``, bool or integers; 0 is background.
        labels: ``{value: class name}``, the values to use, None as a name for one to leave out; None: every value but
            0, named by its number. See `unnamed_values` for the others.
        min_area: smallest component kept, in pixels.
        connectivity: 8 joins pixels that touch at a corner, 4 does not.

    Returns:
        Boxes in pixels, half-open, by label value and then from top to bottom, left to right, and the mask's size.

    Raises:
        ValueError: if the mask is not ``(H, W)`` of integers, ``labels`` contains the value 0, or the connectivity is
            neither 4 nor 8.

    Example:
        >>> mask = np.array([[5, 0, 0], [0, 5, 0], [0, 0, 9]])
        >>> boxes(mask, labels={5: "liver"}).boxes.tolist()
        [[0.0, 0.0, 2.0, 2.0]]
        >>> boxes(mask, connectivity=4).names
        ('5', '5', '9')
    """
    mask = _whole_numbers(np.asarray(mask))
    if mask.ndim != 2:
        raise ValueError(f"expected a mask (H, W), got {mask.shape}: pass one slice, without channels")
    if connectivity not in (4, 8):
        raise ValueError(f"expected connectivity 4 or 8, got {connectivity!r}")
    if labels is not None and 0 in labels:
        raise ValueError(f"the value 0 is background, got labels={dict(labels)}: remove it")
    if labels is None:
        labels = {int(value): str(value) for value in np.unique(mask) if value != 0}
    found, names = [], []
    for value, name in sorted(labels.items(), key=lambda item: item[0]):
        if name is None:
            continue
        kept = [box for box, area in components(mask == value, connectivity=connectivity) if area >= min_area]
        found += kept
        names += [name] * len(kept)
    height, width = mask.shape
    return Annotation(np.array(found, np.float32).reshape(-1, 4), tuple(names), size=(height, width))


def read(path: str | Path) -> np.ndarray:
    """Read a mask with its label values as they are stored, oriented as `images.read_image` orients the image.

    Args:
        path: PNG, TIFF or another lossless image, greyscale, or with a palette whose indices are the values; or a file
            of one slice in another registered format, such as NIfTI.

    Returns:
        ``(H, W)``, integers.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: if it is DICOM or NIfTI and the extra ``medical`` is not installed.
        ValueError: if it can't be decoded, holds several slices, is JPEG, is coloured, or its values are not integers
            or are more than 256 different ones.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "a.png")
        >>> Image.fromarray(np.array([[0, 3]], np.uint8)).save(path)
        >>> read(path).tolist()
        [[0, 3]]
    """
    path = Path(path)
    count = frame_count(path)
    if count != 1:
        raise ValueError(f"{path}: has {count} slices: use masks.write_slices with the image volume")
    return _labels(path, 0)


def unnamed_values(mask: np.ndarray, labels: Mapping[int, str | None] | None) -> str:
    """Return what a mask holds that has no stated meaning.

    Args:
        mask: ``(H, W)``, integers.
        labels: as in `boxes`.

    Returns:
        What is wrong, for a message: values that ``labels`` lacks; without ``labels``, values that are not numbered
        from 1 and are more than 16, as of soft edges, or among them 255, as of a border. "" if nothing is.

    Example:
        >>> unnamed_values(np.array([[0, 1, 7]]), {1: "hcc"})
        'values that labels= does not name (7)'
    """
    values = [int(value) for value in np.unique(mask) if value != 0]
    if labels is not None:
        unknown = [value for value in values if value not in labels]
        shown = ", ".join(map(str, unknown[:10])) + (f" and {len(unknown) - 10} more" if len(unknown) > 10 else "")
        return f"values that labels= does not name ({shown})" if unknown else ""
    if (len(values) > 16 or (255 in values and len(values) > 1)) and values != list(range(1, len(values) + 1)):
        return f"{len(values)} values from {values[0]} to {values[-1]}, as soft edges and borders have"
    return ""


def write_slices(
    volume: str | Path,
    mask: str | Path,
    folder: str | Path,
    *,
    labels: Mapping[int, str | None] | None = None,
    min_area: int = 1,
    connectivity: int = 8,
) -> Path:
    """Write the slices of a volume as PNG, and the boxes of its mask as LabelImg XML.

    The slices are those of `images.read_image`, and `boxes` is applied to each slice alone. In the XML a box of one
    pixel is two wide, as Pascal VOC can't express less; see `voc.write`. Values that ``labels`` does not name are left
    out and printed. The folder appears whole or not at all.

    Args:
        volume: the image, such as ``P001.nii.gz``, in any registered format of volumes.
        mask: label values on the same grid.
        folder: to create, with ``JPEGImages/P001_000.png``, ``Annotations/P001_000.xml`` and so on; it may exist if it
            is empty.
        labels: ``{value: class name}``, see `boxes`.
        min_area: smallest component kept in a slice, in pixels.
        connectivity: 8 or 4.

    Returns:
        The folder, for `read_voc_folder`.

    Raises:
        FileExistsError: if the folder is not empty.
        FileNotFoundError: if a volume does not exist.
        ImportError: if the extra ``medical`` is not installed.
        ValueError: if a volume can't be read, the two are not on one grid, or the mask's values are not integers or
            are more than 256 different ones in a slice.

    Example:
        >>> import tempfile
        >>> import nibabel
        >>> root = Path(tempfile.mkdtemp())
        >>> values = np.zeros((9, 8, 2), np.uint8)
        >>> values[2:5, 1:4, 1] = 1
        >>> for name in ("P001.nii.gz", "mask.nii.gz"):
        ...     nibabel.save(nibabel.Nifti1Image(values, np.diag([-1, -1, 1, 1])), root / name)
        >>> made = write_slices(root / "P001.nii.gz", root / "mask.nii.gz", root / "out", labels={1: "hcc"})
        >>> [len(voc.read(path)) for path in sorted(made.glob("Annotations/*.xml"))]
        [0, 1]
    """
    volume, mask, folder = Path(volume), Path(mask), Path(folder)
    shape, own = ((frame_count(path), *image_size(path)) for path in (volume, mask))
    require_empty(folder)
    if shape != own or not _lie_alike(read_affine(volume), read_affine(mask)):
        raise ValueError(
            f"{mask}: not on the grid of {volume.name} (slices, rows, columns {own} and {shape}, or another position "
            "or orientation): resample it to the image first"
        )
    name = stem(volume)
    unnamed: set[int] = set()
    with new_folder(folder) as draft:
        for part in ("JPEGImages", "Annotations"):
            (draft / part).mkdir()
        for number in range(shape[0]):
            image = Path("JPEGImages", f"{name}_{number:03d}.png")
            pixels = read_image(volume, channels=1, frame=number)
            Image.fromarray(pixels[..., 0]).save(draft / image)
            values = _labels(mask, number)
            unnamed |= {*np.unique(values).tolist()} - {0} - {*(labels or np.unique(values).tolist())}
            annotation = boxes(values, labels=labels, min_area=min_area, connectivity=connectivity)
            voc.write(draft / "Annotations" / f"{image.stem}.xml", annotation, image_path=folder / image)
    if unnamed:
        print(f"left out: {mask}: the values that labels= does not name: {', '.join(map(str, sorted(unnamed)))}")
    return folder


def _whole_numbers(values: np.ndarray) -> np.ndarray:
    if values.dtype == bool:
        return values.astype(np.uint8)
    if values.dtype.kind == "f" and np.isfinite(values).all() and (values == np.rint(values)).all():
        return values.astype(np.int64)
    if values.dtype.kind not in "iu":
        raise ValueError(f"expected label values that are whole numbers, got {values.dtype}: round or convert them")
    return values


def _lie_alike(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    """Return whether two volumes lie alike in the patient: equal affines, or none in either file."""
    if one is None or other is None:
        return one is other
    return np.allclose(one, other, atol=1e-3)


def _labels(path: Path, frame: int) -> np.ndarray:
    """Read the label values of one slice, ``(H, W)``."""
    values = read_labels(path, frame=frame)
    if values.ndim == 3 and values.shape[2] in (2, 4):
        if (values[..., -1] != values[..., -1].max()).any():
            raise ValueError(f"{path}: its alpha channel varies and may hold the mask: save the labels as greyscale")
        values = values[..., :-1]
    if values.ndim == 3 and (values[..., :3] == values[..., :1]).all():
        values = values[..., 0]  # greyscale, saved as colour
    if values.ndim != 2:
        raise ValueError(f"{path}: expected one label value per pixel, got a coloured image: save it as greyscale")
    try:
        values = _whole_numbers(values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    # a scan of so many values is an image; pictures may number instances
    if (count := len(np.unique(values))) > 256 and not format_of(path).is_plain:
        raise ValueError(f"{path}: expected at most 256 label values in a slice, got {count}: is it an image?")
    return values
