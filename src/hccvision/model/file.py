"""Model files: tensors and settings in one safetensors file."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from hccvision.files import write_atomically
from hccvision.model.settings import parse_settings


def write(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Path:
    """Write tensors and settings to a file, which appears whole or not at all.

    Args:
        path: of the file; an older file there is replaced.
        tensors: by name.
        settings: of `Model.settings`.

    Returns:
        The path.
    """
    from safetensors.torch import save

    text = json.dumps(settings, default=plain)
    content = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, {"hccvision": text})
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_atomically(path, lambda partial: partial.write_bytes(content))


def plain(value: Any) -> Any:
    """Return a value as JSON takes it: a dataclass as a dictionary, any other object as a note of what it was.

    Args:
        value: that JSON has no form for.

    Returns:
        A dictionary.

    Example:
        >>> plain(len)
        {'object': 'builtins.len'}
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return note(value)


def note(part: Any) -> dict[str, str]:
    """Return what a file says of a part that was given as an object: its type or its own name.

    Args:
        part: an object that no registry built.

    Returns:
        ``{"object": "module.Name"}``.
    """
    named = part if hasattr(part, "__qualname__") else type(part)
    return {"object": f"{named.__module__}.{named.__qualname__}"}


def read_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the settings of a model file.

    Args:
        path: a file that `Model.save` wrote.

    Returns:
        Names and options of the parts, classes, positive class, image size, resize policy, window, mean and std.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it isn't a model file of hccvision, or its settings are out of bounds.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such model file")
    settings = saved_settings(path)
    if settings is None:
        raise ValueError(
            f"{path}: not a model file of hccvision; to start from weights of other origin, use "
            f"build_model(…, weights={str(path)!r})"
        )
    return settings


def saved_settings(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Read the settings of a model file, if it is one.

    Args:
        path: of any file.

    Returns:
        The settings; None for a file that isn't a model file of hccvision.

    Raises:
        ValueError: for a model file of a newer version, or one whose settings are out of bounds.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get("hccvision")
    except SafetensorError:
        return None
    if text is None:
        return None
    return parse_settings(text, path)
