"""Cases of a classifier, checked: probabilities, class ids, and which classes are present."""

from __future__ import annotations

from typing import Any

import numpy as np

from hccvision.metrics.arrays import as_array


def as_probabilities(items: Any, classes: tuple[str, ...]) -> np.ndarray:
    """Return the probabilities of all images.

    Args:
        items: N rows of K probabilities in [0, 1].
        classes: the K class names in order.

    Returns:
        ``(N, K) float64``.

    Raises:
        ValueError: for another shape or range; names the image.
    """
    found = _as_table(items, "predictions", len(classes), "probabilities")
    in_range = (found >= -1e-6) & (found <= 1 + 1e-6)  # False for NaN too
    if not in_range.all():
        row, column = np.argwhere(~in_range)[0]
        raise ValueError(
            f"predictions[{row}] holds {found[row, column]}: expected probabilities in [0, 1]; for raw outputs, "
            "take their softmax first (multi-label: their sigmoid)"
        )
    return found.astype(np.float64)


def as_class_ids(items: Any, classes: tuple[str, ...]) -> np.ndarray:
    """Return the class ids of all images.

    Args:
        items: N class ids ``0 ... K-1``.
        classes: the K class names in order, at least two.

    Returns:
        ``(N,) int64``.

    Raises:
        ValueError: for another shape, or values that are not class ids; names the image.
    """
    ids, k = as_array(items), len(classes)
    if k < 2:
        raise ValueError(f"expected at least two classes, got {classes}")
    if ids.ndim != 1:
        raise ValueError(f"expected truths of shape (N,), one class id per image, got {ids.shape}")
    known = np.isin(ids, np.arange(k))
    if not known.all():
        row = np.flatnonzero(~known)[0]
        raise ValueError(f"truths[{row}] is {ids[row]}: expected a class id from 0 to {k - 1}, of {classes}")
    return ids.astype(np.int64)


def as_presence(items: Any, classes: tuple[str, ...]) -> np.ndarray:
    """Return which classes each image shows.

    Args:
        items: N rows of K values, 0 or 1.
        classes: the K class names in order.

    Returns:
        ``(N, K) bool``.

    Raises:
        ValueError: for another shape, or other values; names the image.
    """
    shown = _as_table(items, "truths", len(classes), "values of 0 or 1")
    known = np.isin(shown, (0, 1))
    if not known.all():
        row = np.argwhere(~known)[0][0]
        raise ValueError(f"truths[{row}] is {shown[row].tolist()}: expected 0 or 1 for each of {classes}")
    return shown.astype(bool)


def _as_table(items: Any, kind: str, columns: int, what: str) -> np.ndarray:
    """Return ``(N, K)`` numbers of a list of rows, or of one array or tensor."""
    rows = [as_array(item) for item in items] if isinstance(items, list) else as_array(items)
    for index, row in enumerate(rows):
        if np.shape(row) != (columns,):
            raise ValueError(
                f"{kind}[{index}]: expected {columns} {what}, one per class, got the shape {np.shape(row)}"
            )
    return np.stack(rows) if isinstance(rows, list) else rows
