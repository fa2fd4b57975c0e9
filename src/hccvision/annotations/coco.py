"""COCO's JSON for detection, to and from samples.

A box in the file is ``x, y, width, height`` in pixels, 0-based, so the box ``x, y, x + width, y + height`` here.
``iscrowd`` is a crowd, and *difficult* is ``ignore``, as other converters from Pascal VOC write it. Truncation, poses
and segmentations have no counterpart.

Source: https://cocodataset.org/#format-data
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hccvision.annotations import coco_document
from hccvision.annotations.coco_document import file_name_of, id_of
from hccvision.annotations.judging import StatedBox, format_size, judge_boxes, judge_image
from hccvision.annotations.paths import existing_folder, file_within
from hccvision.annotations.patients import PatientRule, find_patient, patient_rule
from hccvision.annotations.problems import usable
from hccvision.annotations.tree import left_aside, scan, unread_images
from hccvision.annotations.writing import class_list, clipped_boxes
from hccvision.contracts.samples import Problem, Sample
from hccvision.files import refuse_existing, write_text
from hccvision.registry import ANNOTATION_FORMATS

Entries = Sequence[tuple[int, Mapping[str, Any]]]  # of the list of annotations, with their numbers in it


def read_coco(
    path: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    *,
    patient: PatientRule | None = None,
) -> list[Sample]:
    """Read a COCO file with the images that it lists.

    An image without annotations has no lesions. Problems are those of `read_voc_folder`, and: a category that the file
    lacks (``unknown_category``; the box is left out), one id or file name for several images (``duplicate_image``), a
    file name that points outside the folder (``unsafe_path``).

    Args:
        path: the JSON file.
        images: folder that its file names are relative to; None: the file's own.
        patient: how to find an image's patient, as in `read_voc_folder`.

    Returns:
        Samples in the order of the file's images, then one for each image id that only annotations name.

    Raises:
        FileNotFoundError: if there is no such file or folder.
        ValueError: if it is not JSON or not COCO's: without lists of images, annotations and categories, or with
            categories that are not unique.

    Example:
        >>> import tempfile
        >>> from hccvision import phantom
        >>> from hccvision.annotations.voc_folder import read_voc_folder
        >>> root = phantom.write_dataset(tempfile.mkdtemp() + "/liver", patients=2, slices=1, seed=0)
        >>> data = read_voc_folder(root)
        >>> again = read_coco(write_coco(data, root / "liver.json"), root / "JPEGImages")
        >>> [s.names for s in again] == [s.names for s in data]
        True
    """
    path = Path(path)
    document = coco_document.load(path)
    folder = existing_folder(path.parent if images is None else images)
    used = {id_of(item, "category_id") for item in document["annotations"]}
    categories = coco_document.category_names(document["categories"], path, used)
    of_image: dict[Any, list[tuple[int, Mapping[str, Any]]]] = defaultdict(list)
    for number, item in enumerate(document["annotations"], start=1):
        of_image[id_of(item, "image_id")].append((number, item if isinstance(item, dict) else {}))
    ids = Counter(id_of(entry, "id") for entry in document["images"])
    names = Counter(file_name_of(entry) for entry in document["images"])
    rule = patient_rule(patient)
    samples = []
    for number, entry in enumerate(document["images"], start=1):
        known, name = id_of(entry, "id"), file_name_of(entry)
        image = file_within(folder, name)
        problems: tuple[Problem, ...] = ()
        if image is None or known is None:
            kind, message = "unsafe_path", f"its file_name {name!r:.200} is not a file name in {folder}: correct it"
            if known is None or not name:
                kind, message = "missing_image", "it needs an id and a file_name: correct the entry"
            problems = (Problem(kind, str(path), f"image {number} of the list: {message}", False),)
            samples.append(Sample(folder / f"image {number}", problems=problems))
            continue
        if ids[known] > 1 or names[name] > 1:
            message = f"image {number} of the list: its id {known!r} or its file {name!r} appears twice: keep one"
            problems = (Problem("duplicate_image", str(path), message, False),)
        owner, more = find_patient(rule, image)
        size, size_problems = _size(path, entry, image, folder)
        boxes, unknown = _boxes(path, of_image.get(known, ()), categories, name)
        annotation = judge_boxes(boxes, size, path=path, filename=name, problems=unknown)
        problems = (*annotation.problems, *problems, *more, *size_problems)
        samples.append(Sample(image, owner, annotation=annotation, problems=problems))
    for known, items in of_image.items():
        if known is None or known not in ids:
            which = ", ".join(str(place) for place, _ in items[:5]) + (" …" if len(items) > 5 else "")
            message = f"annotations {which} of the list are for the image {known!r}, which the file lacks: add it"
            problem = Problem("missing_image", str(path), message, False)
            samples.append(Sample(folder / f"image without entry {len(samples)}", problems=(problem,)))
    return samples


def write_coco(
    samples: Sequence[Sample],
    path: str | os.PathLike[str],
    *,
    images: str | os.PathLike[str] | None = None,
    classes: Sequence[str] | None = None,
    on_problem: str = "raise",
    overwrite: bool = False,
) -> Path:
    """Write the annotations of samples as one COCO file; the images stay where they are.

    Args:
        samples: with annotations.
        path: the JSON file to create, in an existing folder.
        images: folder that file names are to be relative to; None: the deepest that contains all images.
        classes: names in the order of the category ids, from 1; None: the names there are, sorted.
        on_problem: ``"raise"``, or ``"skip"`` to leave out what problems affect; see `usable`.
        overwrite: whether an existing file may be replaced.

    Returns:
        The path written.

    Raises:
        FileExistsError: if the file exists and ``overwrite`` is False.
        ValueError: if there are problems and ``on_problem="raise"``, a sample has no annotation or lies outside
            ``images``, a box is not finite or empty, or ``classes`` lacks a name.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from PIL import Image
        >>> from hccvision.contracts.samples import Annotation
        >>> root = Path(tempfile.mkdtemp())
        >>> Image.new("L", (60, 50)).save(root / "a.png")
        >>> a = Annotation(np.array([[10, 20, 30, 45]]), ("hcc",), size=(50, 60))
        >>> made = write_coco([Sample(root / "a.png", annotation=a)], root / "all.json")
        >>> json.loads(made.read_text())["annotations"][0]["bbox"]
        [10.0, 20.0, 20.0, 25.0]
    """
    path = Path(path)
    refuse_existing(path, overwrite=overwrite)
    kept = usable(samples, on_problem)
    names = class_list(kept, classes)
    folders = [os.path.dirname(os.path.abspath(s.path)) for s in kept]
    folder = os.path.abspath(images) if images is not None else os.path.commonpath(folders)
    return write_text(path, json.dumps(_document(kept, folder, names), indent=1), overwrite=overwrite)


@ANNOTATION_FORMATS.register("coco")
class COCOFormat:
    """COCO's detection format: one JSON for the data set.

    Example:
        >>> COCOFormat().image_folder
        'images'
    """

    looks_for = "a COCO file, or a folder with one in it or in annotations/"
    image_folder = "images"
    file_name = "annotations.json"

    def matches(self, path: Path) -> bool:
        """Return whether a file is a COCO file, or a folder contains one.

        Args:
            path: a folder or file.

        Returns:
            Whether it looks like this format.
        """
        return bool(_files(path))

    def read(self, path: Path, *, images: str | os.PathLike[str] | None = None, **options: Any) -> list[Sample]:
        """Read a COCO file, or the only one in a folder or its ``annotations/``; see `read_coco`.

        Args:
            path: the file or folder.
            images: folder that file names are relative to; None: the file's own, the folder, its ``images/`` or its
                ``JPEGImages/``, the first in which the file's first image exists.
            options: of `read_coco`.

        Returns:
            The samples.

        Raises:
            ValueError: if the folder contains several COCO files, or none.
        """
        files = _files(path)
        if path.is_file():
            files = [path]
        if len(files) != 1:
            got = ", ".join(p.name for p in files) or "none"
            raise ValueError(f"{path}: expected one COCO file in it or in annotations/, got {got}: pass its path")
        if images is not None or not path.is_dir():
            return read_coco(files[0], images, **options)
        samples, tree = read_coco(files[0], _image_folder(files[0], path), **options), scan(path)
        used = {s.path for s in samples}
        unread = unread_images((p for p in tree.images if p not in used), f"{files[0].name} does not list it; add it")
        return samples + unread + left_aside(tree, files)

    def write(self, folder: Path, samples: Sequence[Sample], *, classes: Sequence[str]) -> None:
        """Write ``annotations.json`` with file names relative to the folder.

        Args:
            folder: of the data set.
            samples: its images, each with an annotation.
            classes: names in the order of the category ids, from 1.

        Raises:
            ValueError: if a box is not finite or empty.
        """
        document = _document(samples, os.path.abspath(folder), list(classes))
        write_text(folder / self.file_name, json.dumps(document, indent=1))


def _size(
    path: Path, entry: Mapping[str, Any], image: Path, folder: Path
) -> tuple[tuple[int, int] | None, tuple[Problem, ...]]:
    """Return the size that an entry states, or else that of its image, and the problems of both."""
    stated, name = coco_document.size_of(entry), file_name_of(entry)
    if not image.is_file():
        message = f"its image {name!r} is not in {folder}: put it there, or remove it from the file"
        return stated, (Problem("missing_image", str(path), message, False),)
    real, problems = judge_image(image)
    if real is not None and stated is not None and real != stated:
        message = f"says {name!r} is {format_size(stated)} pixels, but it is {format_size(real)}: annotate this version"
        problems = (*problems, Problem("size_mismatch", str(path), message, False))
    return stated or real, problems


def _boxes(
    path: Path, items: Entries, categories: Mapping[int | str | None, str], name: str
) -> tuple[list[StatedBox], list[Problem]]:
    """Return the boxes of one image, and those of unknown categories as problems."""
    boxes, problems = [], []
    for place, item in items:
        category = id_of(item, "category_id")
        label = f"annotation {item.get('id', place)!r} of {name!r}"
        if category not in categories:
            message = f"{label} is of the category {category!r}, which the file lacks; left out: add the category"
            problems.append(Problem("unknown_category", str(path), message))
            continue
        corners, text = coco_document.corners_of(item.get("bbox")), repr(item.get("bbox"))[:200]
        difficult, crowd = (item.get(key) in (1, True) for key in ("ignore", "iscrowd"))
        boxes.append(StatedBox(label, categories[category], corners, text, difficult, crowd))
    return boxes, problems


def _document(samples: Sequence[Sample], folder: str, names: Sequence[str]) -> dict[str, Any]:
    """Return the document of samples with file names relative to an absolute folder."""
    entries: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for number, sample in enumerate(samples, start=1):
        place = os.path.abspath(sample.path)
        if os.path.commonpath([folder, place]) != folder:
            raise ValueError(
                f"{sample.path}: is outside the folder of images {folder}: pass images= a folder that contains it"
            )
        (height, width), boxes = clipped_boxes(sample)
        assert sample.annotation is not None
        relative = Path(place).relative_to(folder).as_posix()
        entries.append({"id": number, "file_name": relative, "width": width, "height": height})
        annotation = sample.annotation
        for (x1, y1, x2, y2), name, difficult, crowd in zip(
            boxes.tolist(), annotation.names, annotation.difficult, annotation.crowd, strict=True
        ):
            objects.append(
                {
                    "id": len(objects) + 1,
                    "image_id": number,
                    "category_id": names.index(name) + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": int(crowd),
                    "ignore": int(difficult),
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    return {"images": entries, "annotations": objects, "categories": categories}


def _files(path: Path) -> list[Path]:
    """Return the COCO files that a path names or contains."""
    if path.is_file():
        return [path] if coco_document.looks_like_coco(path) else []
    found = [p for place in (path, path / "annotations") for p in sorted(place.glob("*.json"))]
    return [p for p in found if coco_document.looks_like_coco(p)]


def _image_folder(file: Path, root: Path) -> Path:
    """Return the first of the usual folders in which the first listed image exists; else the file's own."""
    names = [file_name_of(entry) for entry in coco_document.load(file)["images"][:1]]
    for place in (file.parent, root, root / "images", root / "JPEGImages"):
        image = file_within(place, names[0]) if names else None
        if image is not None and image.is_file():
            return place
    return file.parent
