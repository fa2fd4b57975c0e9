"""Confusion matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hccvision.plots.style import BLUE, GREY, INK, RULE, as_written, luminance, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def confusion_matrix(matrix: Any, classes: Sequence[str], *, positive: str | None = None) -> Figure:
    """Plot a confusion matrix: counts, and their share of the row as a number and as a shade.

    Args:
        matrix: ``(K, K)`` counts, one row per true class and one column per predicted class.
        classes: the K class names in order.
        positive: the class that means disease, by default the last. With two classes the cells are labelled TP, FN,
            FP and TN accordingly.

    Returns:
        The figure; the row of the positive class is marked. A row without cases has no shares.

    Raises:
        ValueError: if the matrix is not ``(K, K)`` whole counts of 0 or more, or ``positive`` is not a class.
        ImportError: if matplotlib is missing.

    Example:
        >>> figure = confusion_matrix([[179, 3], [11, 173]], ("normal", "cancer"))
        >>> [text.get_text() for text in figure.axes[0].texts][-1].splitlines()
        ['TP', '173', '94.0 %']

    Source:
        Mizouri 2026, table 4.
    """
    counts, k = np.asarray(matrix), len(classes)
    if k == 0 or counts.shape != (k, k) or not np.all((counts >= 0) & (counts == np.floor(counts))):
        raise ValueError(
            f"expected a ({k}, {k}) matrix of counts for the classes {tuple(classes)}, got {counts.tolist()}: "
            "pass one row per true class and one column per predicted class"
        )
    positive = classes[-1] if positive is None else positive
    if positive not in classes:
        raise ValueError(f"the positive class {positive!r} is not among the classes ({', '.join(classes)})")
    cell = min(1.4, max(0.65, 10 / k))  # inches
    longest = max(8, *map(len, classes))
    slanted = longest > 9 * cell
    height = cell * k + 1.0 + slanted * 0.04 * longest
    figure = new_figure(cell * k + 0.8 + 0.075 * longest, height, "Confusion matrix")

    from matplotlib.colors import LinearSegmentedColormap

    totals = counts.sum(1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    shades = LinearSegmentedColormap.from_list("shares", ["#ffffff", BLUE])
    axes = figure.add_subplot()
    axes.imshow(shares, cmap=shades, vmin=0, vmax=1)
    for truth, predicted in np.ndindex(k, k):
        lines = [f"{counts[truth, predicted]:.0f}", f"{shares[truth, predicted]:.1%}".replace("%", " %")]
        if totals[truth] == 0:
            lines[1] = "–"
        if k == 2:
            right, called = truth == predicted, classes[predicted] == positive
            lines.insert(0, f"{'T' if right else 'F'}{'P' if called else 'N'}")
        colour = "white" if luminance(shades(shares[truth, predicted])[:3]) < 0.18 else "black"
        axes.text(predicted, truth, "\n".join(lines), ha="center", va="center", fontsize=3 + 6 * cell, color=colour)
    axes.set_xticks(
        range(k), classes, rotation=35 if slanted else 0, ha="right" if slanted else "center", rotation_mode="anchor"
    )
    axes.set_yticks(range(k), [f"{name}\n(positive)" if name == positive else name for name in classes])
    axes.set_xticks(np.arange(1, k) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, k) - 0.5, minor=True)
    axes.grid(which="minor", color=RULE, linewidth=1)
    axes.tick_params(which="both", length=0, labelsize=9, labelcolor=INK)
    axes.spines[:].set_color(RULE)
    axes.set_xlabel("predicted", fontsize=9, color=GREY)
    axes.set_ylabel("truth", fontsize=9, color=GREY)
    axes.set_title(f"n = {counts.sum():.0f}", loc="left", fontsize=9, color=INK)
    as_written([*axes.get_xticklabels(), *axes.get_yticklabels()])
    return figure
