"""The XML of a Pascal VOC annotation as plain dictionaries: parsed within limits, its texts read and set."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError

import numpy as np
import xmltodict

CORNERS = ("xmin", "ymin", "xmax", "ymax")

_MAX_BYTES, _MAX_LEVELS = 4 * 2**20, 64  # of a file; room for some 10,000 objects
_OBJECT_TAGS = frozenset(["object", "objects", "obj"])
_NAME_TAGS = frozenset(["name", "label", "class", "category"])
_BOX_TAGS = frozenset(["bndbox", "bbox", "box", "robndbox", "polygon", "xmin"])
_NOT_XML = re.compile(r"[\x00-\x1f\ud800-\udfff\ufffe\uffff]")


def parse(path: Path) -> dict[str, Any]:
    """Read the fields of a file's ``<annotation>``; its objects are a list.

    Args:
        path: the XML file.

    Returns:
        The fields by tag, in the file's order.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not XML, has a document type, is too large or too deep, or is no ``<annotation>``.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such annotation file: check the path")
    with path.open("rb") as stream:
        source = stream.read(_MAX_BYTES + 1)
    remedy = "save it again from LabelImg in the PascalVOC format, or delete it"
    if len(source) > _MAX_BYTES:
        raise ValueError(f"{path}: expected an annotation of at most {_MAX_BYTES >> 20} MiB, got more: {remedy}")
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
        raise ValueError(f"{path}: expected <annotation> to contain elements, got text: {remedy}")
    return root


def text_of(node: Any, key: str) -> str:
    """Return the text of the one child with a tag.

    Args:
        node: the fields of an element.
        key: the tag.

    Returns:
        The text; "" if there is no such child, or several.
    """
    value = node.get(key) if isinstance(node, dict) else None
    if isinstance(value, dict):  # an element with attributes
        value = value.get("#text")
    return value if isinstance(value, str) else ""


def set_text(node: dict[str, Any], key: str, text: str) -> None:
    """Set the text of a child and keep its attributes.

    Args:
        node: the fields of an element, changed in place.
        key: the child's tag.
        text: its new text.
    """
    old = node.get(key)
    node[key] = {**old, "#text": text} if isinstance(old, dict) else text


def flag_of(node: Any, key: str) -> bool:
    """Return whether the text of a child is ``1``, ``true`` or ``yes``.

    Args:
        node: the fields of an element.
        key: the child's tag.

    Returns:
        The flag; False if there is no such child.
    """
    return text_of(node, key).lower() in ("1", "true", "yes")


def size_of(root: dict[str, Any]) -> tuple[int, int] | None:
    """Return the image size that a file states.

    Args:
        root: the fields of ``<annotation>``.

    Returns:
        ``(height, width)`` in pixels; None if it is missing, zero or not a number.
    """
    try:
        height, width = (int(float(text_of(root.get("size"), key))) for key in ("height", "width"))
    except (ValueError, OverflowError):
        return None
    return (height, width) if height > 0 and width > 0 else None


def corner_texts(item: Any) -> list[str]:
    """Return the texts of an object's corner coordinates.

    Args:
        item: the fields of an ``<object>``.

    Returns:
        ``xmin, ymin, xmax, ymax``, "" for each that is missing.
    """
    return [text_of(item.get("bndbox") if isinstance(item, dict) else None, key) for key in CORNERS]


def corner_numbers(item: Any) -> list[float]:
    """Return an object's corner coordinates as the file counts.

    Args:
        item: the fields of an ``<object>``.

    Returns:
        ``xmin, ymin, xmax, ymax``; four NaN if one of them is not a number.
    """
    try:
        return [float(text) for text in corner_texts(item)]
    except ValueError:
        return [np.nan] * 4


def unread_objects(root: dict[str, Any]) -> list[str]:
    """Return the elements that look like objects and are not among those that are read.

    Args:
        root: the fields of ``<annotation>``.

    Returns:
        The path of tags of each: one that is called an object, is a box or has a name and a box, outside ``<object>``,
        and each object within an ``<object>``.
    """
    found: list[str] = []
    todo: list[tuple[str, Any]] = [(key, value) for key, value in root.items() if key != "object"]
    for item in root.get("object", []):
        if isinstance(item, dict):
            todo += [(f"object/{key}", value) for key, value in item.items() if _tag(key) in _OBJECT_TAGS]
    while todo:
        path, value = todo.pop(0)
        if isinstance(value, list):
            todo += [(path, each) for each in value]
            continue
        tags = {_tag(key) for key in value} if isinstance(value, dict) else set()
        if _tag(path) in ("object", "obj", "bndbox") or (tags & _NAME_TAGS and tags & _BOX_TAGS):
            found.append(path)
        elif isinstance(value, dict):
            todo += [(f"{path}/{key}", each) for key, each in value.items()]
    return found


def _tag(path: str) -> str:
    """Return the last tag of a path in lower case, without its namespace."""
    return re.split("[/:]", path)[-1].lower()


def check_text(text: str, path: Path) -> str:
    """Return a text if XML can hold it.

    Args:
        text: to be written.
        path: the file it is for, for the message.

    Returns:
        The text.

    Raises:
        ValueError: if it holds control characters or others that XML forbids.
    """
    if _NOT_XML.search(text):
        raise ValueError(f"{path}: {text!r} contains characters that XML does not allow: remove them")
    return text


def writable_text(text: str) -> str:
    r"""Return a name of a file with U+FFFD for what XML can't hold; readers find the image by its stem too.

    Args:
        text: name of any bytes, as Python decodes it.

    Returns:
        The text as it can be written.

    Example:
        >>> writable_text("P1\x1b.png") == "P1\ufffd.png"
        True
    """
    return _NOT_XML.sub("\ufffd", text)


def check_name(name: str, path: Path) -> str:
    """Return a class name if a file can hold it unchanged.

    Args:
        name: the class name.
        path: the file it is for, for the message.

    Returns:
        The name.

    Raises:
        ValueError: if it is empty, begins or ends with white space, or can't stand in XML.
    """
    if not name or name != name.strip():
        raise ValueError(
            f"{path}: a class name must not be empty or begin or end with a space, got {name!r}: rename it"
        )
    return check_text(name, path)


def _is_listed(above: list[Any], key: str, _: Any) -> bool:
    """Tell xmltodict which elements come as a list; it asks at the end of each element, the deepest first."""
    if len(above) >= _MAX_LEVELS:
        raise ValueError(f"expected at most {_MAX_LEVELS} levels of elements, got more")
    return key == "object" and len(above) == 1
