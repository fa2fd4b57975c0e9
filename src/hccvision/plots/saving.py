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
    """Write a figure as PNG, atomically: readers see the old file or the new one, never a part.

    The title is the only metadata in the file, so the same figure gives the same bytes.

    Args:
        figure: to write.
        path: ending in ``.png``; missing folders are created.

    Returns:
        The path.

    Raises:
        ValueError: if the path does not end in ``.png``.

    Example:
        >>> import tempfile
        >>> from hccvision.plots.curves import training_curves
        >>> save(training_curves([{"train_loss": 2.0}]), tempfile.mkdtemp() + "/curves.png").name
        'curves.png'
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path}: figures are written as PNG: pass a path that ends in .png")
    path.parent.mkdir(parents=True, exist_ok=True)
    title = str(figure.get_label()) or None
    options: dict[str, Any] = {"format": "png", "dpi": DPI, "metadata": {"Software": None, "Title": title}}
    return write_atomically(path, lambda partial: figure.savefig(partial, **options))
