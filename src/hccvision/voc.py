"""Pascal VOC XML, as LabelImg writes and reads it, to and from `Annotation`.

Only this module knows how files count pixels. ``base="voc"`` is the standard: the first pixel is 1 and the last one
belongs to the box, so the file's ``xmin, ymin, xmax, ymax`` is the box ``xmin - 1, ymin - 1, xmax, ymax``.
``base="corner"`` takes the four numbers as they stand.

What a file says beside the fields of `Annotation` is kept in its ``extra`` and ``object_extras``, and written back in
place. So a file that is read and written says the same as before, to the letter where nothing was changed; but
elements of one name come side by side.

Source: VOC2012 development kit, section 3; LabelImg 1.8.6, ``libs/pascal_voc_io.py``.
"""

from __future__ import annotations

import os
import re
import uuid
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError

import numpy as np
import xmltodict

from hccvision.contracts import Annotation, Problem

_OFFSETS = {"voc": np.array([1, 1, 0, 0]), "corner": np.zeros(4, int)}  # the file's numbers minus ours
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_OBJECT = ("name", "pose", "truncated", "difficult", "bndbox")
_MOST_BYTES, _MOST_LEVELS = 4 * 2**20, 64  # of a file; room for some 10,000 objects
_NOT_XML = re.compile(r"[\x00-\x1f\ud800-\udfff\ufffe\uffff]")


def read(path: str | Path, *, base: str = "voc") -> Annotation:
    """Read one annotation file, keeping what is wrong with its content as problems.

    Fields that are missing, among them all objects, take the defaults of `Annotation`; a size that is missing, zero
    or not a number is None. Problems by kind, none of which makes the sample unusable:

    - ``degenerate_box``: the file says ``xmax <= xmin`` or ``ymax <= ymin``; left out.
    - ``bad_box``: a coordinate is missing, not a number or not finite; left out.
    - ``missing_name``: an object without a class name; left out.
    - ``box_outside``: beyond the image's edge; kept as the file has it.
    - ``box_off_image``: no part of it is inside the image; left out.

    Nothing that the file names is opened. Document types and entities, and so all that they could expand or fetch, are
    refused, as are files of more than 4 MiB or 64 levels.

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
    root = _parse(path)
    size = _size(root)
    items = root.get("object", [])
    corners = np.array([_floats(_corner_texts(item)) for item in items]).reshape(-1, 4)
    fine = _inside(corners, size, offset)
    kept: list[tuple[np.ndarray, str, bool, bool, str, dict[str, Any]]] = []
    problems: list[Problem] = []
    for number, (item, numbers, is_fine) in enumerate(zip(items, corners - offset, fine, strict=True), start=1):
        name = _text(item, "name")
        box, problem = (numbers, None) if is_fine else _box(item, size, offset)
        if not name:
            box, problem = None, ("missing_name", "needs exactly one <name>; left out: name its class in LabelImg")
        if problem is not None:
            kind, message = problem
            problems.append(Problem(kind, str(path), f"object {number}{f' ({name!r})' if name else ''} {message}"))
        if box is not None:
            pose = _text(item, "pose") or "Unspecified"
            flags = _flag(item, "difficult"), _flag(item, "truncated")
            kept.append((box, name, *flags, pose, {} if _is_usual(item) else item))
    boxes, names, difficult, truncated, poses, extras = zip(*kept, strict=True) if kept else ((),) * 6
    return Annotation(
        boxes=np.array(boxes, np.float32),
        names=names,
        size=size,
        difficult=difficult,
        truncated=truncated,
        poses=poses,
        filename=_text(root, "filename"),
        verified=_text(root, "@verified").lower() == "yes",
        path=path,
        problems=tuple(problems),
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

    LabelImg cuts the fraction of a coordinate off, and its older releases refuse one; so boxes are rounded to whole
    pixels unless told otherwise. A box that the file would then call degenerate is widened to ``xmax = xmin + 1``,
    inside the image: 2 pixels with ``base="voc"``, which has no way to say less, and 1 with ``base="corner"``.
    An annotation that was read keeps all that its file said, a fraction of an unchanged box too, but for the objects
    that were left out and named in its problems. The file appears whole or not at all.

    Args:
        path: the XML file to make, in a folder that exists.
        annotation: what to write; its ``size`` must be known, unless it was read from a file that states none.
        base: how the file is to count pixels, ``"voc"`` or ``"corner"``; see `read`.
        image_path: the annotated image, for the folder, file name and path in the file. None leaves them as they were
            read; else it takes the annotation's ``filename``, or the stem of ``path``, and leaves the path out.
        overwrite: whether an existing file may be replaced.
        whole_pixels: round coordinates to integers; False keeps them as they are.

    Returns:
        The path written.

    Raises:
        FileExistsError: if the file exists and ``overwrite`` is False.
        FileNotFoundError: if its folder does not exist.
        ValueError: if the annotation has no size, a box is not finite or empty, a text can't stand in XML, the path
            does not end in ``.xml`` or the base is unknown.

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
        raise ValueError(f"{path}: the image size is not known: give the annotation size=(height, width)")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: the folder {path.parent} does not exist: make it first")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path}: the file exists: write elsewhere, or pass overwrite=True to replace it")
    root = _root(annotation, image_path, path)
    corners = _file_corners(annotation.boxes, annotation.size, offset, whole_pixels, path)
    root["object"] = [_object(annotation, number, row, offset, path) for number, row in enumerate(corners.tolist())]
    document = {"annotation": root}
    text = xmltodict.unparse(document, full_document=False, pretty=True) + "\n"
    unfinished = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        unfinished.write_text(text, encoding="utf-8", newline="\n")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def _offset(base: str) -> np.ndarray:
    if base not in _OFFSETS:
        raise ValueError(f'unknown base {base!r}: use "voc" (1-based, inclusive) or "corner" (as they stand)')
    return _OFFSETS[base]


def _parse(path: Path) -> dict[str, Any]:
    """Give the fields of the file's ``<annotation>``."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such annotation file: check the path")
    with path.open("rb") as stream:
        source = stream.read(_MOST_BYTES + 1)
    remedy = "save it again from LabelImg in the PascalVOC format, or delete it"
    if len(source) > _MOST_BYTES:
        raise ValueError(f"{path}: expected an annotation of at most {_MOST_BYTES >> 20} MiB, got more: {remedy}")
    if b"<!DOCTYPE" in source.replace(b"\0", b""):  # UTF-16 has zeros between the letters
        raise ValueError(f"{path}: a Pascal VOC annotation has no document type (<!DOCTYPE>): {remedy}")
    try:
        document = xmltodict.parse(source, disable_entities=True, force_list=_is_listed)
    except (ExpatError, ValueError, LookupError) as error:
        raise ValueError(f"{path}: not a readable XML file ({error}): {remedy}") from error
    if "annotation" not in document:
        raise ValueError(
            f"{path}: expected <annotation> as the outermost element, got <{next(iter(document))}>: {remedy}"
        )
    root = document["annotation"] or {}
    if not isinstance(root, dict):
        raise ValueError(f"{path}: <annotation> holds text where its fields should be: {remedy}")
    return root


def _text(node: Any, key: str) -> str:
    """Give the text of the one child of that name, "" where there is none or there are several."""
    value = node.get(key) if isinstance(node, dict) else None
    if isinstance(value, dict):  # an element with attributes
        value = value.get("#text")
    return value if isinstance(value, str) else ""


def _flag(node: Any, key: str) -> bool:
    return _text(node, key).lower() in ("1", "true", "yes")


def _is_listed(above: list[Any], key: str, _: Any) -> bool:
    """Tell xmltodict which elements come as a list; it asks at the end of each, the deepest first."""
    if len(above) >= _MOST_LEVELS:
        raise ValueError(f"expected at most {_MOST_LEVELS} levels of elements, got more")
    return key == "object" and len(above) == 1


def _size(root: dict[str, Any]) -> tuple[int, int] | None:
    try:
        height, width = (int(float(_text(root.get("size"), key))) for key in ("height", "width"))
    except (ValueError, OverflowError):
        return None
    return (height, width) if height > 0 and width > 0 else None


def _corner_texts(item: Any) -> list[str]:
    return [_text(item.get("bndbox") if isinstance(item, dict) else None, key) for key in _CORNERS]


def _floats(texts: list[str]) -> list[float]:
    """Give the four numbers, or NaN for all of them if one is none."""
    try:
        return [float(text) for text in texts]
    except ValueError:
        return [np.nan] * 4


def _inside(corners: np.ndarray, size: tuple[int, int] | None, offset: np.ndarray) -> np.ndarray:
    """Say which of ``(N, 4)`` corners, as the file counts, are boxes inside the image."""
    height, width = size or (np.inf, np.inf)
    fine = (np.abs(corners) <= np.finfo(np.float32).max).all(axis=1)
    boxes = np.where(fine[:, np.newaxis], corners - offset, 0).astype(np.float32)
    proper = (corners[:, 2:] > corners[:, :2]) & (boxes[:, 2:] > boxes[:, :2])
    return fine & (proper & (boxes[:, :2] >= 0) & (boxes[:, 2:] <= (width, height))).all(axis=1)


def _is_usual(item: dict[str, Any]) -> bool:
    """Say whether an object is to the letter what `write` makes of its box, name, flags and pose."""
    box = item["bndbox"]
    if (*item,) != _OBJECT or (*box,) != _CORNERS or not all(isinstance(item[key], str) for key in _OBJECT[:4]):
        return False
    flags = item["truncated"] in ("0", "1") and item["difficult"] in ("0", "1")
    # of up to seven digits, which float32 keeps
    return flags and all(isinstance(t, str) and t.isdecimal() and t == str(int(t)) and len(t) < 8 for t in box.values())


def _root(annotation: Annotation, image_path: str | Path | None, path: Path) -> dict[str, Any]:
    """Give the fields of the file in order: those that were read, or else LabelImg's usual ones."""
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
        texts = {"filename": usual["filename"]}  # LabelImg can't do without
    elif _text(root, "filename") != annotation.filename:
        texts = {"filename": usual["filename"]}
        root.pop("path", None)  # of another image
    else:
        texts = {}
    for key, text in texts.items():
        _put(root, key, _xml_text(text, path))
    if (_text(root, "@verified").lower() == "yes") != annotation.verified or not annotation.extra:
        root["@verified"] = "yes" if annotation.verified else "no"
    if annotation.size is not None and annotation.size != _size(root):
        height, width = annotation.size
        old = root.get("size")
        sides = {"width": str(width), "height": str(height)}
        fields = {"depth": "3"} | (old if isinstance(old, dict) else {}) | sides
        root["size"] = {key: fields[key] for key in (*sides, *(k for k in fields if k not in sides))}
    return root


def _object(
    annotation: Annotation, number: int, corners: list[float], offset: np.ndarray, path: Path
) -> dict[str, Any]:
    """Give the fields of one object in order: those that were read, with what differs from them."""
    name, pose = _xml_name(annotation.names[number], path), _xml_text(annotation.poses[number], path)
    flags = {"truncated": annotation.truncated[number], "difficult": annotation.difficult[number]}
    item = dict(annotation.object_extras[number])
    is_new = not item
    if is_new or _text(item, "name") != name:
        _put(item, "name", name)
    if is_new or (_text(item, "pose") or "Unspecified") != pose:
        _put(item, "pose", pose)
    for key, flag in flags.items():
        if is_new or _flag(item, key) != flag:
            _put(item, key, str(int(flag)))
    stated = (np.array(_floats(_corner_texts(item))) - offset).astype(np.float32)
    if not np.array_equal(stated, annotation.boxes[number]):
        old = item.get("bndbox")
        texts = dict(zip(_CORNERS, map(_number, corners), strict=True))
        item["bndbox"] = {**(old if isinstance(old, dict) else {}), **texts}
    return item


def _put(node: dict[str, Any], key: str, text: str) -> None:
    """Set the text of an element and keep its attributes."""
    old = node.get(key)
    node[key] = {**old, "#text": text} if isinstance(old, dict) else text


def _box(
    item: Any, size: tuple[int, int] | None, offset: np.ndarray
) -> tuple[np.ndarray | None, tuple[str, str] | None]:
    """Give the box, None if it can't be used, and the kind and message of its problem, None if it has none."""
    texts = _corner_texts(item)
    stated = ", ".join(f"{key}={text or 'nothing'}" for key, text in zip(_CORNERS, texts, strict=True))
    corners = np.array(_floats(texts))
    if not (np.abs(corners) <= np.finfo(np.float32).max).all():
        return None, ("bad_box", f"needs four finite numbers, got {stated}; left out: redraw it in LabelImg")
    box = (corners - offset).astype(np.float32)
    if (corners[2:] <= corners[:2]).any() or (box[2:] <= box[:2]).any():
        need = "needs xmax > xmin and ymax > ymin"
        return None, ("degenerate_box", f"{need}, got {stated}; left out: redraw or delete it in LabelImg")
    height, width = size or (np.inf, np.inf)
    if (box[:2] >= 0).all() and box[2] <= width and box[3] <= height:
        return box, None
    where = f"reaches outside the image ({f'width {width}, height {height}' if size else 'of unknown size'})"
    hint = ' (or, if the file counts from 0, read it with base="corner")' if offset.any() and 0 in corners[:2] else ""
    if (box[2:] <= 0).any() or box[0] >= width or box[1] >= height:
        return None, ("box_off_image", f"{where} entirely with {stated}; left out: redraw it in LabelImg{hint}")
    return box, ("box_outside", f"{where} with {stated}; kept, its outer part to be cut off: redraw it{hint}")


def _file_corners(
    boxes: np.ndarray, size: tuple[int, int] | None, offset: np.ndarray, whole_pixels: bool, path: Path
) -> np.ndarray:
    """Give ``(N, 4) float64`` xmin, ymin, xmax, ymax as the file counts, xmax > xmin and ymax > ymin."""
    bad = np.flatnonzero(~(np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)))
    if len(bad):
        got = boxes[bad[0]].tolist()
        raise ValueError(f"{path}: box {bad[0]} needs finite x1 < x2 and y1 < y2, got {got}: leave it out")
    corners = boxes.astype(np.float64) + offset
    if whole_pixels:
        corners = np.rint(corners)
    low, high = corners[:, :2], corners[:, 2:]
    height, width = size or (np.inf, np.inf)
    widened = np.minimum(low, (width - 1, height - 1))
    low, high = np.where(high <= low, (widened, widened + 1), (low, high))
    return np.concatenate([low, high], axis=1)


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _xml_text(text: str, path: Path) -> str:
    if _NOT_XML.search(text):
        raise ValueError(f"{path}: {text!r} holds characters that can't stand in XML: take them out")
    return text


def _xml_name(name: str, path: Path) -> str:
    if not name or name != name.strip():
        raise ValueError(
            f"{path}: a class name must not be empty or begin or end with a space, got {name!r}: rename it"
        )
    return _xml_text(name, path)
