"""Arrays of values that may be tensors, arrays or sequences, one item or row per image."""

from __future__ import annotations

from typing import Any

import numpy as np


def as_array(values: Any) -> np.ndarray:
    """Return a numpy array of a tensor (of any device and precision), an array or nested sequences.

    Args:
        values: a tensor, an array or nested sequences; tensors of floats become ``float64``.

    Returns:
        The array, a view where nothing had to change.

    Example:
        >>> as_array([0.5, 1.0])
        array([0.5, 1. ])
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.double() if values.is_floating_point() else values
    return np.asarray(values)


def as_items(values: Any) -> Any:
    """Return one item per image: an array or tensor as it is, anything else as a list.

    Args:
        values: N items.

    Returns:
        The items, `Detections` and the like as dictionaries (``as_dict()``).
    """
    if hasattr(values, "__array__"):
        return values
    return [item.as_dict() if hasattr(item, "as_dict") else item for item in values]


def take_items(items: Any, rows: np.ndarray) -> Any:
    """Return some of the items.

    Args:
        items: a list, an array or a tensor.
        rows: ``(n,)`` indices.

    Returns:
        The items, of the same kind.
    """
    return [items[i] for i in rows.tolist()] if isinstance(items, list) else items[rows]


def as_table(items: Any, kind: str, columns: int, what: str) -> np.ndarray:
    """Return one row of numbers per image.

    Args:
        items: N rows: a list of arrays, tensors or sequences, or one array or tensor.
        kind: ``"predictions"`` or ``"truths"``, for messages.
        columns: K, the length of each row.
        what: the numbers are, for messages.

    Returns:
        ``(N, K)``.

    Raises:
        ValueError: if a row has another shape; names the image.
    """
    rows = [as_array(item) for item in items] if isinstance(items, list) else as_array(items)
    for index, row in enumerate(rows):
        if np.shape(row) != (columns,):
            raise ValueError(
                f"{kind}[{index}]: expected {columns} {what}, one per class, got the shape {np.shape(row)}"
            )
    return np.stack(rows) if isinstance(rows, list) else rows
