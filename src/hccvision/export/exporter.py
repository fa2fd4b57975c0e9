"""`export_model`: write a model for another runtime, by the name of an exporter."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hccvision.model.model import Model
from hccvision.registry import EXPORTERS


def export_model(
    model: Model, path: str | os.PathLike[str], *, format: str | Callable[..., Path] = "torch", **options: Any
) -> Path:
    """Write a model for another runtime.

    Args:
        model: to export; it is left as it is.
        path: of the file; an older file there is replaced.
        format: a name in ``EXPORTERS``, or a callable ``(model, path, **options) -> Path``.
        options: of the exporter.

    Returns:
        The path.

    Raises:
        KeyError: for an unknown format; the message lists the known ones.

    Example:
        >>> import tempfile
        >>> from hccvision.model.build import build_model
        >>> model = build_model("mobilenet_v1", "linear", classes=["a", "b"], backbone_options={"width": 0.1})
        >>> export_model(model, tempfile.mkdtemp() + "/model.pt2").name
        'model.pt2'
    """
    exporter = EXPORTERS.get(format) if isinstance(format, str) else format
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    written: Path = exporter(model, path, **options)
    return written
