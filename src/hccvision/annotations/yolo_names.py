"""The class names of a YOLO data set, from any of the files that programs write them to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from hccvision.annotations.names import MOST_LETTERS
from hccvision.annotations.paths import read_text

NAMES_FILE = "classes.txt"

_MAX_BYTES = 2**20
_YAML = (".yaml", ".yml")


def is_names_file(path: Path) -> bool:
    """Return whether a file lists class names, by its name: ``classes.txt``, ``obj.names`` or ``data.yaml``.

    Args:
        path: the file.

    Returns:
        Whether it may; a YAML file may state other things.

    Example:
        >>> [is_names_file(Path(name)) for name in ("classes.txt", "obj.names", "data.yaml", "train.txt")]
        [True, True, True, False]
    """
    return path.name.lower() == NAMES_FILE or path.suffix.lower() in (".names", *_YAML)


def read_names(files: Sequence[Path], classes: Sequence[str] | None, root: Path) -> list[str]:
    """Return the class names of a data set in the order of their numbers.

    Args:
        files: that may list names, used if ``classes`` is None: ``classes.txt`` and ``obj.names`` with one name per
            line, ``data.yaml`` with ``names``.
        classes: the names; None: those of the files.
        root: the data set's folder, for messages.

    Returns:
        The names.

    Raises:
        ValueError: if no file lists names, two list different ones, or names are empty or not unique.
    """
    if classes is None:
        stated = {p: names for p in files if p.is_file() and is_names_file(p) and (names := _stated(p)) is not None}
        if not stated:
            raise ValueError(
                f"{root}: there is no {NAMES_FILE}, obj.names or data.yaml with names: pass classes= the names, in the "
                "order of their numbers"
            )
        first, *others = stated
        other = next((p for p in others if stated[p] != stated[first]), None)
        if other is not None:
            raise ValueError(
                f"{root}: {first.relative_to(root)} lists the classes {stated[first]}, {other.relative_to(root)} "
                f"{stated[other]}: correct one, or pass classes="
            )
        classes = stated[first]
    names = list(classes)
    if any(isinstance(name, str) and len(name) > MOST_LETTERS for name in names):
        raise ValueError(f"{root}: expected class names of at most {MOST_LETTERS} characters, got more: correct them")
    if not names or not all(names) or len(set(names)) < len(names):
        raise ValueError(f"{root}: expected class names that are unique and not empty, got {names}: correct them")
    return names


def _stated(path: Path) -> list[str] | None:
    """Return the names that a file lists; None for a YAML file of other content."""
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"{path}: expected class names in at most 1 MiB, got more: correct the file")
    text = read_text(path)
    if path.suffix.lower() not in _YAML:
        return [line.strip() for line in text.rstrip().splitlines()]
    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: not a readable YAML file ({reason}): correct it, or pass classes=") from error
    names: Any = document.get("names") if isinstance(document, dict) else None
    if isinstance(names, dict):
        names = {int(key) if str(key).isdecimal() else key: name for key, name in names.items()}
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise ValueError(
                f"{path}: expected names numbered from 0, got the numbers {list(names)[:20]}: correct them"
            )
        names = [names[number] for number in range(len(names))]
    return [str(name).strip() for name in names] if isinstance(names, list) else None
