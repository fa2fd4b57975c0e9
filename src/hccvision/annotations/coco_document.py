"""The JSON of a COCO file: loaded, checked, its entries taken apart."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from hccvision.annotations import shapes
from hccvision.annotations.names import MOST_LETTERS
from hccvision.annotations.paths import read_json, words_in
from hccvision.annotations.shapes import NO_BOX, box_of_points, numbers

LISTS = ("images", "annotations", "categories")


def load(path: Path) -> dict[str, list[Any]]:
    """Load a COCO file.

    Args:
        path: the JSON file.

    Returns:
        The document; it has the lists ``images``, ``annotations`` and ``categories``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not JSON, is larger than 1 GiB, or lacks one of the lists.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such COCO file: check the path")
    document = read_json(path)
    if not isinstance(document, dict) or not all(isinstance(document.get(key), list) for key in LISTS):
        raise ValueError(
            f"{path}: expected a JSON object with the lists {', '.join(LISTS)}: export it again in the COCO format for "
            "detection"
        )
    return document


def looks_like_coco(path: Path) -> bool:
    """Return whether a file looks like a COCO file, without parsing it.

    Args:
        path: a file.

    Returns:
        Whether it begins like a JSON object and contains the words of COCO's three lists.
    """
    words = {f'"{key}"' for key in LISTS}
    return path.suffix.lower() == ".json" and words_in(path, words) >= {"{", *words}


def id_of(entry: Any, key: str) -> int | str | None:
    """Return an id that an entry states.

    Args:
        entry: of one of the lists.
        key: ``"id"``, ``"image_id"`` or ``"category_id"``.

    Returns:
        The id, as an integer if it is the text of one, as some programs write it; None if it is missing or neither an
        integer nor a string.
    """
    value = entry.get(key) if isinstance(entry, dict) else None
    if isinstance(value, str) and re.fullmatch("0|[1-9][0-9]{0,17}", value):
        return int(value)
    return value if isinstance(value, (int, str)) and not isinstance(value, bool) else None


def file_name_of(entry: Any) -> str:
    """Return the file name of an image.

    Args:
        entry: of the list of images.

    Returns:
        The name; "" if it is missing or not a string.
    """
    name = entry.get("file_name") if isinstance(entry, dict) else None
    return name if isinstance(name, str) else ""


def states_server_paths(document: Mapping[str, Any]) -> bool:
    """Return whether a file states its images by paths on the server that made it, as Label Studio does.

    Args:
        document: the file's.

    Returns:
        Whether only the last parts of its file names tell which images they are.
    """
    info = document.get("info")
    return isinstance(info, dict) and info.get("contributor") == "Label Studio"


def size_of(entry: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the size of an image.

    Args:
        entry: of the list of images.

    Returns:
        ``(height, width)`` in pixels; None if it is missing or impossible.
    """
    return shapes.size_of(entry.get("height"), entry.get("width"))


def category_names(entries: list[Any], path: Path, used: Collection[Any]) -> dict[int | str | None, str]:
    """Return the class names by category id.

    A category that no annotation uses may repeat the id or the name of another, as the root category of some exports
    does; it is then left out, and printed.

    Args:
        entries: the list of categories.
        path: the file, for messages.
        used: ids of the categories that annotations name.

    Returns:
        ``{id: name}``.

    Raises:
        ValueError: if a category lacks an id or a name, or one appears twice.
    """
    categories: dict[int | str | None, str] = {}
    for entry in entries:
        known, name = id_of(entry, "id"), entry.get("name") if isinstance(entry, dict) else None
        if known is None or not isinstance(name, str) or not 0 < len(name.strip()) <= MOST_LETTERS:
            raise ValueError(
                f"{path}: a category needs an id and a name of 1 to {MOST_LETTERS} characters, got {entry!r:.200}: "
                "correct it"
            )
        others = [i for i, other in categories.items() if i == known or other == name]
        if others and known not in used:
            print(f"left out: {path}: the category {known!r} ({name!r}), unused and named like another")
            continue
        if others and others[0] != known and others[0] not in used:
            print(f"left out: {path}: the category {others[0]!r} ({name!r}), unused and named like another")
            del categories[others[0]]
        elif others:
            raise ValueError(f"{path}: the category {known!r} or its name {name!r} appears twice: keep one")
        categories[known] = name
    return categories


def corners_of(box: Any) -> Sequence[float]:
    """Convert ``x, y, width, height`` to corners.

    Args:
        box: the ``bbox`` of an entry.

    Returns:
        ``x1, y1, x2, y2`` in pixels; four NaN if it is not four numbers.

    Example:
        >>> corners_of([10, 20, 5, 5])
        [10.0, 20.0, 15.0, 25.0]
    """
    if not isinstance(box, list) or len(box) != 4 or not all(type(n) in (int, float) for n in box):
        return NO_BOX
    x, y, width, height = numbers(box)
    return [x, y, x + width, y + height]


def box_of(item: Mapping[str, Any]) -> Sequence[float]:
    """Return the corners of an annotation's box; where it states none, of the one that encloses its polygons.

    Args:
        item: of the list of annotations.

    Returns:
        ``x1, y1, x2, y2`` in pixels; four NaN if it states neither.

    Example:
        >>> box_of({"segmentation": [[10, 20, 15, 20, 15, 25]]})
        (10.0, 20.0, 15.0, 25.0)
    """
    outline = item.get("segmentation")
    if item.get("bbox") or not isinstance(outline, list):
        return corners_of(item.get("bbox"))
    if not all(isinstance(part, list) and len(part) % 2 == 0 for part in outline):
        return NO_BOX
    return box_of_points((x for part in outline for x in part[::2]), (y for part in outline for y in part[1::2]))
