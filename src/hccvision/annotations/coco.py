"""COCO's JSON for detection, to and from samples.

A box in the file is ``x, y, width, height`` in pixels, 0-based, so the box ``x, y, x + width, y + height`` here.
``iscrowd`` is read as difficult and difficult is written as ``iscrowd``: metrics leave both out. Truncation, poses and
segmentations have no counterpart.

Source: https://cocodataset.org/#format-data
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hccvision import images as image_files
from hccvision.contracts import Problem, Sample
from hccvision.data.folders import (
    PatientRule,
    _existing_folder,
    _image_size,
    _judged,
    _patient_rule,
    _sides,
    _whose,
    _within,
)
from hccvision.data.linter import usable

_MOST_BYTES = 2**30  # COCO's own largest file has half of it


def read_coco(
    path: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    *,
    patient: PatientRule | None = None,
) -> list[Sample]:
    """Read a COCO file with the images that it lists.

    An image without annotations is one without lesions. Problems are those of `read_voc_folder`, and: a category that
    the file lacks (``unknown_category``; the box is left out), one id or file for several images
    (``duplicate_image``), a file name that leads out of the folder (``unsafe_path``).

    Args:
        path: the JSON file.
        images: folder that its file names are relative to; None: the file's own.
        patient: whose slice an image is, as in `read_voc_folder`.

    Returns:
        Samples in the order of the file's images, then one for each image that only annotations name.

    Raises:
        FileNotFoundError: if there is no such file or folder.
        ValueError: if it is not JSON, or not COCO's: without lists of images, annotations and categories, or with
            categories that are not unique.

    Example:
        >>> import tempfile
        >>> from hccvision import phantom
        >>> from hccvision.data.folders import read_voc_folder
        >>> root = phantom.write_dataset(tempfile.mkdtemp() + "/liver", patients=2, slices=1, seed=0)
        >>> data = read_voc_folder(root)
        >>> again = read_coco(write_coco(data, root / "liver.json"), root / "JPEGImages")
        >>> [s.names for s in again] == [s.names for s in data]
        True
    """
    path = Path(path)
    document = _load(path)
    folder = _existing_folder(path.parent if images is None else images)
    categories = _categories(document["categories"], path)
    of_image: dict[Any, list[tuple[int, Mapping[str, Any]]]] = defaultdict(list)
    for number, item in enumerate(document["annotations"], start=1):
        of_image[_id(item, "image_id")].append((number, item if isinstance(item, dict) else {}))
    counts = Counter(_id(entry, "id") for entry in document["images"])
    names = Counter(_name(entry) for entry in document["images"])
    who = _patient_rule(patient)
    samples = []
    for number, entry in enumerate(document["images"], start=1):
        known, name = _id(entry, "id"), _name(entry)
        image = _within(folder, name)
        problems: tuple[Problem, ...] = ()
        if image is None or known is None:
            kind, message = "unsafe_path", f"its file_name {name!r:.200} is no name of a file in {folder}: mend it"
            if known is None or not name:
                kind, message = "missing_image", "it needs an id and a file_name: mend the entry"
            problems = (Problem(kind, str(path), f"image {number} of the list: {message}", False),)
            samples.append(Sample(folder / f"image {number}", problems=problems))
            continue
        if counts[known] > 1 or names[name] > 1:
            message = f"image {number} of the list: its id {known!r} or its file {name!r} is there twice: keep one"
            problems = (Problem("duplicate_image", str(path), message, False),)
        owner, more = _whose(who, image)
        problems += more
        size = stated = _stated_size(entry)
        if not image.is_file():
            message = f"its image {name!r} is not in {folder}: put it there, or take it out of the file"
            problems = (*problems, Problem("missing_image", str(path), message, False))
        else:
            real, more = _image_size(image)
            problems += more
            size = stated or real
            if real is not None and stated is not None and real != stated:
                message = f"says {name!r} is {_sides(stated)} pixels, but it is {_sides(real)}: annotate this version"
                problems = (*problems, Problem("size_mismatch", str(path), message, False))
        boxes = []
        for place, item in of_image.get(known, []):
            category = _id(item, "category_id")
            what = f"annotation {item.get('id', place)!r} of {name!r}"
            if category not in categories:
                message = f"{what} is of the category {category!r}, which the file lacks; left out: add the category"
                problems = (*problems, Problem("unknown_category", str(path), message))
                continue
            stated_box = repr(item.get("bbox"))
            difficult = item.get("iscrowd") in (1, True)
            boxes.append((what, categories[category], _corners(item.get("bbox")), stated_box[:200], difficult))
        annotation = _judged(boxes, size, path=path, filename=name)
        problems = (*annotation.problems, *problems)
        samples.append(Sample(image, owner, annotation=annotation, problems=problems))
    for known, items in of_image.items():
        if known is None or known not in counts:
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
    """Write samples as one COCO file; the images stay where they are.

    Args:
        samples: with annotations.
        path: the JSON file to make, in a folder that exists.
        images: folder that file names are to be relative to; None: the deepest that holds all images.
        classes: names in the order of the category ids, from 1; None: those there are, sorted.
        on_problem: ``"raise"``, or ``"skip"``: leave out what problems spoil, as in `fit`.
        overwrite: whether an existing file may be replaced.

    Returns:
        The path written.

    Raises:
        FileExistsError: if the file exists and ``overwrite`` is False.
        ValueError: if there are problems and ``on_problem="raise"``, a sample has no annotation or lies outside
            ``images``, a box is not finite or empty, or ``classes`` lacks a name.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> from hccvision.contracts import Annotation
        >>> root = Path(tempfile.mkdtemp())
        >>> Image.new("L", (60, 50)).save(root / "a.png")
        >>> a = Annotation(np.array([[10, 20, 30, 45]]), ("hcc",), size=(50, 60))
        >>> made = write_coco([Sample(root / "a.png", annotation=a)], root / "all.json")
        >>> json.loads(made.read_text())["annotations"][0]["bbox"]
        [10.0, 20.0, 20.0, 25.0]
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path}: the file exists: write elsewhere, or pass overwrite=True to replace it")
    kept = usable(samples, on_problem)
    names = class_list(kept, classes)
    places = [os.path.abspath(s.path) for s in kept]
    folder = os.path.abspath(images) if images is not None else os.path.commonpath([os.path.dirname(p) for p in places])
    entries: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for number, (sample, place) in enumerate(zip(kept, places, strict=True), start=1):
        if os.path.commonpath([folder, place]) != folder:
            raise ValueError(
                f"{sample.path}: lies outside the folder of images {folder}: give images= one that holds it"
            )
        (height, width), boxes = whole_boxes(sample)
        assert sample.annotation is not None
        relative = Path(place).relative_to(folder).as_posix()
        entries.append({"id": number, "file_name": relative, "width": width, "height": height})
        for (x1, y1, x2, y2), name, difficult in zip(
            boxes.tolist(), sample.annotation.names, sample.annotation.difficult, strict=True
        ):
            objects.append(
                {
                    "id": len(objects) + 1,
                    "image_id": number,
                    "category_id": names.index(name) + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": int(difficult),
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    document = {"images": entries, "annotations": objects, "categories": categories}
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_text(json.dumps(document, indent=1), encoding="utf-8")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def class_list(samples: Sequence[Sample], classes: Sequence[str] | None) -> list[str]:
    """Give the class names in the order that a file is to number them.

    Args:
        samples: what is to be written.
        classes: the order; None: all names there are, sorted.

    Returns:
        The names.

    Raises:
        ValueError: if ``classes`` is not unique or lacks a name that a sample bears.
    """
    found = sorted({name for s in samples for name in s.names})
    names = found if classes is None else list(classes)
    if len(set(names)) < len(names) or not set(found) <= set(names):
        raise ValueError(f"expected classes to hold each of {found} once, got {names}: correct the list")
    return names


def whole_boxes(sample: Sample) -> tuple[tuple[int, int], np.ndarray]:
    """Give what a file needs of a sample's boxes.

    Args:
        sample: with an annotation.

    Returns:
        ``(height, width)`` of its image, as annotated or else by the file; ``(N, 4) float64``, its boxes cut to it.

    Raises:
        ValueError: if it has no annotation, or a box is not finite or has no part inside the image.
    """
    if sample.annotation is None:
        raise ValueError(f"{sample.path}: has no annotation: leave it out, or give it one (empty, if it has no lesion)")
    size = sample.annotation.size or image_files.image_size(sample.path)
    boxes = sample.annotation.boxes.astype(np.float64)
    cut = np.clip(boxes, 0, [size[1], size[0]] * 2)
    bad = np.flatnonzero(~(np.isfinite(boxes).all(axis=1) & (cut[:, 2:] > cut[:, :2]).all(axis=1)))
    if len(bad):
        got = sample.annotation.boxes[bad[0]].tolist()
        raise ValueError(
            f"{sample.path}: box {bad[0]} needs finite x1 < x2 and y1 < y2 inside the image, got {got}: leave it out"
        )
    return size, cut


def _load(path: Path) -> dict[str, list[Any]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such COCO file: check the path")
    remedy = "export it again in the COCO format for detection"
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(f"{path}: expected a COCO file of at most 1 GiB, got {path.stat().st_size} bytes: split it")
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a readable JSON file ({error}): {remedy}") from error
    keys = ("images", "annotations", "categories")
    if not isinstance(document, dict) or not all(isinstance(document.get(key), list) for key in keys):
        raise ValueError(f"{path}: expected a JSON object with the lists {', '.join(keys)}: {remedy}")
    return document


def _id(entry: Any, key: str) -> int | str | None:
    value = entry.get(key) if isinstance(entry, dict) else None
    return value if isinstance(value, (int, str)) and not isinstance(value, bool) else None


def _name(entry: Any) -> str:
    name = entry.get("file_name") if isinstance(entry, dict) else None
    return name if isinstance(name, str) else ""


def _categories(entries: list[Any], path: Path) -> dict[int | str | None, str]:
    categories: dict[int | str | None, str] = {}
    for entry in entries:
        known, name = _id(entry, "id"), entry.get("name") if isinstance(entry, dict) else None
        if known is None or not isinstance(name, str) or not name.strip():
            raise ValueError(f"{path}: a category needs an id and a name, got {entry!r:.200}: mend it")
        if known in categories or name in categories.values():
            raise ValueError(f"{path}: the category {known!r} or its name {name!r} is there twice: keep one")
        categories[known] = name
    return categories


def _stated_size(entry: Mapping[str, Any]) -> tuple[int, int] | None:
    height, width = entry.get("height"), entry.get("width")
    if type(height) is int and type(width) is int and min(height, width) > 0 and max(height, width) < 2**31:
        return height, width
    return None


def _corners(box: Any) -> list[float]:
    """Turn ``x, y, width, height`` into ``x1, y1, x2, y2``, NaN where they are not four numbers."""
    if not isinstance(box, list) or len(box) != 4 or not all(type(n) in (int, float) for n in box):
        return [np.nan] * 4
    try:
        x, y, width, height = (float(n) for n in box)
    except OverflowError:
        return [np.nan] * 4
    return [x, y, x + width, y + height]
