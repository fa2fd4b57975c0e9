"""Masks, one label value a pixel, to boxes: one for each connected component.

Source: Rosenfeld and Pfaltz 1966, "Sequential operations in digital picture processing", J. ACM 13(4).
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hccvision import images, voc
from hccvision.contracts import Annotation


def boxes(
    mask: np.ndarray, *, labels: Mapping[int, str] | None = None, min_area: int = 1, connectivity: int = 8
) -> Annotation:
    """Give the box of each connected component of each label value.

    Args:
        mask: ``(H, W)``, bool or whole numbers; 0 is background.
        labels: ``{value: class name}``, the values to look at; None takes every value but 0, named by its number.
        min_area: pixels that a component needs; smaller ones are left out.
        connectivity: 8 joins pixels that touch at a corner, 4 does not.

    Returns:
        Half-open boxes in pixels, by label value and then from top to bottom, left to right. The size is the mask's.

    Raises:
        ValueError: if the mask is not ``(H, W)`` of whole numbers, ``labels`` names the value 0 or the connectivity is
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
        raise ValueError(f"expected a mask (H, W), got {mask.shape}: give one slice, without channels")
    if connectivity not in (4, 8):
        raise ValueError(f"expected connectivity 4 or 8, got {connectivity!r}")
    if labels is not None and 0 in labels:
        raise ValueError(f"the value 0 is background, got labels={dict(labels)}: leave it out")
    if labels is None:
        labels = {int(value): str(value) for value in np.unique(mask) if value != 0}
    found, names = [], []
    for value in sorted(labels):
        components = _components(mask == value, reach=connectivity == 8)
        kept = [box for box, area in components if area >= min_area]
        found += kept
        names += [labels[value]] * len(kept)
    height, width = mask.shape
    return Annotation(np.array(found, np.float32).reshape(-1, 4), tuple(names), size=(height, width))


def read(path: str | Path) -> np.ndarray:
    """Read a mask with its label values as they are stored, turned as `images.read_image` turns the image.

    Args:
        path: PNG, TIFF or another lossless picture, grey or with a palette, whose indices are the values; or NIfTI of
            one slice.

    Returns:
        ``(H, W)`` whole numbers.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: if it is NIfTI and the extra ``medical`` is not installed.
        ValueError: if it can't be decoded, is JPEG, is coloured, or its values are not whole numbers.

    Example:
        >>> path = Path(tempfile.mkdtemp(), "a.png")
        >>> Image.fromarray(np.array([[0, 3]], np.uint8)).save(path)
        >>> read(path).tolist()
        [[0, 3]]
    """
    path = Path(path)
    images.image_size(path)  # its errors name the file
    if path.name.lower().endswith((".nii", ".nii.gz")):
        planes = _planes(path)
        if len(planes) != 1:
            raise ValueError(f"{path}: holds {len(planes)} slices: use masks.write_slices with the image volume")
        return planes[0]
    try:
        with Image.open(path) as file:
            if file.format in ("JPEG", "MPO"):
                raise ValueError("JPEG blurs label values: save the mask as PNG")
            pixels = np.array(file)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: can't be read as a mask ({error}): export it again, as a grey PNG") from error
    if pixels.ndim == 3 and (pixels[..., :3] == pixels[..., :1]).all():
        pixels = pixels[..., 0]  # grey, saved as colour
    if pixels.ndim != 2:
        raise ValueError(f"{path}: a mask holds one value a pixel, this one is coloured: save label values as grey")
    return _whole_numbers(pixels)


def write_slices(
    volume: str | Path,
    mask: str | Path,
    folder: str | Path,
    *,
    labels: Mapping[int, str] | None = None,
    min_area: int = 1,
    connectivity: int = 8,
) -> Path:
    """Write the slices of a NIfTI volume as PNG, with the boxes of its mask as LabelImg would have drawn them.

    The slices are those of `images.read_image`, the boxes those of `boxes` in each slice alone. In the XML a box of
    one pixel is two wide, as Pascal VOC has no way to say less; see `voc.write`.

    Args:
        volume: of the image, such as ``P001.nii.gz``.
        mask: the volume of label values on the same grid.
        folder: to make, or empty; ``JPEGImages/P001_000.png`` and ``Annotations/P001_000.xml`` go into it.
        labels: ``{value: class name}``, see `boxes`.
        min_area: pixels that a component needs in a slice.
        connectivity: 8 or 4.

    Returns:
        The folder, for `read_voc_folder`.

    Raises:
        FileExistsError: if the folder is not empty.
        FileNotFoundError: if a volume does not exist.
        ImportError: if the extra ``medical`` is not installed.
        ValueError: if a volume can't be read, the two are not on one grid, or the mask's values are not whole numbers.

    Example:
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
    for path in (volume, mask):
        images.image_size(path)  # its errors name the file
    if folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(f"{folder}: the folder is not empty: give a new one")
    import nibabel

    grids: list[Any] = [nibabel.load(path) for path in (volume, mask)]
    if grids[0].shape[:3] != grids[1].shape[:3] or not np.allclose(grids[0].affine, grids[1].affine, atol=1e-3):
        raise ValueError(
            f"{mask}: not on the grid of {volume.name} (shapes {grids[1].shape} and {grids[0].shape}, or another "
            "position or orientation): resample it to the image first"
        )
    planes = _planes(mask)
    for name in ("JPEGImages", "Annotations"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    stem = volume.name.removesuffix(".gz").removesuffix(".nii")
    for number, plane in enumerate(planes):
        image = folder / "JPEGImages" / f"{stem}_{number:03d}.png"
        pixels = images.read_image(volume, channels=1, frame=number)
        Image.fromarray(pixels[..., 0]).save(image)
        annotation = boxes(plane, labels=labels, min_area=min_area, connectivity=connectivity)
        voc.write(folder / "Annotations" / f"{image.stem}.xml", annotation, image_path=image)
    return folder


def _whole_numbers(values: np.ndarray) -> np.ndarray:
    if values.dtype == bool:
        return values.astype(np.uint8)
    if values.dtype.kind == "f" and np.isfinite(values).all() and (values == np.rint(values)).all():
        return values.astype(np.int64)
    if values.dtype.kind not in "iu":
        raise ValueError(f"expected label values that are whole numbers, got {values.dtype}: round or convert them")
    return values


def _components(inside: np.ndarray, reach: int) -> list[tuple[tuple[int, int, int, int], int]]:
    """Give box and area of each component, by their first runs of pixels; runs of two rows join within ``reach``."""
    padded = np.zeros((inside.shape[0], inside.shape[1] + 2), np.int8)
    padded[:, 1:-1] = inside
    change = np.diff(padded, axis=1)
    rows, starts = np.nonzero(change == 1)
    stops = np.nonzero(change == -1)[1]
    parents = list(range(len(rows)))

    def root(run: int) -> int:
        while parents[run] != run:
            parents[run] = parents[parents[run]]
            run = parents[run]
        return run

    runs = list(zip(rows.tolist(), starts.tolist(), stops.tolist(), strict=True))
    above = 0
    for run, (row, start, stop) in enumerate(runs):
        while runs[above][0] < row - 1 or (runs[above][0] == row - 1 and runs[above][2] + reach <= start):
            above += 1
        other = above
        while runs[other][0] == row - 1 and runs[other][1] < stop + reach:
            low, high = sorted((root(run), root(other)))
            parents[high] = low
            other += 1
    found: dict[int, list[int]] = {}
    for run, (row, start, stop) in enumerate(runs):
        box = found.setdefault(root(run), [start, row, stop, row + 1, 0])
        box[0], box[2], box[3] = min(box[0], start), max(box[2], stop), row + 1
        box[4] += stop - start
    return [((x1, y1, x2, y2), area) for x1, y1, x2, y2, area in found.values()]


def _planes(path: Path) -> list[np.ndarray]:
    """Give all slices of a NIfTI mask with their values, turned as `images.read_image` turns them."""
    import nibabel

    volume: Any = nibabel.load(path)
    try:
        found: Any = np.unique(_whole_numbers(np.asarray(volume.dataobj)), return_inverse=True)
        values, places = found
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path}: can't be read as a mask ({error}): export it again") from error
    if len(values) > 256:
        raise ValueError(f"{path}: expected at most 256 label values, got {len(values)}: is it an image?")
    count = volume.shape[2] if len(volume.shape) > 2 else 1
    with tempfile.TemporaryDirectory() as folder:  # 8 bits go through read_image as they are
        numbered = Path(folder) / "mask.nii"
        nibabel.save(nibabel.Nifti1Image(places.reshape(volume.shape).astype(np.uint8), volume.affine), numbered)
        planes = [images.read_image(numbered, channels=1, frame=number)[..., 0] for number in range(count)]
    return [values[plane] for plane in planes]
