"""CVAT's own XML, "CVAT for images 1.1": one file that lists images with their shapes.

Boxes, polygons and ellipses are read, also turned ones; coordinates are corner points. Masks, points, polylines,
cuboids and skeletons are problems, as are tags beside shapes; a file of tags alone gives the classes of images.
Attributes of shapes, groups and the order of layers are not read.

Source: https://docs.cvat.ai/docs/manual/advanced/xml_format
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError

import numpy as np
import xmltodict

from hccvision.annotations.judging import StatedBox
from hccvision.annotations.listed import ListedImage, files_like, has_file_like, read_listed
from hccvision.annotations.patients import PatientRule
from hccvision.annotations.shapes import box_of_ellipse, box_of_points, box_of_rectangle, numbers, size_of
from hccvision.contracts.samples import Sample
from hccvision.registry import ANNOTATION_FORMATS

_MAX_BYTES, _MAX_LEVELS = 2**30, 16


@ANNOTATION_FORMATS.register("cvat")
class CVATFormat:
    """CVAT's XML of images.

    Example:
        >>> CVATFormat().matches(Path("README.md"))
        False
    """

    looks_for = "CVAT's annotations.xml with <annotations> and <image>, and its images at any depth"

    def matches(self, path: Path) -> bool:
        """Return whether a file is CVAT's XML, or a folder contains one.

        Args:
            path: a folder or file.

        Returns:
            Whether it looks like this format.
        """
        return has_file_like(path, ".xml", _is_cvat)

    def read(self, path: Path, *, patient: PatientRule | None = None, unannotated: str = "problem") -> list[Sample]:
        """Read all files of a folder, or one file.

        An image that the file lists without shapes has no lesions.

        Args:
            path: the folder of the data set, or the file.
            patient: how to find an image's patient, as in `read_voc_folder`.
            unannotated: what an image is that no file lists: a ``"problem"``, ``"normal"`` or left out (``"skip"``).

        Returns:
            The samples.

        Raises:
            ValueError: if there is no such file.
        """
        files = list(files_like(path, ".xml", _is_cvat))
        if not files:
            raise ValueError(f"{path}: expected {self.looks_for}, got none: export the task as 'CVAT for images 1.1'")
        return read_listed(path, files, parse, patient=patient, unannotated=unannotated)


def parse(path: Path) -> list[ListedImage]:
    """Return the images that a file lists.

    Args:
        path: the file.

    Returns:
        The images.

    Raises:
        ValueError: if it is not XML, is too large or too deep, or is of a video.
    """
    images: list[ListedImage] = []

    def take(above: Sequence[tuple[str, Mapping[str, str] | None]], shapes: Any) -> bool:
        (root, _), (tag, attributes) = above[:2]
        if root != "annotations" or tag == "track":
            what = "a video (<track>)" if tag == "track" else f"<{root}>"
            raise ValueError(f"expected images in <annotations>, got {what}: export it as 'CVAT for images 1.1'")
        if tag == "image":
            images.append(_image(len(images) + 1, attributes or {}, shapes if isinstance(shapes, dict) else {}))
        return True

    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"{path}: expected at most 1 GiB of XML, got more: export fewer images at once")
    try:
        with path.open("rb") as file:
            xmltodict.parse(file, item_depth=2, item_callback=take, disable_entities=True, force_list=_is_listed)
    except (ExpatError, LookupError) as error:
        raise ValueError(f"{path}: not a readable XML file ({error}): export it again") from error
    return images


def _is_cvat(path: Path) -> bool:
    try:
        with path.open("rb") as file:  # UTF-16 has zeros between the letters
            start = file.read(2**16).replace(b"\0", b"")
    except OSError:
        return False
    return re.search(rb"<annotations[\s>].*<(version|meta|image|track)[\s>]", start, re.DOTALL) is not None


def _is_listed(above: Sequence[Any], key: str, _: Any) -> bool:
    """Tell xmltodict that all elements of an image come as lists."""
    if len(above) > _MAX_LEVELS:
        raise ValueError(f"expected at most {_MAX_LEVELS} levels of elements, got more: export it again")
    return len(above) == 2


def _image(number: int, attributes: Mapping[str, str], elements: Mapping[str, list[Any]]) -> ListedImage:
    """Return an image of its attributes and the elements in it."""
    boxes, unread = [], []
    for tag, number_of_tag, item in _items(elements):
        if item.get("@outside") == "1":  # not in this frame
            continue
        label, name = f"{tag} {number_of_tag} of {attributes.get('name')!r:.200}", item.get("@label", "")
        corners = _corners(tag, item)
        if corners is None:
            unread.append(f"{tag} {number_of_tag} ({name!r:.200}) is no box and encloses none; left out: draw a box")
        else:
            text = repr({key: value[:100] for key, value in item.items() if isinstance(value, str)})[:200]
            boxes.append(StatedBox(label, name, corners, text))
    tags = [item.get("@label", "") for item in _dicts(elements.get("tag"))]
    if len(tags) > 1:
        unread += [f"has the tag {tag!r:.200} for the whole image; left out: draw a box" for tag in tags]
    height, width = numbers(attributes.get(key) for key in ("height", "width"))
    size = size_of(*(int(n) if np.isfinite(n) else None for n in (height, width)))
    class_name = tags[0] if len(tags) == 1 else None
    return ListedImage(f"image {number}", attributes.get("name", ""), size, boxes, unread, class_name=class_name)


def _items(elements: Mapping[str, list[Any]]) -> Iterator[tuple[str, int, dict[str, Any]]]:
    for tag, items in elements.items():
        if tag != "tag" and not tag.startswith(("@", "#")):
            yield from ((tag, number, item) for number, item in enumerate(_dicts(items), start=1))


def _dicts(items: Any) -> list[dict[str, Any]]:
    return [item if isinstance(item, dict) else {} for item in items] if isinstance(items, list) else []


def _corners(tag: str, item: Mapping[str, Any]) -> Sequence[float] | None:
    """Return the corners of the box that encloses a shape; None if it is none that has an inside."""
    if tag == "box":
        x1, y1, x2, y2 = numbers(item.get(f"@{key}") for key in ("xtl", "ytl", "xbr", "ybr"))
        return box_of_rectangle((x1, y1), (x2 - x1, y2 - y1), item.get("@rotation", 0))
    if tag == "ellipse":
        cx, cy, rx, ry = (item.get(f"@{key}") for key in ("cx", "cy", "rx", "ry"))
        return box_of_ellipse((cx, cy), (rx, ry), item.get("@rotation", 0))
    if tag == "polygon":
        points = [f"{pair},".split(",")[:2] for pair in str(item.get("@points", "")).split(";")]
        return box_of_points((x for x, _ in points), (y for _, y in points))
    return None
