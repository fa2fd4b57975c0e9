"""Folders of images, one folder per class."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hccvision.annotations.judging import judge_image
from hccvision.annotations.names import annotation_stem, copied_from
from hccvision.annotations.paths import existing_folder, images_in
from hccvision.annotations.patients import PatientRule, find_patient, patient_rule
from hccvision.contracts.samples import Sample
from hccvision.registry import ANNOTATION_FORMATS

_OTHER_LAYOUTS = {"images", "jpegimages", "annotations", "imagesets", "labels", "masks"}  # lower case


def read_image_folder(
    folder: str | os.PathLike[str],
    classes: Mapping[str, str] | None = None,
    *,
    patient: PatientRule | None = None,
) -> list[Sample]:
    """Read folders of images, one folder per class.

    Args:
        folder: that contains the class folders.
        classes: ``{class name: folder name}``; None: every folder is the class of its own name.
        patient: how to find an image's patient, as in `read_voc_folder`.

    Returns:
        Samples, class by class in the order given, by file name.

    Raises:
        FileNotFoundError: if there is no such folder, or one of a class is missing.
        ValueError: if there are no class folders, or no images in one of them.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> root = Path(tempfile.mkdtemp())
        >>> for name in ("no", "yes"):
        ...     (root / name).mkdir()
        ...     Image.new("L", (8, 8)).save(root / name / "a.png")
        >>> [s.class_name for s in read_image_folder(root, {"normal": "no", "cancer": "yes"})]
        ['normal', 'cancer']
    """
    root = existing_folder(folder)
    if classes is None:
        classes = {d.name: d.name for d in _subfolders(root)}
        if not classes:
            raise ValueError(f"{root}: no class folders in it; expected one folder of images per class")
    rule = patient_rule(patient)
    samples = []
    for name, where in classes.items():
        place = root / where
        if not place.is_dir():
            there = ", ".join(sorted(d.name for d in root.iterdir() if d.is_dir())) or "none"
            raise FileNotFoundError(
                f"{place}: no such folder for the class {name!r}; the folders in {root} are: {there}"
            )
        found = images_in(place)
        if not found:
            raise ValueError(f"{place}: no images in the folder of the class {name!r}")
        for path in found:
            _, problems = judge_image(path)
            owner, more = find_patient(rule, path)
            source = copied_from(path)
            source = None if source is None else f"{place.name}/{source}"
            samples.append(Sample(path, owner, class_name=name, problems=(*problems, *more), source_id=source))
    return samples


@ANNOTATION_FORMATS.register("class_folders")
class ClassFolders:
    """Class names without boxes: one folder of images per class.

    Example:
        >>> ClassFolders().matches(Path("README.md"))
        False
    """

    looks_for = "folders of images alone, one per class"

    def matches(self, path: Path) -> bool:
        """Return whether every subfolder holds images, none of them with an annotation beside it.

        Args:
            path: a folder or file.

        Returns:
            Whether it looks like this format.
        """
        if not path.is_dir() or images_in(path):
            return False
        folders = _subfolders(path)
        return bool(folders) and all(d.name.lower() not in _OTHER_LAYOUTS and _has_images_alone(d) for d in folders)

    def read(self, path: Path, **options: Any) -> list[Sample]:
        """Read a folder, see `read_image_folder`.

        Args:
            path: the folder.
            options: of `read_image_folder`.

        Returns:
            The samples.
        """
        return read_image_folder(path, **options)


def _subfolders(root: Path) -> list[Path]:
    return [d for d in sorted(root.iterdir()) if d.is_dir() and not d.name.startswith(".")]


def _has_images_alone(folder: Path) -> bool:
    found = images_in(folder)
    stems = {annotation_stem(p) for p in found}
    others = (p for p in folder.iterdir() if p.is_file() and p not in set(found))
    return bool(found) and not any(p.stem in stems or p.suffix == ".json" for p in others)
