"""Colours, text and empty figures that all plots share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.text import Text

BLUE, BURNT, PURPLE, MOSS = "#1f5fa8", "#c4540a", "#5f3d91", "#1b7a43"
CRIMSON, BROWN, TEAL = "#c2304a", "#8a5a2b", "#0f8f9c"
INK, GREY, RULE = "#222222", "#767676", "#e4e4e4"
TRUTH, HIT, MISS = "#2fd36b", "#ffa02e", "#ff6a5c"  # light: black text must be readable on them
FAMILIES = (("#93bce8", BLUE), ("#f5b183", BURNT), ("#bca6dc", PURPLE), ("#93d1ab", MOSS))  # (training, validation)
METRIC_COLOURS = (BLUE, BURNT, MOSS, PURPLE, CRIMSON, BROWN, TEAL, GREY)
DASHES = ("-", "--", ":", "-.")
DPI = 150
GOOD_IOU = 0.5


def new_figure(width: float, height: float, label: str, *, constrained: bool = True) -> Figure:
    """Create an empty figure.

    Args:
        width: in inches.
        height: in inches.
        label: title that `save` writes to the file.
        constrained: whether matplotlib's constrained layout places the panels.

    Returns:
        The figure.

    Raises:
        ImportError: if matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError as error:
        raise ImportError('plots need matplotlib: pip install "hccvision[plots]"') from error
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1) if constrained else None
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white", layout=layout)
    figure.set_label(label)
    return figure


def luminance(colour: Sequence[float]) -> float:
    """Compute the relative luminance of a colour (WCAG 2); below 0.18 white text has more contrast than black.

    Args:
        colour: red, green and blue in [0, 1].

    Returns:
        The luminance, in [0, 1].

    Example:
        >>> luminance((1.0, 1.0, 1.0)), luminance((0.0, 0.0, 0.0))
        (1.0, 0.0)
    """
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def as_written(texts: Sequence[Text]) -> None:
    """Turn off formulas in texts, so that a ``$`` in a name is shown as it is.

    Args:
        texts: matplotlib texts to change.
    """
    for text in texts:
        text.set_parse_math(False)
