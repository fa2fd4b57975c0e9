"""Figures written to files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hccvision.files import write_atomically
from hccvision.plots.style import DPI

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure as PNG or SVG, atomically: readers see the old file or the new one, never a part.

    The title is the only metadata in the file, so the same figure gives the same bytes.

    Args:
        figure: to write.
        path: ending in ``.png`` or ``.svg``; missing folders are created.

    Returns:
        The path.

    Raises:
        ValueError: if the path ends otherwise.

    Example:
        >>> import tempfile
        >>> from hccvision.plots.curves import training_curves
        >>> save(training_curves([{"train_loss": 2.0}]), tempfile.mkdtemp() + "/curves.png").name
        'curves.png'
    """
    path = Path(path)
    form = path.suffix.lower().removeprefix(".")
    if form not in ("png", "svg"):
        raise ValueError(f"{path}: figures are written as PNG or SVG: pass a path that ends in .png or .svg")
    path.parent.mkdir(parents=True, exist_ok=True)
    import matplotlib

    absent = {"Software": None} if form == "png" else {"Creator": None, "Date": None}
    options: dict[str, Any] = {"format": form, "dpi": DPI, "metadata": {**absent, "Title": figure.get_label() or None}}
    with matplotlib.rc_context({"svg.hashsalt": "hccvision", "svg.fonttype": "none"}):
        return write_atomically(path, lambda partial: figure.savefig(partial, **options))
