"""Folders of images, one folder per class."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hccvision.annotations.judging import judge_image
from hccvision.annotations.left_out import left_aside, say_left_out, unread_images
from hccvision.annotations.names import copied_from
from hccvision.annotations.paths import existing_folder, images_in
from hccvision.annotations.patients import PatientRule, find_patient, patient_rule
from hccvision.annotations.tree import scan
from hccvision.contracts.samples import Sample
from hccvision.registry import ANNOTATION_FORMATS

_OTHER_LAYOUTS = {"images", "jpegimages", "annotations", "imagesets", "labels", "masks"}  # lower case


def read_image_folder(
    folder: str | os.PathLike[str],
    classes: Mapping[str, str] | None = None,
    *,
    patient: PatientRule | None = None,
) -> list[Sample]:
    """Read folders of images, one folder per class, each with its subfolders.

    Images outside the class folders are problems, as are files that look like annotations; folders that ``classes``
    does not name are left out, and printed.

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
        parts = {tuple(d.name for d in _subfolders(root / name)) for name in classes}
        if len(classes) > 1 and len(parts) == 1 and len(*parts) > 1 and not any(images_in(root / n) for n in classes):
            raise ValueError(
                f"{root}: each of its folders ({', '.join(classes)}) has the folders {', '.join(*parts)}: read one of "
                "them alone, or pass classes="
            )
    rule = patient_rule(patient)
    samples: list[Sample] = []
    places = [root / where for where in classes.values()]
    aside: dict[Path, Sample] = {}
    for name, place in zip(classes, places, strict=True):
        if not place.is_dir():
            there = ", ".join(sorted(d.name for d in root.iterdir() if d.is_dir())) or "none"
            raise FileNotFoundError(
                f"{place}: no such folder for the class {name!r}; the folders in {root} are: {there}"
            )
        tree = scan(place)
        inner = [p for p in places if p != place and p.is_relative_to(place)]
        found = [p for p in tree.images if not any(p.is_relative_to(other) for other in inner)]
        if not found:
            raise ValueError(f"{place}: no images in the folder of the class {name!r}")
        for path in found:
            _, problems = judge_image(path)
            owner, more = find_patient(rule, path)
            original = copied_from(path)
            source = None if original is None else "/".join((place.name, *path.relative_to(place).parts[:-1], original))
            samples.append(Sample(path, owner, class_name=name, problems=(*problems, *more), source_id=source))
        aside |= {s.path: s for s in left_aside(tree, [])}
    others = [d for d in _subfolders(root) if not any(p == d or d in p.parents or p in d.parents for p in places)]
    whole = scan(root)
    read = [*places, *others]
    loose = [p for p in whole.images if not any(p.is_relative_to(place) for place in read)]
    samples += unread_images(loose, "it is in no class folder; move it into one, or out of the folder")
    aside |= {s.path: s for s in left_aside(whole, []) if not any(s.path.is_relative_to(place) for place in read)}
    say_left_out([p for d in others for p in scan(d).images], "images in folders that classes= does not name")
    return samples + list(aside.values())


@ANNOTATION_FORMATS.register("class_folders")
class ClassFolders:
    """Class names without boxes: one folder of images per class.

    Example:
        >>> ClassFolders().matches(Path("README.md"))
        False
    """

    looks_for = "folders of images alone, one per class"

    def matches(self, path: Path) -> bool:
        """Return whether every subfolder holds images, and nothing in the folder looks like an annotation.

        Args:
            path: a folder or file.

        Returns:
            Whether it looks like this format.
        """
        if not path.is_dir() or images_in(path):
            return False
        folders = _subfolders(path)
        if not folders or not all(d.name.lower() not in _OTHER_LAYOUTS and images_in(d) for d in folders):
            return False
        tree = scan(path)
        return len(left_aside(tree, [])) == len(tree.odd)

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
