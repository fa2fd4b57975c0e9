"""JSON documents of files: parsed within limits, so that whatever a file holds is data or one error."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MAX_DEPTH = 32
MAX_LENGTH = 1_000  # characters of a name
MAX_BYTES = 500_000_000  # of a document


def read_document(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Args:
        path: of the file.

    Returns:
        The object.

    Raises:
        OSError: if the file can't be read.
        ValueError: if it is anything other than a JSON object in UTF-8; the message names the file.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp(), "run.json")
        >>> _ = file.write_text("[1, 2]")
        >>> read_document(file)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: .../run.json: expected a JSON object, got an array
    """
    path = Path(path)
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"{path}: expected a JSON file of at most {MAX_BYTES} bytes, got one of {size}")
    return parse_document(path.read_bytes(), path)


def parse_document(text: str | bytes, path: str | os.PathLike[str]) -> dict[str, Any]:
    """Parse a JSON object.

    Args:
        text: in JSON.
        path: of the file that it is from, for the message.

    Returns:
        The object.

    Raises:
        ValueError: if it is anything other than a JSON object; the message names the file.
    """
    try:
        document = json.loads(text.decode("utf-8") if isinstance(text, bytes) else text)
    except RecursionError as error:
        raise ValueError(f"{path}: its JSON is nested deeper than {MAX_DEPTH} levels") from error
    except ValueError as error:
        raise ValueError(f"{path}: not a JSON document ({error})") from error
    if not isinstance(document, dict):
        raise ValueError(f"{path}: expected a JSON object, got {kind_of(document)}")
    level: Sequence[Any] = [document]
    for _ in range(MAX_DEPTH):
        level = [item for held in level for item in _inside(held)]
        if not level:
            return document
    raise ValueError(f"{path}: its JSON is nested deeper than {MAX_DEPTH} levels")


def kind_of(value: Any) -> str:
    """Return what a JSON value is, for a message.

    Args:
        value: as `json.loads` returns it.

    Returns:
        Such as ``"an array"``, or the value itself where it is short.

    Example:
        >>> kind_of([1, 2]), kind_of({}), kind_of(None), kind_of("a" * 100)
        ('an array', 'an object', 'null', 'a text of 100 characters')
    """
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "an array"
    if isinstance(value, str) and len(value) > 60:
        return f"a text of {len(value)} characters"
    if isinstance(value, int) and abs(value) > 10**60:
        return "a number of more than 60 digits"
    return json.dumps(value, ensure_ascii=False)


def is_number(value: Any) -> bool:
    """Return whether a JSON value is a finite number, rather than anything else, a boolean included.

    Args:
        value: as `json.loads` returns it.

    Returns:
        Whether it is one that a float can hold.

    Example:
        >>> [is_number(v) for v in (1, 0.5, True, float("nan"), 10**400, "1")]
        [True, True, False, False, False, False]
    """
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def is_name(value: Any) -> bool:
    """Return whether a JSON value is a name: a text that is neither empty nor very long.

    Args:
        value: as `json.loads` returns it.

    Returns:
        Whether it is a text of 1 to `MAX_LENGTH` characters.
    """
    return isinstance(value, str) and 0 < len(value) <= MAX_LENGTH


def _inside(value: Any) -> Sequence[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else ()
