"""labelme's JSON: one file per image, beside it.

Rectangles, also oriented ones, polygons and circles are read; coordinates are corner points. Shapes of one label and
one group are one object, as in labelme's own export to COCO. Lines, points and masks are problems, as are image flags
that are set beside shapes; files of one flag each, without shapes, give the classes of images.

Source: https://github.com/wkentaro/labelme, ``labelme/_label_file.py`` and ``labelme/utils/shape.py`` of 6.3
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hccvision.annotations.judging import StatedBox
from hccvision.annotations.listed import ListedImage, files_like, has_file_like, read_listed
from hccvision.annotations.paths import read_json, words_in
from hccvision.annotations.patients import PatientRule
from hccvision.annotations.shapes import box_of_ellipse, box_of_points, numbers, size_of
from hccvision.contracts.samples import Sample
from hccvision.registry import ANNOTATION_FORMATS


@ANNOTATION_FORMATS.register("labelme")
class LabelmeFormat:
    """labelme's JSON files.

    Example:
        >>> LabelmeFormat().matches(Path("README.md"))
        False
    """

    looks_for = "labelme's JSON files, with shapes and imagePath, beside the images or at any depth"

    def matches(self, path: Path) -> bool:
        """Return whether a file is labelme's JSON, or a folder contains one.

        Args:
            path: a folder or file.

        Returns:
            Whether it looks like this format.
        """
        return has_file_like(path, ".json", _is_labelme)

    def read(self, path: Path, *, patient: PatientRule | None = None, unannotated: str = "problem") -> list[Sample]:
        """Read all files of a folder, or one file.

        Args:
            path: the folder of the data set, or the file.
            patient: how to find an image's patient, as in `read_voc_folder`.
            unannotated: what an image without a file is: a ``"problem"``, ``"normal"`` (examined, no lesion), or left
                out (``"skip"``). A file without shapes always means: no lesion.

        Returns:
            The samples.

        Raises:
            ValueError: if there is no such file.
        """
        files = list(files_like(path, ".json", _is_labelme))
        if not files:
            raise ValueError(f"{path}: expected {self.looks_for}, got none: check the path")
        return read_listed(path, files, parse, patient=patient, unannotated=unannotated)


def parse(path: Path) -> list[ListedImage]:
    """Return the image that a file is of.

    Args:
        path: the file.

    Returns:
        The image, in a list.

    Raises:
        ValueError: if it is not labelme's JSON.
    """
    document = read_json(path)
    if not isinstance(document, dict) or not isinstance(document.get("shapes"), list):
        raise ValueError(f"{path}: expected a JSON object with the list shapes: save it again in labelme")
    boxes: dict[Any, StatedBox] = {}
    unread = []
    for number, shape in enumerate(document["shapes"], start=1):
        shape = shape if isinstance(shape, dict) else {}
        name = str(shape.get("label") or "")
        kind, points = shape.get("shape_type") or "polygon", shape.get("points")
        corners = _corners(kind, points if isinstance(points, list) else [])
        if corners is None:
            unread.append(f"shape {number} ({name!r:.200}) is a {kind!r:.50}, no box; left out: draw a box")
            continue
        group = shape.get("group_id")
        key = (name, group) if isinstance(group, int) else number
        if key in boxes:
            corners = _joined(boxes[key].corners, corners)
        boxes[key] = StatedBox(f"shape {number}", name, corners, repr(points)[:200])
    stated = document.get("flags")
    flags = [name for name, is_set in stated.items() if is_set is True] if isinstance(stated, dict) else []
    if len(flags) > 1:
        unread += [f"has the flag {flag!r:.200} for the whole image; left out: draw a box" for flag in flags]
    stated = document.get("imagePath")
    size = size_of(document.get("imageHeight"), document.get("imageWidth"))
    class_name = flags[0] if len(flags) == 1 else None
    entry = ListedImage("its image", stated if isinstance(stated, str) else "", size, [*boxes.values()], unread)
    return [entry._replace(class_name=class_name)]


def _is_labelme(path: Path) -> bool:
    words = {'"shapes"', '"imagePath"'}
    return words_in(path, words) == {"{", *words}


def _corners(kind: Any, points: Sequence[Any]) -> Sequence[float] | None:
    """Return the corners of the box that encloses a shape; None if it is none that has an inside."""
    pairs = [numbers(p) if isinstance(p, list) and len(p) == 2 else [np.nan] * 2 for p in points]
    if kind in ("rectangle", "oriented_rectangle", "polygon"):
        return box_of_points((x for x, _ in pairs), (y for _, y in pairs))
    if kind == "circle" and len(pairs) == 2:
        (x, y), (on_x, on_y) = pairs
        radius = np.hypot(on_x - x, on_y - y)
        return box_of_ellipse((x, y), (radius, radius))
    return None


def _joined(one: Sequence[float], other: Sequence[float]) -> Sequence[float]:
    both: Mapping[int, tuple[float, float]] = dict(enumerate(zip(one, other, strict=True)))
    return [*map(min, (both[0], both[1])), *map(max, (both[2], both[3]))]
