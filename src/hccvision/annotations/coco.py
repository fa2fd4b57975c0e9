"""COCO's JSON for detection, to and from samples.

A box in the file is ``x, y, width, height`` in pixels, 0-based, so the box ``x, y, x + width, y + height`` here.
``iscrowd`` is a crowd, and *difficult* is ``ignore``, as other converters from Pascal VOC write it. Truncation, poses
and segmentations have no counterpart.

Source: https://cocodataset.org/#format-data
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hccvision.annotations import coco_document
from hccvision.annotations.coco_document import file_name_of, id_of
from hccvision.annotations.judging import StatedBox
from hccvision.annotations.listed import ListedImage, files_like, has_file_like, read_listed
from hccvision.annotations.paths import existing_folder, file_within
from hccvision.annotations.patients import PatientRule
from hccvision.annotations.problems import usable
from hccvision.annotations.writing import class_list, clipped_boxes
from hccvision.contracts.samples import Sample
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

    An image without annotations has no lesions. An image in the folder that the file does not list is a problem
    (``unread_image``), unless another COCO file beside it does. Other problems are those of `read_voc_folder`, and: a
    category that the file lacks (``unknown_category``; the box is left out), one id or file name for several images
    (``duplicate_image``), a file name that points outside the folder (``unsafe_path``).

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
    listed = {path: parse(path)}
    folder = existing_folder(path.parent if images is None else images)
    others = partial(_others, path)
    return read_listed(
        path, [path], listed.__getitem__, patient=patient, unannotated=None, images=folder, elsewhere=others
    )


def parse(path: Path) -> list[ListedImage]:
    """Return the images that a COCO file lists, then one for each image id that only annotations name.

    Args:
        path: the JSON file.

    Returns:
        The images.

    Raises:
        ValueError: if it is not JSON or not COCO's.
    """
    document = coco_document.load(path)
    used = {id_of(item, "category_id") for item in document["annotations"]}
    categories = coco_document.category_names(document["categories"], path, used)
    of_image: dict[Any, list[tuple[int, Mapping[str, Any]]]] = defaultdict(list)
    for number, item in enumerate(document["annotations"], start=1):
        of_image[id_of(item, "image_id")].append((number, item if isinstance(item, dict) else {}))
    ids = Counter(id_of(entry, "id") for entry in document["images"])
    names = Counter(file_name_of(entry) for entry in document["images"])
    listed = []
    for number, entry in enumerate(document["images"], start=1):
        known, name, label = id_of(entry, "id"), file_name_of(entry), f"image {number} of the list"
        if known is None or not name:
            problem = "missing_image", "it needs an id and a file_name: correct the entry"
            listed.append(ListedImage(label, "", problems=[problem]))
        elif file_within(path.parent, name) is None and not coco_document.states_server_paths(document):
            problem = "unsafe_path", f"its file_name {name!r:.200} is not a file name in the folder: correct it"
            listed.append(ListedImage(label, "", problems=[problem]))
        else:
            boxes, unknown = _boxes(of_image.get(known, ()), categories, name)
            message = f"its id {known!r} or its file {name!r} appears twice: keep one"
            twice = [("duplicate_image", message)] if ids[known] > 1 or names[name] > 1 else []
            size = coco_document.size_of(entry)
            listed.append(ListedImage(label, name, size, boxes, unknown=unknown, problems=twice))
    for known, items in of_image.items():
        if known is None or known not in ids:
            which = ", ".join(str(place) for place, _ in items[:5]) + (" …" if len(items) > 5 else "")
            message = f"annotations {which} of the list are for the image {known!r}, which the file lacks: add it"
            listed.append(ListedImage(f"image without entry {len(listed)}", "", problems=[("missing_image", message)]))
    return listed


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
        on_problem: ``"raise"``, or ``"skip"`` or ``"keep"`` to leave out what problems affect; see `usable`.
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

    looks_for = "COCO's JSON with images, annotations and categories, also one for each split, and its images"
    image_folder = "images"
    file_name = "annotations.json"

    def matches(self, path: Path) -> bool:
        """Return whether a file is a COCO file, or a folder contains one.

        Args:
            path: a folder or file.

        Returns:
            Whether it looks like this format.
        """
        return has_file_like(path, ".json", coco_document.looks_like_coco)

    def read(
        self, path: Path, *, images: str | os.PathLike[str] | None = None, patient: PatientRule | None = None
    ) -> list[Sample]:
        """Read a COCO file, or all in a folder at any depth, such as one for each split.

        Args:
            path: the file or folder.
            images: folder of the images; None: the folder itself. Images are found by the last parts of their names.
            patient: how to find an image's patient, as in `read_voc_folder`.

        Returns:
            The samples; an image that no file lists is a problem.

        Raises:
            ValueError: if the folder contains no COCO file, or several that list the same image; also as `read_coco`.
        """
        if path.is_file():
            return read_coco(path, images, patient=patient)
        files = _files(path)
        if not files:
            raise ValueError(f"{path}: expected {self.looks_for}, got none: pass its path")
        folder = None if images is None else existing_folder(images)
        listed = {file: parse(file) for file in files}
        samples = read_listed(path, files, listed.__getitem__, patient=patient, unannotated=None, images=folder)
        if len(files) > 1 and any(p.kind == "duplicate_annotation" for s in samples for p in s.problems):
            got = ", ".join(p.name for p in files)
            raise ValueError(f"{path}: expected one COCO file for each image, got {got}: pass its path")
        return samples

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


def _boxes(items: Entries, categories: Mapping[int | str | None, str], name: str) -> tuple[list[StatedBox], list[str]]:
    """Return the boxes of one image, and a message for each of an unknown category."""
    boxes, unknown = [], []
    for place, item in items:
        category = id_of(item, "category_id")
        label = f"annotation {item.get('id', place)!r} of {name!r}"
        if category not in categories:
            message = f"{label} is of the category {category!r}, which the file lacks; left out: add the category"
            unknown.append(message)
            continue
        corners, text = coco_document.box_of(item), repr(item.get("bbox"))[:200]
        difficult, crowd = (item.get(key) in (1, True) for key in ("ignore", "iscrowd"))
        boxes.append(StatedBox(label, categories[category], corners, text, difficult, crowd))
    return boxes, unknown


def _others(path: Path) -> set[str]:
    """Return the names of the images that the COCO files beside one list."""
    files = [p for p in path.parent.glob("*.json") if p != path and coco_document.looks_like_coco(p)]
    names = (file_name_of(entry) for p in files for entry in coco_document.load(p)["images"])
    return {re.split(r"[\\/]", name)[-1] for name in names}


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
    return list(files_like(path, ".json", coco_document.looks_like_coco))
