"""Pascal VOC XML, as LabelImg writes and reads it, to and from `Annotation`.

Only this module knows how files count pixels. ``base="voc"`` is the standard: the first pixel is 1 and the last one
belongs to the box, so the file's ``xmin, ymin, xmax, ymax`` is the box ``xmin - 1, ymin - 1, xmax, ymax``.
``base="corner"`` takes the four numbers as they stand.

What a file states besides the fields of `Annotation` is kept in its ``extra`` and ``object_extras`` and written back
in place. So a file that is read and written states the same as before, unchanged texts to the letter; only elements
with the same tag are grouped together.

Source: VOC2012 development kit, section 3; LabelImg 1.8.6, ``libs/pascal_voc_io.py``.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xmltodict

from hccvision.annotations.judging import without_silent_negatives
from hccvision.annotations.names import MOST_LETTERS
from hccvision.annotations.voc_xml import (
    CORNERS,
    check_name,
    check_text,
    corner_numbers,
    corner_texts,
    flag_of,
    parse,
    set_text,
    size_of,
    text_of,
    unread_objects,
    writable_text,
)
from hccvision.contracts.samples import Annotation, Problem
from hccvision.files import refuse_existing, write_text

_OFFSETS = {"voc": np.array([1, 1, 0, 0]), "corner": np.zeros(4, int)}  # the file's numbers minus ours
_OBJECT = ("name", "pose", "truncated", "difficult", "bndbox")


def read(path: str | Path, *, base: str = "voc") -> Annotation:
    """Read one annotation file, keeping what is wrong with its content as problems.

    Missing fields, even all objects, take the defaults of `Annotation`; a size that is missing, zero or not a number
    is None. Problems by kind; see `judging.without_silent_negatives` for those that make the sample unusable:

    - ``degenerate_box``: the file says ``xmax <= xmin`` or ``ymax <= ymin``; left out.
    - ``bad_box``: a coordinate is missing, not a number or not finite; left out.
    - ``missing_name``: an object without a class name, or with one of more than 1000 characters; left out.
    - ``box_outside``: beyond the image's edge; kept as the file states it.
    - ``box_off_image``: no part of it is inside the image; left out.
    - ``unread_object``: an element that is no ``<object>`` of the file states a box; left out.

    No file that the annotation names is opened. Document types and entities, and so all that they could expand or
    fetch, are refused, as are files of more than 4 MiB or 64 levels.

    Args:
        path: the XML file.
        base: how the file counts pixels, ``"voc"`` (1-based, inclusive) or ``"corner"`` (as they stand).

    Returns:
        The annotation, its boxes in pixels, 0-based, half-open.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not XML, has a document type or entities, is too large or too deep, is no
            ``<annotation>``, or the base is unknown.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "a.xml")
        >>> _ = path.write_text(
        ...     "<annotation><object><name>tumor</name><bndbox>"
        ...     "<xmin>11</xmin><ymin>21</ymin><xmax>30</xmax><ymax>40</ymax></bndbox></object></annotation>"
        ... )
        >>> read(path).boxes.tolist(), read(path, base="corner").boxes.tolist()
        ([[10.0, 20.0, 30.0, 40.0]], [[11.0, 21.0, 30.0, 40.0]])
    """
    offset = _offset(base)
    path = Path(path)
    root = parse(path)
    size = size_of(root)
    items = root.get("object", [])
    corners = np.array([corner_numbers(item) for item in items]).reshape(-1, 4)
    inside = _inside(corners, size, offset)
    kept: list[tuple[np.ndarray, str, bool, bool, str, dict[str, Any]]] = []
    problems: list[Problem] = []
    for number, (item, numbers, is_inside) in enumerate(zip(items, corners - offset, inside, strict=True), start=1):
        name = text_of(item, "name")
        box, problem = (numbers, None) if is_inside else _judge(item, size, offset)
        if not name:
            box, problem = None, ("missing_name", "needs exactly one <name>; left out: name its class in LabelImg")
        if len(name) > MOST_LETTERS:
            message = f"has a <name> of {len(name)} characters, more than {MOST_LETTERS}; left out: correct it"
            box, problem, name = None, ("missing_name", message), f"{name[:20]}…"
        if problem is not None:
            kind, message = problem
            problems.append(Problem(kind, str(path), f"object {number}{f' ({name!r})' if name else ''} {message}"))
        if box is not None:
            pose = text_of(item, "pose") or "Unspecified"
            flags = flag_of(item, "difficult"), flag_of(item, "truncated")
            kept.append((box, name, *flags, pose, {} if _is_usual(item) else item))
    for tag in unread_objects(root):
        message = f"has a box in <{tag}>, where none is read; left out: make it an <object> of <annotation>"
        problems.append(Problem("unread_object", str(path), message))
    boxes, names, difficult, truncated, poses, extras = zip(*kept, strict=True) if kept else ((),) * 6
    return Annotation(
        boxes=np.array(boxes, np.float32),
        names=names,
        size=size,
        difficult=difficult,
        truncated=truncated,
        poses=poses,
        filename=text_of(root, "filename"),
        verified=text_of(root, "@verified").lower() == "yes",
        path=path,
        problems=without_silent_negatives(problems, len(kept)),
        extra={**root, "object": []} if items else root,
        object_extras=extras,
    )


def write(
    path: str | Path,
    annotation: Annotation,
    *,
    base: str = "voc",
    image_path: str | Path | None = None,
    overwrite: bool = False,
    whole_pixels: bool = True,
) -> Path:
    """Write one annotation file as LabelImg does, so that LabelImg opens it.

    LabelImg truncates fractional coordinates, and its older releases refuse them; so boxes are rounded to whole
    pixels by default. A box that the file would then call degenerate is widened to ``xmax = xmin + 1``, inside the
    image: 2 pixels with ``base="voc"``, which can't express less, and 1 with ``base="corner"``.
    An annotation that was read keeps all that its file stated, also the fraction of an unchanged box; only the objects
    that its problems name as left out are missing. The file appears whole or not at all.

    Args:
        path: the XML file to create, in an existing folder.
        annotation: what to write; its ``size`` must be known, unless it was read from a file that states none.
        base: how the file is to count pixels, ``"voc"`` or ``"corner"``; see `read`.
        image_path: the annotated image, for the folder, file name and path in the file. None leaves them as they were
            read; a new file then gets the annotation's ``filename``, or the stem of ``path``, and no path.
        overwrite: whether an existing file may be replaced.
        whole_pixels: round coordinates to integers; False keeps them as they are.

    Returns:
        The path written.

    Raises:
        FileExistsError: if the file exists and ``overwrite`` is False.
        FileNotFoundError: if its folder does not exist.
        ValueError: if the annotation has no size, a box is not finite or empty, XML can't hold a text, the path does
            not end in ``.xml`` or the base is unknown.

    Example:
        >>> import tempfile
        >>> a = Annotation(np.array([[10.2, 20.0, 29.9, 40.0]], np.float32), ("tumor",), size=(300, 484))
        >>> path = write(Path(tempfile.mkdtemp(), "a.xml"), a)
        >>> read(path).boxes.tolist()
        [[10.0, 20.0, 30.0, 40.0]]
    """
    offset = _offset(base)
    path = Path(path)
    if path.suffix != ".xml":
        raise ValueError(f"{path}: LabelImg opens only files that end in .xml: name it {path.stem}.xml")
    if annotation.size is None and not annotation.extra:
        raise ValueError(f"{path}: the image size is unknown: set size=(height, width) of the annotation")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: the folder {path.parent} does not exist: create it first")
    refuse_existing(path, overwrite=overwrite)
    root = _root(annotation, image_path, path)
    corners = _file_corners(annotation, offset, whole_pixels, path)
    root["object"] = [_object(annotation, number, row, offset, path) for number, row in enumerate(corners.tolist())]
    text = xmltodict.unparse({"annotation": root}, full_document=False, pretty=True) + "\n"
    return write_text(path, text, overwrite=overwrite)


def to_whole_pixels(annotation: Annotation, *, base: str = "voc") -> Annotation:
    """Return an annotation with its boxes rounded as `write` rounds them.

    Args:
        annotation: with finite boxes of some width and height.
        base: how files count pixels, ``"voc"`` or ``"corner"``; see `read`.

    Returns:
        A new annotation; writing it gives the same file with and without ``whole_pixels``.

    Raises:
        ValueError: if a box is not finite or empty, or the base is unknown.

    Example:
        >>> a = Annotation(np.array([[10.2, 20.0, 29.9, 40.0]], np.float32), ("tumor",), size=(300, 484))
        >>> to_whole_pixels(a).boxes.tolist()
        [[10.0, 20.0, 30.0, 40.0]]
    """
    offset = _offset(base)
    corners = _file_corners(annotation, offset, True, annotation.path or Path(annotation.filename or "annotation"))
    return replace(annotation, boxes=(corners - offset).astype(np.float32))


def check_base(base: str) -> None:
    """Raise if a way to count pixels is unknown.

    Args:
        base: how files count pixels, see `read`.

    Raises:
        ValueError: if it is neither ``"voc"`` nor ``"corner"``.
    """
    if base not in _OFFSETS:
        raise ValueError(f'unknown base {base!r}; known: "voc" (1-based, inclusive), "corner" (numbers as they stand)')


def _offset(base: str) -> np.ndarray:
    check_base(base)
    return _OFFSETS[base]


def _inside(corners: np.ndarray, size: tuple[int, int] | None, offset: np.ndarray) -> np.ndarray:
    """Return which of ``(N, 4)`` corners, as the file counts, are boxes inside the image."""
    height, width = size or (np.inf, np.inf)
    finite = (np.abs(corners) <= np.finfo(np.float32).max).all(axis=1)
    boxes = np.where(finite[:, np.newaxis], corners - offset, 0).astype(np.float32)
    proper = (corners[:, 2:] > corners[:, :2]) & (boxes[:, 2:] > boxes[:, :2])
    return finite & (proper & (boxes[:, :2] >= 0) & (boxes[:, 2:] <= (width, height))).all(axis=1)


def _is_usual(item: dict[str, Any]) -> bool:
    """Return whether an object is exactly what `write` makes of its box, name, flags and pose."""
    box = item["bndbox"]
    if (*item,) != _OBJECT or (*box,) != CORNERS or not all(isinstance(item[key], str) for key in _OBJECT[:4]):
        return False
    flags = item["truncated"] in ("0", "1") and item["difficult"] in ("0", "1")
    # float32 holds integers of up to seven digits exactly
    return flags and all(isinstance(t, str) and t.isdecimal() and t == str(int(t)) and len(t) < 8 for t in box.values())


def _judge(
    item: Any, size: tuple[int, int] | None, offset: np.ndarray
) -> tuple[np.ndarray | None, tuple[str, str] | None]:
    """Return the box, None if it can't be used, and kind and message of its problem, None if it has none."""
    stated = ", ".join(f"{key}={text or 'nothing'}" for key, text in zip(CORNERS, corner_texts(item), strict=True))
    corners = np.array(corner_numbers(item))
    if not (np.abs(corners) <= np.finfo(np.float32).max).all():
        return None, ("bad_box", f"needs four finite numbers, got {stated}; left out: redraw it in LabelImg")
    box = (corners - offset).astype(np.float32)
    if (corners[2:] <= corners[:2]).any() or (box[2:] <= box[:2]).any():
        need = "needs xmax > xmin and ymax > ymin"
        return None, ("degenerate_box", f"{need}, got {stated}; left out: redraw or delete it in LabelImg")
    height, width = size or (np.inf, np.inf)
    if (box[:2] >= 0).all() and box[2] <= width and box[3] <= height:
        return box, None
    image = f"the image ({f'width {width}, height {height}' if size else 'of unknown size'}) with {stated}"
    hint = ' (or, if the file counts from 0, read it with base="corner")' if offset.any() and 0 in corners[:2] else ""
    if (box[2:] <= 0).any() or box[0] >= width or box[1] >= height:
        return None, ("box_off_image", f"lies outside {image}; left out: redraw it in LabelImg{hint}")
    return box, ("box_outside", f"extends beyond {image}; kept, to be clipped to the image: redraw it{hint}")


def _root(annotation: Annotation, image_path: str | Path | None, path: Path) -> dict[str, Any]:
    """Return the fields of the file in order: those that were read, or else LabelImg's usual ones."""
    usual = {"folder": path.absolute().parent.name, "filename": annotation.filename or path.stem}
    more = {"source": {"database": "Unknown"}, "size": {}, "segmented": "0", "object": []}
    root = (
        dict(annotation.extra) or {"@verified": "", **usual} | ({"path": ""} if image_path is not None else {}) | more
    )
    if image_path is not None:
        image = Path(image_path)
        texts = {"folder": image.absolute().parent.name, "filename": image.name, "path": str(image)}
    elif not annotation.extra:
        texts = usual
    elif "filename" not in root:
        texts = {"filename": usual["filename"]}  # LabelImg requires one
    elif text_of(root, "filename") != annotation.filename:
        texts = {"filename": usual["filename"]}
        root.pop("path", None)  # of another image
    else:
        texts = {}
    for key, text in texts.items():
        set_text(root, key, writable_text(text))
    if (text_of(root, "@verified").lower() == "yes") != annotation.verified or not annotation.extra:
        root["@verified"] = "yes" if annotation.verified else "no"
    if annotation.size is not None and annotation.size != size_of(root):
        height, width = annotation.size
        old = root.get("size")
        sides = {"width": str(width), "height": str(height)}
        fields = {"depth": "3"} | (old if isinstance(old, dict) else {}) | sides
        root["size"] = {key: fields[key] for key in (*sides, *(k for k in fields if k not in sides))}
    return root


def _object(
    annotation: Annotation, number: int, corners: list[float], offset: np.ndarray, path: Path
) -> dict[str, Any]:
    """Return the fields of one object in order: those that were read, updated where the annotation differs."""
    name, pose = check_name(annotation.names[number], path), check_text(annotation.poses[number], path)
    flags = {
        "truncated": annotation.truncated[number],
        "difficult": annotation.difficult[number] or annotation.crowd[number],
    }
    item = dict(annotation.object_extras[number])
    is_new = not item
    if is_new or text_of(item, "name") != name:
        set_text(item, "name", name)
    if is_new or (text_of(item, "pose") or "Unspecified") != pose:
        set_text(item, "pose", pose)
    for key, flag in flags.items():
        if is_new or flag_of(item, key) != flag:
            set_text(item, key, str(int(flag)))
    stated = (np.array(corner_numbers(item)) - offset).astype(np.float32)
    if not np.array_equal(stated, annotation.boxes[number]):
        old = item.get("bndbox")
        texts = dict(zip(CORNERS, map(_number, corners), strict=True))
        item["bndbox"] = {**(old if isinstance(old, dict) else {}), **texts}
    return item


def _file_corners(annotation: Annotation, offset: np.ndarray, whole_pixels: bool, path: Path) -> np.ndarray:
    """Return ``(N, 4) float64`` xmin, ymin, xmax, ymax as the file counts, xmax > xmin and ymax > ymin."""
    boxes = annotation.boxes
    bad = np.flatnonzero(~(np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)))
    if len(bad):
        got = boxes[bad[0]].tolist()
        raise ValueError(f"{path}: box {bad[0]} needs finite x1 < x2 and y1 < y2, got {got}: leave it out")
    corners = boxes.astype(np.float64) + offset
    if whole_pixels:
        corners = np.rint(corners)
    low, high = corners[:, :2], corners[:, 2:]
    height, width = annotation.size or (np.inf, np.inf)
    widened = np.minimum(low, (width - 1, height - 1))
    low, high = np.where(high <= low, (widened, widened + 1), (low, high))
    return np.concatenate([low, high], axis=1)


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))
