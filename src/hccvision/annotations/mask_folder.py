"""Folders of images with folders of their masks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hccvision.annotations import masks
from hccvision.annotations.judging import format_size, judge_image
from hccvision.annotations.names import annotation_stem
from hccvision.annotations.paths import existing_folder, images_in
from hccvision.annotations.patients import PatientRule, find_patient, patient_rule
from hccvision.annotations.tree import Tree, left_aside, place_of, scan
from hccvision.contracts.samples import Annotation, Problem, Sample
from hccvision.registry import ANNOTATION_FORMATS


def read_mask_folder(
    folder: str | os.PathLike[str],
    mask_folder: str | os.PathLike[str],
    *,
    labels: Mapping[int, str | None] | None = None,
    min_area: int = 1,
    connectivity: int = 8,
    patient: PatientRule | None = None,
) -> list[Sample]:
    """Read a folder of images with the folder of their masks, which have the images' names apart from the suffix.

    Args:
        folder: of the images.
        mask_folder: of the masks, another folder; PNG or another lossless format, or NIfTI of one slice.
        labels: ``{value: class name}``, see `masks.boxes`; None as a name leaves a value out. A value that it lacks is
            an ``unnamed_value`` problem.
        min_area: smallest component kept, in pixels.
        connectivity: 8 or 4.
        patient: how to find an image's patient, as in `read_voc_folder`.

    Returns:
        Samples by file name. An image with an empty mask has no lesions; an image without a mask, a mask without an
        image, an unreadable file and a mask of another size are problems.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if both folders are the same, or there are no images and no masks.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from PIL import Image
        >>> root = Path(tempfile.mkdtemp())
        >>> for name, pixels in (("images", np.zeros((8, 8))), ("masks", np.eye(8))):
        ...     (root / name).mkdir()
        ...     Image.fromarray(pixels.astype(np.uint8)).save(root / name / "P1_01.png")
        >>> (sample,) = read_mask_folder(root / "images", root / "masks", labels={1: "tumor"})
        >>> sample.annotation.names, sample.annotation.boxes.tolist()
        (('tumor',), [[0.0, 0.0, 8.0, 8.0]])
    """
    root, mask_root = existing_folder(folder), existing_folder(mask_folder)
    if root.resolve() == mask_root.resolve():
        raise ValueError(f"{root}: images and masks need folders of their own: move the masks to another one")
    trees = scan(root), scan(mask_root)
    pictures = _by_place(trees[0], mask_root)
    drawn = _by_place(trees[1], root)
    if not pictures and not drawn:
        raise ValueError(f"{root}: no images found, and no masks in {mask_root}")
    rule = patient_rule(patient)
    samples = []
    for stem in sorted({*pictures, *drawn}):
        here, there = pictures.get(stem, []), drawn.get(stem, [])
        path = here[0] if here else root.joinpath(*stem)
        owner, problems = find_patient(rule, path)
        annotation = None
        if len(here) > 1 or len(there) > 1:
            names = ", ".join(p.name for p in (*here, *there))
            message = f"expected one image and one mask with this stem, got {names}: keep one of each"
            problems = (*problems, Problem("ambiguous_image", str(path), message, False))
        elif not here:
            message = f"the image of this mask is not in {root}: put it there, or delete the mask"
            problems = (*problems, Problem("missing_image", str(there[0]), message, False))
        elif not there:
            message = f"this image has no mask in {mask_root}: add one (an empty one, if it has no lesion)"
            problems = (*problems, Problem("missing_annotation", str(path), message, False))
        else:
            size, more = judge_image(path)
            problems = (*problems, *more)
            try:
                mask = masks.read(there[0])
                unknown = masks.unnamed_values(mask, labels)
                annotation = masks.boxes(mask, labels=labels, min_area=min_area, connectivity=connectivity)
                annotation = replace(annotation, filename=path.name, path=there[0])
                if unknown:
                    message = f"has {unknown}: name them in labels=, with None for what is no lesion, or redraw it"
                    problems = (*problems, Problem("unnamed_value", str(there[0]), message, False))
            except (ValueError, OSError, ImportError) as error:
                message = str(error).removeprefix(f"{there[0]}: ")
                problems = (*problems, Problem("unreadable_annotation", str(there[0]), message, False))
            if annotation is not None and size is not None and annotation.size != size:
                problems = (*problems, _mismatch(annotation, there[0], path, size))
        samples.append(Sample(path, owner, annotation=annotation, problems=problems))
    unread = {s.path: s for tree in trees for s in left_aside(tree, [])}
    return samples + list(unread.values())


@ANNOTATION_FORMATS.register("masks")
class MaskFormat:
    """Masks of label values: ``masks/`` beside ``images/``.

    Example:
        >>> MaskFormat().matches(Path("README.md"))
        False
    """

    looks_for = "masks in masks/, and their images in images/, in JPEGImages/ or beside masks/"

    def matches(self, path: Path) -> bool:
        """Return whether a folder has masks and images.

        Args:
            path: a folder or file.

        Returns:
            Whether it looks like this format.
        """
        drawn = path / "masks"
        return path.is_dir() and drawn.is_dir() and bool(images_in(drawn)) and bool(images_in(_image_folder(path)))

    def read(self, path: Path, **options: Any) -> list[Sample]:
        """Read a folder, see `read_mask_folder`.

        Args:
            path: the folder.
            options: of `read_mask_folder`, without the folders.

        Returns:
            The samples.
        """
        return read_mask_folder(_image_folder(path), path / "masks", **options)


def _by_place(tree: Tree, other: Path) -> dict[tuple[str, ...], list[Path]]:
    """Return the images of a folder, without those of another in it, by their place and stem."""
    groups: dict[tuple[str, ...], list[Path]] = {}
    for path in tree.images:
        if tree.root.is_relative_to(other) or not path.is_relative_to(other):
            groups.setdefault((*place_of(path, tree.root), annotation_stem(path)), []).append(path)
    return groups


def _image_folder(root: Path) -> Path:
    return next((root / name for name in ("images", "JPEGImages") if (root / name).is_dir()), root)


def _mismatch(annotation: Annotation, mask: Path, image: Path, size: tuple[int, int]) -> Problem:
    message = f"the mask is {format_size(annotation.size)} pixels, but {image.name} is {format_size(size)}"
    return Problem("size_mismatch", str(mask), f"{message}: export the mask of this version of the image", False)
